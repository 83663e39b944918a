"""GradNorm against the paper, written plainly."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from athena_multitask import GradNorm
from athena_multitask._gradnorm import gradnorm_gradient

TASKS = ["a", "b", "c"]


class Model(nn.Module):
    """Two shared layers, three heads."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(5, 4, generator=generator, dtype=torch.float64))
        self.last = nn.Parameter(torch.randn(4, 4, generator=generator, dtype=torch.float64))
        self.heads = nn.Parameter(torch.randn(4, 3, generator=generator, dtype=torch.float64))
        self.inputs = torch.randn(100, 6, 5, generator=generator, dtype=torch.float64)

    def forward(self, step: int) -> dict[str, Tensor]:
        outputs = (self.inputs[step] @ self.first).tanh().matmul(self.last).tanh() @ self.heads
        losses = (outputs - 1).square().mean(0) * torch.tensor([30.0, 1.0, 0.2], dtype=torch.float64)
        return dict(zip(TASKS, losses.unbind(), strict=True))


def descend(model: Model, lr: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter -= lr * parameter.grad
            parameter.grad = None


def plain_gradnorm(model: Model, steps: int, *, alpha: float, lr: float) -> list[Tensor]:
    """Algorithm 1 of the paper by autograd of its loss, with torch's Adam; weights before each step."""
    weights = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=lr)
    first, history = None, []
    for step in range(steps):
        history.append(weights.detach().clone())
        losses = torch.stack(list(model(step).values()))
        first = losses.detach() if first is None else first
        norms = []
        for i in range(3):
            (gradient,) = torch.autograd.grad(
                weights[i] * losses[i], model.last, retain_graph=True, create_graph=True
            )
            norms.append(gradient.square().sum().sqrt())
        norms = torch.stack(norms)
        ratio = losses.detach() / first
        target = (norms.mean() * (ratio / ratio.mean()) ** alpha).detach()
        (gradient,) = torch.autograd.grad((norms - target).abs().sum(), weights, retain_graph=True)
        (weights.detach() @ losses).backward(inputs=list(model.parameters()))
        weights.grad = gradient
        optimizer.step()
        with torch.no_grad():
            weights *= 3 / weights.sum()
        descend(model, 0.01)
    return history


@pytest.mark.parametrize("alpha", [0.0, 1.5])
def test_equals_the_paper_for_100_steps(alpha: float) -> None:
    model, reference = Model(), Model()
    gradnorm = GradNorm(TASKS, shared=[model.last], alpha=alpha, lr=0.01).double()
    expected = plain_gradnorm(reference, 100, alpha=alpha, lr=0.01)
    for step, weights in enumerate(expected):
        gradnorm(model(step)).backward()
        torch.testing.assert_close(gradnorm.weights, weights, rtol=1e-9, atol=1e-9)
        descend(model, 0.01)
    torch.testing.assert_close(model.first, reference.first, rtol=1e-9, atol=1e-9)
    assert (expected[-1] - 1).abs().max() > 0.2  # they did move


def test_weights_sum_to_the_tasks_and_stay_positive() -> None:  # pitfall 6
    model = Model()
    gradnorm = GradNorm(TASKS, shared=[model.last], alpha=3.0, lr=0.5)
    for step in range(60):
        gradnorm(model(step)).backward()
        descend(model, 0.01)
        assert math.isclose(gradnorm.balance.sum().item(), 3, rel_tol=1e-6)
        assert gradnorm.balance.min() > 0


def test_the_target_is_a_constant_and_the_distance_l1() -> None:  # pitfall 6
    norms, losses = torch.tensor([4.0, 1.0, 1.0]), torch.ones(3)
    gradient = gradnorm_gradient(torch.tensor([1.0, 2.0, 0.5]), norms, losses, losses, 1.5)
    # G = (4, 2, 0.5), mean 13/6: the signs are +, -, -; no term of the mean's own derivative.
    assert gradient.tolist() == [4, -1, -1]


def test_a_task_that_lags_behind_gets_a_larger_target() -> None:
    norms, first = torch.ones(2), torch.tensor([1.0, 10.0])
    gradient = gradnorm_gradient(torch.ones(2), norms, torch.tensor([1.0, 1.0]), first, 1.0)
    # Rates (1, 0.1) / 0.55: the first has lost nothing, and is to grow.
    assert gradient.tolist() == [-1, 1]


def test_losses_of_zero_and_tasks_without_gradient_are_taken() -> None:
    ones, zero = torch.ones(2), torch.zeros(2)
    assert gradnorm_gradient(ones, zero, zero, ones, 1.5).tolist() == [0, 0]
    weight = nn.Parameter(torch.ones(3))
    gradnorm = GradNorm(["a", "b"], shared=[weight])
    for _ in range(3):
        gradnorm({"a": weight.sum(), "b": (weight * 0).sum() + 1}).backward()
    assert gradnorm.balance.isfinite().all()


@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_scales_of_losses_far_apart(scale: float) -> None:
    weight = nn.Parameter(torch.ones(3))
    gradnorm = GradNorm(["a", "b"], shared=[weight])
    for _ in range(5):
        gradnorm({"a": weight.square().sum() * scale, "b": weight.square().sum()}).backward()
    assert gradnorm.balance.isfinite().all()
    assert (gradnorm.balance[0] > 1) == (scale < 1)


def test_fifty_tasks() -> None:
    weight = nn.Parameter(torch.ones(3))
    names = [str(number) for number in range(50)]
    gradnorm = GradNorm(names, shared=[weight])
    for _ in range(3):
        gradnorm({name: weight.square().sum() * (int(name) + 1) for name in names}).backward()
    assert math.isclose(gradnorm.balance.sum().item(), 50, rel_tol=1e-5)


def test_first_losses_are_in_the_checkpoint() -> None:  # pitfall 6
    model = Model()
    gradnorm = GradNorm(TASKS, shared=[model.last])
    first = torch.stack(list(model(0).values())).detach().float()
    for step in range(5):
        gradnorm(model(step)).backward()
    resumed = GradNorm(TASKS, shared=[model.last])
    resumed.load_state_dict(deepcopy(gradnorm.state_dict()))
    torch.testing.assert_close(resumed.initial, first)
    assert resumed.steps == 5


def test_no_gradient_is_written_and_nothing_enters_the_optimizer() -> None:
    model = Model()
    gradnorm = GradNorm(TASKS, shared=model.parameters())
    loss = gradnorm(model(0))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert list(gradnorm.parameters()) == []
    assert "last" not in " ".join(gradnorm.state_dict())
    loss.backward()


def test_shared_are_flattened_over_all_tensors() -> None:
    a, b = (nn.Parameter(torch.tensor([value])) for value in (3.0, 4.0))
    both = GradNorm(["p", "q"], shared=[a, b], lr=0.1)
    # Norms 10 and 10: equal, though each tensor's differ.
    losses = {"p": 6 * a.sum() + 8 * b.sum(), "q": 8 * a.sum() + 6 * b.sum() + 2}
    both(losses).backward()
    assert both.balance.tolist() == [1, 1]


def test_what_is_frozen_later_is_left_out() -> None:
    a, b = (nn.Parameter(torch.tensor([value])) for value in (3.0, 4.0))
    gradnorm = GradNorm(["p", "q"], shared=[a, b], alpha=0.0, lr=0.1)
    b.requires_grad_(False)
    gradnorm({"p": 6 * a.sum() + 8 * b.sum(), "q": 8 * a.sum() + 6 * b.sum()})
    torch.testing.assert_close(gradnorm.balance, torch.tensor([1.1, 0.9]))  # norms 6 and 8
    b.requires_grad_(True)
    a.requires_grad_(False)
    gradnorm({"p": 6 * a.sum() + 8 * b.sum(), "q": 8 * a.sum() + 6 * b.sum()})


def test_bad_input() -> None:
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match="`shared` must hold a parameter"):
        GradNorm(["a"], shared=iter(()))
    with pytest.raises(ValueError, match="`shared` must hold a parameter"):
        GradNorm(["a"], shared=[torch.ones(2)])
    with pytest.raises(ValueError, match="`shared` must hold a parameter"):
        GradNorm(["a"], shared=nn.Linear(2, 2).weight)
    with pytest.raises(ValueError, match="`alpha` must be at least 0"):
        GradNorm(["a"], shared=[weight], alpha=-1.0)
    with pytest.raises(ValueError, match="`lr` positive"):
        GradNorm(["a"], shared=[weight], lr=0.0)
    other = nn.Parameter(torch.ones(3))
    gradnorm = GradNorm(["a", "b"], shared=[weight])
    with pytest.raises(ValueError, match=r"`losses\['b'\]` must depend on a parameter of `shared`"):
        gradnorm({"a": weight.sum(), "b": other.sum()})
    with pytest.raises(ValueError, match=r"`losses\['b'\]` must depend on a parameter of `shared`"):
        gradnorm({"a": weight.sum(), "b": other.sum().detach()})
    with pytest.raises(ValueError, match=r"`losses\['b'\]` must be positive at first"):
        gradnorm({"a": weight.sum(), "b": weight.sum() * 0})
    with pytest.raises(ValueError, match=r"`losses\['b'\]` must be finite and at least 0.*got -3"):
        gradnorm({"a": weight.sum(), "b": -weight.sum()})
    assert gradnorm.steps == 0
    assert not gradnorm.initial.any()
