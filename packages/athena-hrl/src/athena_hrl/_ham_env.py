"""The decision process that machines induce, as an environment of Gymnasium."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.error import ResetNeeded
from gymnasium.utils import RecordConstructorArgs

from athena_hrl._call_stack import ChoicePoint
from athena_hrl._choice_points import ChoicePoints, Form
from athena_hrl._ham import HAM
from athena_hrl._ham_steps import Choose
from athena_hrl._induced_smdp import InducedSMDP, Segment

_EPISODES = 1000  # in a row without a choice


class HAMEnv(gym.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    r"""An environment whose actions are the options of a `HAM`'s choices: for any agent.

    A step takes an option of the open choice, and runs machines and environment to the next choice or to the
    end of the episode. Its reward is :math:`\sum_{i<\tau} \gamma^i r_i`, so an agent must weigh the next
    value by ``info["discount"]``, :math:`\gamma^\tau`. Observations say which choice is open: choice points,
    each a call stack and a label, have numbers in the order in which they are met.

    ``info`` is that of the environment's last step, and with it

    - "duration": :math:`\tau`, 0 where machines chose again without acting,
    - "discount": :math:`\gamma^\tau`,
    - "action_mask": bools ``(max_choices,)``, the options that the new choice has,
    - "at_choice": whether a choice is open in the observation. Of ends it is true only after a truncation
      where machines came to a choice without acting. Where it is false after a truncation, the value of the
      observation is nothing that an agent learns: put limits of time around this environment, where they cut
      at choices, rather than inside.

    Args:
        env: the environment.
        ham: the program.
        max_points: the number of choice points, at most.
        max_choices: the most options of a choice.
        gamma: :math:`\gamma`.
        form: of observations: "dict" has "observation" and "point"; "index" makes one number of both.

    Raises ValueError as `ChoicePoints`, for a choice outside the mask, and where 1,000 episodes end without
    one; gymnasium.error.ResetNeeded for a step before `reset` or after an end.
    Source: Parr and Russell 1998, "Reinforcement learning with hierarchies of machines", NIPS 10, where
    the process is reduce(H o M). Departs from it: no.

    >>> from athena_hrl import act, choose
    >>> def root(machine):
    ...     action = yield choose("action", range(4))
    ...     yield act(action)
    ...     yield act(action)
    >>> cliff = gym.make("CliffWalking-v1")
    >>> env = HAMEnv(cliff, HAM(root), max_points=1, max_choices=4, gamma=0.5, form="index")
    >>> env.reset(seed=0)[0]
    72
    >>> observation, reward, _, _, info = env.step(0)
    >>> observation, reward, info["duration"], info["discount"]
    (24, -1.5, 2, 0.25)
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        ham: HAM,
        *,
        max_points: int,
        max_choices: int,
        gamma: float = 0.99,
        form: Form = "dict",
    ) -> None:
        RecordConstructorArgs.__init__(
            self, ham=ham, max_points=max_points, max_choices=max_choices, gamma=gamma, form=form
        )
        gym.Wrapper.__init__(self, env)
        self.gamma, self.smdp = gamma, InducedSMDP(env, ham, gamma=gamma)
        self.points = ChoicePoints(
            env.observation_space, max_points=max_points, max_choices=max_choices, form=form
        )
        self.observation_space = self.points.space
        self.action_space = spaces.Discrete(max_choices)
        self._point: ChoicePoint | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start an episode, and run to its first choice; episodes that end before one are passed over."""
        for _ in range(_EPISODES):
            segment = self.smdp.reset(seed=seed, options=options)
            if not segment.ended:
                return self._seen(segment)
            seed = None
        raise ValueError(f"`ham` must come to a choice; got none in {_EPISODES:,} episodes.")

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take option number ``action``."""
        segment = self.smdp.choose(self._checked(action))
        observation, info = self._seen(segment)
        return observation, segment.reward, segment.terminated, segment.truncated, info

    def action_masks(self) -> Any:
        """The options of the open choice, ``(max_choices,)``, as sb3-contrib's MaskablePPO asks for them.

        Its discount is one a choice, not one a step: with ``gamma`` below 1 it takes long options for short.
        """
        return self.points.mask(self._point)

    def state_dict(self) -> dict[str, Any]:
        """The machines under way and the numbers of choice points. Save the environment's state beside."""
        return {**self.points.state_dict(), "smdp": self.smdp.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on in an environment that is in the same state. Raises ReplayDiverged if machines are others."""
        self.points.load_state_dict(state)
        self.smdp.load_state_dict(state["smdp"])
        stack = self.smdp.stack
        self._point = stack.point if stack.frames and isinstance(stack.run(), Choose) else None

    def _seen(self, segment: Segment) -> tuple[Any, dict[str, Any]]:
        point = segment.point
        told = {
            "duration": segment.duration,
            "discount": segment.discount,
            "action_mask": self.points.mask(point),
            "at_choice": point is not None,
        }
        self._point = None if segment.ended else point
        return self.points.observation(segment.observation, point), {**segment.info, **told}

    def _checked(self, action: Any) -> int:
        if self._point is None:
            raise ResetNeeded("`step` needs an episode under way; there is none. Call `reset`.")
        number, count = np.asarray(action), len(self._point.options)
        if number.shape != () or number.dtype.kind not in "iu" or not 0 <= number < count:
            raise ValueError(
                f"`action` must lie in [0, {count}), the options of {self._point.label!r}; got {action}. "
                'Choose within `info["action_mask"]`.'
            )
        return int(number)
