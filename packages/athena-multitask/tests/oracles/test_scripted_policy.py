"""The package's experts score under our protocol what they score under its own."""

from __future__ import annotations

from typing import Any

import metaworld
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from metaworld.env_dict import ALL_V3_ENVIRONMENTS
from metaworld.evaluation import evaluation
from metaworld.policies import ENV_POLICY_MAP

from athena_multitask import MetaWorld, evaluate_success, scripted_policy

CERTAIN = ["reach-v3", "window-open-v3"]


class Expert:
    """The package's own kind of agent."""

    def __init__(self, task: str) -> None:
        self.act = scripted_policy(task)

    def eval_action(self, observations: np.ndarray) -> np.ndarray:
        return self.act(observations)

    def reset(self, env_mask: np.ndarray) -> None:
        """It has no memory."""


@pytest.mark.parametrize("task", CERTAIN)
def test_an_expert_that_is_certain_under_the_packages_protocol_is_so_under_ours(task: str) -> None:
    def make() -> Any:
        return metaworld.make_mt_envs(task, seed=1, terminate_on_success=True)

    success, _, _, _ = evaluation(
        Expert(task), SyncVectorEnv([make], autoreset_mode=AutoresetMode.SAME_STEP), 5
    )
    assert success == 1.0
    report = evaluate_success(
        scripted_policy(task), MetaWorld("MT1", task=task, seed=0), goals=range(0, 50, 8)
    )
    assert report.success == 1.0
    assert report.tasks[task].low > 0.6


@pytest.mark.filterwarnings("ignore:Constant.* may be too high")
def test_an_expert_that_fails_does_so_on_the_same_goals() -> None:
    envs, goals = MetaWorld("MT1", task="door-open-v3", seed=0), [6, 7]
    report = evaluate_success(scripted_policy(envs.task_names), envs, goals=goals)
    ours = [episode.success for episode in report.tasks["door-open-v3"].episodes]
    assert ours == [_alone("door-open-v3", envs.task_goals[0][goal]) for goal in goals]
    assert ours == [False, True]


def _alone(task: str, goal: np.ndarray) -> bool:
    """Whether the expert succeeds with this goal in the package's environment, without ours around it."""
    simulator, expert = ALL_V3_ENVIRONMENTS[task](), ENV_POLICY_MAP[task]()
    data = {"env_cls": type(simulator), "partially_observable": False, "rand_vec": goal}
    simulator.set_task(metaworld._encode_task(task, data))
    observation, _ = simulator.reset()
    for _ in range(500):
        observation, _, _, _, info = simulator.step(expert.get_action(observation))
        if info["success"]:
            return True
    return False


def test_actions_are_in_range_and_bad_input_is_named() -> None:
    far = np.full((3, 39), 5.0)
    assert (np.abs(scripted_policy("pick-place-v3")(far)) <= 1).all()
    with pytest.raises(ValueError, match=r"`tasks` must be of .*; got 'reach-v2'"):
        scripted_policy("reach-v2")
    with pytest.raises(ValueError, match="a row for each of 2 tasks; got 3"):
        scripted_policy(["reach-v3", "push-v3"])(far)
