"""Conv-4, the backbone that few-shot methods are compared with."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn


class Conv4(nn.Module):
    r"""Four blocks of convolution 3x3, batch norm, ReLU and max pooling by 2.

    ``Conv4(pools=2).blocks`` alone, without the flattening, gives the feature maps of `RelationNetwork`.

    Args:
        channels: of the images.
        width: channels of each convolution.
        size: of the images, in pixels.
        outputs: of a linear head; None: the features themselves.
        pools: how many of the blocks, from the first on, have pooling.

    Attributes:
        features: how many features an image has, 64 of 28x28 and 1,600 of 84x84.

    Shape: ``(images, channels, size, size) -> (images, features)`` or ``(images, outputs)``. Raises
    ValueError for images that the pooling leaves nothing of.

    Source: Snell et al. 2017, arXiv:1703.05175, section 3, as Vinyals et al. 2016, arXiv:1606.04080; with a
    linear head Finn et al. 2017, arXiv:1703.03400, section 5.2. Departs from them: pooling comes before the
    ReLU, which gives the same values and gradients from a quarter of the elements.

    >>> Conv4()(torch.zeros(2, 1, 28, 28)).shape, Conv4(3, size=84, width=32, outputs=5).features
    (torch.Size([2, 64]), 800)
    """

    def __init__(
        self,
        channels: int = 1,
        *,
        width: int = 64,
        size: int = 28,
        outputs: int | None = None,
        pools: int = 4,
    ) -> None:
        super().__init__()
        if min(channels, width) < 1:
            raise ValueError(f"`channels` and `width` must be at least 1; got {channels} and {width}.")
        if not 0 <= pools <= 4:
            raise ValueError(f"`pools` must lie in [0, 4], the number of blocks; got {pools}.")
        if size < 2**pools:
            raise ValueError(
                f"`size` must be at least {2**pools} for {pools} poolings by 2; got {size}. "
                "Resize the images or lower `pools`."
            )
        widths = [channels, width, width, width, width]
        blocks = (_block(widths[index], width, pool=index < pools) for index in range(4))
        # Batch norm and pooling on a CPU take half the time in this format, which activations follow.
        self.blocks = nn.Sequential(*blocks).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.features = width * (size // 2**pools) ** 2
        self.head = nn.Identity() if outputs is None else nn.Linear(self.features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).flatten(1))


def _block(channels: int, width: int, *, pool: bool) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        convolution=nn.Conv2d(channels, width, 3, padding=1), norm=nn.BatchNorm2d(width)
    )
    if pool:
        layers["pool"] = nn.MaxPool2d(2)
    layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)
