"""From observations to feature vectors: vectors, images, discrete values, and dictionaries of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from gymnasium.spaces import Space
from torch import Tensor, nn

from athena_explore._spaces import dense, dense_width, is_image, leaves, parts, shape_of

EncoderFactory = Callable[[Space, int], nn.Module]
WINDOWS = (32, 8, 4), (64, 4, 2), (64, 3, 1)  # channels, side and stride of each convolution
SMALL_WINDOWS = (32, 3, 1), (64, 3, 1), (64, 3, 1)


def multilayer(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers of these widths, with ReLU between them, orthogonal by sqrt(2).

    Raises ValueError for a layer without outputs.

    >>> multilayer([3, 4, 2])(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """
    if min(widths[1:]) < 1:
        raise ValueError(f"`width` and `hidden` must be at least 1; got {[*widths[1:]]}. Take 64.")
    layers: list[nn.Module] = []
    for inside, outside in itertools.pairwise(widths):
        linear = nn.Linear(inside, outside)
        nn.init.orthogonal_(linear.weight, 2**0.5)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


class ImageFeatures(nn.Sequential):
    """Three convolutions, of 32, 64 and 64 channels, as those of DQN, on images as `Encoder` gives them.

    Small images have smaller windows: each is at most what is left of the image.

    Source: Mnih et al. 2015, Nature 518, methods. Departs from it: small images.

    >>> ImageFeatures(3, 7, 7)(torch.zeros(2, 3, 7, 7)).shape[0]
    2
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        layers: list[nn.Module] = []
        small = min(height, width) < 36  # the three windows of an Atari frame need 36 rows
        for outside, window, stride in SMALL_WINDOWS if small else WINDOWS:
            rows, columns = min(window, height), min(window, width)
            layers += [nn.Conv2d(channels, outside, (rows, columns), stride), nn.ReLU(inplace=True)]
            height, width = (height - rows) // stride + 1, (width - columns) // stride + 1
            channels = outside
        super().__init__(*layers, nn.Flatten())
        self.width = channels * height * width


class Encoder(nn.Module):
    """The standard encoder: features of each part of the observation, side by side, through a perceptron.

    Images (three axes of 8-bit values, channels first or last: the smaller end) go through convolutions,
    divided by 255 where they are still 8-bit; discrete values become one-hot; all else is flattened.

    Args:
        space: of one observation; any that `Bonus` takes.
        width: of the features.
        hidden: widths of the layers between.

    Shape: an observation ``(B, *shape) -> (B, width)``.

    >>> from gymnasium import spaces
    >>> Encoder(spaces.Box(0, 255, (84, 84, 4), "uint8"), 16)(torch.zeros(2, 84, 84, 4)).shape
    torch.Size([2, 16])
    """

    def __init__(self, space: Space, width: int, *, hidden: Sequence[int] = (64, 64)) -> None:
        super().__init__()
        self.space, self.width = space, width
        self.plain = [part for _, part in leaves(space)]
        self.images = nn.ModuleList(_image_features(part) for part in self.plain)
        inside = sum(
            features.width if isinstance(features, ImageFeatures) else dense_width(part)
            for features, part in zip(self.images, self.plain, strict=True)
        )
        self.body = multilayer([inside, *hidden, width])

    def forward(self, observation: Any) -> Tensor:
        values = parts(self.space, observation)
        dtype = self.body.get_parameter("0.weight").dtype
        rows = [
            images(_channels_first(part, value).to(dtype))
            if isinstance(images, ImageFeatures)
            else dense(part, value)
            for images, part, value in zip(self.images, self.plain, values, strict=True)
        ]
        joined = torch.cat(rows, 1) if len(rows) > 1 else rows[0]
        return self.body(joined.to(dtype))


def encoder_factory(encoder: EncoderFactory | None, *, hidden: Sequence[int]) -> EncoderFactory:
    """What makes an encoder that belongs to a bonus: `Encoder` if None.

    Raises TypeError for a module, which is made already.

    >>> from gymnasium import spaces
    >>> encoder_factory(None, hidden=(8,))(spaces.Discrete(3), 4)(torch.tensor([2])).shape
    torch.Size([1, 4])
    """
    if isinstance(encoder, nn.Module):
        raise TypeError(
            f"`encoder` must be a function of a space and a width; got the module {type(encoder).__name__}. "
            "Pass one that makes such a module anew."
        )
    return encoder or functools.partial(Encoder, hidden=tuple(hidden))


def channels_last(space: Space) -> bool:
    """Whether the last axis of images is that of the channels."""
    first, _, last = shape_of(space)
    return last <= first


def _image_features(space: Space) -> nn.Module:
    if not is_image(space):
        return nn.Identity()
    shape = shape_of(space)
    return ImageFeatures(shape[2], *shape[:2]) if channels_last(space) else ImageFeatures(*shape)


def _channels_first(space: Space, value: Tensor) -> Tensor:
    if channels_last(space):
        value = value.movedim(-1, -3)
    elif torch.is_grad_enabled() and value.device.type == "cpu":
        value = value.to(memory_format=torch.channels_last)  # a third faster to train
    return value if value.is_floating_point() else value.float().div_(255)  # `value / 255` in half the time
