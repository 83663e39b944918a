"""MT10 of Meta-World: a step of all ten tasks, beside the simulators alone and the package's environments.

Everything of a step but the simulators is overhead. Goals and actions are the same for ours and for the
simulators alone; the package draws goals of its own.

With ``--experts NAME`` it measures instead the package's scripted experts under our protocol, each task of
MT10 or MT50 on its 50 goals (minutes), beside the same experts in the package's environments without ours.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import metaworld
import numpy as np
from metaworld.env_dict import ALL_V3_ENVIRONMENTS, MT10_V3

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_multitask import MetaWorld, evaluate_success, scripted_policy
from athena_multitask._meta_world_tasks import make_simulator, set_goal


def stepping(step: Callable[[np.ndarray], object], actions: np.ndarray) -> Callable[[], float]:
    """A measure of the milliseconds of one step of all tasks."""

    def all_of_them() -> None:
        for action in actions:
            step(action)

    return lambda: 1e3 * seconds(all_of_them) / len(actions)


def speed_rows(*, repeats: int, steps: int) -> Iterator[dict[str, Any]]:
    """A step, a reset, and the making of MT10."""
    ours, own = MetaWorld("MT10", seed=0), metaworld.make_mt_envs("MT10", seed=0, use_one_hot=True)
    simulators = [make_simulator(task, goal_visible=True, reward_version="v2") for task in ours.task_names]
    for simulator, goals in zip(simulators, ours.task_goals, strict=True):
        set_goal(simulator, goals[0])

    def alone(actions: np.ndarray) -> None:
        for simulator, action in zip(simulators, actions, strict=True):
            simulator.step(action)

    def begin() -> None:
        ours.reset(options={"goal": 0})
        own.reset()
        for simulator in simulators:
            simulator.reset()

    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 10, 4)).astype(np.float32)
    measures = [stepping(step, actions) for step in (ours.step, alone, own.step)]

    def from_the_start(measure: Callable[[], float]) -> Callable[[], float]:
        def measured() -> float:
            begin()
            return measure()

        return measured

    step, bare, package = medians(repeats, *map(from_the_start, measures))
    yield row("step, MT10", ours=step, peers={"simulators": bare, "metaworld": package}, unit="ms")
    resets = [lambda: seconds(ours.reset), lambda: sum(seconds(s.reset) for s in simulators)]
    reset, bare, package = medians(repeats, *resets, lambda: seconds(own.reset))
    yield row("reset, MT10", ours=reset, peers={"simulators": bare, "metaworld": package}, unit="s")
    makers = [lambda: MetaWorld("MT10", seed=0), lambda: metaworld.make_mt_envs("MT10", seed=0)]
    made, package = medians(max(1, repeats // 5), *(lambda make=make: seconds(make) for make in makers))
    yield row("make, MT10", ours=made, peers={"metaworld": package}, unit="s")


def expert_rows(name: str) -> Iterator[dict[str, Any]]:
    """The share of 50 goals on which each expert succeeds."""
    tasks = list(MT10_V3 if name == "MT10" else ALL_V3_ENVIRONMENTS)
    for task in tasks:
        envs = MetaWorld("MT1", task=task, seed=0)
        report = evaluate_success(scripted_policy(task), envs)
        alone = np.mean([succeeds_alone(task, goal) for goal in envs.task_goals[0]])
        yield row(task, ours=report.success, peers={"metaworld alone": float(alone)}, unit="success")


def succeeds_alone(task: str, goal: np.ndarray) -> bool:
    """Whether an expert succeeds in the package's environment, without anything of ours around it."""
    from metaworld.policies import ENV_POLICY_MAP

    simulator, expert = ALL_V3_ENVIRONMENTS[task](), ENV_POLICY_MAP[task]()
    data = {"env_cls": type(simulator), "partially_observable": False, "rand_vec": goal}
    simulator.set_task(metaworld._encode_task(task, data))
    observation, _ = simulator.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of actions out of range, in every step
        for _ in range(500):
            action = np.clip(expert.get_action(observation), -1, 1)
            observation, _, _, _, info = simulator.step(action)
            if info["success"]:
                return True
    return False


def rows(*, repeats: int, steps: int, experts: str | None) -> Iterator[dict[str, Any]]:
    """Speed, or the experts."""
    yield from expert_rows(experts) if experts else speed_rows(repeats=repeats, steps=steps)


if __name__ == "__main__":
    options = parser(__doc__, repeats=9)
    options.add_argument("--steps", type=int, default=100, metavar="N", help="of an episode, at most 500")
    options.add_argument("--experts", choices=("MT10", "MT50"))
    run(options, rows)
