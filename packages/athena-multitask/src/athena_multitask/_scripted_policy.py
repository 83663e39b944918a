"""Meta-World's scripted experts, one for each row of a batch."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from athena_multitask._meta_world_tasks import N_FEATURES, require_metaworld


def scripted_policy(tasks: str | Sequence[str]) -> Callable[[NDArray[np.floating]], NDArray[np.float32]]:
    """The package's own expert of a task, as `evaluate_success` takes a policy.

    Experts read the goal, so they need an environment that shows it: one of MT. Twelve fail on some goals, as
    they do in the package's own environments: with seed 0, on 37 of the 2,500 of MT50.

    Args:
        tasks: whose expert acts in each row, such as ``envs.task_names``; one name: in every row.

    Shape: observations ``(n, 39 or more)``, of which the first 39 are read; actions ``(n, 4)``, clipped to
    [-1, 1].

    Raises ValueError for an unknown task, or a batch of another size; AthenaError if Meta-World is absent.

    >>> expert = scripted_policy(["reach-v3", "push-v3"])
    >>> expert(np.zeros((2, 49))).shape
    (2, 4)
    """
    require_metaworld()
    from metaworld.policies import ENV_POLICY_MAP

    names = [tasks] if isinstance(tasks, str) else list(tasks)
    for name in names:
        if name not in ENV_POLICY_MAP:
            known = ", ".join(ENV_POLICY_MAP)
            raise ValueError(f'`tasks` must be of {known}; got {name!r}. Take "reach-v3".')
    experts = [ENV_POLICY_MAP[name]() for name in names]

    def act(observations: NDArray[np.floating]) -> NDArray[np.float32]:
        rows = experts * len(observations) if isinstance(tasks, str) else experts
        if len(rows) != len(observations):
            raise ValueError(
                f"`observations` must have a row for each of {len(rows)} tasks; got {len(observations)}. "
                "Name the tasks of all rows."
            )
        with warnings.catch_warnings():
            # They aim beyond the range of an action on purpose, and warn of it in every step.
            warnings.filterwarnings("ignore", "Constant\\(s\\) may be too high", UserWarning)
            pairs = zip(rows, observations, strict=True)
            actions = [expert.get_action(row[:N_FEATURES].astype(np.float64)) for expert, row in pairs]
        return np.clip(np.stack(actions), -1.0, 1.0).astype(np.float32)

    return act
