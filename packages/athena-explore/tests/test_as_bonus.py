"""A bonus by name, class, function, or made: which arguments each gets, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from athena_core import AthenaError
from athena_explore import RND
from athena_explore._as_bonus import as_bonus

VECTOR, THREE = spaces.Box(-1, 1, (2,), np.float32), spaces.Discrete(3)


def first_weight(bonus: Any) -> torch.Tensor:
    return next(iter(bonus.target.parameters()))


@pytest.mark.parametrize("choice", ["rnd", RND])
def test_names_and_classes_get_defaults_and_options_before_them(choice: Any) -> None:
    one, other = (as_bonus(choice, VECTOR, THREE, seed=seed, gamma=0.5) for seed in (1, 2))
    assert not torch.equal(first_weight(one), first_weight(other))
    assert one.normalizer.gamma == 0.5
    again = as_bonus(choice, VECTOR, THREE, options={"seed": 1, "width": 64}, seed=2)
    assert torch.equal(first_weight(one), first_weight(again))


def test_functions_get_options_alone_and_a_made_one_stays() -> None:
    def make(observation_space: Any, action_space: Any, **options: Any) -> RND:
        assert options == {"width": 4}
        return RND(observation_space, action_space, **options)

    bonus = as_bonus(make, VECTOR, THREE, options={"width": 4}, seed=1)
    assert as_bonus(bonus, VECTOR, THREE, seed=1) is bonus


def test_refusals() -> None:
    with pytest.raises(AthenaError, match="rnb"):
        as_bonus("rnb", VECTOR, THREE)
    for wrong in (3, lambda *spaces: 3):
        with pytest.raises(TypeError, match=r"`bonus` must be a name.*got 3"):
            as_bonus(wrong, VECTOR, THREE)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"still to be made.*width"):
        as_bonus(RND(VECTOR, THREE), VECTOR, THREE, options={"width": 4})
