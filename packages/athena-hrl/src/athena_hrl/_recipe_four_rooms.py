"""The recipe `four-rooms`: how fast option-critic, SARSA and actor-critic recover when the goal moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from athena_core import AthenaError, Recipe, Run, one_thread
from athena_core.figures import intervals, learning_curves
from athena_core.stats import Band, Interval, bootstrap_interval, learning_curve, paired_difference
from athena_hrl._four_rooms import FourRoomsVectorEnv
from athena_hrl._four_rooms_pictures import plot_options
from athena_hrl._option_usage_picture import plot_option_usage
from athena_hrl._sarsa import Sarsa
from athena_hrl._tabular_actor_critic import TabularActorCritic
from athena_hrl._tabular_option_critic import TabularOptionCritic
from athena_hrl._tabular_runs import TabularRuns

LEARNERS = {"option_critic": "option-critic", "sarsa": "SARSA", "actor_critic": "actor-critic"}
_RESAMPLES = 2_000
_POINTS = 200  # of a curve


@dataclass(kw_only=True)
class FourRoomsRecipe(Recipe):
    r"""Learn to reach a goal in four rooms, which moves after ``move_at`` episodes, and learn it again.

    Many runs go side by side, each with its own goal in the lower right room to come. A step of the recipe is
    an episode of every run of each learner; what is compared is the steps that episodes take. Runs of the
    three learners have the same environments and the same goals. Runs resume bit for bit.

    The rates and temperatures of the baselines, and the temperature of the option-critic, were chosen on
    other seeds as those with the fewest steps in the 200 episodes after the move.

    Args:
        steps: episodes of each run.
        runs: side by side.
        move_at: episodes after which the goal moves from the east hallway to the lower right room.
        window: episodes after that, over which recovery is measured.
        n_options: of the option-critic.
        gamma: the discount.
        epsilon: the share of options chosen at random.
        critic_lr: of the option-critic and the actor-critic.
        policy_lr: of the option-critic.
        termination_lr: of the option-critic.
        temperature: of the option-critic's policies.
        deliberation_cost: of the option-critic, in its rewards.
        margin: of the option-critic, the same cost in the termination's gradient.
        actor_critic_lr: of the actor-critic's policy.
        actor_critic_temperature: of the actor-critic's policy.
        sarsa_lr: of SARSA.
        sarsa_temperature: of SARSA.
        slip: the chance that an action fails, and leads to a free cell beside.
        max_episode_steps: after which an episode is cut.
        log_every: episodes, of which the mean is logged.

    Source: Bacon, Harb, Precup 2017, arXiv:1609.05140, section "Experiments", "Four-rooms domain". Departs
    from it: temperatures; what `TabularOptionCritic` says.

    >>> recipe = FourRoomsRecipe(runs=3)
    >>> sorted(recipe.build(seed=0)), recipe.goals(seed=0).shape
    (['actor_critic', 'option_critic', 'sarsa'], (3,))
    """

    steps: int = 2_000
    runs: int = 100
    move_at: int = 1_000
    window: int = 200
    n_options: int = 4
    gamma: float = 0.99
    epsilon: float = 0.01
    critic_lr: float = 0.5
    policy_lr: float = 0.25
    termination_lr: float = 0.25
    temperature: float = 0.1
    deliberation_cost: float = 0.0
    margin: float = 0.0
    actor_critic_lr: float = 0.5
    actor_critic_temperature: float = 1.0
    sarsa_lr: float = 0.5
    sarsa_temperature: float = 0.1
    slip: float = 1 / 3
    max_episode_steps: int = 1_000
    log_every: int = 10

    @classmethod
    def example(cls) -> Self:
        return cls(steps=6, runs=2, move_at=3, window=2, max_episode_steps=30, log_every=2)

    def run(self, run: Run) -> Mapping[str, float]:
        self._check()
        try:
            learners = self.build(run.seed)
        except ValueError as error:
            raise AthenaError(" ".join(str(error).split())) from error
        goals = self.goals(run.seed)
        with one_thread():
            for step in run.steps(self.steps, unit="episodes", units_per_step=1, **learners):
                for learner in learners.values():
                    self.play(learner, until=step, goals=goals)
                if step % self.log_every == 0 or step == self.steps:
                    run.log(
                        step, **{name: latest(one, step, self.log_every) for name, one in learners.items()}
                    )
            return self.show(run, learners)

    def build(self, seed: int) -> dict[str, TabularRuns]:
        """The three learners by name, not yet trained, each in its own copy of the same environments."""
        own = {"gamma": self.gamma, "seed": seed * self.runs}  # a run of one seed is never that of another
        return {
            "option_critic": TabularOptionCritic(
                self._environment(),
                n_options=self.n_options,
                epsilon=self.epsilon,
                critic_lr=self.critic_lr,
                policy_lr=self.policy_lr,
                termination_lr=self.termination_lr,
                temperature=self.temperature,
                deliberation_cost=self.deliberation_cost,
                margin=self.margin,
                **own,
            ),
            "sarsa": Sarsa(self._environment(), lr=self.sarsa_lr, temperature=self.sarsa_temperature, **own),
            "actor_critic": TabularActorCritic(
                self._environment(),
                critic_lr=self.critic_lr,
                policy_lr=self.actor_critic_lr,
                temperature=self.actor_critic_temperature,
                **own,
            ),
        }

    def goals(self, seed: int) -> NDArray[np.int64]:
        """Where the goal of each run moves to, a cell of the lower right room ``(runs,)``."""
        room = np.flatnonzero(self._environment().dynamics.rooms == 2)
        seeds = range(seed * self.runs, (seed + 1) * self.runs)
        return np.array([np.random.default_rng(one).choice(room) for one in seeds])

    def play(self, learner: TabularRuns, *, until: int, goals: NDArray[np.int64]) -> None:
        """Learn until every run has come to the end of an episode; each moves its goal at its own time."""
        while learner.episodes.min() < until:
            learner.learn(1)
            moves = learner.waiting & (learner.episodes == self.move_at)  # for one step, before its reset
            if moves.any():
                learner.env.set_goal(goals[moves], rows=moves)  # pyright: ignore[reportAttributeAccessIssue]

    def show(self, run: Run, learners: Mapping[str, TabularRuns]) -> dict[str, float]:
        """Print, draw; the final metrics."""
        lengths = {name: learner.lengths[:, : self.steps] for name, learner in learners.items()}
        final, slower = recovery(lengths, move_at=self.move_at, window=self.window)
        run.print(table(final, runs=self.runs, window=self.window))
        title = f"four rooms, {self.runs} runs, the goal moves after {self.move_at:,} episodes"
        for name, (first, last, size) in {
            "steps": (0, self.steps, max(1, self.steps // _POINTS)),
            "recovery": (
                max(0, self.move_at - self.window // 2),
                self.move_at + 2 * self.window,
                max(1, self.window // 20),
            ),
        }.items():
            curves = {LEARNERS[one]: curve(given, first, last, size) for one, given in lengths.items()}
            run.figure(
                name, learning_curves(curves, x_label="episode", y_label="steps of an episode", title=title)
            )
        label = f"more steps an episode than option-critic, in {self.window} episodes after the move"
        run.figure(
            "slower", intervals({LEARNERS[one]: found for one, found in slower.items()}, x_label=label)
        )
        agent = learners["option_critic"]
        assert isinstance(agent, TabularOptionCritic)
        rooms = self._environment().dynamics
        goal = int(self.goals(run.seed)[0])
        run.figure("options", plot_options(rooms, agent.pi[0], agent.beta[0], agent.q[0], goal=goal))
        run.figure("usage", plot_option_usage(agent.usage, title="options of all runs"))
        final["effective_options"] = agent.usage.effective_options
        final["median_duration"] = agent.usage.median_duration
        return final

    def _environment(self) -> FourRoomsVectorEnv:
        return FourRoomsVectorEnv(
            self.runs, slip=self.slip, slip_to="adjacent", max_episode_steps=self.max_episode_steps
        )

    def _check(self) -> None:
        for name, least in (("steps", 2), ("runs", 2), ("move_at", 1), ("window", 1), ("log_every", 1)):
            value = getattr(self, name)
            if value < least:
                raise AthenaError(f"`{name}` must be at least {least}; got {value}.")
        if self.move_at >= self.steps:
            raise AthenaError(
                f"`move_at` must be less than `steps`, {self.steps}; got {self.move_at}. Take more episodes."
            )
        if not 0 <= self.slip <= 1 or self.max_episode_steps < 1:
            raise AthenaError(
                "`slip` must lie in [0, 1] and `max_episode_steps` be at least 1; got "
                f"{self.slip} and {self.max_episode_steps}."
            )


def latest(learner: TabularRuns, episode: int, count: int) -> float:
    """The mean steps of the last episodes up to one, over all runs."""
    return float(learner.lengths[:, max(0, episode - count) : episode].mean())


def recovery(
    lengths: Mapping[str, NDArray[np.int64]], *, move_at: int, window: int
) -> tuple[dict[str, float], dict[str, Interval]]:
    """The steps of episodes before and after the goal moves, and how many more the baselines take.

    Args:
        lengths: of the learners, ``(runs, episodes)``, option_critic among them.
        move_at: the first episode with the new goal.
        window: episodes before and after.

    >>> lengths = {"option_critic": np.array([[5, 9], [5, 7]]), "sarsa": np.array([[5, 12], [5, 14]])}
    >>> final, slower = recovery(lengths, move_at=1, window=1)
    >>> final["option_critic_after"], slower["sarsa"].estimate
    (8.0, 5.0)
    """
    own = {"rng": 0, "statistic": np.mean, "resamples": _RESAMPLES}
    final: dict[str, float] = {}
    after = {name: given[:, move_at : move_at + window].mean(1) for name, given in lengths.items()}
    for name, given in lengths.items():
        estimate, _, high = bootstrap_interval(after[name], **own)
        final[f"{name}_before"] = float(given[:, max(0, move_at - window) : move_at].mean())
        final |= {f"{name}_after": estimate, f"{name}_half_width": high - estimate}
    slower = {
        name: paired_difference(given, after["option_critic"], **own)
        for name, given in after.items()
        if name != "option_critic"
    }
    for name, found in slower.items():
        final |= {f"{name}_slower": found.estimate, f"{name}_slower_low": found.low}
    return final, slower


def curve(lengths: NDArray[np.int64], first: int, last: int, size: int) -> tuple[NDArray[np.float64], Band]:
    """Means of so many episodes each, from one to another, with their band over runs."""
    shown = lengths[:, first:last]
    shown = shown[:, : shown.shape[1] // size * size]
    points = shown.reshape(len(shown), -1, size).mean(2)
    band = learning_curve(points, rng=0, statistic=np.mean, resamples=_RESAMPLES)
    return first + size * (np.arange(points.shape[1]) + 0.5), band


def table(final: Mapping[str, float], *, runs: int, window: int) -> str:
    """Steps of an episode before and after the goal moves.

    >>> final = {f"{name}_{key}": 9.0 for name in LEARNERS for key in ("before", "after", "half_width")}
    >>> final |= {
    ...     f"{name}_{key}": 3.0 for name in ("sarsa", "actor_critic") for key in ("slower", "slower_low")
    ... }
    >>> print(table(final, runs=10, window=100))
    steps of an episode, 10 runs (95 % intervals), 100 episodes before and after the move
      option-critic     9.0 before     9.0 ± 9.0 after
      SARSA             9.0 before     9.0 ± 9.0 after, 3.0 more (at least 3.0)
      actor-critic      9.0 before     9.0 ± 9.0 after, 3.0 more (at least 3.0)
    """
    lines = [
        f"steps of an episode, {runs} runs (95 % intervals), {window} episodes before and after the move"
    ]
    for name, label in LEARNERS.items():
        before, after, half = (final[f"{name}_{key}"] for key in ("before", "after", "half_width"))
        line = f"  {label:14} {before:6.1f} before  {after:6.1f} ± {half:.1f} after"
        if name != "option_critic":
            line += f", {final[f'{name}_slower']:.1f} more (at least {final[f'{name}_slower_low']:.1f})"
        lines.append(line)
    return "\n".join(lines)
