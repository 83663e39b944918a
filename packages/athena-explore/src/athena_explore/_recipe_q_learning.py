"""The learner `q-learning` of the recipe `explore`: one environment, a table, a bonus for each episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from athena_core import AthenaError
from athena_core.environments import ReplayableEnv
from athena_explore._bonus import Bonus
from athena_explore._q_learning import QLearning, Visit
from athena_explore._transition import Transition


class QLearner:
    """Plays one environment, and learns by `QLearning` at the end of each episode.

    The bonus is asked and updated at the end of an episode, and of a rollout for what of the episode was not
    known to it yet.

    Args:
        env: of Discrete observations and actions.
        bonus: made for its spaces.
        n_steps: of a rollout.
        options: of `QLearning`.

    Raises AthenaError for other spaces.

    >>> from athena_explore._recipe_environment import make_environment
    >>> from athena_explore import RND
    >>> env = ReplayableEnv(make_environment("FrozenLake-v1").env, seed=0)
    >>> bonus = RND(env.observation_space, env.action_space)
    >>> learner = QLearner(env, bonus, n_steps=50, options={"coefficient": 1.0})
    >>> learner.rollout()
    >>> bonus.ready, len(env.drain().ended) > 2
    (True, True)
    """

    def __init__(self, env: ReplayableEnv, bonus: Bonus, *, n_steps: int, options: Mapping[str, Any]) -> None:
        states = _discrete("observation_space", env.observation_space)
        actions = _discrete("action_space", env.action_space)
        self.env, self.bonus, self.n_steps = env, bonus, n_steps
        self.q = QLearning(int(states.n), int(actions.n), **options)
        self.starts = int(states.start), int(actions.start)
        self.state = -1  # before the first episode
        self.visits: list[Visit] = []  # the episode under way
        self.bonuses: list[float] = []  # of those of its steps that the bonus knows

    @property
    def envs(self) -> list[ReplayableEnv]:
        return [self.env]

    def rollout(self) -> None:
        """Play so many steps, and learn from each episode that ends in them."""
        if self.state < 0:
            self.state = self._reset()
        for _ in range(self.n_steps):
            self._step()
        self._ask(terminated=False, truncated=False)

    def parts(self) -> dict[str, Any]:
        """What a run saves."""
        return {"learner": self, "bonus": self.bonus}

    def state_dict(self) -> dict[str, Any]:
        """The tables, the episode under way and its environment."""
        return {
            "q": self.q.state_dict(),
            "env": self.env.state_dict(),
            "state": self.state,
            "visits": [list(visit) for visit in self.visits],
            "bonuses": list(self.bonuses),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self.q.load_state_dict(state["q"])
        self.env.load_state_dict(state["env"])
        self.state = state["state"]
        self.visits, self.bonuses = [Visit(*visit) for visit in state["visits"]], list(state["bonuses"])

    def _reset(self) -> int:
        return int(self.env.reset()[0]) - self.starts[0]

    def _step(self) -> None:
        action = self.q.act(self.state)
        observation, reward, terminated, truncated, _ = self.env.step(np.int64(action + self.starts[1]))
        following = int(observation) - self.starts[0]
        self.visits.append(Visit(self.state, action, float(reward), following))
        self.state = following
        if terminated or truncated:
            self._ask(terminated=terminated, truncated=truncated and not terminated)
            self.state = self._reset()
            self.q.learn(self.visits, self.bonuses, terminated=terminated, next_start=self.state)
            self.visits, self.bonuses = [], []

    def _ask(self, *, terminated: bool, truncated: bool) -> None:
        """Let the bonus score what of this episode it does not know yet, and make it known."""
        rows = torch.tensor([visit[:2] + visit[3:] for visit in self.visits[len(self.bonuses) :]])
        if not len(rows):
            return
        states, actions, following = rows[:, :, None].unbind(1)  # of one environment
        ends = torch.zeros(2, len(rows), 1, dtype=torch.bool)
        ends[:, -1] = torch.tensor([[terminated], [truncated]])
        first_state, first_action = self.starts
        transition = Transition(
            states + first_state, actions + first_action, following + first_state, ends[0], ends[1]
        )
        self.bonuses += self.bonus.score(transition)[:, 0].tolist()
        self.bonus.update(transition)


def _discrete(name: str, space: spaces.Space[Any]) -> spaces.Discrete:
    if not isinstance(space, spaces.Discrete):
        raise AthenaError(
            f"`learner` q-learning needs a Discrete `{name}`; got {space}. Take ppo, or another `env`."
        )
    return space
