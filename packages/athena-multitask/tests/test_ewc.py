"""EWC and the Fisher information: loops over rows in float64, several tasks, state, misuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from athena_multitask import EWC, diagonal_fisher
from athena_multitask._ewc import combined_quadratic


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 3)
    ).double()


def fisher_by_loop(model: nn.Module, inputs: Tensor, targets: Tensor | None) -> dict[str, Tensor]:
    """One row after another, one class after another."""
    model.eval()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    total = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    for row, x in enumerate(inputs):
        logarithms = model(x[None])[0].log_softmax(-1)
        classes = range(len(logarithms)) if targets is None else [int(targets[row])]
        for c in classes:
            weight = float(logarithms[c].detach().exp()) if targets is None else 1.0
            gradients = torch.autograd.grad(logarithms[c], list(trained.values()), retain_graph=True)
            for name, gradient in zip(trained, gradients, strict=True):
                total[name] += weight * gradient**2 / len(inputs)
    model.train()
    return total


@pytest.mark.parametrize("chunk", [1, 3, 100, None])
@pytest.mark.parametrize("labelled", [False, True])
def test_the_fisher_information_is_a_loops(chunk, labelled):
    model = network()
    model(torch.randn(20, 4, dtype=torch.float64))  # statistics that are not the first ones
    model[0].bias.requires_grad_(False)
    inputs = torch.randn(7, 4, dtype=torch.float64)
    targets = torch.randint(3, (7,)) if labelled else None
    statistics = model[1].running_mean.clone()
    mode = "vmap" if chunk else "loop"
    found = diagonal_fisher(model, inputs, targets, chunk=chunk or 1, mode=mode)
    expected = fisher_by_loop(model, inputs, targets)
    assert found.keys() == expected.keys()
    assert "0.bias" not in found
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], rtol=1e-10, atol=1e-14)
    assert model.training
    assert torch.equal(model[1].running_mean, statistics)


def test_without_labels_it_is_what_drawn_labels_give_on_average():
    model = nn.Linear(2, 3).double()
    inputs = torch.randn(1, 2, dtype=torch.float64).repeat(20_000, 1)
    labels = torch.distributions.Categorical(logits=model(inputs)).sample()
    drawn = diagonal_fisher(model, inputs, labels, chunk=20_000)
    exact = diagonal_fisher(model, inputs[:1])
    torch.testing.assert_close(drawn["weight"], exact["weight"], rtol=0.06, atol=0)


class Recurrent(nn.Module):
    """What vmap cannot do, with a parameter that no output depends on."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(2, 3, batch_first=True)
        self.head = nn.Linear(3, 2)
        self.idle = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(x)[0][:, -1])


def test_a_model_that_cannot_be_mapped_is_told_and_works_in_a_loop():
    model, x = Recurrent(), torch.randn(3, 4, 2)
    with pytest.raises(RuntimeError, match=r"cannot be mapped over rows: .* Pass `mode='loop'`") as error:
        diagonal_fisher(model, x)
    assert "\n" not in str(error.value)
    ewc = EWC(model)
    ewc.consolidate(x, mode="loop")
    with torch.no_grad():
        model.idle.add_(1)
    assert ewc.penalty() == 0
    with torch.no_grad():
        model.gru.weight_ih_l0.add_(1)
    assert ewc.penalty() > 0


def test_another_likelihood():
    """Of a normal with deviation 1, the Fisher information of a line's slope is the mean of x² e²."""
    model = nn.Linear(1, 1).double()
    inputs, targets = torch.randn(5, 1, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    found = diagonal_fisher(
        model, inputs, targets, log_likelihood=lambda output, target: -0.5 * (output - target).square().sum()
    )
    errors = (model(inputs) - targets).detach()
    torch.testing.assert_close(found["weight"], (inputs * errors).square().mean(0, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_penalty_of_several_tasks_and_its_gradient_are_the_sum_of_theirs(dtype):
    model = network().to(dtype)
    ewc = EWC(model, strength=7.0)
    fishers, anchors = [], []
    for task in range(3):
        inputs = torch.randn(5, 4, dtype=dtype)
        fishers.append({name: f.double() for name, f in diagonal_fisher(model, inputs).items()})
        anchors.append({name: p.detach().clone().double() for name, p in model.named_parameters()})
        ewc.consolidate(inputs, chunk=2)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        if task == 0:
            assert ewc.penalty() > 0
    theta = {name: p.detach().double().requires_grad_() for name, p in model.named_parameters()}
    terms = [
        (fisher[name] * (theta[name] - anchor[name]) ** 2).sum()
        for fisher, anchor in zip(fishers, anchors, strict=True)
        for name in fisher
    ]
    expected = 7.0 / 2 * torch.stack(terms).sum()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    penalty = ewc.penalty()
    assert penalty.dtype == dtype
    torch.testing.assert_close(penalty.double(), expected, rtol=tolerance, atol=0)
    gradients = torch.autograd.grad(penalty, list(model.parameters()))
    for ours, theirs in zip(gradients, torch.autograd.grad(expected, list(theta.values())), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=10 * tolerance, atol=tolerance)


@given(
    st.lists(
        st.tuples(st.floats(0, 1e6), st.floats(-1e3, 1e3), st.floats(0, 1e6), st.floats(-1e3, 1e3)),
        min_size=1,
        max_size=4,
    ),
    st.floats(-1e3, 1e3),
)
@settings(max_examples=30)
def test_two_quadratics_are_one(numbers, theta):
    first, a, second, b = torch.tensor(numbers, dtype=torch.float64).unbind(1)
    total, anchor, offset = combined_quadratic(first, a, second, b)
    expected = (first * (theta - a) ** 2 + second * (theta - b) ** 2).sum()
    found = (total * (theta - anchor) ** 2).sum() + offset
    scale = float((total * (abs(a) + abs(b) + abs(theta)) ** 2).sum())
    assert abs(float(found - expected)) <= 1e-13 * scale + 1e-300


def test_it_is_zero_before_the_first_task_and_at_the_anchor():
    model = network()
    ewc = EWC(model)
    assert ewc.penalty().item() == 0
    assert ewc.penalty().dtype == torch.float64
    ewc.consolidate(torch.randn(3, 4, dtype=torch.float64))
    assert ewc.penalty().item() == 0


def test_a_state_round_trip_gives_the_same_bits_and_shares_no_memory():
    model = network()
    ewc = EWC(model, strength=3.0)
    ewc.consolidate(torch.randn(3, 4, dtype=torch.float64))
    state = ewc.state_dict()
    again = EWC(model, strength=3.0)
    again.load_state_dict(state)
    with torch.no_grad():
        model[0].weight.add_(1)
    assert torch.equal(again.penalty(), ewc.penalty())
    before = again.penalty()
    for part in state.values():
        for tensor in part.values():
            tensor.zero_()
    assert torch.equal(again.penalty(), before)
    with pytest.raises(
        ValueError, match=r"`state` must be of this model's parameters; got '0.weight', \(6, 4\)"
    ):
        EWC(nn.Sequential(nn.Linear(2, 2))).load_state_dict(state)


def test_it_holds_what_the_first_task_needs():
    """Two tasks with one optimum: EWC finds it from the first task's side, plain training leaves it."""

    def forgotten(strength: float) -> float:
        torch.manual_seed(0)
        model = nn.Linear(2, 1, bias=False)
        ewc = EWC(model, strength=strength)
        for x, y in (([1.0, 0.0], 1.0), ([1.0, 1.0], 5.0)):
            inputs, target = torch.tensor([x]), torch.tensor([[y]])
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            for _ in range(300):
                optimizer.zero_grad()
                ((model(inputs) - target).square().sum() + ewc.penalty()).backward()
                optimizer.step()
            ewc.add({"weight": inputs.square()})  # exact for a normal of deviation 1
        return abs(model(torch.tensor([[1.0, 0.0]])).item() - 1)

    assert forgotten(0.0) > 0.5
    assert forgotten(10.0) < 1e-3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strength": -1.0}, "`strength` must be finite and at least 0; got -1.0"),
        ({"strength": float("nan")}, "`strength` must be finite and at least 0; got nan"),
    ],
)
def test_a_strength_must_be_one(options: Any, words):
    with pytest.raises(ValueError, match=words):
        EWC(nn.Linear(1, 1), **options)


@pytest.mark.parametrize(
    ("inputs", "options", "words"),
    [
        (torch.ones(0, 1), {}, "`inputs` must have a row and `chunk` be at least 1; got 0 and 32"),
        (torch.ones(2, 1), {"mode": "map"}, "`mode` must be 'vmap' or 'loop'; got 'map'"),
        (torch.ones(2, 1), {"chunk": 0}, "got 2 and 0"),
        (torch.ones(2, 1), {"log_likelihood": lambda y, _: y.sum()}, "must come with `targets`; got none"),
        (torch.ones(2, 1), {"targets": torch.ones(2)}, r"\(B,\), whole numbers; got torch.float32"),
        (torch.ones(2, 1), {"targets": torch.ones(2, 1, dtype=torch.long)}, r"of shape \(2, 1\)"),
        (
            torch.ones(2, 1),
            {"targets": torch.ones(3, dtype=torch.long)},
            "of the 2 rows of `inputs`; got 3",
        ),
        (torch.ones(2, 3, 1), {}, r"logits of at least 2 classes a row, \(B, classes\); got \(3, 2\) a row"),
        (torch.ones(2, 3, 1), {"mode": "loop"}, r"got \(3, 2\) a row"),
    ],
)
def test_misuse_of_the_fisher_information(inputs, options: Any, words):
    with pytest.raises(ValueError, match=words) as error:
        diagonal_fisher(nn.Linear(1, 2), inputs, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("mode", ["vmap", "loop"])
def test_one_output_tells_no_classes_apart(mode):
    """Of one class the probability is 1 and the information 0: nothing would be held."""
    with pytest.raises(ValueError, match=r"at least 2 classes a row, \(B, classes\); got \(1,\) a row"):
        EWC(nn.Linear(3, 1)).consolidate(torch.ones(2, 3), mode=mode)


def test_an_importance_of_an_unknown_parameter():
    with pytest.raises(ValueError, match=r"names and shapes of the model's parameters; got 'wait', \(1,\)"):
        EWC(nn.Linear(1, 1)).add({"wait": torch.ones(1)})
