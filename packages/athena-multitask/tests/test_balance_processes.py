"""Two processes, each with half of the batch, get the gradients that one gets of all of it."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from athena_core.testing import run_in_two_processes, take_part
from athena_multitask import GradDrop, GradVac, PCGrad, balance

NAMES = ("a", "b", "c")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh())
        self.heads = nn.ModuleDict({name: nn.Linear(4, 1) for name in NAMES})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.encoder(x)
        return {name: head(features) for name, head in self.heads.items()}


def given() -> tuple[Model, Tensor, Tensor]:
    """A model, a batch, and targets that make tasks conflict."""
    torch.manual_seed(0)
    return Model().double(), torch.randn(8, 3).double(), torch.randn(8, len(NAMES)).double()


def losses_of(model: nn.Module, x: Tensor, y: Tensor, names: tuple[str, ...] = NAMES) -> dict[str, Tensor]:
    found = model(x)
    return {name: (found[name][:, 0] - y[:, NAMES.index(name)]).square().mean() for name in names}


def half(rank: int, *of: Tensor) -> list[Tensor]:
    return [one[4 * rank : 4 * rank + 4] for one in of]


def gradients(model: nn.Module) -> list[Tensor | None]:
    return [None if one.grad is None else one.grad.clone() for one in model.parameters()]


def heads_of(model: Model) -> dict[str, list[nn.Parameter]]:
    return {name: list(model.heads[name].parameters()) for name in NAMES}


def assert_same(found: list[Tensor | None], expected: list[Tensor | None]) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def equals_one(rank: int, method: type[PCGrad | GradDrop | GradVac], *, wrapped: bool = False) -> None:
    """Pitfall 9: tasks are averaged before they are balanced, which is not the mean of balanced halves."""
    model, x, y = given()
    own = method(seed=0)
    for _ in range(2):
        balance(losses_of(model, x, y), shared=model.encoder.parameters(), method=own, group=None)
    expected = gradients(model)
    model.zero_grad()
    outer = DistributedDataParallel(model) if wrapped else model
    own = method(seed=0)
    for _ in range(2):  # a wrapper that waits for a reduction would complain at the second forward pass
        losses = losses_of(outer, *half(rank, x, y))
        balance(losses, shared=model.encoder.parameters(), method=own)
    assert_same(gradients(model), expected)


def is_not_the_mean_of_halves(rank: int) -> None:
    model, x, y = given()
    balance(losses_of(model, x, y), shared=model.encoder.parameters(), method=PCGrad(seed=0), group=None)
    expected = model.encoder[0].weight.grad.clone()
    model.zero_grad()
    losses = losses_of(model, *half(rank, x, y))
    balance(losses, shared=model.encoder.parameters(), method=PCGrad(seed=0), group=None)
    mean = model.encoder[0].weight.grad
    dist.all_reduce(mean)
    assert (mean / 2 - expected).abs().max() > 1e-3


def takes_missing_tasks(rank: int, *, layers: int) -> None:
    """Pitfall 10: task b is in one process alone, c in none; what one process would get, both get.

    Layers of the encoder that lie below the shared ones get plain gradients, and are named with the heads.
    """
    model, x, y = given()
    shared = list(model.encoder.parameters())[-2 * layers :]
    below = list(model.encoder.parameters())[: -2 * layers]
    mine = [("a", "b"), ("a",)][rank]
    parts = half(rank, x, y)
    heads = {name: [*own, *below] for name, own in heads_of(model).items()}
    balance(losses_of(model, *parts, mine), shared=shared, method=PCGrad(seed=0), heads=heads)
    found = gradients(model)
    assert model.heads["c"].weight.grad is None  # no decay where a task was nowhere
    model.zero_grad()
    whole = losses_of(model, x, y, ("a",)) | losses_of(model, *half(0, x, y), ("b",))
    balance(whole, shared=shared, method=PCGrad(seed=0), group=None)
    assert_same(found, gradients(model))


def takes_a_process_without_tasks(rank: int) -> None:
    model, x, y = given()
    losses = losses_of(model, x, y) if rank == 0 else {}
    balanced = balance(
        losses, shared=model.encoder.parameters(), method=PCGrad(seed=0), heads=heads_of(model)
    )
    assert balanced.tasks == NAMES
    found = gradients(model)
    model.zero_grad()
    balance(losses_of(model, x, y), shared=model.encoder.parameters(), method=PCGrad(seed=0), group=None)
    assert_same(found, gradients(model))


def takes_gradients_of_another_layout(rank: int) -> None:
    """Task b is in one process alone, where its gradient has other strides than its parameter."""
    model, x, _ = given()
    own = nn.Parameter(torch.arange(12.0).view(3, 4).T.double())
    losses = {"a": model(x)["a"].mean()}
    if rank == 0:
        losses["b"] = (model.encoder(x) @ own[torch.arange(4)]).mean()
    heads = {"a": model.heads["a"].parameters(), "b": [own]}
    balance(losses, shared=model.encoder.parameters(), method=PCGrad(seed=0), heads=heads)
    expected = model.encoder(x).mean(0)[:, None].expand(4, 3) / 3
    torch.testing.assert_close(own.grad, expected)


def refuses_other_tasks(rank: int) -> None:
    model, x, y = given()
    losses = losses_of(model, x, y, [("a", "b"), ("a", "c")][rank])
    with pytest.raises(ValueError, match="must be of the same tasks in every process; got"):
        balance(losses, shared=model.encoder.parameters(), method=PCGrad(seed=0))


def refuses_unlisted_parameters(rank: int) -> None:
    model, x, y = given()
    heads = heads_of(model) | {"b": []}
    with pytest.raises(ValueError, match=r"`heads` must hold every parameter .* \[\(1, 4\), \(1,\)\]"):
        balance(losses_of(model, x, y), shared=model.encoder.parameters(), method=PCGrad(seed=0), heads=heads)


def refuses_other_parameters(rank: int) -> None:
    """A layer that one process alone goes through would be summed with another's, or waited for."""
    model, x, y = given()
    extra = nn.Linear(3, 3).double()
    losses = losses_of(model, x if rank else extra(x), y)
    with pytest.raises(ValueError, match=r"the same parameters in every process; got, .* Give `heads`"):
        balance(losses, shared=model.encoder.parameters(), method=PCGrad(seed=0))


def refuses_parameters_that_one_process_does_not_list(rank: int) -> None:
    model, x, y = given()
    extra = nn.Linear(3, 3).double()
    losses = losses_of(model, x if rank else extra(x), y)
    says = ["`heads` must hold every parameter", "the same parameters in every process"][rank]
    with pytest.raises(ValueError, match=says):
        balance(losses, shared=model.encoder.parameters(), method=PCGrad(seed=0), heads=heads_of(model))


def names_a_task_that_failed_elsewhere(rank: int, *, has_samples: bool) -> None:
    model, x, y = given()
    losses = losses_of(model, *half(rank, x, y))
    if rank == 1:  # the mean of no samples is NaN, its gradient zero
        losses["b"] = losses["b"] * float("nan") if has_samples else model(x[:0])["b"].mean()
    with pytest.raises(ValueError, match="got b not to be"):
        balance(losses, shared=model.encoder.parameters(), method=PCGrad(seed=0))


def scales_alike(rank: int) -> None:
    model, x, y = given()
    balance(losses_of(model, x, y), shared=model.encoder.parameters(), method=PCGrad(seed=0), group=None)
    expected = gradients(model)
    model.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    losses = losses_of(model, *half(rank, x, y))
    balance(losses, shared=model.encoder.parameters(), method=PCGrad(seed=0), scaler=scaler)
    assert_same([one / 2**10 for one in gradients(model)], expected)


CHECKS = {
    "PCGrad": lambda rank: equals_one(rank, PCGrad),
    "GradVac": lambda rank: equals_one(rank, GradVac),
    "GradDrop": lambda rank: equals_one(rank, GradDrop),
    "wrapped": lambda rank: equals_one(rank, PCGrad, wrapped=True),
    "not the mean of halves": is_not_the_mean_of_halves,
    "missing tasks": lambda rank: takes_missing_tasks(rank, layers=2),
    "missing tasks, plain layers below": lambda rank: takes_missing_tasks(rank, layers=1),
    "another layout": takes_gradients_of_another_layout,
    "no task": takes_a_process_without_tasks,
    "other tasks": refuses_other_tasks,
    "unlisted parameters": refuses_unlisted_parameters,
    "other parameters": refuses_other_parameters,
    "parameters unlisted in one": refuses_parameters_that_one_process_does_not_list,
    "not finite": lambda rank: names_a_task_that_failed_elsewhere(rank, has_samples=True),
    "not finite, without samples": lambda rank: names_a_task_that_failed_elsewhere(rank, has_samples=False),
    "scaled": scales_alike,
}


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return run_in_two_processes(__file__, tmp_path_factory.mktemp("processes"))


@pytest.mark.parametrize("name", CHECKS)
def test_two_processes(failed: dict[str, str], name: str) -> None:
    assert name not in failed, failed[name]


if __name__ == "__main__":
    take_part(list(CHECKS), lambda name, rank, _folder: CHECKS[name](rank))
