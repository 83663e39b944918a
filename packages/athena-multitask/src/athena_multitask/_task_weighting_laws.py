"""The laws of weightings of losses: what the conformance kit asks of each."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from athena_core import Component
from athena_core.testing import Check
from athena_multitask._task_weighting import TaskWeighting

WeightingFactory = Callable[..., TaskWeighting]
Losses = dict[str, Tensor]

TASKS = ("depth", "normal", "segment")


class Example(nn.Module):
    """A shared layer and three heads, whose losses are positive."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        self.shared = nn.Parameter(torch.randn(4, 3, generator=generator))
        self.heads = nn.Parameter(torch.randn(3, 4, generator=generator))
        self.batches = torch.randn(32, 5, 3, generator=generator)

    def forward(self, step: int) -> Losses:
        features = (self.batches[step % 32] @ self.shared.T).tanh() @ self.heads.T
        losses = (features - 1).square().mean(0) * torch.tensor([10.0, 1.0, 0.1])
        return dict(zip(TASKS, losses.unbind(), strict=True))


def example_task_weighting(target: WeightingFactory) -> TaskWeighting:
    """A weighting of three tasks; one that needs shared parameters gets those of an example."""
    return weighting_of(target, Example())


def weighting_of(target: WeightingFactory, model: Example, tasks: tuple[str, ...] = TASKS) -> TaskWeighting:
    """A weighting of these tasks, for this model."""
    needs_shared = "shared" in inspect.signature(target).parameters
    return target(tasks, shared=[model.shared]) if needs_shared else target(tasks)


def train(
    weighting: TaskWeighting, model: Example, steps: range, tasks: tuple[str, ...] = TASKS
) -> list[Tensor]:
    """Plain descent of model and weighting, with all that a weighting asks for; the loss of each step."""
    losses = []
    for step in steps:
        given = {name: loss for name, loss in model(step).items() if name in tasks}
        loss = weighting(given)
        loss.backward()
        losses.append(loss.detach())
        with torch.no_grad():
            for parameter in (*model.parameters(), *weighting.parameters()):
                if parameter.grad is not None:
                    parameter -= 0.05 * parameter.grad
                    parameter.grad = None
            if callable(update := getattr(weighting, "update", None)):
                update({name: loss for name, loss in model(step).items() if name in tasks})
        if step % 8 == 7 and callable(end_epoch := getattr(weighting, "end_epoch", None)):
            end_epoch()
    return losses


def _is_a_finite_scalar(target: WeightingFactory) -> None:
    model = Example()
    losses = train(weighting_of(target, model), model, range(32))
    assert all(loss.ndim == 0 for loss in losses), "a loss that is no scalar"
    assert torch.stack(losses).isfinite().all(), "a loss that is not finite"


def _weights_are_derivatives(target: WeightingFactory) -> None:
    model = Example()
    weighting = weighting_of(target, model)
    train(weighting, model, range(20))
    losses = model(20)
    derivatives = torch.autograd.grad(weighting(losses), list(losses.values()))
    torch.testing.assert_close(torch.stack(derivatives), weighting.weights)
    assert (torch.stack(derivatives) >= 0).all(), "a weight that is negative"


def _goes_on_from_a_checkpoint(target: WeightingFactory) -> None:
    model = Example()
    whole = weighting_of(target, model)
    train(whole, model, range(11))
    later = deepcopy(model)
    resumed = weighting_of(target, later)
    resumed.load_state_dict(deepcopy(whole.state_dict()))
    train(whole, model, range(11, 24))
    train(resumed, later, range(11, 24))
    torch.testing.assert_close(later.state_dict(), model.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(resumed.weights, whole.weights, rtol=0, atol=0)


def _order_of_losses_does_not_matter(target: WeightingFactory) -> None:
    model, other = Example(), Example()
    losses = train(weighting_of(target, model), model, range(16))
    weighting = weighting_of(target, other)
    forward = other.forward
    other.forward = lambda step: dict(reversed(forward(step).items()))  # type: ignore[method-assign]
    torch.testing.assert_close(train(weighting, other, range(16)), losses, rtol=0, atol=0)


def _takes_one_task(target: WeightingFactory) -> None:
    model = Example()
    losses = train(weighting_of(target, model, TASKS[:1]), model, range(16), TASKS[:1])
    assert torch.stack(losses).isfinite().all(), "a loss that is not finite"


def _refusal(weighting: TaskWeighting, losses: Losses) -> str | None:
    """What the ValueError says that a call raises, or None if none."""
    try:
        weighting(losses)
    except ValueError as error:
        return str(error)
    return None


def _missing_tasks_are_taken_or_refused(target: WeightingFactory) -> None:
    weighting, losses = weighting_of(target, Example()), Example()(0)
    del losses["normal"]
    said = _refusal(weighting, losses)
    if weighting.takes_missing:
        assert said is None, f"`takes_missing`, yet refused: {said}"
        weights = weighting.weights
        assert weights is not None
        assert weights[1] == 0, "a missing task has a weight"
    else:
        assert said is not None, "a missing task is taken, yet not `takes_missing`"
        assert "normal" in said, f"the error does not name the missing task: {said}"


def _remembers_training_alone(target: WeightingFactory) -> None:
    model = Example()
    weighting = weighting_of(target, model)
    train(weighting, model, range(3))
    before = deepcopy(weighting.state_dict())
    weighting.eval()
    weighting(model(3))
    weighting.train()
    with torch.no_grad():
        weighting(model(3))
    assert str(weighting.state_dict()) == str(before), "a call that trains nothing was remembered"


def _says_which_loss_is_wrong(target: WeightingFactory) -> None:
    model = Example()
    weighting = weighting_of(target, model)
    nan, vector = model(0), model(0)
    nan["normal"] = nan["normal"] * torch.nan
    vector["normal"] = vector["normal"].expand(2)
    unknown = model(0) | {"pose": torch.ones(())}
    before = str(weighting.state_dict())
    for wrong, word in ((nan, "normal"), (vector, "(2,)"), (unknown, "pose"), ({}, "none")):
        said = _refusal(weighting, wrong)
        assert said is not None, f"no ValueError that says {word!r}"
        assert word in said, f"the error lacks {word!r}: {said}"
    assert str(weighting.state_dict()) == before, "losses that were refused were remembered"


def task_weighting_checks(
    component: Component,  # noqa: ARG001 (the kit gives it)
    target: WeightingFactory,
) -> Iterator[Check]:
    """The laws of a weighting that is made from names, and shared parameters if it has such an argument."""
    laws = {
        "it gives a finite scalar": _is_a_finite_scalar,
        "its weights are the derivatives by the losses": _weights_are_derivatives,
        "it goes on from a checkpoint": _goes_on_from_a_checkpoint,
        "the order of losses does not matter": _order_of_losses_does_not_matter,
        "it takes one task": _takes_one_task,
        "missing tasks are taken, or refused by name": _missing_tasks_are_taken_or_refused,
        "it remembers training alone": _remembers_training_alone,
        "it says which loss is wrong": _says_which_loss_is_wrong,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))
