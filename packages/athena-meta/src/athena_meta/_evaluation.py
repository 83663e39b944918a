"""Evaluation: accuracy or error by adaptation step, with intervals by episode and by class."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from athena_core import as_float64
from athena_core.stats import Band, Interval, bootstrap_interval
from athena_meta._class_bootstrap import Pairs, class_bootstrap, class_pairs
from athena_meta._episode_source import EpisodeSource
from athena_meta._episodes import Episodes
from athena_meta._learner import FewShotLearner
from athena_meta._metric_learner import evaluating
from athena_meta._whole import whole

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Evaluation:
    r"""What a learner scored on a list of episodes, before and after each step of adaptation.

    Printed, it is the score after the last step, with half the width of its intervals. The one by episode is
    what the field quotes. It speaks of other episodes of the same classes and images, and is too narrow for a
    statement on new ones (arXiv:2409.02850), which the one by class is meant for.

    Attributes:
        metric: "accuracy" or "MSE".
        scores: ``(steps + 1, episodes)``, of each episode the mean over its queries.
        classes: ``(episodes, n_way)``, which class of the data set each column stands for, or None.
        targets: ``(episodes, n_query)``, columns of the queries, or None for regression.
        answers: ``(steps + 1, episodes, n_query)``, columns that were answered, or None for regression.

    >>> evaluation = Evaluation("MSE", np.array([[4.0, 6.0, 5.0], [1.0, 2.0, 1.5]]))
    >>> print(evaluation)
    MSE 1.500 ± 0.566 (95 %), 3 episodes
    >>> evaluation.interval(0).estimate
    5.0
    """

    metric: str
    scores: NDArray[np.float64]
    classes: NDArray[np.int64] | None = None
    targets: NDArray[np.int64] | None = None
    answers: NDArray[np.int64] | None = None

    @property
    def steps(self) -> int:
        """Steps of adaptation."""
        return len(self.scores) - 1

    @property
    def episodes(self) -> int:
        """How many episodes there were."""
        return self.scores.shape[1]

    def interval(self, step: int = -1, *, level: float = 0.95) -> Interval:
        r"""Mean over the episodes :math:`\pm\, z\, s / \sqrt n`, with :math:`z = 1.96` at 95 %."""
        return normal_interval(self.scores[step], level=level)

    def bootstrap(
        self, step: int = -1, *, level: float = 0.95, resamples: int = 10_000, rng: int = 0
    ) -> Interval:
        """Mean with the percentile bootstrap over episodes, for errors, which a few episodes may dominate."""
        scores = self.scores[step]
        return bootstrap_interval(scores, rng=rng, statistic=np.mean, level=level, resamples=resamples)

    def by_class(
        self, step: int = -1, *, level: float = 0.95, resamples: int = 2000, rng: int = 0
    ) -> Interval:
        """Mean with the interval of `class_bootstrap`.

        Raises ValueError where it is not known which classes the episodes are of.
        """
        pairs, n_way = self.pairs(step)
        return class_bootstrap(pairs, n_way=n_way, level=level, resamples=resamples, rng=rng)

    def pairs(self, step: int = -1) -> tuple[Pairs, int]:
        """The counts that the class bootstrap needs, and the classes an episode."""
        if self.classes is None or self.targets is None or self.answers is None:
            raise ValueError(
                "an interval by class must have episodes with `classes`; got none. Draw them from a data set."
            )
        return class_pairs(self.classes, self.targets, self.answers[step]), self.classes.shape[1]

    def curve(self, *, level: float = 0.95) -> Band:
        """The score by step with its interval by episode, each ``(steps + 1,)``."""
        ends = np.array([self.interval(step, level=level) for step in range(self.steps + 1)])
        return Band(*ends.T)

    @property
    def knows_classes(self) -> bool:
        """Whether there can be an interval by class."""
        return self.classes is not None and self.classes.shape[1] > 1

    def __str__(self) -> str:
        by_class = self.by_class() if self.knows_classes else None
        score = formatted(self.metric, self.interval(), by_class)
        return f"{self.metric} {score}, {self.episodes} episodes"


def evaluate(
    learner: FewShotLearner,
    source: EpisodeSource,
    *,
    episodes: int = 600,
    tasks: int = 25,
    steps: int | None = None,
    first: int = 0,
    progress: Progress | None = None,
) -> Evaluation:
    """Score a learner on the episodes ``first`` to ``first + episodes - 1`` of a source.

    It is done in evaluation mode and without gradients. The learner is left as it was: its parameters and
    buffers, and the mode of each of its parts.

    Args:
        learner: any of this package's.
        source: a sampler, a list of episodes, a family of tasks.
        episodes: how many.
        tasks: how many of them at once.
        steps: of adaptation; None: the learner's own.
        first: the number of the first one.
        progress: called with how many are done and how many there are.

    Raises ValueError for fewer than two episodes, for outputs that are NaN, and where a learner has another
    number of outputs than an episode has classes.

    Source: Finn et al. 2017, arXiv:1703.03400, section 5, for the score by step; Vinyals et al. 2016,
    arXiv:1606.04080, section 4.1, for that of episodes. Departs from them: the intervals.

    >>> from athena_meta import EpisodeSampler, FewShotDataset, PrototypicalNetwork
    >>> labels = torch.arange(80) % 8
    >>> data = FewShotDataset(torch.eye(8)[labels] + 0.3 * torch.randn(80, 8), labels)
    >>> sampler = EpisodeSampler(data, n_way=5, k_shot=5, n_query=5, seed=0)
    >>> evaluation = evaluate(PrototypicalNetwork(torch.nn.Identity()), sampler, episodes=50)
    >>> evaluation.metric, evaluation.scores.shape, evaluation.interval().estimate > 0.9
    ('accuracy', (1, 50), True)
    """
    (evaluation,) = evaluate_all(
        [learner], source, episodes=episodes, tasks=tasks, steps=steps, first=first, progress=progress
    )
    return evaluation


def evaluate_all(
    learners: list[FewShotLearner],
    source: EpisodeSource,
    *,
    episodes: int,
    tasks: int,
    steps: int | None,
    first: int,
    progress: Progress | None,
) -> list[Evaluation]:
    """:func:`evaluate` of several learners on the same episodes, each drawn once."""
    if not isinstance(source, EpisodeSource):
        raise TypeError(
            f"`source` must be an EpisodeSource; got {type(source).__name__}. Make an EpisodeSampler of a "
            "data set."
        )
    for learner in learners:
        if not isinstance(learner, FewShotLearner):
            raise TypeError(
                f"`learner` must be a FewShotLearner; got {type(learner).__name__}. Pass its `module` if it "
                "is wrapped for training in several processes."
            )
    if whole("episodes", episodes) < 2:
        raise ValueError(f"`episodes` must be at least 2, for an interval; got {episodes}.")
    if whole("tasks", tasks) < 1:
        raise ValueError(f"`tasks` must be at least 1; got {tasks}.")
    score = _answers if source.classification else _errors
    parts: list[list[dict[str, NDArray]]] = [[] for _ in learners]
    for done in range(0, episodes, tasks):
        drawn = source.draw(first + done, min(tasks, episodes - done))
        for learner, scored in zip(learners, parts, strict=True):
            scored.append(score(_predicted(learner, drawn, steps, first=first + done), drawn))
        if progress is not None:
            progress(done + drawn.tasks, episodes)
    return [Evaluation("accuracy" if source.classification else "MSE", **_joined(part)) for part in parts]


def normal_interval(scores: NDArray[np.float64], *, level: float = 0.95) -> Interval:
    r"""Mean :math:`\pm\, z\, s / \sqrt n`.

    >>> estimate, low, high = normal_interval(np.array([0.0, 2.0]))
    >>> estimate, round(low, 2), round(high, 2)
    (1.0, -0.96, 2.96)
    """
    if not 0 < level < 1:
        raise ValueError(f"`level` must lie between 0 and 1; got {level}. 0.95 is 95 %.")
    mean = float(scores.mean())
    half = NormalDist().inv_cdf((1 + level) / 2) * float(scores.std(ddof=1)) / len(scores) ** 0.5
    return Interval(mean, mean - half, mean + half)


def formatted(metric: str, interval: Interval, by_class: Interval | None, *, sign: str = "") -> str:
    """An estimate with half the widths of its intervals, an accuracy in percent.

    >>> formatted("accuracy", Interval(0.981, 0.979, 0.983), Interval(0.981, 0.976, 0.984))
    '98.1 ± 0.2 (95 %), by class ± 0.4'
    """
    factor = 100 if metric == "accuracy" else 1
    half = factor * (interval.high - interval.low) / 2
    digits = (1 if half >= 0.1 else 2) if metric == "accuracy" else 3
    text = f"{factor * interval.estimate:{sign}.{digits}f} ± {half:.{digits}f} (95 %)"
    if by_class is None:
        return text
    return f"{text}, by class ± {factor * (by_class.high - by_class.low) / 2:.{digits}f}"


def _predicted(learner: FewShotLearner, episodes: Episodes, steps: int | None, *, first: int) -> Tensor:
    """Outputs by step on the episodes' own device; a learner without parameters takes them where they are."""
    home = next(iter(learner.parameters()), episodes.query_x).device
    with torch.no_grad(), evaluating(learner):
        outputs = learner.predict_by_step(episodes.to(home), steps).to(episodes.query_x.device)
    bad = outputs.isnan().flatten(2).any(2).nonzero()
    if len(bad):
        step, task = bad[0].tolist()
        raise ValueError(
            f"outputs must be numbers; got NaN after step {step} of episode {first + task}. "
            "Look at that episode and at the learner's parameters."
        )
    return outputs


def _answers(outputs: Tensor, episodes: Episodes) -> dict[str, NDArray]:
    episodes = episodes.dense()
    n_way = int(episodes.support_y.max()) + 1
    if outputs.shape[-1] != n_way:
        raise ValueError(
            f"a learner must have one output a class of the episode, {n_way}; got {outputs.shape[-1]}. "
            "Evaluate it with the number of ways that it was made for."
        )
    answers = outputs.argmax(-1)
    correct = as_float64(answers == episodes.query_y).mean(-1)
    parts = {"scores": correct, "targets": episodes.query_y, "answers": answers, "classes": episodes.classes}
    return {name: part.numpy(force=True) for name, part in parts.items() if part is not None}


def _errors(outputs: Tensor, episodes: Episodes) -> dict[str, NDArray]:
    if outputs.shape[1:] != episodes.query_y.shape:
        raise ValueError(
            f"outputs must have the shape of the targets, {tuple(episodes.query_y.shape)}; got "
            f"{tuple(outputs.shape[1:])}. Give the network as many outputs as a target has."
        )
    errors = as_float64(outputs - episodes.query_y).square()
    return {"scores": errors.flatten(2).mean(2).numpy(force=True)}


def _joined(parts: list[dict[str, NDArray]]) -> dict[str, NDArray]:
    def axes() -> Iterator[tuple[str, int]]:
        for name in parts[0]:
            yield name, 1 if name in ("scores", "answers") else 0

    return {name: np.concatenate([part[name] for part in parts], axis=axis) for name, axis in axes()}
