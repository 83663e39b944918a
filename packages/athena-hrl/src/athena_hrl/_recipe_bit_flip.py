"""The recipe `bit-flip`: DQN with and without hindsight, where a goal is rewarded alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from athena_core import AthenaError, Configured, Recipe, Run, component, one_thread
from athena_core.environments import streams
from athena_core.figures import learning_curves
from athena_hrl._bit_flip import BitFlip, BitFlipVectorEnv

if TYPE_CHECKING:
    from athena_hrl._recipe_dqn import HindsightDQN

TEST_SEED = 2**40  # of the episodes of all tests; far from that of any run
_NEAR = 0.95  # of the episodes of a test, from when on the task counts as learned


@dataclass(kw_only=True)
class BitFlipRecipe(Recipe):
    r"""Learn to flip ``bits`` bits into a goal, both drawn for each episode, from rewards of -1 and 0.

    An agent that acts at random meets the goal once in :math:`2^n` steps; without hindsight there is nothing
    to learn from. ``n_sampled_goal`` 0 is DQN without; ``athena report`` draws both, over their seeds. A step
    of the recipe is one of an environment. The success rate is that of the greedy policy in ``test_episodes``
    new episodes, the same ones at each test and for each seed. Runs resume bit for bit.

    The network sees the bits and the goal side by side, not where they differ: that they must agree, bit by
    bit, is what it has to find out. It has the one layer of 256 units of the paper.

    Args:
        steps: of all environments together; 60,000 are enough for 25 bits, 250,000 for 40.
        bits: :math:`n`.
        n_sampled_goal: goals in hindsight for each real one; 0 is none.
        strategy: which achieved goals take the place of desired ones.
        n_envs: environments at once.
        gamma: the discount.
        lr: of DQN's Adam.
        batch_size: of each update.
        steps_per_update: steps of an environment for each update of the network.
        target_every: steps, after which the target network is the network.
        buffer_size: transitions.
        epsilon: the share of actions at random, in the end.
        exploration_share: of all steps, in which exploration comes down to it. A policy that fails walks in
            circles, which teach little; with 40 bits most steps must be at random at first.
        hidden: widths of the network's layers.
        test_every: steps between two tests.
        test_episodes: of each test.

    Source: Andrychowicz et al. 2017, arXiv:1707.01495, sections 3.1 and 4.1. Departs from it: one DQN update
    at a time with Stable-Baselines3's; an episode ends at its goal.

    >>> recipe = BitFlipRecipe(bits=40, n_sampled_goal=0)
    >>> recipe.strategy.name, recipe.hidden
    ('future', (256,))
    """

    steps: int = 30_000
    bits: int = 15
    n_sampled_goal: int = 4
    strategy: Configured = component("goal-strategy", "future")
    n_envs: int = 16
    gamma: float = 0.98
    lr: float = 1e-3
    batch_size: int = 128
    steps_per_update: int = 4
    target_every: int = 500
    buffer_size: int = 200_000
    epsilon: float = 0.05
    exploration_share: float = 0.7
    hidden: tuple[int, ...] = (256,)
    test_every: int = 5000
    test_episodes: int = 500

    @classmethod
    def example(cls) -> Self:
        return cls(
            steps=64,
            bits=3,
            n_envs=2,
            batch_size=8,
            buffer_size=40,
            hidden=(8,),
            test_every=32,
            test_episodes=4,
        )

    def run(self, run: Run) -> Mapping[str, float]:
        self._check()
        with one_thread():
            learner = self.build(run)
            curve = Curve()
            tests = -(-self.steps // self.test_every)
            parts = {**learner.parts(), "curve": curve}
            for test in run.steps(tests, unit="steps", units_per_step=self.test_every, **parts):
                learner.learn(self.test_every)
                share = success_rate(self._greedy(learner), bits=self.bits, episodes=self.test_episodes)
                curve.note(test * self.test_every, share)
                run.log(test * self.test_every, success=share)
            return self.show(run, curve)

    def build(self, run: Run) -> HindsightDQN:
        """The learner, not yet trained."""
        from athena_hrl._recipe_dqn import HindsightDQN

        env = BitFlipVectorEnv(self.n_envs, bits=self.bits, autoreset_mode="Disabled")
        options = {
            "learning_rate": self.lr,
            "buffer_size": self.buffer_size,
            "learning_starts": 2 * self.bits * self.n_envs,  # of which each environment ends an episode
            "batch_size": self.batch_size,
            "gamma": self.gamma,
            "train_freq": self.steps_per_update,
            "gradient_steps": self.n_envs,
            "target_update_interval": max(self.target_every, self.n_envs),
            "policy_kwargs": {"net_arch": list(self.hidden)},
            "device": run.device,
        }
        buffer = {"n_sampled_goal": self.n_sampled_goal, "goal_selection_strategy": self.strategy.create()}
        try:
            return HindsightDQN(
                env,
                seed=run.seed,
                epsilon=self.epsilon,
                exploration_steps=round(self.exploration_share * self.steps),
                buffer=buffer,
                options=options,
            )
        except ValueError as error:
            raise AthenaError(" ".join(str(error).split())) from error

    def _greedy(self, learner: HindsightDQN) -> Callable[[Any], NDArray[np.int64]]:
        return lambda obs: learner.model.predict(obs, deterministic=True)[0]

    def _check(self) -> None:
        least = dict.fromkeys(
            ("steps", "bits", "n_envs", "batch_size", "steps_per_update", "target_every"), 1
        )
        least |= {"test_every": 1, "test_episodes": 1, "n_sampled_goal": 0}
        least["buffer_size"] = 2 * self.bits * self.n_envs  # two episodes of each environment
        for name, low in least.items():
            if getattr(self, name) < low:
                raise AthenaError(f"`{name}` must be at least {low}; got {getattr(self, name)}.")
        for name in ("gamma", "epsilon", "exploration_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise AthenaError(f"`{name}` must lie in [0, 1]; got {getattr(self, name)}.")
        if not 0 < self.lr < math.inf:
            raise AthenaError(f"`lr` must be a positive number; got {self.lr}.")
        if not all(width >= 1 for width in self.hidden):
            raise AthenaError(f"`hidden` must hold widths of at least 1; got {list(self.hidden)}.")

    def show(self, run: Run, curve: Curve) -> dict[str, float]:
        """Print and draw; the final metrics."""
        name = "without hindsight" if self.n_sampled_goal == 0 else f"hindsight, {self.strategy.name}"
        title = f"bit-flip, {self.bits} bits, DQN {name}"
        run.print(summary(curve, bits=self.bits, name=name))
        lines = {name: (curve.steps, np.array(curve.success))}
        figure = learning_curves(lines, x_label="steps", y_label="success rate", title=title)
        run.figure("success", figure)
        return curve.final()


class Curve:
    """Success rates by step.

    >>> curve = Curve()
    >>> for step, success in ((10, 0.5), (20, 0.96), (30, 1.0)):
    ...     curve.note(step, success)
    >>> curve.final(), curve.learned_at()
    ({'success': 1.0, 'best_success': 1.0}, 20)
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.success: list[float] = []

    def note(self, step: int, success: float) -> None:
        """One test."""
        self.steps.append(step)
        self.success.append(success)

    def final(self) -> dict[str, float]:
        """The last and the best success."""
        return {"success": self.success[-1], "best_success": max(self.success)}

    def learned_at(self) -> int | None:
        """The steps until the first test above 95 %; None if there was none."""
        pairs = zip(self.steps, self.success, strict=True)
        return next((step for step, success in pairs if success > _NEAR), None)

    def state_dict(self) -> dict[str, Any]:
        """All tests so far."""
        return {"steps": list(self.steps), "success": list(self.success)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.steps, self.success = list(state["steps"]), list(state["success"])


def success_rate(act: Callable[[Any], NDArray[np.int64]], *, bits: int, episodes: int) -> float:
    """The share of episodes in which a policy reaches the goal in as many steps as there are bits.

    Args:
        act: observations ``(N, ...)`` to actions ``(N,)``.
        bits, episodes: how many.

    >>> def wrong_bit(obs):
    ...     return (obs["observation"] != obs["desired_goal"]).argmax(axis=1)
    >>> success_rate(wrong_bit, bits=8, episodes=50)
    1.0
    """
    rules = BitFlip(bits=bits)
    state = rules.start(streams(TEST_SEED + np.arange(episodes, dtype=np.uint64)))
    reached = np.zeros(episodes, np.bool_)
    for _ in range(bits):
        state, _, terminated = rules.advance(state, act(rules.observe(state)))
        reached |= terminated
    return float(reached.mean())


def summary(curve: Curve, *, bits: int, name: str) -> str:
    """What a run came to, for people.

    >>> curve = Curve()
    >>> curve.note(2000, 0.99)
    >>> print(summary(curve, bits=15, name="hindsight"))
    15 bits, DQN hindsight
    success    99.0 % of the test episodes at the end, 99.0 % at best
    learned    above 95 % after 2,000 steps
    """
    final, step = curve.final(), curve.learned_at()
    success = [f"{100 * final[key]:.1f} %" for key in ("success", "best_success")]
    return "\n".join(
        [
            f"{bits} bits, DQN {name}",
            f"success    {success[0]} of the test episodes at the end, {success[1]} at best",
            f"learned    {'never above 95 %' if step is None else f'above 95 % after {step:,} steps'}",
        ]
    )
