"""Balancing with mixed precision, checkpoints, recurrent layers, and functions written by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from athena_multitask import AlignedMTL, PCGrad, balance

Losses = dict[str, Tensor]


class Model(nn.Module):
    """An encoder of any kind with three heads."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.ModuleDict({name: nn.Linear(4, 1) for name in "abc"})

    def losses(self, x: Tensor) -> Losses:
        features = self.encoder(x)
        return {
            name: (head(features).float() - i).square().mean()
            for i, (name, head) in enumerate(self.heads.items())
        }


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())


def step(model: Model, losses: Losses, **options: object) -> list[Tensor]:
    """Balanced gradients of all parameters."""
    model.zero_grad()
    balance(losses, shared=model.encoder.parameters(), method=PCGrad(seed=0), **options)
    return [one.grad.clone() for one in model.parameters()]


def by_plain_passes(model: Model, x: Tensor) -> list[Tensor]:
    shared = list(model.encoder.parameters())
    rows = []
    for name in model.heads:
        found = torch.autograd.grad(model.losses(x)[name], shared)
        rows.append(torch.cat([one.flatten() for one in found]))
    direction = PCGrad(seed=0).direction(torch.stack(rows))
    model.zero_grad()
    torch.stack(list(model.losses(x).values())).sum().backward()
    parts = direction.split([one.numel() for one in shared])
    balanced = [part.view_as(one) for part, one in zip(parts, shared, strict=True)]
    return balanced + [one.grad.clone() for one in model.heads.parameters()]


class Last(nn.Module):
    """The last output of a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.expand(6, *x.shape))[0][-1]


class Checkpointed(nn.Module):
    """Activations are computed again in each backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(*mlp(), nn.Dropout(0.0))

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


class Cube(torch.autograd.Function):
    """A function that no transform of torch can see into."""

    @staticmethod
    def forward(ctx, given):
        ctx.save_for_backward(given)
        return given**3

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 3 * ctx.saved_tensors[0] ** 2


class Cubed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp()

    def forward(self, x: Tensor) -> Tensor:
        return Cube.apply(self.inner(x))


ENCODERS = {
    "recurrent": Last,
    "checkpointed": Checkpointed,
    "by hand": Cubed,
    "normalised": lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()),
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.ReLU(), nn.Flatten(1)
    ),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders_of_any_kind(kind: str) -> None:
    """Pitfall 11: each backward pass is one that torch does anyway, none is batched by a transform."""
    model, x = Model(ENCODERS[kind]()), torch.randn(5, 3)
    expected = by_plain_passes(model, x)
    for found, one in zip(step(model, model.losses(x)), expected, strict=True):
        torch.testing.assert_close(found, one)


def test_a_compiled_encoder() -> None:
    """Pitfall 11: outputs of a compiled graph, traced but not turned into code."""
    model, x = Model(mlp()), torch.randn(5, 3)
    expected = by_plain_passes(model, x)
    compiled = torch.compile(model.encoder, backend="aot_eager")
    features = compiled(x)
    losses = {
        name: (head(features) - i).square().mean() for i, (name, head) in enumerate(model.heads.items())
    }
    for found, one in zip(step(model, losses), expected, strict=True):
        torch.testing.assert_close(found, one)


def test_reentrant_checkpoints_are_refused() -> None:
    model, x = Model(mlp()), torch.randn(5, 3, requires_grad=True)
    features = checkpoint(model.encoder, x, use_reentrant=True)
    losses = {name: head(features).mean() for name, head in model.heads.items()}
    with pytest.raises(ValueError, match=r"look for .* reentrant checkpoints"):
        step(model, losses)


def scaler(scale: float = 2.0**10) -> torch.amp.GradScaler:
    return torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)


def test_scaled_gradients_are_balanced_as_if_they_were_not() -> None:
    """Pitfall 8: powers of two change no digit, so that all is equal to the last one."""
    model, x = Model(mlp()), torch.randn(5, 3)
    expected = step(model, model.losses(x))
    for found, one in zip(step(model, model.losses(x), scaler=scaler()), expected, strict=True):
        torch.testing.assert_close(found / 2**10, one, rtol=1e-6, atol=1e-7)


def test_the_scaler_steps_as_the_optimizer_would() -> None:
    model, x = Model(mlp()), torch.randn(5, 3)
    start = [one.detach().clone() for one in model.parameters()]
    expected = step(model, model.losses(x))
    optimizer, scaling = torch.optim.SGD(model.parameters(), lr=0.1), scaler()
    balanced = balance_with(model, x, scaling)
    scaling.step(optimizer)
    scaling.update()
    for found, before, gradient in zip(model.parameters(), start, expected, strict=True):
        torch.testing.assert_close(found, before - 0.1 * gradient)
    assert balanced.nonfinite == ()
    assert balanced.gramian.diagonal().max() < 2.0**10  # what is told is not scaled


def balance_with(model: Model, x: Tensor, scaling: torch.amp.GradScaler, **options: object):
    model.zero_grad()
    return balance(
        model.losses(x), shared=model.encoder.parameters(), method=PCGrad(seed=0), scaler=scaling, **options
    )


def test_a_scaler_that_is_off_changes_nothing() -> None:
    model, x = Model(mlp()), torch.randn(5, 3)
    expected = step(model, model.losses(x))
    off = torch.amp.GradScaler("cpu", enabled=False)
    for found, one in zip(step(model, model.losses(x), scaler=off), expected, strict=True):
        torch.testing.assert_close(found, one)


def test_gradients_that_overflow_are_left_to_the_scaler() -> None:
    """A scale that is too high is found at the first step; to raise there would end each training."""
    model, x = Model(mlp()), torch.randn(5, 3)
    start = [one.detach().clone() for one in model.parameters()]
    optimizer, scaling = torch.optim.SGD(model.parameters(), lr=0.1), scaler(2.0**127)
    method = PCGrad(seed=0)
    before = method.state_dict()["generator"]
    losses = {name: 4 * loss for name, loss in model.losses(x).items()}
    model.zero_grad()
    balanced = balance(losses, shared=model.encoder.parameters(), method=method, scaler=scaling)
    assert balanced.nonfinite
    assert method.state_dict()["generator"].equal(before)
    scaling.step(optimizer)
    scaling.update()
    assert scaling.get_scale() == 2.0**126
    for found, one in zip(model.parameters(), start, strict=True):
        assert found.equal(one)


def test_a_loss_that_is_nan_is_no_overflow() -> None:
    model, x = Model(mlp()), torch.randn(5, 3)
    losses = model.losses(x)
    losses["b"] = losses["b"] * float("nan")
    with pytest.raises(ValueError, match="got b not to be"):
        step(model, losses, scaler=scaler())


def test_autocast_changes_the_forward_pass_alone() -> None:
    """Inside the region too: products of gradients keep their digits."""
    model, x = Model(mlp()), torch.randn(5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(x)
        inside = step(model, losses, retain_graph=True)
    outside = step(model, losses)
    for found, one in zip(inside, outside, strict=True):
        assert found.dtype == torch.float32
        assert found.equal(one)


@pytest.mark.parametrize("method", [PCGrad(seed=0), AlignedMTL()])
def test_parameters_of_lower_precision(method: PCGrad | AlignedMTL) -> None:
    model, x = Model(mlp()).bfloat16(), torch.randn(5, 3, dtype=torch.bfloat16)
    model.zero_grad()
    balanced = balance(model.losses(x), shared=model.encoder.parameters(), method=method)
    assert balanced.gramian.dtype == torch.float32
    assert all(one.grad.dtype == torch.bfloat16 for one in model.parameters())


def test_parameters_of_several_precisions() -> None:
    encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    last = nn.Linear(4, 2).double()
    features = last(encoder(torch.randn(5, 3)).double())
    losses = {"a": features[:, 0].square().mean(), "b": features[:, 1].square().mean()}
    balanced = balance(losses, shared=[*encoder.parameters(), *last.parameters()], method=PCGrad(seed=0))
    assert balanced.gramian.dtype == torch.float64
    assert encoder[0].weight.grad.dtype == torch.float32
    assert last.weight.grad.dtype == torch.float64


def test_losses_that_one_function_returned() -> None:
    """Each is an output of its own: `unbind` has one node for all."""
    weight = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    losses = dict(zip("abc", weight.square().unbind(), strict=True))
    balance(losses, shared=[weight], method=lambda matrix: matrix.sum(0))
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0, 4.0, 6.0]
