"""From what Gymnasium's vector environments give to transitions with the true next observation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from athena_core.environments import autoreset_mode, final_observations
from athena_explore._transition import Observation, Transition, mapped

VectorStep = tuple[Any, Any, Any, Any, dict[str, Any]]  # what `VectorEnv.step` returns


class StepReader:
    r"""Reads each step of a vector environment as a `Transition` of shape ``(1, N)``, in any autoreset mode.

    The same episodes give the same valid rows, whichever way they start again:

    - NEXT_STEP: the step after an end only resets its row, which is not ``valid`` there.
    - SAME_STEP: the observation that the action led to is in ``info["final_obs"]``, of the rows that ended.
    - DISABLED: the step gives it; whoever steps then calls ``env.reset(options={"reset_mask": mask})``, and
      `reset` here with what that returned.

    Observations and actions are copied, so that environments may reuse their arrays.

    Args:
        mode: the vector environment, whose ``metadata["autoreset_mode"]`` is read, or an ``AutoresetMode``.

    Shape: ``(1, N)``; `stack_transitions` makes ``(T, N)`` of several.

    Raises ValueError for an unknown mode, a step before `reset`, a step of rows that wait for their reset
    (DISABLED), or a lacking ``final_obs`` (SAME_STEP).

    >>> import gymnasium as gym
    >>> env = gym.make_vec("CartPole-v1", 2, vectorization_mode="sync")
    >>> reader = StepReader(env)
    >>> reader.reset(env.reset(seed=0)[0])
    >>> steps = [reader.read(action, env.step(action)) for action in np.ones((30, 2), int)]
    >>> rollout = stack_transitions(steps)
    >>> rollout.shape, int(rollout.terminated.sum()), int((~rollout.valid).sum())
    (torch.Size([30, 2]), 5, 4)
    """

    def __init__(self, mode: VectorEnv[Any, Any, Any] | AutoresetMode | str) -> None:
        self.mode = autoreset_mode(mode)
        self._obs: Observation = None
        self._ended: Tensor | None = None  # rows whose episode is over and which still show its end

    @property
    def ended(self) -> Tensor | None:
        """Rows ``(N,)`` that wait for their reset; None before the first step."""
        return self._ended

    def reset(self, obs: Any, *, reset_mask: Any = None) -> None:
        """Take the observations ``(N, *shape)`` of all rows that a reset returned.

        ``reset_mask`` says which rows it started again, all where left out.
        """
        self._obs = mapped(_copied, obs)
        if reset_mask is None or self._ended is None:
            self._ended = None
        else:
            self._ended = self._ended & ~torch.as_tensor(reset_mask, device=self._ended.device)

    def read(self, action: Any, step: VectorStep) -> Transition:
        """The transition that ``step``, the five values of ``env.step(action)``, tells of."""
        if self._obs is None:
            raise ValueError("`reset` must be given the first observations before `read`; got none.")
        obs, _, terminated, truncated, info = step
        terminated, truncated = _copied(terminated).bool(), _copied(truncated).bool()
        waited, before, following = self._waiting(terminated), self._obs, mapped(_copied, obs)
        done = terminated | truncated
        self._obs, self._ended = following, done
        if self.mode is AutoresetMode.SAME_STEP:
            self._ended = torch.zeros_like(done)
            if bool(done.any()):
                following = _with_final(following, info, done)
        row = (before, mapped(_copied, action), following, terminated, truncated, ~waited)
        return Transition(*(mapped(lambda leaf: leaf[None], part) for part in row))

    def _waiting(self, terminated: Tensor) -> Tensor:
        """Rows that this step reset, if any; it must not be one that an ended row took part in otherwise."""
        if self._ended is None:
            return torch.zeros_like(terminated)
        if self.mode is AutoresetMode.DISABLED and bool(self._ended.any()):
            raise ValueError(
                f"rows {_numbers(self._ended)} must be reset before they step on; got a step. Call "
                '`env.reset(options={"reset_mask": mask})` and `reset` with its observations.'
            )
        return self._ended


def stack_transitions(steps: Sequence[Transition]) -> Transition:
    """Transitions of consecutive steps as one: shapes ``(1, N)``, ..., or longer, to ``(T, N)``.

    Raises ValueError if there are none.

    >>> zero, no = torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool)
    >>> stack_transitions([Transition(zero, zero, zero, no, no)] * 3).shape
    torch.Size([3, 2])
    """
    if not steps:
        raise ValueError("`steps` must hold at least one transition; got none.")
    names = [field.name for field in fields(Transition)]
    columns = ([getattr(step, name) for step in steps] for name in names)
    return Transition(*(tree_map(lambda *parts: torch.cat(parts), *column) for column in columns))


def _with_final(obs: Any, info: dict[str, Any], done: Tensor) -> Any:
    leaves, structure = tree_flatten(obs)
    last = tree_leaves(final_observations(obs, info, done))
    rows = (torch.nonzero(done)[:, 0],)
    pairs = zip(leaves, last, strict=True)
    return tree_unflatten([leaf.index_put(rows, one.to(leaf)) for leaf, one in pairs], structure)


def _copied(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().clone()
    return torch.from_numpy(np.array(value))


def _numbers(mask: Tensor) -> list[int]:
    return torch.nonzero(mask)[:, 0].tolist()
