"""HAC: levels that learn at once, each as if those below it were perfect already."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from athena_hrl._bounds import checked_box, normalizer, scaled_actions
from athena_hrl._hac_transitions import (
    Achieved,
    LevelStep,
    LevelTransition,
    hindsight_action,
    hindsight_goals,
    level_transition,
    missed_subgoal,
    within,
)
from athena_hrl._numbers import LARGEST, in_range
from athena_hrl._td3 import TD3, TD3Batch
from athena_hrl._transition_ring import TransitionRing

Array = NDArray[np.float32]


class HacMemory(NamedTuple):
    """What `HAC.predict` needs of the step before, level by level, the lowest first.

    >>> HacMemory([np.zeros(2)], [3]).ages
    [3]
    """

    subgoals: list[Array]  # for each level but the highest
    ages: list[int]  # actions that the level has taken towards it


class HAC:
    r"""Hierarchical actor-critic with hindsight: level :math:`i` has ``horizon`` attempts at each subgoal.

    The lowest level acts; the others set places in the space of achieved goals as goals of the next lower.
    Every level learns from what the levels below it came to (`hindsight_action`), from goals it achieved by
    chance (`hindsight_goals`), and from tested subgoals that were missed (`missed_subgoal`) though all
    attempts at them were used up. A subgoal is tested with chance ``test_share``: then all levels below it
    act without noise. An attempt is over too where a goal of a level above is achieved.

    Rewards are -1 until the goal is achieved, whatever the environment says; returns lie in
    :math:`[-H, 0]`, to which targets are clipped. An environment that terminates elsewhere ends every level
    with discount 0; one that truncates ends them without.

    Args:
        env: one environment, its observations a Dict of Boxes ``observation``, ``achieved_goal`` and
            ``desired_goal``, the goals' bounded; its actions a bounded Box.
        levels: at least 2.
        horizon: :math:`H`, actions of a level towards one goal.
        radius: of subgoals, a number or one a dimension; within it a goal is achieved.
        goal_radius: of the environment's goal; that of subgoals if left out.
        gamma: discount of one action of a level; :math:`1 - 1/H` if left out.
        test_share: :math:`\lambda` of subgoals that are tested.
        noise: deviation of the Gaussian noise on actions and subgoals, as a share of their range.
        random_share: of actions and subgoals that are drawn uniformly, where nothing is tested.
        goals_per_step: of hindsight.
        batch_size: of every level.
        updates_per_episode: of every level.
        capacity: transitions of every level.
        td3: options of the levels' `TD3`.
        seed: of networks, noise and draws.
        device: of networks and transitions.

    Raises ValueError for numbers outside their range, for spaces of another kind, and while learning where
    1,000 episodes in a row begin at their goals.

    Source: Levy et al. 2019, arXiv:1712.00948, algorithm 1. Departs from it: TD3 in place of DDPG with
    bounded outputs, its targets clipped to the same bounds; all levels draw from one generator.

    >>> from athena_hrl._point_maze import PointMazeEnv
    >>> env = gym.wrappers.TimeLimit(PointMazeEnv(), 20)
    >>> hac = HAC(env, horizon=5, radius=0.3, td3={"hidden": [16]}, updates_per_episode=2).learn(40)
    >>> hac.steps >= 40, len(hac.rings[1]) > 0
    (True, True)
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        *,
        levels: int = 2,
        horizon: int = 10,
        radius: ArrayLike,
        goal_radius: ArrayLike | None = None,
        gamma: float | None = None,
        test_share: float = 0.3,
        noise: float = 0.1,
        random_share: float = 0.2,
        goals_per_step: int = 3,
        batch_size: int = 128,
        updates_per_episode: int = 40,
        capacity: int = 200_000,
        td3: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        gamma = 1 - 1 / max(horizon, 1) if gamma is None else gamma
        in_range(2, LARGEST, levels=levels)
        in_range(1, LARGEST, horizon=horizon, batch_size=batch_size)
        in_range(0, 1, gamma=gamma, test_share=test_share, random_share=random_share)
        counts = {"goals_per_step": goals_per_step, "updates_per_episode": updates_per_episode}
        in_range(0, LARGEST, noise=noise, **counts)
        self.env, self.seed, self.device = env, seed, torch.device(device)
        self.action_space = checked_box(env.action_space)
        self.state_space, self.goal_space = _goal_parts(env.observation_space)
        self.levels, self.horizon, self.gamma = levels, horizon, gamma
        self.test_share, self.noise, self.random_share = test_share, noise, random_share
        self.goals_per_step, self.batch_size = goals_per_step, batch_size
        self.updates_per_episode = updates_per_episode
        self.near = within(radius)
        self.arrived = self.near if goal_radius is None else within(goal_radius)
        self._build(capacity, dict(td3 or {}))
        self.steps = self.episodes = self.successes = 0

    def _build(self, capacity: int, td3: dict[str, Any]) -> None:
        state, goal = spaces.flatdim(self.state_space), spaces.flatdim(self.goal_space)
        self.learners: list[TD3] = []
        self.rings: list[TransitionRing] = []
        for level in range(self.levels):
            width = spaces.flatdim(self.action_space) if level == 0 else goal
            seed = self.seed * self.levels + level
            options = {"bounds": (-float(self.horizon), 0.0), "device": self.device, **td3}
            self.learners.append(TD3(state + goal, width, seed=seed, **options))
            shapes = {"state": (state,), "action": (width,), "reward": (), "next_state": (state,)}
            shapes |= {"goal": (goal,), "discount": ()}
            self.rings.append(TransitionRing(capacity, shapes, seed=seed, device=self.device))
        self.random = np.random.default_rng(self.seed)
        self._state_scale, self._goal_scale = normalizer(self.state_space), normalizer(self.goal_space)

    def learn(self, steps: int) -> HAC:
        """Play whole episodes until at least ``steps`` more actions were made; learn after each."""
        until, idle = self.steps + steps, 0
        while self.steps < until:
            before = self.steps
            self._episode()
            idle = 0 if self.steps > before else idle + 1
            if idle >= _IDLE:
                raise ValueError(
                    f"`goal_radius` must leave goals to be reached; got {_IDLE:,} episodes in a row that "
                    "began within it. Take a smaller one."
                )
            for _ in range(self.updates_per_episode):
                self.update()
        return self

    def _episode(self) -> None:
        seed = np.random.SeedSequence([self.seed, self.episodes]).generate_state(1)[0] >> 1
        self._see(self.env.reset(seed=int(seed))[0])
        self._terminated = self._truncated = False
        top, goal = self.levels - 1, self._goal
        while not self._over() and not self.arrived(self._place, goal):
            self._attempt(top, [goal], testing=False)
        self.episodes += 1
        self.successes += self.arrived(self._place, goal)

    def _see(self, observation: Mapping[str, Any]) -> None:
        names = "observation", "achieved_goal", "desired_goal"
        parts = [np.array(observation[name], dtype=np.float32).ravel() for name in names]
        self._state, self._place, self._goal = parts

    def _over(self) -> bool:
        return self._terminated or self._truncated

    def _attempt(self, level: int, goals: list[Array], *, testing: bool) -> bool:
        """At most ``horizon`` actions of a level, and the transitions that they make.

        Args:
            level: which.
            goals: of the level, and of all above it.
            testing: without noise.

        Returns whether it has used up its actions. It has not where any of the goals was achieved, or the
        episode ended: then a missed subgoal is not the fault of who set it.
        """
        goal, used_up = goals[0], True
        options = {"gamma": self.gamma, "achieved": self._achieved(level)}
        steps, made = [], []
        for _ in range(self.horizon):
            state, action = self._state, self._choose(level, goal, testing=testing)
            tested = testing or (level > 0 and self.random.random() < self.test_share)
            in_vain = self._carry_out(level, [action, *goals], testing=tested)
            step = LevelStep(state, action, self._state, self._place, self._terminated)
            missed = level > 0 and not self.near(self._place, action)
            if tested and missed and in_vain:
                self._note(level, [missed_subgoal(step, goal, horizon=self.horizon)])
            make = hindsight_action if missed else level_transition
            steps.append(step)
            made.append(make(step, goal, **options))
            if self._over() or self._any_achieved(level, goals):
                used_up = False
                break
        self._note(level, made)
        actions = [one.action for one in made]
        self._note(
            level,
            hindsight_goals(steps, actions, count=self.goals_per_step, random=self.random, **options),
        )
        return used_up

    def _achieved(self, level: int) -> Achieved:
        return self.arrived if level == self.levels - 1 else self.near

    def _any_achieved(self, level: int, goals: list[Array]) -> bool:
        pairs = enumerate(goals, level)
        return any(self._achieved(above)(self._place, goal) for above, goal in pairs)

    def _carry_out(self, level: int, goals: list[Array], *, testing: bool) -> bool:
        """Reach for a subgoal, the first of the goals, by the level below, or act; whether it was in vain."""
        if level > 0:
            return self._attempt(level - 1, goals, testing=testing)
        taken = scaled_actions(goals[0][None], self.action_space)[0]
        observation, _, self._terminated, self._truncated, _ = self.env.step(taken)
        self._see(observation)
        self.steps += 1
        return False

    def _choose(self, level: int, goal: Array, *, testing: bool) -> Array:
        """An action in [-1, 1], or a subgoal in the space of goals."""
        noise = 0.0 if testing else self.noise
        action = self.learners[level].act(self._input(self._state, goal), noise=noise)[0].cpu().numpy()
        if not testing and self.random.random() < self.random_share:
            action = self.random.uniform(-1, 1, action.shape).astype(np.float32)
        centre, scale = self._goal_scale
        return action if level == 0 else centre + scale * action

    def _note(self, level: int, made: list[LevelTransition]) -> None:
        if made:
            self.rings[level].add(
                **{name: np.array([getattr(one, name) for one in made]) for name in _FIELDS}
            )

    def update(self) -> list[dict[str, float]]:
        """One update of every level that has transitions; their losses, the lowest level's first."""
        pairs = zip(self.learners, range(self.levels), strict=True)
        return [learner.update(self.batch(level)) for learner, level in pairs if len(self.rings[level])]

    def batch(self, level: int) -> TD3Batch:
        """A draw of a level's transitions, subgoals as shares of the space of goals."""
        drawn = self.rings[level].sample(self.batch_size)
        action = drawn["action"]
        if level > 0:
            centre, scale = (torch.from_numpy(part).to(action) for part in self._goal_scale)
            action = (action - centre) / scale
        inputs = [self._input(drawn[name], drawn["goal"]) for name in ("state", "next_state")]
        return TD3Batch(inputs[0], action, drawn["reward"], drawn["discount"], inputs[1])

    def _input(self, state: Any, goal: Any) -> torch.Tensor:
        scaled = []
        for values, (centre, scale) in ((state, self._state_scale), (goal, self._goal_scale)):
            tensor = torch.as_tensor(values, device=self.device)
            tensor = tensor[None] if tensor.ndim == 1 else tensor
            scaled.append((tensor - torch.from_numpy(centre).to(tensor)) / torch.from_numpy(scale).to(tensor))
        return torch.cat(scaled, -1)

    def predict(
        self, observation: Mapping[str, Any], memory: HacMemory | None = None
    ) -> tuple[NDArray[Any], HacMemory]:
        """The action for an observation, without noise, and what the next call needs.

        Args:
            observation: of the environment.
            memory: of the call before; None at the start of an episode.
        """
        self._see(observation)
        top = self.levels - 1
        subgoals = [self._goal] * top if memory is None else list(memory.subgoals)
        ages = [0] * top if memory is None else list(memory.ages)
        anew, goal = memory is None, self._goal
        for place in reversed(range(top)):  # the subgoal that level `place + 1` sets for level `place`
            anew = anew or ages[place] >= self.horizon or self.near(self._place, subgoals[place])
            if anew:
                subgoals[place], ages[place] = self._choose(place + 1, goal, testing=True), 0
                if place + 1 < top:
                    ages[place + 1] += 1
            goal = subgoals[place]
        ages[0] += 1
        action = self._choose(0, goal, testing=True)
        return scaled_actions(action[None], self.action_space)[0], HacMemory(subgoals, ages)

    def state_dict(self) -> dict[str, Any]:
        """All that the next episode depends on: it begins from a seed of its own."""
        return {
            "learners": [learner.state_dict() for learner in self.learners],
            "rings": [ring.state_dict() for ring in self.rings],
            "random": self.random.bit_generator.state,
            **{name: getattr(self, name) for name in _COUNTS},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state. Raises ValueError or RuntimeError for that of another shape."""
        for name in ("learners", "rings"):
            for part, saved in zip(getattr(self, name), state[name], strict=True):
                part.load_state_dict(saved)
        self.random.bit_generator.state = state["random"]
        for name in _COUNTS:
            setattr(self, name, state[name])


_COUNTS = ("steps", "episodes", "successes")
_IDLE = 1_000  # episodes without a step
_FIELDS = ("state", "action", "reward", "next_state", "goal", "discount")


def _goal_parts(space: spaces.Space[Any]) -> tuple[spaces.Box, spaces.Box]:
    names = "observation", "achieved_goal", "desired_goal"
    if isinstance(space, spaces.Dict) and set(names) <= space.spaces.keys():
        state, place = space["observation"], space["achieved_goal"]
        if isinstance(state, spaces.Box) and isinstance(place, spaces.Box) and place.is_bounded():
            return state, place
    raise ValueError(
        f"observations must be a Dict of Boxes {', '.join(names)}, the goals' bounded; got {space}. Wrap the "
        "environment to give them."
    )
