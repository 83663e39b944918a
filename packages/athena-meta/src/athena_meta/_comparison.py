"""Comparison: two learners on the same episodes, and their difference."""

from __future__ import annotations

from dataclasses import dataclass

from athena_core.stats import Interval
from athena_meta._class_bootstrap import class_bootstrap
from athena_meta._episode_source import EpisodeSource
from athena_meta._evaluation import Evaluation, Progress, evaluate_all, formatted, normal_interval
from athena_meta._learner import FewShotLearner


@dataclass(frozen=True, eq=False)
class Comparison:
    r"""The scores of :math:`a` minus those of :math:`b`, episode by episode, after the last step of each.

    How hard an episode is cancels, so that the interval is shorter than those of two evaluations.

    Attributes:
        a: the evaluation of the first learner.
        b: of the second one, on the same episodes.

    >>> import numpy as np
    >>> a, b = Evaluation("MSE", np.array([[1.0, 4.0, 2.5]])), Evaluation("MSE", np.array([[1.5, 4.5, 3.1]]))
    >>> print(Comparison(a, b))
    MSE -0.533 ± 0.065 (95 %): 2.500 against 3.033, 3 episodes
    """

    a: Evaluation
    b: Evaluation

    def interval(self, *, level: float = 0.95) -> Interval:
        r"""Mean difference :math:`\pm\, z\, s / \sqrt n`."""
        return normal_interval(self.a.scores[-1] - self.b.scores[-1], level=level)

    def by_class(self, *, level: float = 0.95, resamples: int = 2000, rng: int = 0) -> Interval:
        """Difference of accuracies with the interval of `class_bootstrap`, on the same samples of classes."""
        (pairs, n_way), (minus, _) = self.a.pairs(), self.b.pairs()
        return class_bootstrap(pairs, minus, n_way=n_way, level=level, resamples=resamples, rng=rng)

    def __str__(self) -> str:
        by_class = self.by_class() if self.a.knows_classes else None
        difference = formatted(self.a.metric, self.interval(), by_class, sign="+")
        scores = (formatted(part.metric, part.interval(), None).split()[0] for part in (self.a, self.b))
        return f"{self.a.metric} {difference}: {' against '.join(scores)}, {self.a.episodes} episodes"


def compare(
    a: FewShotLearner,
    b: FewShotLearner,
    source: EpisodeSource,
    *,
    episodes: int = 600,
    tasks: int = 25,
    steps: int | None = None,
    first: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Evaluate two learners on the same episodes; as `evaluate` does, with the same arguments.

    Args:
        a: the one whose gain is asked for.
        b: the one to compare with.
        source: a sampler, a list of episodes, a family of tasks.
        episodes: how many.
        tasks: how many of them at once.
        steps: of adaptation, of both; None: each learner's own.
        first: the number of the first one.
        progress: called with how many are done and how many there are.

    Raises ValueError as `evaluate` does.

    Source: Lafargue et al. 2024, arXiv:2409.02850, for paired differences. Departs from it: the interval by
    class.

    >>> import torch
    >>> from athena_meta import EpisodeSampler, FewShotDataset, PrototypicalNetwork
    >>> labels = torch.arange(80) % 8
    >>> data = FewShotDataset(torch.eye(8)[labels] + 0.5 * torch.randn(80, 8), labels)
    >>> sampler = EpisodeSampler(data, n_way=5, k_shot=5, n_query=5, seed=0)
    >>> a = PrototypicalNetwork(torch.nn.Identity())
    >>> b = PrototypicalNetwork(torch.nn.Identity(), temperature=2.0)
    >>> print(compare(a, b, sampler, episodes=50).interval())
    Interval(estimate=0.0, low=0.0, high=0.0)
    """
    evaluations = evaluate_all(
        [a, b], source, episodes=episodes, tasks=tasks, steps=steps, first=first, progress=progress
    )
    return Comparison(*evaluations)
