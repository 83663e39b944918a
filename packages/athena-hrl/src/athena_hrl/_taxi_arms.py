"""The learners of the recipe `taxi`, each with its knowledge and its greedy policy."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from athena_hrl._alisp_q_learning import ALispQLearning
from athena_hrl._call_stack import ChoicePoint
from athena_hrl._choice_graph import ChoiceGraph
from athena_hrl._expected_return import Controller, expected_return
from athena_hrl._fickle_taxi import fickle_model
from athena_hrl._hamq_learning import HAMQLearning
from athena_hrl._intra_option_q_learning import IntraOptionQLearning
from athena_hrl._maxq import MAXQ
from athena_hrl._option import primitives
from athena_hrl._option_env import OptionEnv
from athena_hrl._smdp_q_learning import SMDPQLearning
from athena_hrl._taxi_machine import (
    DROPOFF,
    N_STATES,
    PICKUP,
    place_of,
    taxi_graph,
    taxi_options,
    taxi_program,
    taxi_relevance,
)
from athena_hrl._value_iteration import finite_mdp, value_iteration

ARMS = {
    "flat": "flat Q",
    "smdp": "SMDP-Q",
    "intra": "intra-option Q",
    "ham": "HAM",
    "maxq": "MAXQ",
    "alisp": "ALisp",
}
TIME_LIMIT = 200  # steps of an episode
GAMMA = 1.0  # as in the papers; abstraction is exact with no other


class TaxiArms:
    """Builds learners of Taxi, and evaluates them exactly.

    Args:
        env_options: for ``gymnasium.make``.
        learner_options: of every learner.
        abstraction: let ham, maxq and alisp share values among states.

    Attributes:
        optimum: the return of the best policy; of one that knows beforehand who is fickle, if some are.
        random: the return of random actions.

    >>> arms = TaxiArms({}, {"epsilon": 0.2})
    >>> round(arms.optimum, 6), round(arms.random, 2)
    (7.93, -771.09)
    >>> learner = arms.build("maxq", seed=0).learn(15_000)
    >>> round(arms.greedy_return("maxq", learner), 6)
    7.93
    """

    def __init__(
        self, env_options: Mapping[str, Any], learner_options: Mapping[str, Any], *, abstraction: bool = True
    ) -> None:
        self.learner_options = dict(learner_options)
        self.env = gym.make("Taxi-v4", **env_options)
        fickle = {"fickle_passenger", "fickle_probability"}
        known = {name: value for name, value in env_options.items() if name not in fickle}
        self.model = steady = finite_mdp(gym.make("Taxi-v4", **known))
        if env_options.get("fickle_passenger"):
            self.model = fickle_model(steady, env_options["fickle_probability"])
        self.graph, self.program = taxi_graph(abstract=abstraction), taxi_program()
        self.ham_abstraction = {"direction": place_of} if abstraction else {}
        self.relevance = taxi_relevance() if abstraction else {}
        actions = primitives(self.env)
        options = [*taxi_options(steady), actions[PICKUP], actions[DROPOFF]]
        self.option_env = OptionEnv(self.env, options, gamma=GAMMA)
        self.tables = self.option_env.options.tables()
        self.choices = ChoiceGraph(self.program)
        model = self.model
        best = value_iteration(model.transition, model.reward, gamma=GAMMA).argmax(1)
        self.optimum = expected_return(model, best, steps=TIME_LIMIT)
        uniform = np.full(model.reward.shape, 1 / model.reward.shape[1])
        self.random = expected_return(model, uniform, steps=TIME_LIMIT)

    def build(self, arm: str, *, seed: int) -> Any:
        """A learner, in the environment that all share and that is now seeded."""
        self.env.reset(seed=seed)
        options = {**self.learner_options, "seed": seed}
        if arm == "smdp":
            return SMDPQLearning(self.option_env, **options)
        options["gamma"] = GAMMA
        if arm == "flat":
            return SMDPQLearning(self.env, **options)
        if arm == "intra":
            return IntraOptionQLearning(self.env, self.option_env.options, **options)
        if arm == "ham":
            return HAMQLearning(self.env, self.program, abstraction=self.ham_abstraction, **options)
        if arm == "maxq":
            return MAXQ(self.env, self.graph, **options)
        return ALispQLearning(self.env, self.program, abstraction=self.relevance, **options)

    def greedy_return(self, arm: str, learner: Any) -> float:
        """What the best actions, options or choices known to a learner earn in an episode, exactly."""
        policy = self.policy(arm, learner)
        if not callable(policy):
            tiled = np.tile(policy, len(self.model.start) // N_STATES)
            return expected_return(self.model, tiled, steps=TIME_LIMIT)

        def seeing(memory: Hashable, state: int) -> Iterable[tuple[float, int, Hashable]]:
            return policy(memory, state % N_STATES)  # not the hidden feature

        return expected_return(self.model, seeing, steps=TIME_LIMIT)

    def policy(self, arm: str, learner: Any) -> Controller | NDArray[np.int64]:
        """The best actions, options or choices known to a learner, as `expected_return` takes them."""
        if arm == "flat":
            return learner.q.argmax(1)
        if arm in ("smdp", "intra"):
            return self._over_options(learner)
        if arm == "ham":
            return self.choices.policy(lambda point: _best_of_hamq(learner, point))
        return learner.policy() if arm == "maxq" else self.choices.policy(learner.best)

    def _over_options(self, learner: SMDPQLearning | IntraOptionQLearning) -> Controller:
        best = np.where(self.tables.initiation, learner.q, -np.inf).argmax(1)
        action, ends = self.tables.policy.argmax(2), self.tables.termination

        def act(memory: Any, state: int) -> tuple[tuple[float, int, int]]:
            option = int(best[state]) if memory is None or ends[state, memory] else memory
            return ((1.0, int(action[state, option]), option),)

        return act


def _best_of_hamq(learner: HAMQLearning, point: ChoicePoint) -> int:
    values = learner.values(learner.key(point), len(point.options))
    return values.index(max(values))
