"""Progressive networks: the paper's equations, freezing that holds, growth, columns of every kind, misuse."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import athena_core
from athena_multitask import ProgressiveNetwork


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def with_buffers() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5),
        nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3),
    )  # fmt: skip


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.ReLU(), nn.Flatten()),
        nn.Linear(24, 3),
    )  # fmt: skip


def grown(
    column: nn.Module | Callable[[], nn.Module], columns: int = 3, lateral: Any = "linear", **options: Any
) -> Any:
    """Any, for a checker of types knows nothing of the modules in a list."""
    network = ProgressiveNetwork(column, lateral=lateral, **options)
    for _ in range(columns - 1):
        network.add_column()
    return network


def bits(module: nn.Module) -> dict[str, Tensor]:
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    assert tensors
    return tensors


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_linear_laterals_are_equation_1():
    network = grown(mlp()).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    hidden: list[list[Tensor]] = []
    for number, column in enumerate(network.columns):
        activations = [x]
        for place, stage in enumerate(column.stages):
            total = activations[-1] @ stage.layer.weight.T + stage.layer.bias
            for earlier in range(number if place else 0):
                matrix = column.laterals[place].maps[earlier].weight
                total = total + hidden[earlier][place] @ matrix.T
            activations.append(total if place == 2 else total.tanh())
        hidden.append(activations)
        torch.testing.assert_close(network(x, number), activations[-1], rtol=1e-12, atol=1e-12)


def test_adapters_are_equation_2():
    network = grown(mlp(), lateral="adapter", activation=nn.Sigmoid).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    hidden: list[list[Tensor]] = []
    for number, column in enumerate(network.columns):
        activations = [x]
        for place, stage in enumerate(column.stages):
            total = activations[-1] @ stage.layer.weight.T + stage.layer.bias
            if place and number:
                lateral = column.laterals[place]
                scaled = [a * hidden[j][place] for j, a in enumerate(lateral.scales)]
                reduced = torch.cat(scaled, 1) @ lateral.project.weight.T + lateral.project.bias
                assert reduced.shape[1] == activations[-1].shape[1]  # projected to one column's width
                total = total + reduced.sigmoid() @ lateral.map.weight.T
            activations.append(total if place == 2 else total.tanh())
        hidden.append(activations)
        torch.testing.assert_close(network(x, number), activations[-1], rtol=1e-12, atol=1e-12)


def test_a_hand_worked_network():
    network = grown(nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1)), 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for column, weight in zip(network.columns, (2.0, 3.0), strict=True):
            column.stages[0].layer.weight.fill_(weight)
            column.stages[1].layer.weight.fill_(10.0)
        network.columns[1].laterals[1].maps[0].weight.fill_(0.5)
    assert network(torch.tensor([[1.0]]), 0).item() == 20
    assert network(torch.tensor([[1.0]])).item() == 31  # 10 * 3 + 0.5 * 2


@pytest.mark.parametrize("lateral", ["linear", "adapter"])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_old_columns_keep_their_bits_in_training_with_an_optimizer_that_holds_them(lateral, decay):
    """Pitfall 12: parameters, buffers and outputs, despite `train()`, momentum and weight decay."""
    network = grown(with_buffers(), 2, lateral)
    x, y = torch.randn(16, 4), torch.randint(3, (16,))
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1, weight_decay=decay)

    def step() -> None:
        network.train()
        optimizer.zero_grad(set_to_none=False)
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()

    step()  # now the optimizer has moments of both columns
    network.add_column()
    network.freeze_old()
    optimizer.add_param_group({"params": list(network.columns[2].parameters())})
    network.eval()
    outputs = [network(x, column) for column in (0, 1)]
    before = [bits(column) for column in network.columns]
    for _ in range(3):
        step()
        network.columns.train()
    for module in network.modules():  # as some do to set normalizations alone
        module.train()
    for parameter in network.parameters():
        parameter.requires_grad = True
    optimizer.zero_grad()
    network(x).square().sum().backward()
    optimizer.step()
    assert same(bits(network.columns[0]), before[0])
    assert same(bits(network.columns[1]), before[1])
    assert not same(bits(network.columns[2]), before[2])
    assert network.columns[2].stages[0].after[0].num_batches_tracked == 4
    for column in (0, 1):  # in train mode, dropout of old columns is off too
        assert torch.equal(network.train()(x, column), outputs[column])
        assert all(parameter.grad is None for parameter in network.columns[column].parameters())
        assert not any(module.training for module in network.columns[column].modules())


def test_what_is_trained_is_the_newest_column_and_its_optimizer_has_no_other_state():
    network = grown(mlp(), 3, "adapter")
    assert len(network.parameters_to_train()) == len(list(network.parameters()))
    network.freeze_old()
    trained = network.parameters_to_train()
    assert {id(p) for p in trained} == {id(p) for p in network.columns[2].parameters()}
    optimizer = torch.optim.Adam(trained)
    network(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    assert {id(p) for p in optimizer.state} == {id(p) for p in trained}
    network.requires_grad_(True)
    assert [p.requires_grad for p in network.columns[0].parameters()] == [False] * 6
    assert len(network.parameters_to_train()) == len(trained)


def test_the_newest_column_alone_is_trained_as_is_a_plain_network():
    column = with_buffers()
    network, plain = grown(column, 1), copy.deepcopy(column)
    x = torch.randn(8, 4)
    torch.manual_seed(3)
    ours = network(x)
    torch.manual_seed(3)
    theirs = plain(x)
    assert torch.equal(ours, theirs)
    ours.sum().backward()
    theirs.sum().backward()
    for one, other in zip(network.parameters(), plain.parameters(), strict=True):
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)


def test_a_new_column_has_new_weights_the_first_has_the_modules():
    column = mlp()
    network = grown(column, 2)
    with torch.no_grad():
        column[0].weight.zero_()
    assert network.columns[0].stages[0].layer.weight.any()  # a copy
    first, second = (part.stages[0].layer.weight for part in network.columns)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("lateral", ["linear", "adapter"])
def test_convolutions_have_laterals_of_their_geometry(lateral):
    network = grown(convolutional(), 3, lateral)
    network.freeze_old()
    x = torch.randn(2, 2, 10, 10)
    assert network(x).shape == (2, 3)
    network(x).sum().backward()
    for parameter in network.parameters_to_train():
        assert parameter.grad is not None
    lateral_map = network.columns[2].laterals[1]
    convolution = lateral_map.maps[1] if lateral == "linear" else lateral_map.map
    assert (convolution.kernel_size, convolution.stride, convolution.bias) == ((3, 3), (2, 2), None)
    if lateral == "adapter":
        assert lateral_map.project.kernel_size == (1, 1)
        assert lateral_map.project.in_channels == 8


class Residual(nn.Module):
    """A block that is neither a Linear nor a convolution."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Downsample(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(4, 6, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).relu()


@pytest.mark.parametrize("lateral", ["linear", "adapter"])
def test_blocks_of_athena_nn_from_the_registry(lateral):
    if not {"norm", "activation"} <= {kind.name for kind in athena_core.kinds()}:
        pytest.skip("needs athena-nn")

    def column() -> nn.Module:
        def block() -> nn.Module:
            norm, gate = athena_core.create("norm", "rms", 6), athena_core.create("activation", "swiglu")
            return Residual(nn.Sequential(norm, nn.Linear(6, 8), gate, nn.Linear(4, 6)))

        return nn.Sequential(
            nn.Linear(4, 6), block(), block(), athena_core.create("norm", "layer", 6), nn.Linear(6, 3)
        )

    network = grown(column, 3, lateral, example=torch.ones(1, 5, 4))
    network.freeze_old()
    x = torch.randn(2, 5, 4)
    before = [network(x, number).clone() for number in (0, 1)]
    optimizer = torch.optim.SGD(network.parameters_to_train(), lr=0.1)
    network(x).square().mean().backward()
    optimizer.step()
    assert [torch.equal(network(x, number), before[number]) for number in (0, 1)] == [True, True]
    assert all(parameter.grad is not None for parameter in network.columns[2].parameters())


@pytest.mark.parametrize("lateral", ["linear", "adapter"])
def test_blocks_on_images_may_make_them_smaller(lateral):
    column = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4),
        Downsample(), Residual(nn.Conv2d(6, 6, 3, padding=1)), nn.Flatten(), nn.Linear(96, 3),
    )  # fmt: skip
    network = grown(column, 3, lateral, example=torch.ones(1, 2, 9, 9))
    assert network.columns[0].training  # the example was run in eval mode and left no trace
    assert not network.columns[0].stages[0].after[0].num_batches_tracked
    assert network(torch.randn(2, 2, 9, 9)).shape == (2, 3)


class Named(nn.Module):
    """A module whose parts are applied in order, none of them in a Sequential."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 6)
        self.middle = nn.Sequential(nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU())
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x)))


def test_a_module_with_named_stages():
    column = Named()
    network = grown(column, 1, stages=["stem", "middle", "head"])
    x = torch.randn(6, 4)
    assert torch.equal(network.eval()(x), column.eval()(x))
    network.add_column()
    assert network.columns[1].laterals[1].maps[0].in_features == 6
    assert network(x).shape == (6, 3)


@pytest.mark.parametrize("lateral", ["linear", "adapter"])
def test_a_state_of_more_columns_builds_them_without_drawing_numbers(lateral):
    network = grown(with_buffers(), 3, lateral)
    network.freeze_old()
    network(torch.randn(8, 4))
    loaded = grown(with_buffers(), 1, lateral)
    generator = torch.get_rng_state()
    loaded.load_state_dict(network.state_dict())
    assert torch.equal(torch.get_rng_state(), generator)
    assert [column.frozen for column in loaded.columns] == [True, True, False]
    x = torch.randn(5, 4)
    network.eval()
    loaded.eval()
    assert all(torch.equal(network(x, number), loaded(x, number)) for number in range(3))
    wrapped: Any = nn.ModuleDict({"policy": grown(with_buffers(), 1, lateral)})
    wrapped.load_state_dict(nn.ModuleDict({"policy": network}).state_dict())
    assert len(wrapped["policy"].columns) == 3
    with pytest.raises(ValueError, match=r"must have at least the network's 3 columns; got 1"):
        loaded.load_state_dict(grown(with_buffers(), 1, lateral).state_dict())


@pytest.mark.parametrize("lateral", ["linear", "adapter"])
@pytest.mark.parametrize(
    "made", [convolutional, lambda: nn.Sequential(*convolutional()[:3], nn.Conv2d(4, 3, 2))]
)
def test_a_state_builds_columns_of_other_outputs(lateral, made):
    network = grown(made(), 1, lateral)
    for outputs in (7, 3, 2):
        column = made()
        last = column[-1]
        column[-1] = nn.Linear(24, outputs) if isinstance(last, nn.Linear) else nn.Conv2d(4, outputs, 2)
        network.add_column(column)
    loaded = grown(made(), 1, lateral)
    loaded.load_state_dict(network.state_dict())
    x = torch.randn(2, 2, 9, 9)
    network.eval()
    loaded.eval()
    assert [loaded(x, number).shape[1] for number in range(4)] == [3, 7, 3, 2]
    assert all(torch.equal(network(x, number), loaded(x, number)) for number in range(4))


def test_a_loaded_state_leaves_alone_what_is_frozen_by_hand():
    network = grown(with_buffers(), 2)
    part = network.columns[1].stages[0]
    part.requires_grad_(False).eval()
    network.load_state_dict(network.state_dict())
    assert not any(module.training for module in part.modules())
    trained = {parameter for parameter in network.parameters() if parameter.requires_grad}
    assert trained == set(network.parameters()) - set(part.parameters())


def test_a_loaded_state_sets_what_is_frozen():
    network = grown(mlp(), 2)
    state = network.state_dict()
    network.freeze_old()
    network.load_state_dict(state)
    assert [column.frozen for column in network.columns] == [False, False]
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_growth_in_mid_training_goes_on_as_an_uninterrupted_run_does():
    def train(network: Any, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            network(torch.randn(8, 4)).square().mean().backward()
            optimizer.step()

    def started() -> tuple[Any, torch.optim.Optimizer]:
        network = grown(with_buffers(), 2, "adapter")
        network.freeze_old()
        return network, torch.optim.Adam(network.parameters_to_train())

    network, optimizer = started()
    train(network, optimizer, 2)
    state, moments, generator = copy.deepcopy(
        (network.state_dict(), optimizer.state_dict(), torch.get_rng_state())
    )
    train(network, optimizer, 2)
    again, fresh = started()
    again.load_state_dict(state)
    fresh.load_state_dict(moments)
    torch.set_rng_state(generator)
    train(again, fresh, 2)
    assert same(bits(again.columns), bits(network.columns))


def test_a_copy_is_apart_and_grows():
    network = grown(mlp(), 2)
    network.freeze_old()
    copied = copy.deepcopy(network)
    copied.add_column()
    with torch.no_grad():
        copied.columns[0].stages[0].layer.weight.zero_()
    assert len(network.columns) == 2
    assert network.columns[0].stages[0].layer.weight.any()
    assert copied.columns[0].frozen


def test_it_compiles_as_one_graph():
    network = grown(mlp(), 2, "adapter")
    network.freeze_old()
    x = torch.randn(3, 4)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), network(x))


def test_a_column_may_differ_in_its_outputs_only():
    network = grown(mlp(), 2)
    network.add_column(nn.Sequential(*mlp()[:-1], nn.Linear(5, 9)))
    assert network(torch.ones(2, 4)).shape == (2, 9)
    assert network(torch.ones(2, 4), 1).shape == (2, 3)
    other = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 3))
    with pytest.raises(
        ValueError, match=r"hidden shapes of the first, \[\(6, 4\).*\(5,\)\]; got \[\(6, 4\).*\(7,\)\]"
    ):
        network.add_column(other)
    assert len(network.columns) == 3
    blocks = grown(nn.Sequential(nn.Linear(4, 4), Residual(nn.Linear(4, 4))), 1, example=torch.ones(1, 4))
    with pytest.raises(ValueError, match="must have the hidden shapes of the first"):
        blocks.add_column(nn.Sequential(nn.Linear(4, 4), Residual(nn.Linear(4, 1))))


def test_a_column_must_have_weights_of_its_own():
    """A function that returns one module each time would have its first column changed by the second."""
    shared = mlp()
    with pytest.raises(ValueError, match="`column` must hold weights of its own; got a Sequential"):
        grown(lambda: shared, 2)


def test_a_column_of_one_stage_has_no_laterals():
    network = grown(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), 2)
    assert network(torch.ones(2, 2, 2)).shape == (2, 3)
    assert not list(network.columns[1].laterals.parameters())


class Bare(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 3))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: grown(mlp(), lateral="dense"), "`lateral` must be .linear. or .adapter.; got"),
        (lambda: grown(Named()), r"or `stages` name its parts in order; got a Named"),
        (lambda: grown(Named(), stages=["stem", "head"]), "got none with 'middle.0'"),
        (lambda: grown(Named(), stages=["stem", "tail"]), "must be names of submodules; got .tail"),
        (lambda: grown(nn.Sequential(nn.ReLU())), r"must hold a layer with weights; got \['ReLU'\]"),
        (lambda: grown(nn.Sequential(nn.Linear(3, 3), Bare())), "must have `reset_parameters`.*`1`"),
        (
            lambda: grown(nn.Sequential(nn.Linear(4, 4), Residual(nn.Linear(4, 4)))),
            "`example` must be an input .* got none, for a Residual",
        ),
        (lambda: grown(mlp(), 2)(torch.ones(1, 4), 2), "`column` must be below 2, the .*; got 2"),
        (
            lambda: grown(
                nn.Sequential(nn.Linear(4, 4), Residual(nn.Linear(4, 4)), Pool(), nn.Linear(4, 1)),
                2,
                example=torch.ones(2, 3, 4),
            ),
            r"must keep the axes .* got \(2, 3, 4\) in and \(2, 4\) out",
        ),
    ],
)  # fmt: skip
def test_misuse_is_told_in_one_line(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)


class Pool(nn.Module):
    """Takes away an axis."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x).mean(1)
