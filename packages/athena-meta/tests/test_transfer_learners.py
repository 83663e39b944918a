"""Baseline and Baseline++: training on base classes, heads against torch's own optimizer, steps, errors."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from metric_models import encoder, episodes
from torch import Tensor, nn

from athena_meta import Baseline, BaselinePlusPlus, Episodes, HeadFitting, TransferLearner, cosine

UNEQUAL, QUERY = [0, 0, 0, 1, 2, 2], [0, 1, 1, 2, 2, 0, 1]
KINDS = [Baseline, BaselinePlusPlus]


def made(kind: type[TransferLearner], **options: object) -> TransferLearner:
    return kind(encoder(), features=6, n_classes=20, **options).double()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_a_classifier_of_base_classes(kind: type[TransferLearner]) -> None:
    learner, batch = made(kind), episodes(UNEQUAL, QUERY)
    assert batch.classes is not None
    losses = []
    for task in range(3):
        for x, y in ((batch.support_x, batch.support_y), (batch.query_x, batch.query_y)):
            for example, label in zip(x[task], y[task].tolist(), strict=True):
                features = learner.encoder(example)
                weights, last = learner.base_head[:, :-1], learner.base_head[:, -1]
                if kind is Baseline:
                    outputs = weights @ features + last
                else:
                    outputs = 2 * last.exp() * F.cosine_similarity(weights, features, dim=1)
                losses.append(F.cross_entropy(outputs, batch.classes[task, label]))
    loss = learner.loss(batch)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in learner.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_are_no_ranks_stand_for_the_sorted_classes(kind: type[TransferLearner]) -> None:
    learner, batch = made(kind), episodes(UNEQUAL, QUERY)
    other = batch._replace(support_y=10 * batch.support_y - 3, query_y=10 * batch.query_y - 3)
    torch.testing.assert_close(learner.loss(other), learner.loss(batch))
    torch.testing.assert_close(learner.predict(other), learner.predict(batch))


@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_those_of_torch_s_optimizer(kind: type[TransferLearner]) -> None:
    fitting = HeadFitting(steps=7, lr=0.3, momentum=0.8, weight_decay=0.05)
    learner, batch = made(kind, fitting=fitting), episodes(UNEQUAL, QUERY)
    found = learner.predict_by_step(batch)
    assert found.shape == (8, 3, 7, 3)
    for task in range(3):
        with torch.no_grad():
            support, query = learner.encoder(batch.support_x[task]), learner.encoder(batch.query_x[task])
        labels = batch.support_y[task]
        if kind is Baseline:
            head = torch.zeros(3, 7, dtype=torch.float64)
        else:
            directions = F.normalize(support)
            means = torch.stack([directions[labels == label].mean(0) for label in range(3)])
            head = torch.cat([F.normalize(means), torch.zeros(3, 1)], dim=1)
        head.requires_grad_()
        optimizer = torch.optim.SGD([head], lr=0.3, momentum=0.8, weight_decay=0.05)

        def outputs(features: Tensor, head: Tensor = head) -> Tensor:
            if kind is Baseline:
                return F.linear(features, head[:, :-1], head[:, -1])
            return 2 * head[:, -1].exp() * cosine(features, head[:, :-1])

        for step in range(8):
            torch.testing.assert_close(found[step, task], outputs(query).detach())
            optimizer.zero_grad()
            F.cross_entropy(outputs(support), labels).backward()
            optimizer.step()


@pytest.mark.parametrize("kind", KINDS)
def test_steps(kind: type[TransferLearner]) -> None:
    learner, batch = made(kind, fitting=HeadFitting(steps=4)), episodes(UNEQUAL, QUERY)
    by_step = learner.predict_by_step(batch, 6)
    torch.testing.assert_close(by_step[:5], learner.predict_by_step(batch))
    torch.testing.assert_close(by_step[4], learner.predict(batch))
    assert len(learner.predict_by_step(batch, 0)) == 1
    with pytest.raises(ValueError, match="`steps` must be at least 0; got -1"):
        learner.predict_by_step(batch, -1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_has_one_answer_alone_in_a_batch_and_adapted(kind: type[TransferLearner]) -> None:
    learner, batch = made(kind), episodes(UNEQUAL, QUERY)
    outputs = learner.predict(batch)
    torch.testing.assert_close(torch.cat([learner.predict(part) for part in batch.split(1)]), outputs)
    names = ["ant", "bee", "cow"]
    adapted = learner.adapt(batch.support_x[1], [names[label] for label in batch.support_y[1].tolist()])
    assert adapted.classes == ("ant", "bee", "cow")
    torch.testing.assert_close(adapted(batch.query_x[1]).detach(), outputs[1])
    with torch.no_grad():
        learner.encoder[0].weight.zero_()
    torch.testing.assert_close(adapted(batch.query_x[1]).detach(), outputs[1])


@pytest.mark.parametrize("kind", KINDS)
def test_reversed_labels_reverse_the_columns(kind: type[TransferLearner]) -> None:
    learner, batch = made(kind), episodes(UNEQUAL, QUERY)
    other = batch._replace(support_y=2 - batch.support_y, query_y=2 - batch.query_y)
    torch.testing.assert_close(learner.predict(other), learner.predict(batch).flip(-1))


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_leave_batch_norm_alone(kind: type[TransferLearner]) -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6))
    learner, batch = kind(network, features=6, n_classes=20).double().train(), episodes(UNEQUAL, QUERY)
    learner.loss(batch)
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    learner.predict(batch)
    learner.adapt(batch.support_x[0], batch.support_y[0])
    assert network[1].training
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_separates_classes_that_can_be(kind: type[TransferLearner]) -> None:
    x = torch.eye(4).repeat(1, 3, 1) + 0.1 * torch.randn(1, 12, 4)
    y = torch.arange(4).repeat(1, 3)
    learner = kind(nn.Identity(), features=4, n_classes=9)
    assert torch.equal(learner.predict(Episodes(x, y, x, y)).argmax(-1), y)


def test_a_cosine_head_of_zero_features_stays_finite() -> None:
    x, y = torch.zeros(1, 4, 3), torch.tensor([[0, 0, 1, 1]])
    learner = BaselinePlusPlus(nn.Identity(), features=3, n_classes=2)
    assert torch.equal(learner.predict(Episodes(x, y, x, y)), torch.zeros(1, 4, 2))


def test_the_scale_follows_the_number_of_base_classes() -> None:
    scales = [BaselinePlusPlus(nn.Identity(), features=3, n_classes=n).scale for n in (200, 201)]
    assert scales == [2.0, 10.0]
    x, y = torch.eye(2)[None], torch.tensor([[0, 1]])
    learner = BaselinePlusPlus(nn.Identity(), features=2, n_classes=5, scale=7.0)
    assert learner.predict_by_step(Episodes(x, y, x, y), 0).flatten().tolist() == [7.0, 0.0, 0.0, 7.0]
    with pytest.raises(ValueError, match="`scale` must be positive"):
        BaselinePlusPlus(nn.Identity(), features=3, n_classes=2, scale=0.0)


def test_errors() -> None:
    batch = episodes(UNEQUAL, QUERY)
    assert batch.classes is not None
    learner = made(Baseline)
    with pytest.raises(ValueError, match="to train Baseline; got None"):
        learner.loss(batch._replace(classes=None))
    with pytest.raises(ValueError, match=r"must be \(tasks, n_way\), \(3, 3\); got \(3, 2\)"):
        learner.loss(batch._replace(classes=batch.classes[:, :2]))
    with pytest.raises(ValueError, match=r"must lie in \[0, 19\], the base classes; got 20 to 20"):
        learner.loss(batch._replace(classes=torch.full_like(batch.classes, 20)))
    with pytest.raises(ValueError, match="`features` must be what the encoder gives, 6; got 5"):
        Baseline(encoder(), features=5, n_classes=20).predict(batch)
    with pytest.raises(ValueError, match="must be at least 1; got 0 and 20"):
        Baseline(encoder(), features=0, n_classes=20)
    with pytest.raises(ValueError, match="one label an example; got 1 for 6"):
        learner.adapt(batch.support_x[0], ["a"])
    with pytest.raises(ValueError, match=r"has 5, its support set has \[0, 1, 2\]"):
        learner.predict(batch._replace(query_y=torch.full_like(batch.query_y, 5)))
