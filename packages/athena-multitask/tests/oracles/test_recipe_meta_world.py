"""The recipe `meta-world`, small: resume, what it reports and draws, misuse."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from metaworld import env_dict
from torch.utils._pytree import tree_leaves

from athena_core import AthenaError, Interrupted, load_checkpoint
from athena_core.testing import execute
from athena_multitask import MetaWorldRecipe, TaskSuccess, evaluate_success
from athena_multitask._recipe_meta_world import SuccessCurve, table

SMALL = replace(MetaWorldRecipe.example(), episode_steps=9)
MT10: dict[str, Any] = {"benchmark": "MT10", "heads": "multi", "batch_size": 30, "warm_up": 30}


@pytest.fixture(autouse=True)
def _short_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests within the recipe take ten steps of an episode."""
    whole = MetaWorldRecipe.environments
    monkeypatch.setattr(
        MetaWorldRecipe, "environments", lambda self, seed, steps: whole(self, seed, min(steps, 10))
    )


def last_state(folder: Path) -> list[Any]:
    return tree_leaves(load_checkpoint(max((folder / "checkpoints").iterdir()))["state"])


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    """Cut where an episode is under way."""
    recipe = replace(SMALL, test_every=20)
    whole = execute(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        execute(recipe, tmp_path / "cut", cut=40)
    assert execute(recipe, tmp_path / "cut")[:2] == whole[:2]
    for a, b in zip(last_state(tmp_path / "whole"), last_state(tmp_path / "cut"), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_many_tasks_resume_report_and_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = dict(list(env_dict.MT10_V3.items())[:3])
    monkeypatch.setattr(env_dict, "MT10_V3", few)  # ten simulators take longer than all else
    recipe = replace(SMALL, **MT10, steps=80, log_every=40, test_every=40)
    whole = execute(recipe, tmp_path / "whole")
    with pytest.raises(Interrupted):
        execute(recipe, tmp_path / "cut", cut=40)
    assert execute(recipe, tmp_path / "cut")[:2] == whole[:2]
    assert {"reach-v3/ent_coef", "push-v3/critic_loss", "reach-v3/success"} <= set(whole.rows[-1])
    figures = {path.stem for path in (tmp_path / "whole" / "figures").iterdir()}
    assert figures == {"success", "return", "tasks"}


def test_it_records_the_protocol(tmp_path: Path) -> None:
    found = execute(SMALL, tmp_path / "run")
    report = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert (report["protocol"], report["metaworld_version"], report["reward_version"]) == (
        "athena-1",
        "3.1.1",
        "v2",
    )
    assert found.final["protocol"] == 1
    assert found.final["success/reach-v3"] == report["success"]
    assert "reach-v3" in found.text
    assert "athena-1" in found.text


def test_it_stops_when_tests_succeed(tmp_path: Path) -> None:
    found = execute(replace(SMALL, stop_at=0.0, test_every=20), tmp_path / "run")
    assert found.final["steps"] == 20
    assert execute(replace(SMALL, stop_at=None, test_every=20), tmp_path / "on").final["steps"] == 60


def test_the_policy_is_kept_as_stable_baselines3_has_it(tmp_path: Path) -> None:
    from athena_multitask.sb3 import MultiTaskSAC

    final = execute(SMALL, tmp_path / "run").final
    model = MultiTaskSAC.load(tmp_path / "run" / "model.zip", device="cpu")
    tests: Any = SMALL.environments(3, 500)
    assert (
        evaluate_success(lambda obs: model.predict(obs, deterministic=True)[0], tests).success
        == final["success"]
    )


def test_curves_survive_and_know_when_a_task_is_solved() -> None:
    task = TaskSuccess(success=0.5, low=0.1, high=0.9, mean_return=7.0, episodes=())
    report: Any = type("Report", (), {"tasks": {"a": task, "b": task}, "success": 0.5, "goals": (0,)})
    curve, other = SuccessCurve(["a", "b"]), SuccessCurve(["a", "b"])
    curve.note(10, report)
    other.load_state_dict(curve.state_dict())
    assert (
        curve.last()
        == other.last()
        == {"success": 0.5, "mean_return": 7.0, "a/success": 0.5, "b/success": 0.5}
    )
    assert table(report, title="two").splitlines()[1] == "  a  0.500 [0.100, 0.900]"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_every": 30}, "`test_every` must be a multiple of `log_every`, 20; got 30. Take 40"),
        ({"updates": 0}, "`updates` must be at least 1; got 0"),
        ({"task": "fly-v3"}, "`task` must be one of"),
        ({"balancer": "absent"}, "absent"),
        ({"benchmark": "MT10", "batch_size": 8}, "multiple of the 10 tasks; got 8. Take 10"),
    ],
    ids=str,
)
def test_misuse(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AthenaError, match=message):
        execute(replace(SMALL, **options), tmp_path / "run")


def test_networks_see_positions_stretched_and_all_else_as_it_is() -> None:
    from athena_multitask.sb3 import MetaWorldFeatures

    envs = SMALL.environments(0, 500)
    observations, _ = envs.reset()
    found = MetaWorldFeatures(envs.single_observation_space)(torch.as_tensor(observations))[0]
    raw = torch.as_tensor(observations)[0]
    for start in (0, 4, 18, 22, 36):  # hand, object, both a step before, goal
        places = raw[start : start + 3]
        torch.testing.assert_close(found[start : start + 3], (places - torch.tensor([0.0, 0.6, 0.2])) * 10)
    rest = [3, *range(7, 18), 21, *range(25, 36)]
    assert torch.equal(found[rest], raw[rest])
