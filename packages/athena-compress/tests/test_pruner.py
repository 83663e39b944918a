"""The pruner of weights: exact shares, what the optimizer may not undo, resuming, refusals."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from athena_compress import (
    ConstantSchedule,
    CubicSchedule,
    LinearSchedule,
    Magnitude,
    Pruner,
    RandomImportance,
)

Make = Callable[[list[nn.Parameter]], Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.001, momentum=0.9, centered=True),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
}


def make_model() -> nn.Sequential:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    model[3].weight.data *= 2  # so that a global share empties no layer
    return model


def backward(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    inputs, targets = torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)
    model.zero_grad()
    functional.cross_entropy(model(inputs), targets).backward()


def zeros(model: nn.Module) -> int:
    return sum(int((m.weight == 0).sum()) for m in model.modules() if isinstance(m, nn.Linear))


def trip(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("scope", ["global", "local", "row"])
@pytest.mark.parametrize("importance", ["magnitude", "random", "lamp", "movement", "taylor"])
def test_shares_follow_the_schedule_exactly(importance: str, scope: Any) -> None:
    model = make_model()
    optimizer = OPTIMIZERS["adamw"](list(model.parameters()))
    schedule = CubicSchedule(0.75, steps=8, begin=2, every=2)
    pruner = Pruner(model, importance=importance, schedule=schedule, scope=scope, optimizer=optimizer)
    for step in range(1, 13):
        backward(model, step)
        optimizer.step()
        pruner.step()
        share = schedule(step)
        if scope == "global":
            expected = round(share * 144)
        elif scope == "local":
            expected = round(share * 96) + round(share * 48)
        else:
            expected = 16 * round(share * 6) + 3 * round(share * 16)
        assert zeros(model) == expected
        assert pruner.sparsity == pytest.approx(expected / 144, abs=1e-12)
    assert (model[1].weight != 0).all()
    assert (model[0].bias != 0).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_and_decay_revive_no_weight(name: str) -> None:
    model = make_model()
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    for step in range(5):  # momentum builds up before anything is pruned
        backward(model, step)
        optimizer.step()
    pruner = Pruner(model, schedule=0.5, optimizer=optimizer)
    pruner.step()
    masks = pruner.masks
    for step in range(5, 15):
        backward(model, step)
        optimizer.step()
        for key, mask in masks.items():  # right after the optimizer's step, not only after the pruner's
            weight = model.get_parameter(key)
            assert (weight[~mask] == 0).all()
            for value in optimizer.state[weight].values():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    assert (value[~mask] == 0).all()
        pruner.step()
    assert zeros(model) == 72
    assert all((model.get_parameter(key)[mask] != 0).all() for key, mask in masks.items())


def test_without_an_optimizer_the_step_zeroes_weights() -> None:
    model = make_model()
    optimizer = OPTIMIZERS["sgd"](list(model.parameters()))
    pruner = Pruner(model, schedule=0.5)
    for step in range(5):
        backward(model, step)
        optimizer.step()
        pruner.step()
        assert zeros(model) == 72


class Slow(Optimizer):
    """Slow weights around another optimizer, kept beside its state, to which it returns each third step."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        super().__init__(optimizer.param_groups, {})
        self.count = 0

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for parameter in parameters:
            self.state[parameter].setdefault("slow", parameter.clone())
        self.optimizer.step()
        self.count += 1
        if self.count % 3 == 0:
            for parameter in parameters:
                slow = self.state[parameter]["slow"]
                slow.lerp_(parameter, 0.5)
                parameter.copy_(slow)


def test_slow_weights_and_wrapped_moments_revive_no_weight() -> None:
    model = make_model()
    inner = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optimizer = Slow(inner)
    for step in range(4):
        backward(model, step)
        optimizer.step()
    pruner = Pruner(model, schedule=LinearSchedule(0.5, steps=5), optimizer=optimizer)
    for step in range(4, 16):
        backward(model, step)
        optimizer.step()
        pruner.step()
        for key, mask in pruner.masks.items():
            weight = model.get_parameter(key)
            held = optimizer.state[weight]["slow"], inner.state[weight]["momentum_buffer"]
            assert all((value[~mask] == 0).all() for value in (weight, *held))


def test_pruned_weights_move_nothing_else() -> None:
    """Training under masks equals training of a model that never had those weights."""
    model = make_model()
    optimizer = OPTIMIZERS["adamw"](list(model.parameters()))
    pruner = Pruner(model, schedule=0.5, optimizer=optimizer)
    pruner.step()
    masks = pruner.masks

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = make_model()

        def forward(self, x: Tensor) -> Tensor:
            held = {key: self.inner.get_parameter(key) * mask for key, mask in masks.items()}
            return torch.func.functional_call(self.inner, held, (x,))

    other = Masked()
    plain = OPTIMIZERS["adamw"](list(other.parameters()))
    for step in range(10):
        backward(model, step)
        optimizer.step()
        pruner.step()
        backward(other, step)
        plain.step()
    for key, mask in masks.items():
        torch.testing.assert_close(
            model.get_parameter(key).detach(), other.inner.get_parameter(key).detach() * mask
        )


def test_gradients_are_masked_before_clipping() -> None:
    model = make_model()
    pruner = Pruner(model, schedule=0.5)
    pruner.step()
    backward(model, 0)
    whole = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    pruner.mask_gradients()
    for key, mask in pruner.masks.items():
        gradient = model.get_parameter(key).grad
        assert gradient is not None
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask] != 0).any()
    assert nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None]) < whole


@pytest.mark.parametrize("importance", ["magnitude", "movement", "taylor", "random", "lamp"])
@pytest.mark.parametrize("cut", [0, 3, 7, 12, 18])
def test_resumed_equals_uninterrupted(importance: str, cut: int) -> None:
    def make() -> tuple[nn.Module, Optimizer, Pruner]:
        model = make_model()
        optimizer = OPTIMIZERS["adamw"](list(model.parameters()))
        schedule = CubicSchedule(0.8, steps=12, begin=2, every=3)
        return model, optimizer, Pruner(model, importance=importance, schedule=schedule, optimizer=optimizer)

    def train(model: nn.Module, optimizer: Optimizer, pruner: Pruner, steps: range) -> None:
        for step in steps:
            backward(model, step)
            optimizer.step()
            pruner.step()

    whole = make()
    train(*whole, range(20))
    parts = make()
    train(*parts, range(cut))
    saved = trip([part.state_dict() for part in parts])
    resumed = make()
    with torch.no_grad():
        for parameter in resumed[0].parameters():
            parameter.add_(1)
    for part, state in zip(resumed, saved, strict=True):
        part.load_state_dict(state)
    train(*resumed, range(cut, 20))
    for a, b in zip(whole[0].state_dict().values(), resumed[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert whole[2].steps == resumed[2].steps == 20
    assert zeros(whole[0]) == round(0.8 * 144)


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two classes that no line tells apart: the product of two signs, among ten features."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 10, generator=generator)
    return inputs, (inputs[:, 0] * inputs[:, 1] > 0).long()


def trained(seed: int, **options: Any) -> float:
    """Accuracy after 600 steps of training with nine tenths pruned on the way."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    pruner = Pruner(model, optimizer=optimizer, scope="local", **options)  # as the paper's
    inputs, targets = blobs(512, 2 * seed)
    for _ in range(600):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        pruner.step()
    assert pruner.finish().sparsity == pytest.approx(0.9, abs=1e-3)
    inputs, targets = blobs(1000, 2 * seed + 1)
    return float((model(inputs).argmax(1) == targets).float().mean())


def test_gradual_magnitude_keeps_more_than_one_shot_and_random() -> None:
    """All of them end after 400 steps and train on for 200; means of four fixed seeds."""
    gradual = CubicSchedule(0.9, steps=400, every=10)
    ways = [
        {"schedule": gradual},
        {"schedule": ConstantSchedule(0.9, begin=400)},
        {"schedule": gradual, "importance": "random"},
    ]
    ours, one_shot, random = (sum(trained(seed, **way) for seed in range(4)) / 4 for way in ways)
    assert ours > 0.95
    assert ours > one_shot + 0.02
    assert ours > random + 0.2


def test_local_scope_normalisation_and_patterns_of_names() -> None:
    model = make_model()
    model[0].weight.data *= 1e-3
    pruner = Pruner(model, schedule=0.5, scope="local")
    pruner.step()
    assert [part.share for part in pruner.summary().parts] == [0.5, 0.5]
    model = make_model()
    model[0].weight.data *= 1e-3
    plain = Pruner(model, schedule=0.5)
    plain.step()
    assert plain.summary().parts[1].kept == 48  # all small ones are in the first
    model = make_model()
    model[0].weight.data *= 1e-3
    fair = Pruner(model, schedule=0.5, normalize=True)
    fair.step()
    assert fair.summary().parts[1].kept < 48
    assert zeros(model) == 72
    only = Pruner(make_model(), schedule=0.5, include="3")
    only.step()
    assert list(only.masks) == ["3.weight"]
    with pytest.raises(ValueError, match="`skip`: the pattern 'decoder' must match"):
        Pruner(make_model(), schedule=0.5, skip="decoder")


def test_at_least_one_weight_is_kept_and_said() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    model[1].weight.data *= 1e-6
    pruner = Pruner(model, schedule=0.7)
    with pytest.warns(
        UserWarning, match="`1.weight` keeps one weight, as the share asked for would empty it"
    ):
        pruner.step()
    assert zeros(model) == 14  # 13 of the larger would have gone: the count is exact all the same
    assert pruner.finish().notes
    everything = Pruner(nn.Linear(3, 1), schedule=0.99)
    with pytest.warns(UserWarning, match="`weight` keeps one weight, as"):
        everything.step()
    assert everything.summary().kept == 1
    rows = Pruner(nn.Linear(4, 2), schedule=0.95, scope="row")
    with pytest.warns(UserWarning, match="`weight` keeps one weight of each row"):
        rows.step()
    assert rows.masks["weight"].sum(1).tolist() == [1, 1]


def test_two_of_four_gradually() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 6), nn.Linear(6, 2))
    with pytest.warns(UserWarning, match="`2.weight` is left dense, as its input axis of 6"):
        pruner = Pruner(model, what="2:4", schedule=LinearSchedule(0.5, steps=4))
    kept = []
    for _ in range(4):
        pruner.step()
        blocks = model[0].weight.detach().unflatten(1, (-1, 4)).count_nonzero(2)
        kept.append(blocks.unique().tolist())
    assert kept == [[4], [3], [3], [2]]
    assert [part.kind for part in pruner.finish().parts] == ["2:4", "2:4"]
    assert (model[2].weight != 0).all()


def test_finish_is_the_end() -> None:
    model = make_model()
    optimizer = OPTIMIZERS["sgd"](list(model.parameters()))
    pruner = Pruner(model, schedule=0.5, optimizer=optimizer)
    pruner.step()
    summary = pruner.finish()
    assert (summary.kept, summary.total, summary.sparsity) == (72, 144, 0.5)
    assert str(summary).splitlines()[0].split() == ["part", "kind", "kept", "of", "share"]
    assert len(str(summary).splitlines()) == 3
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    with pytest.raises(RuntimeError, match=r"`step` must be called before `finish\(\)`"):
        pruner.step()


def test_observing_by_hand_equals_hooks() -> None:
    shares = []
    for by_hand in (True, False):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        pruner = Pruner(
            model,
            importance="taylor",
            schedule=ConstantSchedule(0.5, begin=4),
            optimizer=None if by_hand else optimizer,
        )
        for step in range(4):
            backward(model, step)
            if by_hand:
                pruner.observe()
            optimizer.step()
            pruner.step()
        shares.append(pruner.masks)
    assert all(torch.equal(shares[0][key], shares[1][key]) for key in shares[0])


def test_sparse_gradients_of_an_embedding_are_seen() -> None:
    layer = nn.Embedding(6, 4, sparse=True)
    optimizer = torch.optim.SparseAdam(layer.parameters(), lr=0.1)
    pruner = Pruner(
        layer, importance="movement", schedule=ConstantSchedule(0.5, begin=2), optimizer=optimizer
    )
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.tensor([0, 1, 1, 5])).square().sum().backward()
        optimizer.step()
        pruner.step()
    assert (layer.weight == 0).sum() == 12


def test_half_precision_and_strides() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3)).to(torch.bfloat16).to(memory_format=torch.channels_last)
    Pruner(model, schedule=0.5).step()
    assert (model[0].weight == 0).sum() == 144
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    empty = nn.Sequential(nn.Linear(3, 2), nn.Linear(3, 2))
    empty[0].weight.data = torch.empty(2, 0)
    Pruner(empty, schedule=0.5).step()
    assert (empty[1].weight == 0).sum() == 3
    one = nn.Linear(1, 1)
    Pruner(one, schedule=0.4).step()
    assert one.weight != 0


def test_importances_may_be_objects() -> None:
    for importance in (Magnitude(norm=1), RandomImportance(seed=3)):
        model = make_model()
        Pruner(model, importance=importance, schedule=0.5).step()
        assert zeros(model) == 72
