"""The pruner of structure: which units go, how many, resuming in the middle, layers."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from athena_compress import CubicSchedule, LinearSchedule, Pruner, Taylor

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))


class Block(nn.Module):
    """A residual block with a bottleneck."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, inner)
        self.up = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(self.down(x).relu())


class Attention(nn.Module):
    """Grouped-query attention: two heads of queries, of width 4, for each of keys and values."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(8, 8 * heads), nn.Linear(8, 8 * heads), nn.Linear(8 * heads, 8)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (-1, 4)).transpose(1, 2)
        k, v = (part.unflatten(-1, (-1, 4)).transpose(1, 2) for part in self.kv(x).chunk(2, -1))
        mixed = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


def make_conv() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 20, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(20, 10),
        nn.ReLU(),
        nn.Linear(10, 4),
    )


def backward(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    inputs, targets = (
        torch.randn(4, 3, 8, 8, generator=generator),
        torch.randint(4, (4,), generator=generator),
    )
    model.zero_grad()
    functional.cross_entropy(model(inputs), targets).backward()


def trip(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def sizes(model: nn.Sequential) -> list[int]:
    return [model[0].out_channels, model[3].out_channels, model[7].out_features]


def test_the_lowest_sums_of_squares_go() -> None:
    model = make_conv()
    first, second, third = (model[index].weight.detach() for index in (0, 3, 7))
    expected = [
        sorted(range(12), key=lambda u: float(first[u].square().sum() + second[:, u].square().sum())),
        sorted(range(20), key=lambda u: float(second[u].square().sum() + third[:, u].square().sum())),
    ]
    kept = [first[sorted(expected[0][6:])], second[sorted(expected[1][10:])][:, sorted(expected[0][6:])]]
    pruner = Pruner(model, IMAGES, what="channels", schedule=0.5, scope="local")
    pruner.step()
    assert torch.equal(model[0].weight, kept[0])
    assert torch.equal(model[3].weight, kept[1])
    assert sizes(model) == [6, 10, 10]
    assert pruner.sparsity == 0.5


def test_global_compares_normalised_scores_within_a_kind() -> None:
    model = make_conv()
    model[0].weight.data *= 100
    pruner = Pruner(model, IMAGES, what=("channels", "neurons"), schedule=0.5)
    pruner.step()
    first, second, third = sizes(model)
    assert first + second == 16  # half of 12 + 20, though the first is large
    assert third == 5
    assert 0 < first < 12
    unfair = make_conv()
    unfair[0].weight.data *= 100
    Pruner(unfair, IMAGES, what="channels", schedule=0.5, normalize=False).step()
    assert sizes(unfair)[:2] == [12, 4]


def test_channels_of_zero_change_nothing() -> None:
    model = make_conv().eval()
    with torch.no_grad():
        for conv, dead in ((model[0], [1, 4, 7]), (model[3], [0, 2, 3, 9, 19])):
            conv.weight[dead] = 0
            conv.bias[dead] = 0
        model[1].bias[[1, 4, 7]] = 0
        model[3].weight[:, [1, 4, 7]] = 0
        model[7].weight[:, [0, 2, 3, 9, 19]] = 0
    before = model(IMAGES)
    Pruner(model, IMAGES, what="channels", schedule=8 / 32).step()
    assert sizes(model) == [9, 15, 10]
    torch.testing.assert_close(model(IMAGES), before, rtol=1e-5, atol=1e-5)


def test_counts_are_rounded_up_to_a_multiple() -> None:
    model = make_conv()
    Pruner(model, IMAGES, what=("channels", "neurons"), schedule=0.6, scope="local", round_to=8).step()
    assert sizes(model) == [8, 8, 8]  # 5, 8 and 4 without rounding
    model = make_conv()
    Pruner(model, IMAGES, what="channels", schedule=0.1, scope="local", round_to=16).step()
    assert sizes(model) == [12, 20, 10]  # no multiple lies between what is wanted and what is there


def test_one_unit_is_kept_and_said() -> None:
    model = make_conv()
    pruner = Pruner(model, IMAGES, what="neurons", schedule=0.99)
    with pytest.warns(UserWarning, match="`7` keeps one unit, as the share asked for would empty it"):
        pruner.step()
    assert sizes(model) == [12, 20, 1]
    assert pruner.finish().notes


def test_names_include_and_skip_the_layers_that_make_units() -> None:
    model = make_conv()
    Pruner(model, IMAGES, what=("channels", "neurons"), schedule=0.5, scope="local", include="3").step()
    assert sizes(model) == [12, 10, 10]
    model = make_conv()
    Pruner(model, IMAGES, what=("channels", "neurons"), schedule=0.5, scope="local", skip=("3", "7")).step()
    assert sizes(model) == [6, 20, 10]
    with pytest.raises(ValueError, match=r"got none .*0: not selected"):
        Pruner(make_conv(), IMAGES, what="channels", schedule=0.5, skip="*")
    with pytest.raises(ValueError, match=r"`model` must have heads that can be removed; got none\. Widen"):
        Pruner(make_conv(), IMAGES, what="heads", schedule=0.5)


def test_heads_go_in_whole_groups() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Attention(), nn.Linear(8, 2))
    inputs = torch.randn(2, 5, 6)
    pruner = Pruner(model, inputs, what="heads", schedule=0.5, round_to=1)
    pruner.step()
    attention = model[1]
    assert (attention.q.out_features, attention.kv.out_features) == (8, 8)
    assert [(part.kind, part.kept, part.total) for part in pruner.finish().parts] == [("heads", 1, 2)]
    assert model(inputs).shape == (2, 5, 2)


def test_kept_heads_have_their_original_numbers() -> None:
    model = nn.Sequential(nn.Linear(6, 8), Attention(8), nn.Linear(8, 2))
    attention = model[1]
    q, kv = attention.q.weight.detach().clone(), attention.kv.weight.detach().clone()
    out = attention.out.weight.detach().clone()
    schedule = LinearSchedule(0.75, steps=6)
    pruner = Pruner(model, torch.randn(2, 5, 6), what="heads", schedule=schedule, importance="random")
    for _ in range(6):
        pruner.step()
        (kept,) = pruner.state_dict()["pruned"]["kept"].values()
        keys = kv.view(2, 8, 4, 8)[:, kept]
        assert torch.equal(attention.q.weight, q.view(8, 8, 8)[kept].flatten(0, 1))
        assert torch.equal(attention.kv.weight, keys.flatten(0, 2))
        assert torch.equal(attention.out.weight, out.view(8, 8, 8)[:, kept].flatten(1))
    assert len(kept) == 2


Make = Callable[[], tuple[nn.Module, Optimizer, Pruner]]


def maker(importance: str) -> Make:
    def make() -> tuple[nn.Module, Optimizer, Pruner]:
        model = make_conv()
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        schedule = CubicSchedule(0.6, steps=8, every=2)
        pruner = Pruner(
            model,
            IMAGES,
            what=("channels", "neurons"),
            importance=importance,
            schedule=schedule,
            optimizer=optimizer,
        )
        return model, optimizer, pruner

    return make


def train(model: nn.Module, optimizer: Optimizer, pruner: Pruner, steps: range) -> None:
    for step in steps:
        backward(model, step)
        optimizer.step()
        pruner.step()


@pytest.mark.parametrize("importance", ["magnitude", "movement", "taylor"])
@pytest.mark.parametrize("cut", [3, 7, 11])
def test_resumed_equals_uninterrupted(importance: str, cut: int) -> None:
    make = maker(importance)
    whole = make()
    train(*whole, range(12))
    parts = make()
    train(*parts, range(cut))
    saved = [trip(part.state_dict()) for part in parts]
    resumed = make()
    for index in (2, 0, 1):  # the pruner first: it makes room for what the others hold
        resumed[index].load_state_dict(saved[index])
    train(*resumed, range(cut, 12))
    assert sizes(whole[0]) == sizes(resumed[0])  # pyright: ignore[reportArgumentType]
    for a, b in zip(whole[0].state_dict().values(), resumed[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    kept = (part[2].state_dict()["pruned"]["kept"] for part in (whole, resumed))
    for a, b in zip(*(tree.values() for tree in kept), strict=True):
        assert torch.equal(a, b)
    assert whole[2].sparsity == pytest.approx(0.6, abs=0.02)


def test_kept_numbers_are_the_original_ones() -> None:
    """After many removals, each kept channel is the one of that number in the full model."""
    model = make_conv()
    original = make_conv()[0].weight
    pruner = Pruner(
        model, IMAGES, what="channels", schedule=LinearSchedule(0.8, steps=6), importance="random"
    )
    for _ in range(6):
        pruner.step()
        kept = pruner.state_dict()["pruned"]["kept"]["0"]
        assert torch.equal(model[0].weight, original[kept])


def test_the_optimizers_moments_are_those_of_the_kept_units() -> None:
    model = make_conv()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    pruner = Pruner(model, IMAGES, what="channels", schedule=0.5, optimizer=optimizer, scope="local")
    backward(model, 0)
    optimizer.step()
    before = optimizer.state[model[0].weight]["exp_avg"].clone()
    pruner.step()
    kept = pruner.state_dict()["pruned"]["kept"]["0"]
    assert torch.equal(optimizer.state[model[0].weight]["exp_avg"], before[kept])
    train(model, optimizer, pruner, range(1, 4))


def test_taylor_counts_biases_and_scales_for_a_unit() -> None:
    model = make_conv()
    backward(model, 0)
    pruner = Pruner(
        model, IMAGES, what="channels", importance=Taylor(), schedule=0.5, scope="local", include="0"
    )
    pruner.observe()
    products = {
        name: (parameter * parameter.grad).detach().double().square()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    expected = sum(products[f"0.{name}"].view(12, -1).sum(1) for name in ("weight", "bias"))
    expected = expected + products["1.weight"] + products["1.bias"] + products["3.weight"].sum((0, 2, 3))
    first = model[0].weight.detach().clone()
    pruner.step()
    kept = sorted(torch.as_tensor(expected).argsort()[6:].tolist())
    assert torch.equal(model[0].weight, first[kept])


def test_wanda_scores_units_by_inputs() -> None:
    model = make_conv()
    pruner = Pruner(model, IMAGES, what="neurons", importance="wanda", schedule=0.5)
    pruner.calibrate([IMAGES])
    pruner.step()
    assert sizes(model) == [12, 20, 5]


def make_layers() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(6, 8), nn.Sequential(*[Block(8, 12) for _ in range(6)]), nn.Linear(8, 2))
    for number, scale in enumerate((1.0, 0.01, 1.0, 0.02, 0.03, 1.0)):
        model[1][number].up.weight.data *= scale
        model[1][number].up.bias.data *= scale
    return model, torch.randn(32, 6)


def test_layers_of_least_influence_go_and_leave_the_optimizer() -> None:
    model, inputs = make_layers()
    blocks = list(model[1])
    optimizer = torch.optim.AdamW(model.parameters())
    pruner = Pruner(model, inputs, what="layers", schedule=LinearSchedule(0.5, steps=3), optimizer=optimizer)
    before = model(inputs)
    for count in (5, 4, 3):
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        pruner.step()
        assert len(model[1]) == count
    assert list(model[1]) == [blocks[0], blocks[2], blocks[5]]
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters())) == len(optimizer.state)
    assert (model(inputs) - before).abs().max() < 0.3
    resumed, _ = make_layers()
    other = Pruner(resumed, inputs, what="layers", schedule=LinearSchedule(0.5, steps=3))
    other.load_state_dict(trip(pruner.state_dict()))
    resumed.load_state_dict(model.state_dict())
    assert torch.equal(resumed(inputs), model(inputs))
    assert [(part.kept, part.total) for part in pruner.finish().parts] == [(3, 6)]
    with pytest.raises(ValueError, match="which this pruner has removed"):
        other.load_state_dict(Pruner(make_layers()[0], inputs, what="layers", schedule=0.1).state_dict())


def test_a_list_of_layers_keeps_one() -> None:
    model, inputs = make_layers()
    pruner = Pruner(model, inputs, what="layers", schedule=0.95, scope="local")
    with pytest.warns(UserWarning, match="1 keeps one layer, as the share asked for"):
        pruner.step()
    assert len(model[1]) == 1
    with pytest.raises(ValueError, match="`model` must have residual layers"):
        Pruner(make_conv(), IMAGES, what="layers", schedule=0.5)


def test_states_that_do_not_fit_are_refused() -> None:
    model = make_conv()
    pruner = Pruner(model, IMAGES, what="channels", schedule=0.5)
    pruner.step()
    again = Pruner(model, IMAGES, what="channels", schedule=0.5)
    with pytest.raises(ValueError, match="`state_dict` must be of this model at its full size"):
        again.load_state_dict(pruner.state_dict())
    fresh = Pruner(make_conv(), IMAGES, what="channels", schedule=0.5)
    with pytest.raises(ValueError, match="that this pruner has removed"):
        pruner.load_state_dict(fresh.state_dict())
    layers, inputs = make_layers()
    with pytest.raises(ValueError, match="with all its layers"):
        Pruner(layers, inputs, what="layers", schedule=0.1).load_state_dict(
            {**fresh.state_dict(), "what": ["layers"]}
        )


def test_units_that_are_not_finite_are_refused_by_name() -> None:
    model = make_conv()
    model[3].weight.data[0, 0, 0, 0] = float("nan")
    pruner = Pruner(model, IMAGES, what="channels", schedule=0.5)
    with pytest.raises(ValueError, match=r"`3\.weight` must be finite to be pruned"):
        pruner.step()
    assert sizes(model) == [12, 20, 10]
