"""The recipe `sinusoid`: sine waves from a few points, the experiment on which MAML was first tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import nn

from athena_core import AthenaError, Configured, Recipe, Run, component, one_thread
from athena_meta._evaluation import Evaluation, evaluate
from athena_meta._gradient_learner import GradientLearner
from athena_meta._pictures import plot_steps
from athena_meta._recipe_fits import fits_figure
from athena_meta._recipe_training import (
    MeanLoss,
    adapts_by_gradient,
    build_learner,
    check_at_least,
)
from athena_meta._sinusoids import Sinusoids

STEPS = 0, 1, 5, 10  # of adaptation, at which the error is reported
TEST_TASKS = 600
TEST_POINTS = 100  # by which a test task is judged
TEST_SEED = -1  # no run's


@dataclass(kw_only=True)
class Sinusoid(Recipe):
    """Learn to fit ``y = A sin(x - phi)`` from ``k_shot`` points.

    Training is the paper's: an MLP 1-40-40-1 with ReLU, weights from a normal of standard deviation 0.01 cut
    at two, biases zero; as many fresh points for the outer loss as for the inner one; Adam. The paper takes
    70,000 steps. Its inner rate is 0.01, that in its authors' code 0.001.

    The test is on 600 tasks, the same for all seeds and shots, at 0, 1, 5 and 10 steps of adaptation. Each is
    judged on 100 points: the expected error is that of the authors' ``k_shot`` points, the interval shorter.
    Beside it stand the expected errors of predicting 0 and of the best predictor that does not adapt.

    Args:
        steps: outer steps; the same number of batches of tasks.
        learner: any that adapts by gradient steps. ``mode`` "auto" is "vmap".
        k_shot: points to adapt to; 5, 10 and 20 in the paper.
        tasks: a step.
        lr: of Adam, the outer optimizer.
        log_every: steps, of whose losses the mean is logged.

    Source: Finn et al. 2017, arXiv:1703.03400, section 5.1.

    >>> recipe = Sinusoid(k_shot=5)
    >>> recipe.learner.name, sum(weight.numel() for weight in recipe.build().parameters())
    ('maml', 1761)
    """

    steps: int = 10_000
    learner: Configured = component(
        "few-shot-learner",
        "maml",
        given=("loss", "inner", "transductive"),
        inner_steps=1,
        inner_lr=0.01,
        mode="vmap",
    )
    k_shot: int = 10
    tasks: int = 25
    lr: float = 1e-3
    log_every: int = 100

    @classmethod
    def example(cls) -> Self:
        return cls(steps=4, tasks=2, log_every=1)

    def run(self, run: Run) -> Mapping[str, float]:
        check_at_least(0, lr=self.lr)
        check_at_least(1, steps=self.steps, k_shot=self.k_shot, tasks=self.tasks, log_every=self.log_every)
        with one_thread():
            learner = self.train(run)
            return self.show(run, learner)

    def train(self, run: Run) -> GradientLearner:
        """The learner after all steps."""
        learner = self.build().to(run.device)
        source = Sinusoids(k_shot=self.k_shot, n_query=self.k_shot, seed=run.seed)
        # One kernel for all tensors: they are so small that Adam would else take as long as a forward pass.
        optimizer = torch.optim.Adam(learner.parameters(), lr=self.lr, fused=True)
        mean = MeanLoss()
        for step in run.steps(self.steps, learner=learner, optimizer=optimizer, mean=mean):
            loss = learner(source.draw((step - 1) * self.tasks, self.tasks).to(run.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            mean.add(loss)
            if step % self.log_every == 0 or step == self.steps:
                run.log(step, loss=mean.take())
        return learner

    def build(self) -> GradientLearner:
        """The learner, not yet trained."""
        if not adapts_by_gradient(self.learner):
            raise AthenaError(
                f"`learner` must adapt by gradient steps, for targets that are no classes; got "
                f"{self.learner.name!r}. Take maml or a relative of it."
            )
        learner = build_learner(self.learner, sinusoid_network(), {"loss": F.mse_loss})
        assert isinstance(learner, GradientLearner)
        return learner

    def show(self, run: Run, learner: GradientLearner) -> dict[str, float]:
        """Test, print, draw; the final metrics."""
        source = Sinusoids(k_shot=self.k_shot, n_query=TEST_POINTS, seed=TEST_SEED)
        tested = evaluate(learner, source, episodes=TEST_TASKS, tasks=100, steps=max(STEPS))
        floors = {"predicting 0": source.zero_error, "the best without adapting": source.unadapted_error}
        run.print(table(tested, floors))
        title = f"{self.learner.name}, {self.k_shot} points a task, {self.steps:,} steps"
        run.figure("fits", fits_figure(learner, source, tasks=3, steps=STEPS, title=title))
        run.figure("error_by_step", plot_steps({self.learner.name: tested}, title=title, levels=floors))
        final = {}
        for step in STEPS:
            estimate, _, high = tested.interval(step)
            final |= {f"mse_step_{step}": estimate, f"half_width_step_{step}": high - estimate}
        return final


def sinusoid_network() -> nn.Sequential:
    """The paper's network, in its authors' initial state."""
    network = nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(layer.bias)
    return network


def table(tested: Evaluation, floors: Mapping[str, float]) -> str:
    """The error by step with its interval, and what needs no learning.

    >>> import numpy as np
    >>> print(table(Evaluation("MSE", np.ones((11, 4))), {"predicting 0": 4.2517}))
    mean squared error on 4 test tasks (95 % intervals)
      after  0 steps   1.000 ± 0.000
      after  1 step    1.000 ± 0.000
      after  5 steps   1.000 ± 0.000
      after 10 steps   1.000 ± 0.000
      expected of predicting 0: 4.2517
    """
    lines = [f"mean squared error on {tested.episodes} test tasks (95 % intervals)"]
    for step in STEPS:
        estimate, _, high = tested.interval(step)
        unit = "step " if step == 1 else "steps"
        lines.append(f"  after {step:2} {unit}   {estimate:.3f} ± {high - estimate:.3f}")
    lines += [f"  expected of {name}: {error:.4f}" for name, error in floors.items()]
    return "\n".join(lines)
