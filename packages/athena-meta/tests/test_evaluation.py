"""Evaluation and comparison against loops; nothing of a learner changes; accuracy, errors, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from metric_models import Drawn, encoder, episodes
from torch import Tensor, nn

from athena_core.stats import bootstrap_interval
from athena_meta import (
    BaselinePlusPlus,
    Comparison,
    Episodes,
    Evaluation,
    FewShotLearner,
    HeadFitting,
    PrototypicalNetwork,
    compare,
    evaluate,
)
from athena_meta._class_bootstrap import class_bootstrap, class_pairs

UNEQUAL, QUERY = [0, 0, 1, 2], [0, 1, 1, 2, 2, 0, 1]


class Scaled(FewShotLearner):
    """Predicts a multiple of the mean target of the support, one more at each step."""

    def __init__(self, outputs: int | None = None) -> None:
        super().__init__()
        self.outputs = outputs

    def loss(self, episodes: Episodes) -> Tensor:
        raise NotImplementedError

    def adapt(self, support_x: Tensor, support_y: object) -> nn.Module:
        raise NotImplementedError

    def predict(self, episodes: Episodes) -> Tensor:
        return self.predict_by_step(episodes)[-1]

    def predict_by_step(self, episodes: Episodes, steps: int | None = None) -> Tensor:
        mean = episodes.support_y.mean(1, keepdim=True).expand_as(episodes.query_y)
        if self.outputs is not None:
            mean = mean.repeat(1, 1, self.outputs)
        return torch.stack([step * mean for step in range((2 if steps is None else steps) + 1)])


def test_accuracy_equals_a_loop() -> None:
    learner, held = PrototypicalNetwork(encoder()), episodes(UNEQUAL, QUERY, tasks=11)
    done = []
    evaluation = evaluate(
        learner, Drawn(held), episodes=8, tasks=3, first=2, progress=lambda *counts: done.append(counts)
    )
    assert done == [(3, 8), (6, 8), (8, 8)]
    scores = []
    for task in range(2, 10):
        adapted = learner.adapt(held.support_x[task], held.support_y[task])
        answers = adapted(held.query_x[task]).argmax(1)
        scores.append((answers == held.query_y[task]).double().mean().item())
    assert evaluation.metric == "accuracy"
    np.testing.assert_allclose(evaluation.scores, [scores])
    estimate, low, high = evaluation.interval()
    assert estimate == pytest.approx(np.mean(scores))
    assert high - estimate == pytest.approx(1.96 * np.std(scores, ddof=1) / 8**0.5, rel=1e-4)
    assert estimate - low == pytest.approx(high - estimate)
    assert evaluation.bootstrap() == bootstrap_interval(scores, rng=0, statistic=np.mean)
    assert held.classes is not None
    assert evaluation.targets is not None
    assert evaluation.answers is not None
    pairs = class_pairs(held.classes[2:10].numpy(), held.query_y[2:10].numpy(), evaluation.answers[0])
    assert evaluation.by_class() == class_bootstrap(pairs, n_way=3)


def test_labels_that_are_no_ranks_and_any_batching_score_the_same() -> None:
    learner, held = PrototypicalNetwork(encoder()), episodes(UNEQUAL, QUERY, tasks=6)
    other = held._replace(support_y=5 * held.support_y - 4, query_y=5 * held.query_y - 4)
    a = evaluate(learner, Drawn(held), episodes=6)
    b = evaluate(learner, Drawn(other), episodes=6, tasks=4)
    np.testing.assert_array_equal(a.scores, b.scores)
    assert a.by_class() == b.by_class()


def test_by_step() -> None:
    learner = BaselinePlusPlus(encoder(), features=6, n_classes=20, fitting=HeadFitting(steps=3)).double()
    held = episodes(UNEQUAL, QUERY, tasks=5)
    evaluation = evaluate(learner, Drawn(held), episodes=5)
    expected = (learner.predict_by_step(held).argmax(-1) == held.query_y).double().mean(-1)
    np.testing.assert_allclose(evaluation.scores, expected)
    assert evaluation.steps == 3
    assert evaluation.curve().estimate == pytest.approx(expected.mean(1).tolist())
    assert evaluate(learner, Drawn(held), episodes=5, steps=1).steps == 1


def test_nothing_of_the_learner_changes() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)).double()
    learner = PrototypicalNetwork(network).train()
    network[1].eval()
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    held = episodes(UNEQUAL, QUERY, tasks=4)
    first, second = (evaluate(learner, Drawn(held), episodes=4) for _ in range(2))
    np.testing.assert_array_equal(first.scores, second.scores)
    assert [part.training for part in (learner, network, *network)] == [True, True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())
    assert all(parameter.grad is None for parameter in learner.parameters())


def test_modes_come_back_after_an_error() -> None:
    learner = PrototypicalNetwork(encoder()).train()
    held = episodes(UNEQUAL, QUERY, tasks=4)
    with pytest.raises(ValueError, match="adapts in no steps"):
        evaluate(learner, Drawn(held), episodes=4, steps=3)
    assert all(part.training for part in learner.modules())


def test_printed() -> None:
    # 7 and 9 of 10 queries are right, by turns: 80 % with a standard deviation of 10.05 %.
    scores = np.array([[0.7, 0.9] * 50])
    assert str(Evaluation("accuracy", scores)) == "accuracy 80.0 ± 2.0 (95 %), 100 episodes"
    assert str(Evaluation("accuracy", scores * 0 + 0.5)) == "accuracy 50.00 ± 0.00 (95 %), 100 episodes"
    held = episodes(UNEQUAL, QUERY, tasks=8)
    evaluation = evaluate(PrototypicalNetwork(encoder()), Drawn(held), episodes=8)
    half = 50 * (evaluation.by_class().high - evaluation.by_class().low)
    assert str(evaluation).endswith(f"(95 %), by class ± {half:.1f}, 8 episodes")


def test_regression_by_step() -> None:
    y = torch.tensor([[[1.0], [3.0]], [[2.0], [2.0]], [[0.0], [2.0]]])
    held = Episodes(y, y, y, y)
    evaluation = evaluate(Scaled(), Drawn(held, classification=False), episodes=3, tasks=2)
    assert evaluation.metric == "MSE"
    # Of 0: the mean square; of the mean: the variance; of twice the mean: (2 m - y)^2.
    np.testing.assert_allclose(evaluation.scores, [[5, 4, 2], [1, 0, 1], [5, 4, 2]])
    assert not evaluation.knows_classes
    assert str(evaluation).startswith("MSE 3.667 ± ")
    with pytest.raises(ValueError, match="must have episodes with `classes`"):
        evaluation.by_class()
    paired = compare(Scaled(), Scaled(), Drawn(held, classification=False), episodes=3, steps=1)
    assert str(paired) == "MSE +0.000 ± 0.000 (95 %): 0.667 against 0.667, 3 episodes"


def test_a_comparison_is_of_the_same_episodes() -> None:
    held = episodes(UNEQUAL, QUERY, tasks=20)
    a, b = PrototypicalNetwork(encoder()), PrototypicalNetwork(encoder(), distance="cosine")
    drawn = []

    class Counted(Drawn):
        def draw(self, first: int, count: int) -> Episodes:
            drawn.append((first, count))
            return super().draw(first, count)

    paired = compare(a, b, Counted(held), episodes=20, tasks=10)
    assert drawn == [(0, 10), (10, 10)]
    alone = [evaluate(learner, Drawn(held), episodes=20) for learner in (a, b)]
    np.testing.assert_array_equal(paired.a.scores, alone[0].scores)
    np.testing.assert_array_equal(paired.b.scores, alone[1].scores)
    difference = alone[0].scores[-1] - alone[1].scores[-1]
    assert paired.interval().estimate == pytest.approx(difference.mean())
    half = 1.96 * difference.std(ddof=1) / 20**0.5
    assert paired.interval().high - paired.interval().estimate == pytest.approx(half, rel=1e-4)
    (pairs, _), (minus, _) = alone[0].pairs(), alone[1].pairs()
    assert paired.by_class() == class_bootstrap(pairs, minus, n_way=3)
    assert paired.by_class().estimate == pytest.approx(difference.mean())
    assert ", by class ± " in str(paired)


def test_a_paired_interval_is_shorter_than_those_of_two_evaluations() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.normal(0, 1, 200)
    a, b = (Evaluation("MSE", (hardness + shift + 0.1 * rng.normal(size=200))[None]) for shift in (0, 0.2))
    paired = Comparison(a, b).interval()
    assert paired.high < 0
    assert a.interval().high > b.interval().low


def test_without_classes_there_is_no_interval_by_class() -> None:
    held = episodes(UNEQUAL, QUERY, tasks=4)._replace(classes=None)
    evaluation = evaluate(PrototypicalNetwork(encoder()), Drawn(held), episodes=4)
    assert "by class" not in str(evaluation)
    one_way = episodes([3], [3, 3], tasks=4)
    assert "by class" not in str(evaluate(PrototypicalNetwork(encoder()), Drawn(one_way), episodes=4))


def test_errors() -> None:
    learner, held = PrototypicalNetwork(encoder()), episodes(UNEQUAL, QUERY, tasks=4)
    with pytest.raises(ValueError, match="`episodes` must be at least 2, for an interval; got 1"):
        evaluate(learner, Drawn(held), episodes=1)
    with pytest.raises(ValueError, match="`tasks` must be at least 1; got 0"):
        evaluate(learner, Drawn(held), tasks=0)
    query_y = held.query_y.clone()
    query_y[3, 0] = 9
    with pytest.raises(ValueError, match=r"task 3 has 9, its support set has \[0, 1, 2\]"):
        evaluate(learner, Drawn(held._replace(query_y=query_y)), episodes=4)
    bad = held.query_x.clone()
    bad[2, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="got NaN after step 0 of episode 2"):
        evaluate(learner, Drawn(held._replace(query_x=bad)), episodes=4, tasks=2)
    y = torch.ones(2, 3, 1)
    for outputs, classification in ((2, False), (3, True)):
        labels = torch.tensor([[0, 1, 1], [0, 1, 0]]) if classification else y
        source = Drawn(Episodes(y, labels, y, labels), classification=classification)
        learner = Wide(outputs)
        with pytest.raises(
            ValueError, match=r"one output a class of the episode, 2; got 3|shape of the targets"
        ):
            evaluate(learner, source, episodes=2)


class Wide(Scaled):
    """Has so many outputs, whatever is asked."""

    def predict_by_step(self, episodes: Episodes, steps: int | None = None) -> Tensor:
        return torch.zeros(1, *episodes.query_y.shape[:2], self.outputs or 1)
