"""The recipe `bit-flip`: it learns with hindsight, not without, and resumes where it was cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from athena_core import AthenaError, Configured, Interrupted
from athena_core.testing import execute
from athena_hrl import BitFlipRecipe
from athena_hrl._recipe_bit_flip import success_rate

SMALL: dict[str, Any] = {
    "bits": 6,
    "steps": 1200,
    "n_envs": 8,
    "lr": 5e-3,
    "batch_size": 64,
    "hidden": (64,),
    "epsilon": 0.2,
    "target_every": 50,
    "test_every": 600,
    "test_episodes": 100,
    "steps_per_update": 2,
}


def test_it_learns_with_hindsight_and_not_without(tmp_path: Path) -> None:
    run = execute(BitFlipRecipe(**SMALL), tmp_path / "with")
    without = execute(BitFlipRecipe(**SMALL, n_sampled_goal=0), tmp_path / "without")
    assert run.final["success"] > 0.9
    assert without.final["best_success"] < 0.3
    assert [row["step"] for row in run.rows] == [600, 1200]
    assert "6 bits, DQN hindsight, future" in run.text
    assert "6 bits, DQN without hindsight" in without.text
    assert (tmp_path / "with" / "figures" / "success.png").exists()


@pytest.mark.parametrize("strategy", ["prioritised", "random"])
def test_a_cut_run_goes_on_bit_for_bit(tmp_path: Path, strategy: str) -> None:
    options = {**SMALL, "steps": 400, "test_every": 200, "strategy": Configured("goal-strategy", strategy)}
    whole = execute(BitFlipRecipe(**options), tmp_path / "whole")
    with pytest.raises(Interrupted):
        execute(BitFlipRecipe(**options), tmp_path / "cut", cut=200)
    assert execute(BitFlipRecipe(**options), tmp_path / "cut").rows == whole.rows


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 0}, "`bits` must be at least 1; got 0"),
        ({"n_sampled_goal": -1}, "`n_sampled_goal` must be at least 0; got -1"),
        ({"buffer_size": 479}, "`buffer_size` must be at least 480; got 479"),
        ({"gamma": 1.5}, r"`gamma` must lie in \[0, 1\]; got 1.5"),
        ({"epsilon": -0.1}, r"`epsilon` must lie in \[0, 1\]"),
        ({"exploration_share": 2.0}, r"`exploration_share` must lie in \[0, 1\]"),
        ({"lr": 0.0}, "`lr` must be a positive number; got 0.0"),
        ({"hidden": (0,)}, r"`hidden` must hold widths of at least 1; got \[0\]"),
    ],
)
def test_options_outside_their_range_raise(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(AthenaError, match=words):
        execute(BitFlipRecipe(**options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_who_does_nothing_reaches_nothing_and_who_knows_reaches_all() -> None:
    assert success_rate(lambda obs: np.zeros(len(obs["observation"]), int), bits=12, episodes=100) < 0.03

    def wrong_bit(obs: dict[str, Any]) -> Any:
        return (obs["observation"] != obs["desired_goal"]).argmax(axis=1)

    assert success_rate(wrong_bit, bits=12, episodes=100) == 1.0
