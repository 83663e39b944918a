"""What metric learners share: one pass of the encoder, labels of any kind, modes, errors; and siblings."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from metric_models import encoder, episodes
from torch import Tensor, nn

from athena_meta import (
    Episodes,
    FullContext,
    MatchingNetwork,
    MetricLearner,
    PrototypicalNetwork,
    RelationModule,
    RelationNetwork,
    cosine,
    prototypes,
)

UNEQUAL = [0, 0, 0, 1, 2, 2]
QUERY = [0, 1, 1, 2, 2, 0, 1]


def relation_network(features: int = 6) -> RelationNetwork:
    relation = nn.Sequential(nn.Linear(2 * features, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid())
    return RelationNetwork(encoder(), relation.double())


LEARNERS: dict[str, Callable[[], MetricLearner]] = {
    "squared-euclidean": lambda: PrototypicalNetwork(encoder()),
    "cosine": lambda: PrototypicalNetwork(encoder(), distance="cosine", learn_temperature=True),
    "mahalanobis": lambda: PrototypicalNetwork(encoder(), distance="mahalanobis"),
    "matching": lambda: MatchingNetwork(encoder(), learn_temperature=True),
    "matching in context": lambda: MatchingNetwork(encoder(), context=FullContext(6, reads=3).double()),
    "relation": relation_network,
}


@pytest.fixture(params=LEARNERS)
def learner(request: pytest.FixtureRequest) -> MetricLearner:
    return LEARNERS[request.param]().double()


def test_a_batch_is_its_tasks_one_by_one(learner: MetricLearner) -> None:
    batch = episodes(UNEQUAL, QUERY)
    each = [learner.loss(part) for part in batch.split(1)]
    torch.testing.assert_close(learner.loss(batch), torch.stack(each).mean())
    parts = torch.cat([learner.predict(part) for part in batch.split(1)])
    torch.testing.assert_close(learner.predict(batch), parts)


def test_gradients_equal_finite_differences(learner: MetricLearner) -> None:
    batch = episodes(UNEQUAL, QUERY, tasks=2)
    names, values = zip(*learner.named_parameters(), strict=True)

    def loss(*values: Tensor) -> Tensor:
        return torch.func.functional_call(learner, dict(zip(names, values, strict=True)), (batch,))

    assert torch.autograd.gradcheck(loss, values)


def test_labels_are_names_only(learner: MetricLearner) -> None:
    batch = episodes(UNEQUAL, QUERY)
    names = torch.tensor([-5, 3, 2**40])
    other = batch._replace(support_y=names[batch.support_y], query_y=names[batch.query_y])
    torch.testing.assert_close(learner.loss(other), learner.loss(batch))
    torch.testing.assert_close(learner.predict(other), learner.predict(batch))


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != "matching in context"])
def test_reversed_labels_reverse_the_columns(name: str) -> None:
    # The context alone reads a support set in the order of its labels.
    learner = LEARNERS[name]().double()
    batch = episodes(UNEQUAL, QUERY)
    other = batch._replace(support_y=2 - batch.support_y, query_y=2 - batch.query_y)
    torch.testing.assert_close(learner.predict(other), learner.predict(batch).flip(-1))


def test_a_classifier_adapts_to_strings(learner: MetricLearner) -> None:
    batch = episodes(UNEQUAL, QUERY)
    strings = ["ant", "bee", "cow"]
    for task in range(3):
        y = batch.support_y[task].tolist()
        adapted = learner.adapt(batch.support_x[task], [strings[label] for label in y])
        assert adapted.classes == ("ant", "bee", "cow")
        assert not adapted.training
        torch.testing.assert_close(adapted(batch.query_x[task]).detach(), learner.predict(batch)[task])


def test_a_classifier_outlives_the_training_of_its_learner(learner: MetricLearner) -> None:
    batch = episodes(UNEQUAL, QUERY)
    adapted = learner.adapt(batch.support_x[0], batch.support_y[0])
    before = adapted(batch.query_x[0]).detach()
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter.mul_(2)
    assert torch.equal(adapted(batch.query_x[0]), before)
    fresh = learner.adapt(batch.support_x[1], batch.support_y[1])
    fresh.load_state_dict(adapted.state_dict())
    assert torch.equal(fresh(batch.query_x[0]), before)


def test_a_query_label_without_support_is_refused(learner: MetricLearner) -> None:
    batch = episodes(UNEQUAL, QUERY)
    query_y = batch.query_y.clone()
    query_y[1, 4] = 7
    for use in (learner.loss, learner.predict):
        with pytest.raises(ValueError, match=r"query 4 of task 1 has 7, its support set has \[0, 1, 2\]"):
            use(batch._replace(query_y=query_y))


def test_tasks_of_different_ways_are_refused(learner: MetricLearner) -> None:
    batch = episodes(UNEQUAL, [0, 1])
    support_y = batch.support_y.clone()
    support_y[2] = torch.tensor([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="task 0 has 3 in its support set, task 2 has 2"):
        learner.loss(batch._replace(support_y=support_y))


def test_nothing_and_regression_are_refused() -> None:
    learner = PrototypicalNetwork(encoder())
    batch = episodes(UNEQUAL, QUERY)
    for empty in (
        batch.take(0, 0),
        batch._replace(query_x=batch.query_x[:, :0], query_y=batch.query_y[:, :0]),
    ):
        with pytest.raises(ValueError, match="at least one"):
            learner.loss(empty)
    with pytest.raises(ValueError, match=r"`episodes.support_y` must be whole numbers.*float64"):
        learner.loss(batch._replace(support_y=batch.support_y.double()))
    with pytest.raises(ValueError, match="one label an example; got 2 for 6"):
        learner.adapt(batch.support_x[0], ["a", "b"])


def test_no_steps_are_taken() -> None:
    learner, batch = PrototypicalNetwork(encoder()), episodes(UNEQUAL, QUERY)
    assert torch.equal(learner.predict_by_step(batch, 0)[0], learner.predict(batch))
    with pytest.raises(ValueError, match="adapts in no steps; got 3"):
        learner.predict_by_step(batch, 3)


def test_one_way_one_shot_one_query() -> None:
    batch = episodes([4], [4], tasks=1)
    for make in LEARNERS.values():
        assert make().double().predict(batch).shape == (1, 1, 1)


def test_strided_inputs() -> None:
    learner, batch = PrototypicalNetwork(encoder()), episodes(UNEQUAL, QUERY)
    strided = batch._replace(
        support_x=batch.support_x.mT.contiguous().mT,
        support_y=batch.support_y.T.contiguous().T,
        query_y=batch.query_y.T.contiguous().T,
    )
    assert torch.equal(learner.predict(strided), learner.predict(batch))


def test_feature_maps_are_flattened() -> None:
    batch = episodes(UNEQUAL, QUERY, inputs=(2, 3))
    maps = PrototypicalNetwork(nn.Identity()).predict(batch)
    flat = PrototypicalNetwork(nn.Flatten()).predict(batch)
    assert torch.equal(maps, flat)


def test_the_encoder_runs_once_for_support_and_query_of_all_tasks() -> None:
    passes = []
    network = encoder()
    network.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    PrototypicalNetwork(network).loss(episodes(UNEQUAL, QUERY))
    assert passes == [3 * 13]


def test_batch_norm_trains_in_the_loss_alone() -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).double()
    learner = PrototypicalNetwork(network).train()
    batch = episodes(UNEQUAL, QUERY)
    with torch.no_grad():
        features = network[0](torch.cat([batch.support_x.flatten(0, 1), batch.query_x.flatten(0, 1)]))
    learner.loss(batch)
    torch.testing.assert_close(network[1].running_mean, 0.1 * features.mean(0))
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    network[1].eval()  # as who freezes its statistics does
    learner.predict(batch)
    learner.adapt(batch.support_x[0], batch.support_y[0])
    assert [part.training for part in (learner, network, network[0], network[1])] == [True, True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def test_a_single_query_is_scored_as_in_a_batch() -> None:
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)).double()
    learner = PrototypicalNetwork(network)
    batch = episodes(UNEQUAL, QUERY)
    learner.loss(batch)
    alone = batch._replace(query_x=batch.query_x[:, 3:4], query_y=batch.query_y[:, 3:4])
    torch.testing.assert_close(learner.predict(alone), learner.predict(batch)[:, 3:4])


def test_a_temperature_divides_scores_and_learns() -> None:
    batch = episodes(UNEQUAL, QUERY)
    network = encoder()
    plain = PrototypicalNetwork(network).predict(batch)
    cold = PrototypicalNetwork(network, temperature=0.5, learn_temperature=True)
    torch.testing.assert_close(cold.predict(batch), 2 * plain)
    cold.loss(batch).backward()
    assert cold.temperature.log.grad
    assert not PrototypicalNetwork(network).temperature.log.requires_grad
    for distance, usual in (("cosine", 0.1), ("squared-euclidean", 1.0), ("mahalanobis", 1.0)):
        log = PrototypicalNetwork(network, distance=distance).temperature.log
        assert log.exp().item() == pytest.approx(usual)
    assert "0.5, learned=True" in repr(cold)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="`temperature` must be positive"):
            PrototypicalNetwork(network, temperature=wrong)
    with pytest.raises(ValueError, match="must be one of squared-euclidean, cosine, mahalanobis; got 'l1'"):
        PrototypicalNetwork(network, distance="l1")  # type: ignore[arg-type]


def test_cosine_scores_of_dead_features_have_finite_gradients() -> None:
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    with torch.no_grad():
        network[0].bias.fill_(-100)
    for learner in (PrototypicalNetwork(network, distance="cosine"), MatchingNetwork(network)):
        loss = learner.loss(
            Episodes(*(x.float() if x.is_floating_point() else x for x in episodes(UNEQUAL, QUERY)))
        )
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in learner.parameters())


def test_matching_is_attention_over_the_support_set() -> None:
    learner, batch = MatchingNetwork(encoder(), temperature=0.3).double(), episodes(UNEQUAL, QUERY)
    found = learner.predict(batch)
    for task in range(3):
        support, query = learner.encoder(batch.support_x[task]), learner.encoder(batch.query_x[task])
        attention = (cosine(query, support) / 0.3).softmax(-1)
        shares = [attention[:, batch.support_y[task] == label].sum(1) for label in range(3)]
        torch.testing.assert_close(found[task].exp(), torch.stack(shares, 1).detach())


def test_matching_at_a_low_temperature_stays_finite() -> None:
    loss = MatchingNetwork(encoder(), temperature=1e-4).loss(episodes(UNEQUAL, QUERY))
    assert loss.isfinite()


def test_cold_matching_is_the_nearest_neighbour_and_one_shot_is_prototypical() -> None:
    batch, network = episodes([0, 1, 2], QUERY), encoder()
    matching = MatchingNetwork(network, temperature=0.1).predict(batch)
    prototypical = PrototypicalNetwork(network, distance="cosine", temperature=0.1).predict(batch)
    torch.testing.assert_close(matching, prototypical.log_softmax(-1))


def test_full_context_equals_the_paper_s_recurrence() -> None:
    context = FullContext(4, reads=3).double()
    support, query = torch.randn(1, 5, 4, dtype=torch.float64), torch.randn(1, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(
        context.support(support), context.encoder(support)[0].unflatten(-1, (2, 4)).sum(2) + support
    )
    found = context.query(query, support)
    # An LSTM cell whose state is [h, r], written out for one query at a time.
    for q in range(2):
        x, h, c = query[0, q], torch.zeros(4).double(), torch.zeros(4).double()
        for _ in range(3):
            weights = torch.stack([h @ g for g in support[0]]).softmax(0)
            read = sum(weight * g for weight, g in zip(weights, support[0], strict=True))
            gates = context.gates.weight @ torch.cat([x, h, read]) + context.gates.bias
            i, f, o, g = gates[:4].sigmoid(), gates[4:8].sigmoid(), gates[8:12].sigmoid(), gates[12:].tanh()
            c = f * c + i * g
            h = o * c.tanh() + x
        torch.testing.assert_close(found[0, q], h)
    with pytest.raises(ValueError, match="`reads` must be at least 1"):
        FullContext(4, reads=0)


def test_full_context_does_not_see_the_order_in_which_classes_come() -> None:
    learner = MatchingNetwork(encoder(), context=FullContext(6).double()).double()
    batch = episodes([0, 1, 2], QUERY)
    order = torch.tensor([2, 0, 1])
    other = batch._replace(support_x=batch.support_x[:, order], support_y=batch.support_y[:, order])
    torch.testing.assert_close(learner.predict(other), learner.predict(batch))


def test_relations_are_of_all_pairs() -> None:
    learner, batch = relation_network(), episodes(UNEQUAL, QUERY)
    found = learner.predict(batch)
    means = prototypes(learner.encoder(batch.support_x.flatten(0, 1)).unflatten(0, (3, 6)), batch.support_y)
    total = torch.zeros((), dtype=torch.float64)
    for task in range(3):
        for q in range(7):
            for k in range(3):
                pair = torch.cat([means[task, k], learner.encoder(batch.query_x[task, q])])
                torch.testing.assert_close(found[task, q, k], learner.relation(pair).squeeze().detach())
                total += (found[task, q, k] - (batch.query_y[task, q] == k).double()) ** 2
    torch.testing.assert_close(learner.loss(batch).detach(), total / found.numel())


def test_relations_of_feature_maps() -> None:
    learner = RelationNetwork(nn.Conv2d(1, 2, 3, padding=1), RelationModule(2, size=5, hidden=3))
    batch = episodes([0, 1], [0, 1, 1], inputs=(1, 5, 5))
    batch = Episodes(batch.support_x.float(), batch.support_y, batch.query_x.float(), batch.query_y)
    scores = learner.predict(batch)
    assert scores.shape == (3, 3, 2)
    assert bool(((scores >= 0) & (scores <= 1)).all())
    learner.loss(batch).backward()
    assert all(parameter.grad is not None for parameter in learner.parameters())


def test_relation_errors() -> None:
    with pytest.raises(ValueError, match=r"one score a pair, \(63, 1\); got shape \(63, 2\)"):
        RelationNetwork(encoder(), nn.Linear(12, 2).double()).loss(episodes(UNEQUAL, QUERY))
    with pytest.raises(ValueError, match="`size` must be at least 4"):
        RelationModule(size=3)


def test_the_loss_is_the_cross_entropy_of_the_scores() -> None:
    learner, batch = PrototypicalNetwork(encoder()), episodes(UNEQUAL, QUERY)
    each = [
        F.cross_entropy(scores, y) for scores, y in zip(learner.predict(batch), batch.query_y, strict=True)
    ]
    torch.testing.assert_close(learner(batch).detach(), torch.stack(each).mean())
