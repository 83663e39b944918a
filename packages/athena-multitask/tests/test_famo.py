"""FAMO against the paper, written plainly."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from athena_multitask import FAMO
from athena_multitask._adam_step import adam_step
from athena_multitask._famo import famo_gradient, famo_weights

TASKS = ["a", "b", "c"]
LR, DECAY, STEP = 0.025, 0.01, 0.02


class Model(nn.Module):
    """Three losses of different scale of one vector."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.vector = nn.Parameter(torch.randn(4, generator=generator, dtype=torch.float64))
        self.batches = torch.randn(100, 3, 6, 4, generator=generator, dtype=torch.float64)

    def forward(self, step: int) -> dict[str, Tensor]:
        errors = (self.batches[step] @ self.vector - torch.ones(6)).square().mean(1)
        losses = errors * torch.tensor([20.0, 1.0, 0.1], dtype=torch.float64) + 0.01
        return dict(zip(TASKS, losses.unbind(), strict=True))


def plain_famo(model: Model, steps: int) -> list[Tensor]:
    """Algorithm 1 with autograd for the Jacobian of softmax and torch's Adam; logits after each step."""
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=LR, weight_decay=DECAY)
    history = []
    for step in range(steps):
        losses = torch.stack(list(model(step).values()))
        z = logits.detach().softmax(0)
        c = 1 / (z / losses.detach()).sum()
        (gradient,) = torch.autograd.grad(c * (z * losses.log()).sum(), model.vector)
        with torch.no_grad():
            model.vector -= STEP * gradient
            after = torch.stack(list(model(step).values()))
        logits.grad = torch.autograd.grad(
            logits.softmax(0), logits, grad_outputs=losses.detach().log() - after.log()
        )[0]
        optimizer.step()
        history.append(logits.detach().clone())
    return history


def famo_step(famo: FAMO, model: Model, step: int) -> None:
    famo(model(step)).backward()
    with torch.no_grad():
        assert model.vector.grad is not None
        model.vector -= STEP * model.vector.grad
        model.vector.grad = None
        famo.update(model(step))


def test_equals_the_paper_for_100_steps() -> None:
    model, reference = Model(), Model()
    famo = FAMO(TASKS, lr=LR, decay=DECAY).double()
    for step, logits in enumerate(plain_famo(reference, 100)):
        famo_step(famo, model, step)
        torch.testing.assert_close(famo.logits, logits, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(model.vector, reference.vector, rtol=1e-9, atol=1e-11)
    assert famo.logits.abs().min() > 0.01  # they did move


def test_two_tasks_by_hand() -> None:
    logits = torch.tensor([0.0, 3.0]).log1p()  # shares 1/5, 4/5
    losses = torch.tensor([2.0, 8.0])
    # z / L = (0.1, 0.1)
    torch.testing.assert_close(famo_weights(logits, losses.log()), torch.tensor([0.5, 0.5]))
    gradient = famo_gradient(logits, losses.log(), torch.tensor([1.0, 8.0]).log())
    half = torch.tensor(2.0).log() * 0.2 * 0.8
    torch.testing.assert_close(gradient, torch.stack((half, -half)))


def test_equal_relative_falls_move_nothing_without_decay() -> None:
    famo = FAMO(["a", "b"], decay=0.0)
    losses = {"a": torch.tensor(3.0), "b": torch.tensor(1e-6)}
    famo(losses)
    famo.update({name: loss / 2 for name, loss in losses.items()})
    torch.testing.assert_close(famo.logits, torch.zeros(2), rtol=0, atol=0.03)
    assert famo.weights is not None
    torch.testing.assert_close(
        famo.weights @ torch.stack(list(losses.values())), torch.tensor(2e-6), rtol=1e-3, atol=0
    )


def test_decay_draws_logits_back() -> None:
    ends = []
    for decay in (0.0, 1.0):
        famo = FAMO(["a", "b"], decay=decay)
        for _ in range(300):
            famo({"a": torch.tensor(1.0), "b": torch.tensor(1.0)})
            famo.update({"a": torch.tensor(0.9), "b": torch.tensor(1.0)})
        ends.append(famo.logits.abs().max().item())
    assert ends[1] < 0.1 < 1 < ends[0]


@pytest.mark.parametrize("scale", [1e-10, 1e10])
def test_scales_of_losses_far_apart(scale: float) -> None:
    famo = FAMO(["a", "b"])
    value = torch.tensor(scale, requires_grad=True)
    for _ in range(5):
        loss = famo({"a": value * 1.0, "b": torch.tensor(1.0)})
        famo.update({"a": value * 0.5, "b": torch.tensor(0.9)})
        assert loss.isfinite()
    assert famo.logits.isfinite().all()


def test_an_update_that_is_forgotten_is_said() -> None:  # pitfall 7
    famo, losses = FAMO(["a"]), {"a": torch.tensor(1.0)}
    with pytest.raises(RuntimeError, match="`update` must follow a call of training"):
        famo.update(losses)
    famo(losses)
    with pytest.raises(RuntimeError, match="`update` must be called between two calls of training"):
        famo(losses)
    famo.update(losses)
    famo(losses)


def test_other_calls_need_no_update() -> None:
    famo, losses = FAMO(["a"]), {"a": torch.tensor(1.0)}
    famo.eval()
    famo(losses)
    famo.train()
    with torch.no_grad():
        famo(losses)
    famo(losses)


def test_goes_on_between_a_call_and_its_update() -> None:  # pitfall 7
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(1.0)}
    after = {"a": torch.tensor(1.0), "b": torch.tensor(0.9)}
    famo = FAMO(losses)
    famo(losses)
    resumed = FAMO(losses)
    resumed.load_state_dict(deepcopy(famo.state_dict()))
    for one in (famo, resumed):
        one.update(after)
    assert torch.equal(resumed.logits, famo.logits)
    assert famo.logits.any()


def test_bad_input() -> None:
    for options in ({"lr": 0.0}, {"decay": -1.0}, {"lr": float("inf")}):
        with pytest.raises(ValueError, match="`lr` must be positive, `decay` at least 0"):
            FAMO(["a"], **options)
    famo = FAMO(["a", "b"])
    with pytest.raises(ValueError, match=r"`losses\['b'\]` must be finite and positive for FAMO; got 0.0"):
        famo({"a": torch.tensor(1.0), "b": torch.tensor(0.0)})
    good = {"a": torch.tensor(1.0), "b": torch.tensor(1.0)}
    famo(good)
    with pytest.raises(ValueError, match=r"`losses\['a'\]` must be finite and positive for FAMO; got nan"):
        famo.update(good | {"a": torch.tensor(float("nan"))})
    famo.update(good)


def test_adam_step_is_that_of_torch() -> None:
    value = torch.randn(4, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([value], lr=0.1, weight_decay=0.2)
    ours, moments = value.detach().clone(), torch.zeros(2, 4, dtype=torch.float64)
    for step in range(1, 30):
        value.grad = torch.randn(4, dtype=torch.float64)
        ours, moments = adam_step(ours, value.grad, moments, step, lr=0.1, decay=0.2)
        optimizer.step()
    torch.testing.assert_close(ours, value.detach(), rtol=1e-12, atol=1e-12)
