"""Cross-stitch, MTAN and FiLM: worked by hand, as what they are at their ends, and on images."""

from __future__ import annotations

import pytest
import torch
from multi_task_models import HIDDEN, MODELS, TASKS, WIDTH, heads, stage
from torch import Tensor, nn

from athena_multitask import MTAN, CrossStitch, FiLM, MultiTaskModel, TaskAttention, mask_network
from athena_multitask._cross_stitch import cross_stitch


def scale(factor: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight = nn.Parameter(torch.tensor([[factor]]))
    return layer


# Cross-stitch networks


def test_two_stitched_columns_by_hand() -> None:
    """At x = 1 the first stages give 2 and 3, stitched 2.1 and 2.9, the second ones -2.1 and 29."""
    model = CrossStitch(
        {"a": [scale(2.0), scale(-1.0)], "b": [scale(3.0), scale(10.0)]},
        heads={"a": nn.Identity(), "b": nn.Identity()},
    )
    predictions = model(torch.ones(1, 1))
    assert predictions["a"].item() == pytest.approx(-0.9 * 2.1 + 0.1 * 29)
    assert predictions["b"].item() == pytest.approx(-0.1 * 2.1 + 0.9 * 29)


def test_a_unit_s_rows_are_the_tasks_that_take() -> None:
    outputs = torch.tensor([[[2.0]], [[4.0]]])
    alpha = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    assert cross_stitch(outputs, alpha).flatten().tolist() == [3.0, 4.0]
    assert cross_stitch(outputs, alpha[..., None]).flatten().tolist() == [3.0, 4.0]


def test_units_of_the_identity_are_separate_networks() -> None:
    columns = {name: [stage(WIDTH), stage(HIDDEN)] for name in TASKS}
    model = CrossStitch(columns, heads=heads(TASKS), alpha_same=1.0, alpha_different=0.0)
    x = torch.randn(6, WIDTH)
    predictions = model(x)
    for name in TASKS:
        alone = nn.Sequential(*columns[name], model.heads[name])
        # not bit for bit: features lie at another place, where products may be summed in another order
        torch.testing.assert_close(predictions[name], alone(x))


def test_units_of_one_value_are_one_network() -> None:
    """Columns whose outputs all take in like parts get the same features."""
    model = CrossStitch(
        {name: [stage(WIDTH)] for name in TASKS},
        heads={name: nn.Identity() for name in TASKS},
        alpha_same=1 / 3,
        alpha_different=1 / 3,
    )
    predictions = model(torch.randn(6, WIDTH))
    torch.testing.assert_close(predictions["near"], predictions["flat"])


def test_a_unit_a_channel_starts_as_one_for_all_and_mixes_each_by_its_own() -> None:
    images = {name: [nn.Conv2d(3, 4, 3, stride=2)] for name in "ab"}
    ends = {name: nn.Identity() for name in "ab"}
    each = CrossStitch(images, heads=ends, channels=[4])
    x = torch.randn(2, 3, 7, 9)
    torch.testing.assert_close(each(x), CrossStitch(images, heads=ends)(x))
    with torch.no_grad():
        each.units[0][0, :, 2] = torch.tensor([0.0, 5.0])  # channel 2 of a: five times that of b
    expected = 0.9 * images["a"][0](x) + 0.1 * images["b"][0](x)
    expected[:, 2] = 5 * images["b"][0](x)[:, 2]
    torch.testing.assert_close(each(x)["a"], expected)


def test_bad_columns() -> None:
    ends = {"a": nn.Identity(), "b": nn.Identity()}
    with pytest.raises(ValueError, match=r"`columns` must be of the tasks \['a', 'b'\]; got \['a'\]"):
        CrossStitch({"a": [scale(1.0)]}, heads=ends)
    with pytest.raises(ValueError, match=r"as many stages for each task.*got \{'a': 1, 'b': 2\}"):
        CrossStitch({"a": [scale(1.0)], "b": [scale(1.0), scale(1.0)]}, heads=ends)
    with pytest.raises(ValueError, match=r"as many stages for each task, at least one"):
        CrossStitch({"a": [], "b": []}, heads=ends)
    with pytest.raises(ValueError, match=r"`channels` must be a number for each of 1 stages; got \[1, 2\]"):
        CrossStitch({"a": [scale(1.0)], "b": [scale(1.0)]}, heads=ends, channels=[1, 2])
    model = CrossStitch({"a": [nn.Linear(2, 3)], "b": [nn.Linear(2, 4)]}, heads=ends)
    with pytest.raises(ValueError, match=r"stage 0 of all `columns`.*\{'a': \(5, 3\), 'b': \(5, 4\)\}"):
        model(torch.ones(5, 2))


# MTAN


def reference_mtan(model: MTAN, x: Tensor, name: str) -> Tensor:
    """The paper's equations for one task alone."""
    p, masked = x, None
    for (first, second), attention in zip(model.stages, model.attention[name], strict=True):
        u = first(p)
        p = second(u)
        joined = u if masked is None else torch.cat([u, attention.link(masked)], dim=1)
        masked = p / (1 + torch.exp(-attention.mask(joined)))
    return model.heads[name](masked)


def test_masks_against_the_equations() -> None:
    model = MODELS["mtan"]().double()
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    for name, prediction in model(x).items():
        torch.testing.assert_close(prediction, reference_mtan(model, x, name))


def test_open_masks_are_hard_sharing() -> None:
    class Open(nn.Module):
        def forward(self, joined: Tensor) -> Tensor:
            return joined.new_full((1, 1), torch.inf)

    stages = [(nn.Linear(WIDTH, 4), nn.Tanh()), (nn.Linear(4, HIDDEN), nn.Tanh())]
    attention = {name: [TaskAttention(Open()), TaskAttention(Open(), nn.Identity())] for name in TASKS}
    model = MTAN(stages, attention=attention, heads=heads(TASKS))
    encoder = nn.Sequential(*(part for parts in stages for part in parts))
    x = torch.randn(3, WIDTH)
    torch.testing.assert_close(model(x), MultiTaskModel(encoder, model.heads)(x))


def test_attention_on_images_that_are_pooled() -> None:
    stages = [
        (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()),
        (nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 6, 3, padding=1)), nn.ReLU()),
    ]
    link = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.MaxPool2d(2))
    attention = [
        TaskAttention(mask_network(4, 4, image=True)),
        TaskAttention(mask_network(6 + 5, 6, image=True), link),
    ]
    model = MTAN(stages, attention={"a": attention}, heads={"a": nn.Identity()})
    found = model(torch.randn(2, 3, 9, 7))["a"]
    assert found.shape == (2, 6, 4, 3)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_papers_mask_normalises_its_logits() -> None:
    logits = mask_network(3, 8)(100 * torch.randn(64, 3))
    torch.testing.assert_close(logits.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits.std(0, correction=0), torch.ones(8), atol=1e-3, rtol=0)


def test_bad_attention() -> None:
    ends, pair = {"a": nn.Identity()}, (nn.Identity(), nn.Identity())
    with pytest.raises(ValueError, match="`stages` must hold a pair of modules; got none"):
        MTAN([], attention={"a": []}, heads=ends)
    for links in ([True], [False, False], [False]):
        modules = [TaskAttention(nn.Identity(), nn.Identity() if link else None) for link in links]
        with pytest.raises(ValueError, match=r"`attention\['a'\]` must hold one module for each of 2 stages"):
            MTAN([pair, pair], attention={"a": modules}, heads=ends)
    with pytest.raises(ValueError, match=r"`attention` must be of the tasks \['a'\]; got \['b'\]"):
        MTAN([pair], attention={"b": [TaskAttention(nn.Identity())]}, heads=ends)


# FiLM


def test_modulation_starts_as_the_encoder_alone() -> None:
    stages = [stage(WIDTH), stage(HIDDEN)]
    model = FiLM(stages, channels=[HIDDEN, HIDDEN], heads=heads(TASKS))
    x = torch.randn(4, WIDTH)
    alone = MultiTaskModel(nn.Sequential(*stages), model.heads)
    for name, prediction in model(x).items():
        assert torch.equal(prediction, alone(x)[name])


def test_modulation_by_hand() -> None:
    """At x = 1 and e = 2: 3 (1 + 0.5 * 2) + (1 - 2) = 5, then 10 * 5."""
    model = FiLM([scale(3.0)], channels=[1], heads={"a": scale(10.0)}, embedding_dim=1)
    with torch.no_grad():
        model.embeddings["a"].weight.fill_(2.0)
        model.generators[0].weight.copy_(torch.tensor([[0.5], [-1.0]]))
        model.generators[0].bias.copy_(torch.tensor([0.0, 1.0]))
    assert model(torch.ones(1, 1))["a"].item() == pytest.approx(50.0)


def test_modulation_of_images_by_channel() -> None:
    model = FiLM([nn.Conv2d(3, 4, 3)], channels=[4], heads={"a": nn.Identity()}, embedding_dim=2)
    nn.init.normal_(model.generators[0].weight)
    x = torch.randn(2, 3, 6, 5)
    gamma, beta = model.generators[0](model.embeddings["a"].weight[0]).chunk(2)
    expected = torch.stack([(1 + gamma[c]) * model.stages[0](x)[:, c] + beta[c] for c in range(4)], dim=1)
    torch.testing.assert_close(model(x)["a"], expected)


def test_embeddings_learn_after_the_generator_has() -> None:
    model = FiLM([stage(WIDTH)], channels=[HIDDEN], heads=heads(["near", "flat"]))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model.embeddings["near"].weight.clone()
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(4, WIDTH), tasks=["near"])["near"].square().mean().backward()
        optimizer.step()
    assert not torch.equal(model.embeddings["near"].weight, before)
    assert model.embeddings["flat"].weight.grad is None


def test_bad_modulation() -> None:
    ends = {"a": nn.Identity()}
    with pytest.raises(ValueError, match=r"`channels` must be a number for each of 1 stages.*got \[1, 2\]"):
        FiLM([scale(1.0)], channels=[1, 2], heads=ends)
    with pytest.raises(ValueError, match=r"each of 0 stages, of which one is needed"):
        FiLM([], channels=[], heads=ends)
    with pytest.raises(ValueError, match="`embedding_dim` must be at least 1; got 0"):
        FiLM([scale(1.0)], channels=[1], heads=ends, embedding_dim=0)
    with pytest.raises(ValueError, match=r"`channels` must be those of the stages.*got 2 for.*\(3, 1\)"):
        FiLM([scale(1.0)], channels=[2], heads=ends)(torch.ones(3, 1))
