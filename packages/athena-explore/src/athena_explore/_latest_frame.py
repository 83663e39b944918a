"""Features of the latest of stacked frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.spaces import Space
from torch import Tensor, nn

from athena_explore._encoder import Encoder, channels_last
from athena_explore._spaces import is_image, one_line


class LatestFrame(nn.Module):
    """An `Encoder` of the last ``channels`` of an image, the latest of frames that are stacked in it.

    A policy needs some frames to tell how things move. What is new in a state is in the latest one; the
    earlier ones were scored when they came. Give ``encoder=LatestFrame``, or, of frames in colour,
    ``functools.partial(LatestFrame, channels=3)``.

    Args:
        space: of stacked images, channels first or last.
        width: of the features.
        channels: of one frame.
        hidden: widths of the layers between.

    Shape: images ``(B, *shape) -> (B, width)``.

    Raises ValueError for a space that is no image, or has fewer channels.

    Source: the authors' code of Burda et al. 2018, arXiv:1810.12894, for both networks of random network
    distillation. Departs from it: no.

    >>> import torch
    >>> from athena_explore import RND
    >>> space = spaces.Box(0, 255, (36, 36, 4), np.uint8)
    >>> bonus = RND(space, spaces.Discrete(2), encoder=LatestFrame)
    >>> stacks = torch.randint(256, (2, 36, 36, 4), dtype=torch.uint8)
    >>> stacks[1, ..., 3] = stacks[0, ..., 3]
    >>> one, same_latest = bonus.target(stacks)
    >>> torch.equal(one, same_latest)
    True
    """

    def __init__(
        self, space: Space, width: int, *, channels: int = 1, hidden: Sequence[int] = (64, 64)
    ) -> None:
        super().__init__()
        if not isinstance(space, spaces.Box) or not is_image(space):
            raise ValueError(
                f"`space` must be of 8-bit images, in three axes; got {one_line(space)}. Take `Encoder`."
            )
        self.axis = -1 if channels_last(space) else -3
        if not 1 <= channels <= space.shape[self.axis]:
            raise ValueError(
                f"`channels` must lie in [1, {space.shape[self.axis]}], those of the image; got {channels}. "
                "Take those of one frame."
            )
        self.channels = channels
        shape = list(space.shape)
        shape[self.axis] = channels
        self.encoder = Encoder(spaces.Box(0, 255, tuple(shape), np.uint8), width, hidden=hidden)

    def forward(self, observations: Any) -> Tensor:
        count = observations.shape[self.axis]
        return self.encoder(observations.narrow(self.axis, count - self.channels, self.channels))
