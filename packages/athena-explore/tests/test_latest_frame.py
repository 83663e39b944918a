"""The latest of stacked frames: what is read of an image, and what a bonus makes of it."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from gymnasium import spaces

from athena_explore import RND, Encoder, LatestFrame, NovelD, Transition

LAST, FIRST = spaces.Box(0, 255, (9, 9, 4), np.uint8), spaces.Box(0, 255, (4, 9, 9), np.uint8)
ACTIONS = spaces.Discrete(2)


@pytest.mark.parametrize("space", [LAST, FIRST], ids=["channels last", "channels first"])
@pytest.mark.parametrize("channels", [1, 2])
def test_it_is_the_encoder_of_the_last_channels(space: spaces.Box, channels: int) -> None:
    latest = LatestFrame(space, 5, channels=channels, hidden=(7,))
    stacks = torch.randint(256, (3, *space.shape), dtype=torch.uint8)
    axis = space.shape.index(4) + 1
    frames = stacks.movedim(axis, 0)[-channels:].movedim(0, axis)
    plain = Encoder(spaces.Box(0, 255, tuple(frames.shape[1:]), np.uint8), 5, hidden=(7,))
    plain.load_state_dict(latest.encoder.state_dict())
    torch.testing.assert_close(latest(stacks), plain(frames))


@pytest.mark.parametrize("kind", [RND, NovelD])
def test_earlier_frames_make_nothing_new(kind: type) -> None:
    """RND predicts what the latest frame holds, normalised and all; other frames change no error."""
    bonus = kind(LAST, ACTIONS, encoder=LatestFrame)
    rnd = bonus if kind is RND else bonus.rnd
    stacks = torch.randint(256, (1, 12, 9, 9, 4), dtype=torch.uint8).transpose(0, 1)
    no = torch.zeros(12, 1, dtype=torch.bool)
    bonus.update(Transition(stacks, torch.zeros(12, 1), stacks.flip(0), no, no))
    other = stacks[:, 0].clone()
    other[..., :3] = 0
    torch.testing.assert_close(rnd.errors(other), rnd.errors(stacks[:, 0]))
    other[..., 3] = 0
    assert not torch.allclose(rnd.errors(other), rnd.errors(stacks[:, 0]))


def test_what_has_no_frames_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`space` must be of 8-bit images.*got Box\(.*Take `Encoder`"):
        RND(spaces.Box(-1, 1, (3,)), ACTIONS, encoder=LatestFrame)
    for channels in (0, 5):
        with pytest.raises(ValueError, match=rf"`channels` must lie in \[1, 4\].*got {channels}\. Take"):
            RND(LAST, ACTIONS, encoder=partial(LatestFrame, channels=channels))
