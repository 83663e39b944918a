"""Machines in many environments at once, each row with its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from athena_core.environments import autoreset_mode
from athena_hrl._choice_points import ChoicePoints, Form
from athena_hrl._ham import HAM
from athena_hrl._ham_row import ClosedChoices, Followed, HAMRow
from athena_hrl._smdp import checked_gamma, single_steps

Mask = NDArray[np.bool_]


class HAMVectorEnv(VectorWrapper):
    r"""A vector environment whose rows run the machines of one `HAM`, each at a place of its own.

    Rows come to choices at different times. `step` reads a choice for the rows in ``info["needs_choice"]``
    alone, and runs their machines on. If then every row needs an action, the environment takes one step with
    all of them; while some row came to another choice without acting, it does not, and the others wait.
    Rewards and ends are those of the environment's step, else 0. Each row does what `HAMEnv` does with its
    seed; what is to be learned from is in `transitions`.

    ``info`` has, beside the environment's, for each row

    - "needs_choice": whether the next step reads a choice of this row,
    - "closed": whether in this step a choice of its was followed to the next one or to an end,
    - "action_mask": ``(rows, max_choices)``, the options of the open choice; the first alone where none is.

    An ended row unwinds its machines, closes its choice, and starts again as the environment does: at once
    (SAME_STEP) or with the next step of the environment (NEXT_STEP).

    Args:
        env: the vector environment.
        ham: the program.
        max_points: the number of choice points, at most.
        max_choices: the most options of a choice.
        gamma: :math:`\gamma`.
        form: of observations, as in `HAMEnv`.

    Raises ValueError as `HAMEnv`, and for an environment of the mode DISABLED; gymnasium.error.ResetNeeded
    for a step before `reset`.
    Source: Parr and Russell 1998, "Reinforcement learning with hierarchies of machines", NIPS 10, where
    the process is reduce(H o M). Departs from it: no.

    >>> import gymnasium as gym
    >>> from athena_hrl import act, choose
    >>> def root(machine):
    ...     action = yield choose("action", range(4))
    ...     for _ in range(2 if action == 0 else 1):
    ...         yield act(action)
    >>> env = HAMVectorEnv(gym.make_vec("CliffWalking-v1", 2), HAM(root), max_points=1, max_choices=4)
    >>> _, info = env.reset(seed=0)
    >>> _, _, _, _, info = env.step(np.array([0, 3]))
    >>> info["needs_choice"].tolist()
    [False, True]
    >>> _, _, _, _, info = env.step(np.array([0, 3]))
    >>> closed = env.transitions()
    >>> closed.rows.tolist(), closed.duration.tolist()
    ([0, 1], [2, 1])
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        ham: HAM,
        *,
        max_points: int,
        max_choices: int,
        gamma: float = 0.99,
        form: Form = "dict",
    ) -> None:
        super().__init__(single_steps(env))
        self.ham, self.gamma, self.mode = ham, checked_gamma(gamma), autoreset_mode(env)
        if self.mode is AutoresetMode.DISABLED:
            raise ValueError(
                "`env` must start its rows again itself; got one of AutoresetMode.DISABLED. Make it with "
                "SAME_STEP or NEXT_STEP."
            )
        self.points = ChoicePoints(
            env.single_observation_space, max_points=max_points, max_choices=max_choices, form=form
        )
        self.single_observation_space = self.points.space
        self.single_action_space = spaces.Discrete(max_choices)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._rows: list[HAMRow] = []
        self._followed: list[Followed] = []

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start all rows. Raises ValueError for options: rows start again as the environment does."""
        if options:
            raise ValueError(f"`options` must be empty; got {', '.join(map(repr, options))}.")
        observation, info = self.env.reset(seed=seed)  # pyright: ignore[reportArgumentType]
        self._rows, self._followed = [HAMRow(self.ham, row) for row in range(self.num_envs)], []
        for row, seen in zip(self._rows, self._each(observation), strict=True):
            row.begin(seen)
        return self._observation(), self._told(info)

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, actions: Any
    ) -> tuple[Any, NDArray[np.float64], Mask, Mask, dict[str, Any]]:
        """Take the choices of the rows that need one, then at most one step of the environment."""
        self._followed = []
        self._choose(np.asarray(actions))
        if any(row.point is not None for row in self._rows):
            none = np.zeros((2, self.num_envs), dtype=np.bool_)
            return self._observation(), np.zeros(self.num_envs), none[0], none[1], self._told({})
        observation, reward, terminated, truncated, info = self.env.step(self._actions())
        same, final = self.mode is AutoresetMode.SAME_STEP, info.get("final_obs")
        if same and final is None and (terminated | truncated).any():
            raise ValueError('`info` must hold "final_obs" of rows that ended; got none. SAME_STEP gives it.')
        for row, seen in zip(self._rows, self._each(observation), strict=True):
            at = row.number
            if row.waiting:
                row.begin(seen)
            elif terminated[at] or truncated[at]:
                last = final[at] if final is not None and same else seen
                ends = {"terminated": bool(terminated[at]), "truncated": bool(truncated[at])}
                self._note(row.end(last, float(reward[at]), gamma=self.gamma, **ends))
                row.waiting = not same
                if same:
                    row.begin(seen)
            else:
                self._note(row.arrive(seen, float(reward[at]), gamma=self.gamma))
        return self._observation(), reward, terminated, truncated, self._told(info)

    def transitions(self) -> ClosedChoices:
        """The choices that were followed to their end in the last step."""
        found, masks = self._followed, [self.points.mask(one.point) for one in self._followed]
        return ClosedChoices(
            rows=np.array([one.row for one in found], dtype=np.int64),
            observation=[one.start for one in found],
            choice=np.array([one.choice for one in found], dtype=np.int64),
            reward=np.array([one.reward for one in found], dtype=np.float64),
            duration=np.array([one.duration for one in found], dtype=np.int64),
            discount=np.array([one.discount for one in found], dtype=np.float64),
            next_observation=[self.points.observation(one.observation, one.point) for one in found],
            available=np.array(masks, dtype=np.bool_).reshape(-1, self.points.max_choices),
            terminated=np.array([one.terminated for one in found], dtype=np.bool_),
            truncated=np.array([one.truncated for one in found], dtype=np.bool_),
            at_choice=np.array([one.point is not None for one in found], dtype=np.bool_),
        )

    def state_dict(self) -> dict[str, Any]:
        """The machines of each row and the numbers of choice points. Save the environment's state beside."""
        return {**self.points.state_dict(), "rows": [row.state_dict() for row in self._rows]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in an environment that is in the same state. Raises ReplayDiverged if machines are others."""
        if len(state["rows"]) != self.num_envs:
            raise ValueError(f"`state` must be of {self.num_envs} rows; got {len(state['rows'])}.")
        self.points.load_state_dict(state)
        self._rows, self._followed = [HAMRow(self.ham, row) for row in range(self.num_envs)], []
        for row, saved in zip(self._rows, state["rows"], strict=True):
            row.load_state_dict(saved)

    def _choose(self, choices: NDArray[Any]) -> None:
        if not self._rows:
            raise ResetNeeded("`step` needs episodes; there are none yet. Call `reset`.")
        if choices.shape != (self.num_envs,) or choices.dtype.kind not in "iu":
            raise ValueError(
                f"`actions` must be whole numbers of the shape ({self.num_envs},); got {choices.dtype} of "
                f"{choices.shape}."
            )
        deciding = [row for row in self._rows if row.point is not None]
        for row in deciding:  # all before any: a mistake leaves every row as it was
            assert row.point is not None
            if not 0 <= choices[row.number] < len(row.point.options):
                raise ValueError(
                    f"`actions` must lie in [0, {len(row.point.options)}), the options of "
                    f"{row.point.label!r} in row {row.number}; got {choices[row.number]}. Choose within "
                    '`info["action_mask"]`.'
                )
        for row in deciding:
            start = self.points.observation(row.stack.observation, row.point)
            self._note(row.choose(int(choices[row.number]), start))

    def _note(self, followed: Followed | None) -> None:
        if followed is not None:
            self._followed.append(followed)

    def _actions(self) -> Any:
        """What all machines ask for; of a row that waits, whose action is ignored, its last."""
        actions = [row.action for row in self._rows]
        space = self.env.single_action_space
        if isinstance(space, spaces.Discrete):
            return np.array(actions, dtype=np.int64)
        return concatenate(space, actions, create_empty_array(space, self.num_envs))

    def _each(self, observation: Any) -> list[Any]:
        return list(iterate(self.env.observation_space, observation))

    def _observation(self) -> Any:
        seen = [self.points.observation(row.stack.observation, row.point) for row in self._rows]
        space = self.single_observation_space
        return concatenate(space, seen, create_empty_array(space, self.num_envs))

    def _told(self, info: dict[str, Any]) -> dict[str, Any]:
        closed = np.zeros(self.num_envs, dtype=np.bool_)
        closed[[one.row for one in self._followed]] = True
        return {
            **info,
            "needs_choice": np.array([row.point is not None for row in self._rows]),
            "closed": closed,
            "action_mask": np.array([self.points.mask(row.point) for row in self._rows]),
        }
