"""The recipe `taxi`: the same task with more and more known of it beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from athena_core import AthenaError, Recipe, Run, one_thread
from athena_core.figures import intervals, learning_curves
from athena_core.stats import Band, bootstrap_interval, learning_curve
from athena_hrl._taxi_arms import ARMS, TaxiArms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
SHARE = 0.9  # of the way from a random policy to the optimum
_LOWEST = -220.0  # of the picture: a policy that drives about for a whole episode earns -200


@dataclass(kw_only=True)
class TaxiRecipe(Recipe):
    r"""Learn Gymnasium's Taxi-v4 flat, with options, with a machine, with MAXQ, and with values in parts.

    - flat: Q-learning over the six actions.
    - smdp: `SMDPQLearning` over an option for each pad, which drives there, and the two actions that are no
      moves.
    - intra: `IntraOptionQLearning` over the same options, which learns of an option in each state on its way.
    - ham: `HAMQLearning` of a program that fetches and brings, and leaves the directions open; with state
      abstraction.
    - maxq: `MAXQ` over the task graph of its paper, with state abstraction.
    - alisp: `ALispQLearning` of the same program as ham, with an abstraction of each part of the values.

    There is no discount. The greedy policy of each is evaluated exactly, by the model, after each part of the
    run; the optimum is computed by value iteration. A step is one of the environment, of each run of each
    learner. Runs resume bit for bit; an episode is given up where a part ends.

    Args:
        steps: of each run.
        runs: of each learner; run ``k`` has the run's seed plus ``k``.
        points: parts of a run, after which policies are evaluated.
        arms: which learners.
        is_rainy: moves go astray.
        rainy_probability: that in the rain a move goes where it should.
        fickle_passenger: passengers change their mind on the way. The optimum shown is then that of a driver
            who knows of each beforehand.
        fickle_probability: that a passenger is such a one.
        abstraction: let ham, maxq and alisp share values among states.
        step_size: :math:`\alpha` of all.
        epsilon: the share of random choices of all.

    Source: Dietterich 2000, arXiv:cs/9905014, section 7.1; Andre and Russell 2002, "State abstraction for
    programmable reinforcement learning agents", AAAI. Departs from them: Gymnasium's Taxi, in which a
    passenger can be left at any pad; epsilon-greedy choices with constant step sizes.

    >>> TaxiRecipe().arms
    ('flat', 'smdp', 'intra', 'ham', 'maxq', 'alisp')
    """

    steps: int = 60_000
    runs: int = 10
    points: int = 60
    arms: tuple[str, ...] = tuple(ARMS)
    is_rainy: bool = False
    rainy_probability: float = 0.8
    fickle_passenger: bool = False
    fickle_probability: float = 0.3
    abstraction: bool = True
    step_size: float = 0.5
    epsilon: float = 0.1

    @classmethod
    def example(cls) -> Self:
        return cls(steps=400, runs=2, points=2)

    def run(self, run: Run) -> Mapping[str, float]:
        self._check()
        with one_thread():
            try:
                lab = TaxiLab(self, seed=run.seed)
            except ValueError as error:
                raise AthenaError(str(error)) from error
            units = self.steps // self.points * self.runs * len(self.arms)
            for point in run.steps(self.points, unit="steps", units_per_step=units, lab=lab):
                lab.advance(point)
                means = {arm: float(lab.curves[arm][:, point - 1].mean()) for arm in self.arms}
                run.log(point * self.steps // self.points, **means)
            return self.show(run, lab)

    def _check(self) -> None:
        for name in ("steps", "runs", "points"):
            if getattr(self, name) < 1:
                raise AthenaError(f"`{name}` must be at least 1; got {getattr(self, name)}.")
        if self.points > self.steps:
            raise AthenaError(f"`points` must be at most `steps`, {self.steps}; got {self.points}.")
        if not self.arms or len(set(self.arms)) < len(self.arms) or not set(self.arms) <= set(ARMS):
            raise AthenaError(f"`arms` must be different ones of {', '.join(ARMS)}; got {list(self.arms)}.")
        for name in ("rainy_probability", "fickle_probability", "step_size", "epsilon"):
            if not 0 <= getattr(self, name) <= 1:
                raise AthenaError(f"`{name}` must lie in [0, 1]; got {getattr(self, name)}.")

    def show(self, run: Run, lab: TaxiLab) -> dict[str, float]:
        """Print, draw; the final metrics."""
        bar = lab.arms.random + SHARE * (lab.arms.optimum - lab.arms.random)
        x = lab.steps
        reached = {arm: steps_to(lab.curves[arm], x, level=bar) for arm in self.arms}
        run.print(table(lab.curves, reached, optimum=lab.arms.optimum))
        kind = ", rain" * self.is_rainy + ", fickle passengers" * self.fickle_passenger
        kind += ", no abstraction" * (not self.abstraction)
        where = f"Taxi-v4{kind}, {self.runs} runs"
        levels = {"optimum": lab.arms.optimum, f"{SHARE:.0%} of the way": bar}
        run.figure("learning", draw_curves(lab.curves, x, levels=levels, title=where))
        if self.runs > 1 and all(np.isfinite(one).all() for one in reached.values()):
            spans = {ARMS[arm]: bootstrap_interval(one, rng=0) for arm, one in reached.items()}
            label = f"steps to {SHARE:.0%} of the way from a random policy to the optimum"
            run.figure("steps_to_90", intervals(spans, x_label=label, title=where))
        final = {"optimum": lab.arms.optimum, "random": lab.arms.random}
        for arm in self.arms:
            final[f"{arm}_return"] = float(lab.curves[arm][:, -1].mean())
            if np.isfinite(reached[arm]).all():
                final[f"{arm}_steps_to_90"] = float(reached[arm].mean())
        return final


class TaxiLab:
    """All learners of all runs, and what their policies earned; what a run saves.

    >>> lab = TaxiLab(TaxiRecipe(steps=100, points=2, runs=1, arms=("flat",)), seed=0)
    >>> lab.advance(1)
    >>> lab.steps.tolist(), lab.curves["flat"].shape
    ([50, 100], (1, 2))
    """

    def __init__(self, recipe: TaxiRecipe, *, seed: int) -> None:
        world: dict[str, Any] = {}
        if recipe.is_rainy:
            world |= {"is_rainy": True, "rainy_probability": recipe.rainy_probability}
        if recipe.fickle_passenger:
            world |= {"fickle_passenger": True, "fickle_probability": recipe.fickle_probability}
        options = {"step_size": recipe.step_size, "epsilon": recipe.epsilon}
        self.arms = TaxiArms(world, options, abstraction=recipe.abstraction)
        self.seed, self.runs = seed, recipe.runs
        self.steps = np.arange(1, recipe.points + 1) * (recipe.steps // recipe.points)
        self.curves: dict[str, Array] = {arm: np.zeros((recipe.runs, recipe.points)) for arm in recipe.arms}
        self.learners: dict[str, list[dict[str, Any]]] = {arm: [] for arm in recipe.arms}

    def advance(self, point: int) -> None:
        """Let all learn up to the end of part number ``point``, from 1 on, and evaluate them."""
        for arm, learned in self.learners.items():
            for run in range(self.runs):
                # A new object for each part, so that a resumed run has no other past than one that went on.
                entropy = [self.seed + run, point]
                seed = int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
                learner = self.arms.build(arm, seed=seed)
                if point > 1:
                    learner.load_state_dict(learned[run])
                while learner.steps < self.steps[point - 1]:
                    learner.learn(int(self.steps[point - 1]) - learner.steps)
                self.curves[arm][run, point - 1] = self.arms.greedy_return(arm, learner)
                if arm == "ham":
                    learner.restart().episodes.clear()
                learned[run : run + 1] = [learner.state_dict()]

    def state_dict(self) -> dict[str, Any]:
        """The learners between two episodes, and the curves."""
        return {"learners": self.learners, "curves": self.curves}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What `state_dict` gave."""
        self.learners = {arm: list(learned) for arm, learned in state["learners"].items()}
        self.curves = {arm: np.asarray(curve).copy() for arm, curve in state["curves"].items()}


def steps_to(curves: Array, steps: NDArray[np.int64], *, level: float) -> Array:
    """When each run first reaches a level, ``(runs,)``; infinity for one that does not.

    >>> steps_to(np.array([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0]]), np.array([10, 20, 30]), level=1.0).tolist()
    [20.0, inf]
    """
    there = curves >= level
    return np.where(there.any(1), steps[there.argmax(1)], np.inf)


def table(curves: Mapping[str, Array], reached: Mapping[str, Array], *, optimum: float) -> str:
    """What each learner came to, over its runs.

    >>> print(table({"flat": np.array([[7.0], [8.0]])}, {"flat": np.array([10.0, np.inf])}, optimum=7.93))
    greedy policies, exactly; the optimum is 7.930
      flat Q         at the end   7.500 (lowest   7.000), 90% of the way after inf steps (10 to inf)
    """
    lines = [f"greedy policies, exactly; the optimum is {optimum:.3f}"]
    for arm, curve in curves.items():
        last, steps = curve[:, -1], reached[arm]
        lines.append(
            f"  {ARMS[arm]:14} at the end {last.mean():7.3f} (lowest {last.min():7.3f}), {SHARE:.0%} of the "
            f"way after {steps.mean():,.0f} steps ({steps.min():,.0f} to {steps.max():,.0f})"
        )
    return "\n".join(lines)


def draw_curves(
    curves: Mapping[str, Array], steps: NDArray[np.int64], *, levels: Mapping[str, float], title: str
) -> Figure:
    """Draw the returns of greedy policies over steps, with bands over runs if there are several.

    >>> draw_curves({"maxq": np.zeros((2, 3))}, np.arange(3), levels={}, title="").axes[0].get_ylabel()
    'return of the greedy policy'
    """
    drawn: dict[str, tuple[Array, Band | Array]] = {}
    for arm, curve in curves.items():
        band = learning_curve(curve, rng=0) if len(curve) > 1 else curve[0]
        drawn[ARMS[arm]] = steps.astype(np.float64), band
    figure = learning_curves(
        drawn,
        x_label="steps of the environment",
        y_label="return of the greedy policy",
        title=title,
        levels=levels,
    )
    figure.axes[0].set_ylim(_LOWEST, 20)
    return figure
