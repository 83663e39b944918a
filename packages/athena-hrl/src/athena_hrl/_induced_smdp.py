"""The semi-Markov decision process that machines make of an environment: choices in place of actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym

from athena_hrl._call_stack import CallStack, ChoicePoint
from athena_hrl._ham import HAM
from athena_hrl._ham_steps import Choose
from athena_hrl._machine_listener import MachineListener
from athena_hrl._smdp import checked_gamma, single_steps


class Segment(NamedTuple):
    r"""What happened between two consecutive choice points, or up to the end of the episode.

    Attributes:
        point: the choice that is open now. None after a termination; after a truncation the choice that the
            machines would reach without acting again, whose value bootstraps, None if they would act first.
        observation: the last.
        reward: :math:`\sum_{i<\tau} \gamma^i r_i`.
        duration: :math:`\tau`, actions; 0 between choices without one.
        discount: :math:`\gamma^\tau`.
        terminated, truncated: whether the episode ended.
        total: undiscounted sum of rewards.
        info: of the environment's last step.

    >>> Segment(None, 0, reward=0.0, duration=0, discount=1.0).total
    0.0
    """

    point: ChoicePoint | None
    observation: Any
    reward: float
    duration: int
    discount: float
    terminated: bool = False
    truncated: bool = False
    total: float = 0.0
    info: Mapping[str, Any] = {}

    @property
    def ended(self) -> bool:
        """Whether the episode ended."""
        return self.terminated or self.truncated


class InducedSMDP:
    r"""Runs an environment under a `HAM` from choice to choice.

    .. math::
        R = \sum_{i<\tau} \gamma^i r_i, \qquad \text{next choice worth } \gamma^\tau

    for the :math:`\tau` actions between two *consecutive* choice points, whichever machines took them.

    Args:
        env: a Gymnasium environment.
        ham: the program.
        gamma: :math:`\gamma`.
        listener: is told of each call, action, return and end.

    Raises ValueError if ``gamma`` lies outside [0, 1], and for an environment over options.

    Source: Parr and Russell 1998, "Reinforcement learning with hierarchies of machines", NIPS 10, where it
    is reduce(H o M). Departs from it: no.

    >>> from athena_hrl import act, choose
    >>> def root(machine):
    ...     action = yield choose("action", range(4))
    ...     yield act(action)
    ...     yield act(action)
    >>> smdp = InducedSMDP(gym.make("CliffWalking-v1"), HAM(root), gamma=0.5)
    >>> smdp.reset(seed=0).point.label
    'action'
    >>> segment = smdp.choose(0)
    >>> segment.reward, segment.duration, segment.discount
    (-1.5, 2, 0.25)
    """

    def __init__(
        self, env: gym.Env[Any, Any], ham: HAM, *, gamma: float, listener: MachineListener | None = None
    ) -> None:
        self.env, self.gamma = single_steps(env), checked_gamma(gamma)
        self.ham, self.listener = ham, listener
        self.stack = CallStack(ham, listener)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Segment:
        """Start an episode, and run to its first choice. What came before it is in the segment."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.stack.begin(observation)
        return self._run(info)

    def choose(self, index: int) -> Segment:
        """Take an option of the open choice, and run to the next one."""
        self.stack.choose(index)
        return self._run({})

    def state_dict(self) -> dict[str, Any]:
        """The calls under way. The environment's state is not in it: save that beside."""
        return {"stack": self.stack.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`, in an environment that is in the same state."""
        self.stack.load_state_dict(state["stack"])

    def _run(self, info: Mapping[str, Any]) -> Segment:
        stack, env, listener, gamma = self.stack, self.env, self.listener, self.gamma
        reward_sum, total, discount, duration = 0.0, 0.0, 1.0, 0
        while True:
            step = stack.run()
            if isinstance(step, Choose):
                return Segment(
                    stack.point, stack.observation, reward_sum, duration, discount, total=total, info=info
                )
            try:
                observation, reward, terminated, truncated, info = env.step(step.action)
            except Exception as error:
                error.add_note(str(stack))  # whose action it was
                raise
            reward = float(reward)
            reward_sum, total = reward_sum + discount * reward, total + reward
            discount, duration = discount * gamma, duration + 1
            if listener is not None:
                listener.acted(reward)
            stack.observe(observation)
            if terminated or truncated:
                point = self._close(terminated=bool(terminated))
                ends = bool(terminated), bool(truncated)
                return Segment(point, observation, reward_sum, duration, discount, *ends, total, info)

    def _close(self, *, terminated: bool) -> ChoicePoint | None:
        """Unwind the stack. The choice whose value an episode that was only cut goes on with."""
        point = None
        if not terminated and type(self.stack.run()) is Choose:
            point = self.stack.point
        if self.listener is not None:
            self.listener.ended(terminated=terminated, truncated=not terminated)
        self.stack.end()
        return point
