"""What Meta-World's benchmarks consist of: their tasks, and goals drawn for each."""

from __future__ import annotations

import re
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from athena_core import AthenaError

Split = Literal["train", "test"]
BENCHMARKS = ("MT1", "MT10", "MT50", "ML1", "ML10", "ML45")
N_FEATURES = 39  # hand, gripper, two objects; the same one step before; goal
N_GOALS = 50  # of each task, as the benchmarks have it
INSTALL = "pip install 'athena-multitask[metaworld]'"
_FIRST, _AFTER = (3, 1, 1), (3, 2)


def require_metaworld() -> str:
    """Meta-World's version, once it is known to be installed and one whose insides are known.

    Goals are set through attributes without a public name, so a version that was not read is refused
    rather than trusted.

    Raises AthenaError, with the command, if it is absent or of another version.

    >>> require_metaworld() >= "3.1.1"
    True
    """
    try:
        import metaworld  # noqa: F401 (only to see that it is there)
    except ImportError as error:
        raise AthenaError(f"Meta-World's environments need metaworld: run `{INSTALL}`.") from error
    found = version("metaworld")
    refuse_version(found)
    return found


def refuse_version(found: str) -> None:
    """Raise AthenaError for a version of Meta-World that is known to be broken here, or not known.

    >>> refuse_version("3.1.1")
    """
    numbers = tuple(int(number) for number in re.findall(r"\d+", found)[:3])
    if numbers < (3,):
        why = "whose environments are not the third version"
    elif numbers < _FIRST:
        why = "whose reward of button-press-topdown-wall-v3 is another, and whose MuJoCo may be any"
    elif numbers >= _AFTER:
        why = "whose way of setting goals has not been checked"
    else:
        return
    raise AthenaError(
        f"`metaworld` must be of version 3.1.1 or later, below 3.2; got {found}, {why}. Run `{INSTALL}`."
    )


def benchmark_tasks(name: str, *, task: str | None, split: Split) -> tuple[str, ...]:
    """The names of a benchmark's tasks, in its order.

    Args:
        name: one of `BENCHMARKS`.
        task: that of MT1 and ML1; None elsewhere.
        split: of ML10 and ML45, whose test tasks are others; MT has none.

    Raises ValueError for an unknown name, task or split, and for one that does not belong.

    >>> benchmark_tasks("MT10", task=None, split="train")[:2]
    ('reach-v3', 'push-v3')
    """
    from metaworld import env_dict

    if name not in BENCHMARKS:
        raise ValueError(f'`name` must be one of {", ".join(BENCHMARKS)}; got {name!r}. Take "MT10".')
    if split not in ("train", "test"):
        raise ValueError(f'`split` must be "train" or "test"; got {split!r}. Take "train".')
    if name.startswith("MT") and split == "test":
        raise ValueError(
            f'`split` must be "train" for {name}, which has no test tasks; got "test". Take ML1.'
        )
    known = tuple(env_dict.ALL_V3_ENVIRONMENTS)
    if name in ("MT1", "ML1"):
        if task not in known:
            raise ValueError(f'`task` must be one of {", ".join(known)}; got {task!r}. Take "reach-v3".')
        return (task,)
    if task is not None:
        raise ValueError(f"`task` must be left out for {name}; got {task!r}. Take MT1 for one task.")
    if name.startswith("MT"):
        return tuple(getattr(env_dict, f"{name}_V3"))
    return tuple(getattr(env_dict, f"{name}_V3")[split])


def task_entropy(seed: int, task: str, *, stream: int) -> list[int]:
    """Numbers that seed one stream of a task: by its name, so that a benchmark's order does not matter.

    >>> task_entropy(7, "a", stream=1)
    [7, 1, 97]
    """
    return [seed, stream, *task.encode()]


def make_simulator(task: str, *, goal_visible: bool, reward_version: str) -> Any:
    """Meta-World's own environment of a task, not yet with a goal."""
    from metaworld import env_dict

    simulator: Any = env_dict.ALL_V3_ENVIRONMENTS[task](reward_function_version=reward_version)
    simulator._set_task_called = True
    simulator._partially_observable = not goal_visible
    # Its step clips observations by this cached space, in which a hidden goal is zero.
    simulator.__dict__.pop("sawyer_observation_space", None)
    return simulator


def set_goal(simulator: Any, goal: NDArray[np.float64]) -> None:
    """What the simulator's next reset places: the object and the goal, in the task's own form."""
    simulator._freeze_rand_vec = True
    simulator._last_rand_vec = goal.copy()


def draw_goals(simulator: Any, count: int, generator: np.random.Generator) -> NDArray[np.float64]:
    """``(count, k)`` goals that differ, as the task itself draws and refuses them, from this generator.

    The simulator moves no arm meanwhile: which goals a task accepts depends on the drawn numbers alone.
    NumPy's global generator, from which Meta-World draws otherwise, is not touched.
    """
    simulator._freeze_rand_vec, simulator.seeded_rand_vec = False, True
    simulator.np_random = generator
    simulator.do_simulation = lambda *_: None
    goals: dict[bytes, NDArray[np.float64]] = {}
    while len(goals) < count:
        simulator.reset_model()
        goal = np.array(simulator._last_rand_vec, dtype=np.float64)
        goals.setdefault(goal.tobytes(), goal)
    del simulator.do_simulation
    return np.stack(list(goals.values()))
