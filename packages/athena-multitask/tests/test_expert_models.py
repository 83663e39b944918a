"""MMoE, CGC and PLE: worked by hand, and against a plain float64 reference."""

from __future__ import annotations

import math

import multi_task_models
import pytest
import torch
from multi_task_models import MODELS, WIDTH
from torch import Tensor, nn

from athena_multitask import CGC, PLE, MMoE, MultiTaskModel


def linear(*rows: list[float]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows), bias=False)
    layer.weight = nn.Parameter(torch.tensor(rows))
    return layer


def test_two_experts_by_hand() -> None:
    """Experts give 2x and -x; at x = 1 one task's gate gives 3/4 and 1/4, the other's halves."""
    model = MMoE(
        [linear([2.0]), linear([-1.0])],
        gates={"a": linear([math.log(3.0)], [0.0]), "b": linear([0.0], [0.0])},
        heads={"a": nn.Identity(), "b": linear([10.0])},
    )
    predictions = model(torch.tensor([[1.0], [0.0]]))
    torch.testing.assert_close(predictions["a"], torch.tensor([[0.75 * 2 - 0.25], [0.0]]))
    torch.testing.assert_close(predictions["b"], torch.tensor([[10 * (0.5 * 2 - 0.5)], [0.0]]))


def test_one_expert_is_hard_sharing() -> None:
    expert, head, x = nn.Linear(3, 2), nn.Linear(2, 1), torch.randn(4, 3)
    mixed = MMoE([expert], gates={"a": nn.Linear(3, 1)}, heads={"a": head})
    torch.testing.assert_close(mixed(x)["a"], MultiTaskModel(expert, {"a": head})(x)["a"])


def test_experts_of_images() -> None:
    experts = [nn.Conv2d(3, 4, 3, padding=1) for _ in range(2)]
    gates = {name: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)) for name in "ab"}
    model, x = (
        MMoE(experts, gates=gates, heads={"a": nn.Identity(), "b": nn.Flatten()}),
        torch.randn(2, 3, 5, 6),
    )
    predictions = model(x)
    assert predictions["b"].shape == (2, 4 * 5 * 6)
    weights = gates["a"](x).softmax(1)[:, :, None, None, None]
    expected = weights[:, 0] * experts[0](x) + weights[:, 1] * experts[1](x)
    torch.testing.assert_close(predictions["a"], expected)


def test_a_layer_of_the_tasks_own_experts_by_hand() -> None:
    """At x = 1: own experts give 1 and 2, the shared one 4; every gate is uniform."""
    layer = CGC(
        [linear([4.0])],
        task_experts={"a": [linear([1.0])], "b": [linear([2.0])]},
        gates={"a": linear([0.0], [0.0]), "b": linear([0.0], [math.log(3.0)])},
        shared_gate=linear([0.0], [0.0], [math.log(2.0)]),
    )
    x = torch.ones(1, 1)
    of_tasks, shared = layer({"a": x, "b": x}, x)
    found = [of_tasks["a"].item(), of_tasks["b"].item(), shared.item()]
    assert found == pytest.approx([(1 + 4) / 2, 2 / 4 + 4 * 3 / 4, 1 / 4 + 2 / 4 + 4 * 2 / 4])


def test_a_task_without_experts_of_its_own_mixes_the_shared_ones() -> None:
    shared = [nn.Linear(2, 3), nn.Linear(2, 3)]
    gates = {"a": nn.Linear(2, 2), "b": nn.Linear(2, 3)}
    layer = CGC(shared, task_experts={"a": [], "b": [nn.Linear(2, 3)]}, gates=gates)
    model = PLE([layer], heads={"a": nn.Identity(), "b": nn.Identity()})
    x = torch.randn(4, 2)
    sole = MMoE(shared, gates={"a": gates["a"]}, heads={"a": nn.Identity()})
    torch.testing.assert_close(model(x)["a"], sole(x)["a"])


def reference_ple(model: PLE, x: Tensor) -> dict[str, Tensor]:
    """The paper's equations, row by row and expert by expert."""
    predictions: dict[str, list[Tensor]] = {name: [] for name in model.tasks}
    for row in x:
        z = dict.fromkeys((*model.tasks, "shared"), row)
        for layer in model.layers:
            common = [expert(z["shared"]) for expert in layer.shared_experts]
            own = {name: [expert(z[name]) for expert in layer.task_experts[name]] for name in model.tasks}
            mixed = {name: mix(layer.gates[name](z[name]), own[name] + common) for name in model.tasks}
            if layer.shared_gate is not None:
                every = [output for name in model.tasks for output in own[name]] + common
                mixed["shared"] = mix(layer.shared_gate(z["shared"]), every)
            z = mixed
        for name in model.tasks:
            predictions[name].append(model.heads[name](z[name]))
    return {name: torch.stack(rows) for name, rows in predictions.items()}


def mix(logits: Tensor, outputs: list[Tensor]) -> Tensor:
    powers = [math.e**logit for logit in logits]
    return sum(power * output for power, output in zip(powers, outputs, strict=True)) / sum(powers)


def test_three_layers_against_the_equations() -> None:
    model = MODELS["ple"]().double()
    x = torch.randn(5, WIDTH, dtype=torch.float64)
    found, expected = model(x), reference_ple(model, x)
    for name in model.tasks:
        torch.testing.assert_close(found[name], expected[name])
    sums = [sum(each.square().sum() for each in predictions.values()) for predictions in (found, expected)]
    ours, theirs = (torch.autograd.grad(total, list(model.parameters())) for total in sums)
    torch.testing.assert_close(ours, theirs)


def test_a_checkpoint_of_experts_in_another_order_is_refused() -> None:
    layers = [multi_task_models.cgc(names, WIDTH, last=True) for names in (("a", "b"), ("b", "a"))]
    with pytest.raises(ValueError, match=r"checkpoint must be of the tasks \['b', 'a'\].*got \['a', 'b'\]"):
        layers[1].set_extra_state(layers[0].get_extra_state())


def test_bad_input() -> None:
    own, gate, one = {"a": [nn.Linear(2, 2)]}, {"a": nn.Linear(2, 2)}, [nn.Linear(2, 2)]
    last = CGC(one, task_experts=own, gates=gate)
    first = CGC(one, task_experts=own, gates=gate, shared_gate=nn.Linear(2, 2))
    heads = {"a": nn.Identity()}
    with pytest.raises(ValueError, match="`experts` must hold a module; got none"):
        MMoE([], gates=gate, heads=heads)
    with pytest.raises(ValueError, match=r"`gates` must be of the tasks \['b'\]; got \['a'\]"):
        MMoE(one, gates=gate, heads={"b": nn.Identity()})
    with pytest.raises(ValueError, match=r"number for each row and expert, \(3, 1\); got.*\(3, 2\)"):
        MMoE(one, gates=gate, heads=heads)(torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"outputs of one shape; got \[\(3, 2\), \(3, 4\)\]"):
        MMoE([*one, nn.Linear(2, 4)], gates=gate, heads=heads)(torch.ones(3, 2))
    with pytest.raises(ValueError, match="`shared_experts` must hold a module; got none"):
        CGC([], task_experts=own, gates=gate)
    with pytest.raises(ValueError, match="`task_experts` must hold a module for each task; got none"):
        CGC(one, task_experts={}, gates={})
    with pytest.raises(ValueError, match="`layers` must hold a `CGC`; got none"):
        PLE([], heads=heads)
    with pytest.raises(
        ValueError, match=r"`layers\[0\]` must be of the tasks of `heads`, \['b'\]; got \['a'\]"
    ):
        PLE([last], heads={"b": nn.Identity()})
    with pytest.raises(ValueError, match=r"`layers\[0\]` must have a shared gate; got None"):
        PLE([last, last], heads=heads)
    with pytest.raises(
        ValueError, match=r"`layers\[1\]` must have no shared gate, being the last; got Linear"
    ):
        PLE([first, first], heads=heads)
