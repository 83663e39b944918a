"""The state of a model of Stable-Baselines3's SAC and its kin, as tensors and primitives."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer

from athena_multitask.sb3._task_replay import TaskReplayBuffer

if TYPE_CHECKING:
    from athena_multitask.sb3._multi_task_sac import MultiTaskSAC

COUNTS = (
    "num_timesteps",
    "_total_timesteps",
    "_n_updates",
    "_episode_num",
    "_summed",
)
FIELDS = "observations", "next_observations", "actions", "rewards", "dones", "timeouts"


def sac_state(model: MultiTaskSAC) -> dict[str, Any]:
    """All of a model that changes, its replay buffer too; see `MultiTaskSAC.state_dict`."""
    if model.action_noise is not None:
        raise ValueError("`action_noise` must be None for a state_dict; got one. Use `save` instead.")
    weights = model.log_ent_coef
    return {
        "tasks": model.tasks,
        "parameters": copy.deepcopy(model.get_parameters()),  # as all the rest, which training leaves alone
        "log_temperatures": None if weights is None else weights.detach().clone(),
        "balancers": {name: _state_of(method) for name, method in model.balancers.items()},
        "sums": model._sums.clone(),
        "counts": {name: int(getattr(model, name)) for name in COUNTS},
        "progress": float(model._current_progress_remaining),
        "last_obs": None if model._last_obs is None else torch.from_numpy(np.array(model._last_obs)),
        "action_space": model.action_space.np_random.bit_generator.state,
        "replay": replay_state(model.replay_buffer),
    }


def load_sac_state(model: MultiTaskSAC, state: dict[str, Any]) -> None:
    """Put back what `sac_state` gave."""
    if tuple(state["tasks"]) != model.tasks:
        raise ValueError(
            f"`state` must be of the tasks {list(model.tasks or ())}; got {list(state['tasks'])}. Make those."
        )
    # A copy, for optimizers take the state's own tensors, and then change them.
    model.set_parameters(copy.deepcopy(state["parameters"]), device=model.device)
    if model.log_ent_coef is not None:
        model.log_ent_coef.data.copy_(state["log_temperatures"])
    for name, method in model.balancers.items():
        _load(method, state["balancers"][name])
    model._sums.copy_(state["sums"])
    for name, count in state["counts"].items():
        setattr(model, name, count)
    model._current_progress_remaining = state["progress"]
    model._last_obs = None if state["last_obs"] is None else state["last_obs"].cpu().numpy().copy()
    model.action_space.np_random.bit_generator.state = state["action_space"]
    load_replay_state(model.replay_buffer, state["replay"])
    if isinstance(model.replay_buffer, TaskReplayBuffer) and model.replay_buffer.size():
        model.replay_buffer.assign_rows(model.replay_buffer.observations[0])


def replay_state(buffer: ReplayBuffer) -> dict[str, Any]:
    """The transitions that a replay buffer has, and where the next goes.

    >>> from gymnasium.spaces import Box
    >>> box = Box(-1, 1, (1,))
    >>> buffer, other = (ReplayBuffer(4, box, box, "cpu") for _ in range(2))
    >>> buffer.add(np.ones(1), np.ones(1), np.ones(1), np.ones(1), np.ones(1), [{}])
    >>> load_replay_state(other, replay_state(buffer))
    >>> other.pos, other.rewards.ravel()
    (1, array([1., 0., 0., 0.], dtype=float32))
    """
    size = buffer.size()
    arrays = {name: torch.from_numpy(getattr(buffer, name)[:size].copy()) for name in FIELDS}
    return {"pos": buffer.pos, "full": buffer.full, **arrays}


def load_replay_state(buffer: ReplayBuffer, state: dict[str, Any]) -> None:
    """Put back what `replay_state` gave. Raises ValueError for that of another size."""
    arrays = {name: state[name].cpu().numpy() for name in FIELDS}
    n, shape = buffer.buffer_size, buffer.observations.shape[1:]
    found = arrays["observations"].shape
    if found[1:] != shape or found[0] > n or (state["full"] and found[0] != n):
        raise ValueError(
            f"`state` must have at most {n} steps of observations {shape}; got {found}. "
            "Take the same `buffer_size` and environments."
        )
    buffer.pos, buffer.full = int(state["pos"]), bool(state["full"])
    for name, array in arrays.items():
        getattr(buffer, name)[: len(array)] = array


def _state_of(method: Any) -> Any:
    return method.state_dict() if hasattr(method, "state_dict") else {}


def _load(method: Any, state: Any) -> None:
    if hasattr(method, "load_state_dict"):
        method.load_state_dict(state)
