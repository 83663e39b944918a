"""Gradients of shared parameters are balanced, those of others are plain, whatever the graph looks like."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from shared_tasks import KINDS, Summed, Tasks
from torch import Tensor, nn

from athena_multitask import Balanced, GradDrop, PCGrad, balance
from athena_multitask._loss_graph import loss_graph


def reference(model: Tasks, x: Tensor, shared: list[nn.Parameter]) -> Tensor:
    """One plain backward pass a task, from the start."""
    rows = []
    for name in model.heads:
        model.zero_grad()
        model.losses(x)[name].backward()
        parts = [torch.zeros_like(one) if one.grad is None else one.grad for one in shared]
        rows.append(torch.cat([part.flatten() for part in parts]))
    model.zero_grad()
    return torch.stack(rows)


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    return {name: None if one.grad is None else one.grad.clone() for name, one in model.named_parameters()}


def assert_same(found: Mapping[str, Tensor | None], expected: Mapping[str, Tensor | None]) -> None:
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_matrix_is_that_of_one_pass_a_task(kind: str) -> None:
    model, x, method = Tasks(kind), torch.randn(5, 3, dtype=torch.float64), Summed()
    shared = list(dict.fromkeys(model.shared()))
    expected = reference(model, x, shared)
    balanced = balance(model.losses(x), shared=shared, method=method)
    torch.testing.assert_close(method.matrix, expected)
    torch.testing.assert_close(balanced.gramian, expected @ expected.T)
    torch.testing.assert_close(balanced.norms, expected.norm(dim=1))
    torch.testing.assert_close(
        balanced.cosines, nn.functional.normalize(expected) @ nn.functional.normalize(expected).T
    )


@pytest.mark.parametrize("kind", KINDS)
def test_summed_they_are_the_plain_step(kind: str) -> None:
    """Heads and what lies below get plain gradients; in all kinds of graphs."""
    model, x = Tasks(kind), torch.randn(5, 3, dtype=torch.float64)
    torch.stack(list(model.losses(x).values())).sum().backward()
    expected = gradients(model)
    model.zero_grad()
    balance(model.losses(x), shared=model.shared(), method=Summed())
    found = gradients(model)
    for name in ("unused.weight", "unused.bias"):
        assert expected.pop(name) is None
        assert not found[name].any()  # shared, but no task reaches it: a column of zeros
    assert_same(found, expected)


@pytest.mark.parametrize("kind", ["plain", "two depths"])
def test_heads_get_plain_gradients_whatever_the_method(kind: str) -> None:
    """Pitfall 3."""
    model, x = Tasks(kind), torch.randn(5, 3, dtype=torch.float64)
    torch.stack(list(model.losses(x).values())).sum().backward()
    expected = {name: one for name, one in gradients(model).items() if name.startswith(("heads", "below"))}
    model.zero_grad()
    balance(model.losses(x), shared=model.shared(), method=lambda matrix: matrix[0] * 0)
    assert_same(gradients(model), expected)


def test_all_shared_parameters_are_balanced_as_one_vector() -> None:
    """Pitfall 3: two tensors, whose gradients conflict in one and not in the sum of both."""
    one, two = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    losses = {"a": one.sum() + 2 * two.sum(), "b": -one.sum() + two.sum()}
    balance(losses, shared=[one, two], method=PCGrad(seed=0))
    assert (one.grad, two.grad) == (torch.zeros(1), torch.full((1,), 3.0))


@pytest.mark.parametrize("method", [PCGrad(seed=0), GradDrop(seed=0)])
def test_gradients_that_are_none_are_written_and_others_added_to(method: PCGrad | GradDrop) -> None:
    """Pitfall 1, and accumulation: two calls add up, each balanced on its own."""
    model, x = Tasks(), torch.randn(2, 5, 3, dtype=torch.float64)
    start = method.state_dict()["generator"]
    alone = []
    for part in x:
        model.zero_grad(set_to_none=True)
        balance(model.losses(part), shared=model.shared(), method=method)
        alone.append(gradients(model))
    assert all(one is not None and one.any() for name, one in alone[0].items() if "unused" not in name)
    method.load_state_dict({"generator": start})
    model.zero_grad(set_to_none=True)
    for part in x:
        balance(model.losses(part), shared=model.shared(), method=method)
    assert_same(gradients(model), {name: one + alone[1][name] for name, one in alone[0].items()})
    model.zero_grad(set_to_none=False)
    method.load_state_dict({"generator": start})
    balance(model.losses(x[0]), shared=model.shared(), method=method)
    assert_same(gradients(model), alone[0])


def test_written_gradients_share_no_memory() -> None:
    first, second = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    shared = nn.Parameter(torch.ones(3))
    losses = {"a": (first + second + shared).sum(), "b": shared.sum()}
    balance(losses, shared=[shared], method=Summed())
    first.grad.mul_(5)  # of `second` too, where autograd gave both the same
    assert second.grad.tolist() == [1.0, 1.0, 1.0]


def test_written_gradients_lie_in_memory_as_their_parameters_do() -> None:
    """Fused optimizers go through a parameter and its gradient by place in memory."""
    encoder = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    own = nn.Parameter(torch.randn(4, 6).T)
    stepped = []
    for fused in (False, True):
        parameters = [parameter.detach().clone().requires_grad_() for parameter in (encoder.weight, own)]
        optimizer = torch.optim.SGD(parameters, lr=0.1, fused=fused)
        features = nn.functional.conv2d(torch.ones(2, 3, 5, 5).cumsum(3), parameters[0]).mean((2, 3))
        losses = {"a": (features @ parameters[1].T).square().mean(), "b": features.square().mean()}
        balance(losses, shared=parameters[:1], method=PCGrad(seed=0))
        assert [one.grad.stride() for one in parameters] == [one.stride() for one in (encoder.weight, own)]
        optimizer.step()
        stepped.append(parameters)
    torch.testing.assert_close(stepped[1], stepped[0])


def test_parameters_of_any_shape_and_sparse_gradients() -> None:
    scalar, none, method = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.ones(0)), Summed()
    table, own = nn.Embedding(3, 2, sparse=True), nn.Embedding(3, 2, sparse=True)
    picked = torch.tensor([1, 1])
    losses = {"a": table(picked).sum() * scalar + none.sum(), "b": (own(picked) * scalar).sum()}
    balance(losses, shared=[scalar, none, table.weight], method=method)
    assert method.matrix[:, 1:].tolist() == [[0.0, 0.0, 4.0, 4.0, 0.0, 0.0], [0.0] * 6]
    assert scalar.grad.shape == ()
    assert none.grad.shape == (0,)
    assert own.weight.grad.is_sparse  # plain training
    assert own.weight.grad.to_dense().tolist() == [[0.0, 0.0], [4.0, 4.0], [0.0, 0.0]]


def test_cosines_do_not_leave_their_range_by_rounding() -> None:
    for squared in range(1, 60):  # of 7, the root's inverse squared and times 7 is above 1
        gramian = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]) * squared
        cosines = Balanced(("a", "b", "c"), gramian, None, ()).cosines
        assert cosines.abs().max() <= 1
        assert cosines[2].tolist() == [0.0] * 3


def test_a_direction_that_the_method_keeps_is_not_changed() -> None:
    weight, kept = nn.Parameter(torch.ones(2)), torch.ones(2)
    for _ in range(2):
        balance({"a": weight.sum()}, shared=[weight], method=lambda _: kept)
    assert weight.grad.tolist() == [2.0, 2.0]
    assert kept.tolist() == [1.0, 1.0]


def test_frozen_parameters_are_left_alone() -> None:
    model, x, method = Tasks(), torch.randn(5, 3, dtype=torch.float64), Summed()
    model.second.requires_grad_(False)
    balance(model.losses(x), shared=model.shared(), method=method)
    assert model.second.weight.grad is None
    assert method.matrix.shape[1] == 20 + 6


def test_one_loss_given_twice_and_one_above_another() -> None:
    weight, method = nn.Parameter(torch.tensor([2.0])), Summed()
    loss = weight.square().sum()
    balance({"a": loss, "b": loss, "c": 3 * loss}, shared=[weight], method=method)
    assert method.matrix.tolist() == [[4.0], [4.0], [12.0]]


def test_one_task_and_fifty() -> None:
    for n_tasks in (1, 50):
        encoder, x, method = nn.Linear(3, 4), torch.randn(5, 3), Summed()
        features = encoder(x).tanh()
        losses = {f"{i}": (features * (i + 1)).square().mean() for i in range(n_tasks)}
        balance(losses, shared=encoder.parameters(), method=method)
        scale = torch.arange(1, n_tasks + 1)[:, None] ** 2
        torch.testing.assert_close(method.matrix, method.matrix[:1] * scale)


@pytest.mark.parametrize("kind", ["plain", "two depths"])
def test_the_graph_is_kept_on_demand_alone(kind: str) -> None:
    model, x = Tasks(kind), torch.randn(5, 3, dtype=torch.float64)
    losses = model.losses(x)
    balance(losses, shared=model.shared(), method=Summed(), retain_graph=True)
    once = gradients(model)
    balance(losses, shared=model.shared(), method=Summed())
    assert_same(gradients(model), {name: None if one is None else 2 * one for name, one in once.items()})
    with pytest.raises(RuntimeError, match="second time"):
        balance(losses, shared=model.shared(), method=Summed())


def test_the_graph_that_all_share_is_freed() -> None:
    """Else what was saved for it would stay as long as anything holds a loss."""
    encoder = nn.Linear(3, 4)
    features = encoder(torch.randn(5, 3)).tanh()
    losses = {name: (features - i).square().mean() for i, name in enumerate("ab")}
    balance(losses, shared=encoder.parameters(), method=Summed())
    with pytest.raises(RuntimeError, match="second time"):
        features.sum().backward()


def test_what_lies_below_the_shared_parameters_is_passed_once() -> None:
    passes = []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, given):
            return given.clone()

        @staticmethod
        def backward(ctx, gradient):
            passes.append(1)
            return gradient

    below, last = nn.Linear(3, 4), nn.Linear(4, 4)
    features = last(Counted.apply(below(torch.randn(5, 3)).tanh()))
    losses = {name: (features - i).square().mean() for i, name in enumerate("abcdefgh")}
    balance(losses, shared=last.parameters(), method=PCGrad(seed=0))
    assert len(passes) == 1
    assert below.weight.grad is not None


@given(st.data())
def test_drawn_graphs(data: st.DataObject) -> None:
    """Layers of nodes joined at random: the matrix and the sum are those of autograd."""
    parameters = [nn.Parameter(torch.full((2,), 1.0 + i, dtype=torch.float64)) for i in range(4)]
    nodes: list[Tensor] = list(parameters)
    for _ in range(data.draw(st.integers(1, 6))):
        one, two = (data.draw(st.sampled_from(nodes)) for _ in range(2))
        nodes.append((one * two).sin() if data.draw(st.booleans()) else one - 0.5 * two)
    n_tasks = data.draw(st.integers(1, 4))
    tops = [data.draw(st.sampled_from(nodes)) for _ in range(n_tasks)]
    shared = parameters[: data.draw(st.integers(1, 4))]
    losses = {f"{i}": (top * (i + 1)).prod() + shared[0].sum() * i for i, top in enumerate(tops)}

    def plain(loss: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        return [torch.zeros(2).double() if one is None else one for one in found]

    rows = [plain(loss) for loss in losses.values()]
    reached = [any(row[i].any() for i in range(len(shared))) for row in rows]
    if not all(reached):
        return
    method = Summed()
    balance(losses, shared=shared, method=method)
    expected = torch.stack([torch.cat(row[: len(shared)]) for row in rows])
    torch.testing.assert_close(method.matrix, expected)
    for i, parameter in enumerate(parameters):
        total = sum(row[i] for row in rows)
        if parameter.grad is not None or total.any():
            torch.testing.assert_close(parameter.grad, total)


def test_a_graph_is_cut_where_its_losses_enter_what_they_share() -> None:
    model, x = Tasks(), torch.randn(5, 3, dtype=torch.float64)
    graph = loss_graph(list(model.losses(x).values()))
    assert len(graph.entries) == 1
    assert [len(own) for own in graph.own] == [2, 2, 2]
    assert graph.separate
    for kind in ("skip", "direct"):
        assert not loss_graph(list(Tasks(kind).losses(x).values())).entries
