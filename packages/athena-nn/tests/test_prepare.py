"""Models prepared for decoding: equal to the original within each dtype's bound, and apart from it."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from athena_nn import Decoder, _decoding_linear, prepare_for_decoding
from athena_nn._decoding_linear import BFloat16Linear, DecodingLinear, Int8Linear, TransposedLinear

DTYPES = (None, torch.bfloat16, torch.int8)
ROUNDOFF = 2.0**-8  # bfloat16's, half the distance from 1 to the next number
ROWS = ((), (1,), (3,), (1, 1), (2, 5), (16,), (17,), (4, 9), (0,), (2, 0))
WIDTHS = ((1, 1), (16, 1), (48, 7), (33, 5), (512, 96))


class Words(nn.Module):
    """Embedding, a bias, a gated pair, and a head tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 32)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(32, 96, bias=False), "down": nn.Linear(48, 32)}) for _ in range(2)
        )
        self.norm = nn.LayerNorm(32)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            gate, up = layer["up"](self.norm(x)).chunk(2, -1)
            x = x + self.dropout(layer["down"](F.silu(gate) * up))
        return self.head(self.norm(x))


@pytest.fixture(params=DTYPES, ids=("same", "bfloat16", "int8"))
def weights(request: pytest.FixtureRequest) -> torch.dtype | None:
    return request.param


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(40, (2, 7))


def prepared_linear(linear: nn.Linear, dtype: torch.dtype | None) -> DecodingLinear:
    layer = prepare_for_decoding(nn.Sequential(linear), dtype=dtype)[0]
    assert isinstance(layer, DecodingLinear)
    return layer


def error_bound(linear: nn.Linear, layer: DecodingLinear, x: Tensor) -> Tensor:
    """Of each output: the weights' rounding, then that of inputs, product and scaled product to bfloat16."""
    x, weight = x.double().abs(), linear.weight.double()
    if isinstance(layer, TransposedLinear):
        return 1e-6 * (F.linear(x, weight.abs()) + 1)
    if isinstance(layer, Int8Linear):
        moved = (layer.scale.double() / 2)[:, None].expand_as(weight)
    else:
        moved = weight.abs() * ROUNDOFF
    size = F.linear(x, weight.abs() + moved)
    return F.linear(x, moved) + 4 * ROUNDOFF * size + 1e-6


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_error_is_within_the_bound_of_each_dtype(
    weights: torch.dtype | None, widths: tuple[int, int], rows: tuple[int, ...], bias: bool
) -> None:
    linear = nn.Linear(*widths, bias=bias)
    layer = prepared_linear(linear, weights)
    x = torch.randn(*rows, widths[0])
    y = layer(x)
    expected = linear.double()(x.double())
    assert y.shape == expected.shape
    assert y.dtype == x.dtype
    assert y.is_contiguous()
    assert ((y - expected).abs() <= error_bound(linear, layer, x)).all()


@torch.no_grad()
@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.int8])
def test_inputs_of_every_dtype_come_back_in_theirs(weight_dtype: torch.dtype, x_dtype: torch.dtype) -> None:
    linear = nn.Linear(32, 8).to(x_dtype)
    layer = prepared_linear(linear, weight_dtype)
    for rows in (1, 2, 40):
        x = torch.randn(rows, 32).to(x_dtype)
        y = layer(x)
        assert y.dtype == x_dtype
        expected = linear.double()(x.double())
        assert ((y - expected).abs() <= 2 * error_bound(linear, layer, x)).all()
        linear.to(x_dtype)


@torch.no_grad()
def test_each_row_is_as_if_alone(weights: torch.dtype | None) -> None:
    """Quantizing activations by the tensor would let a batch's rows move each other."""
    layer = prepared_linear(nn.Linear(64, 24), weights)
    x = torch.randn(12, 64)
    x[3] *= 1000
    alone = torch.cat([layer(row[None]) for row in x])
    scale = F.linear(x.abs(), torch.ones(1, 64))
    assert ((layer(x) - alone).abs() <= scale * (1e-6 if weights is None else ROUNDOFF)).all()


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 8, 40])
def test_int8_is_exact_where_the_weights_are_representable(rows: int) -> None:
    linear = nn.Linear(32, 6, bias=False)
    numbers = torch.randint(-127, 128, (6, 32))
    numbers[:, 0] = 127
    linear.weight.copy_(numbers * torch.tensor([2.0**n for n in (-9, -3, 0, 1, 5, 60)])[:, None])
    layer = prepared_linear(linear, torch.int8)
    assert isinstance(layer, Int8Linear)
    assert torch.equal(layer.quantized, numbers.to(torch.int8))
    x = F.one_hot(torch.arange(rows) % 32, 32).float()
    assert torch.equal(layer(x), linear(x))


@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_int8_rounds_to_the_nearest_step_of_the_scale_that_is_used(size: float) -> None:
    """A scale rounded to bfloat16 after the weights would miss by up to one part in 256."""
    linear = nn.Linear(200, 300)
    with torch.no_grad():
        linear.weight.mul_(size)
        linear.weight[7] = 0
    layer = prepared_linear(linear, torch.int8)
    assert isinstance(layer, Int8Linear)
    scale = layer.scale.double()[:, None]
    assert ((linear.weight - scale * layer.quantized).abs() <= scale / 2 * (1 + 1e-6)).all()
    assert layer.quantized.abs().amax() == 127
    assert not layer.quantized[7].any()


@torch.no_grad()
def test_int8_without_torchs_kernel_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is private in torch: versions and devices without it take the plain product."""
    layer = prepared_linear(nn.Linear(64, 24), torch.int8)
    x = torch.randn(5, 64)
    fast = layer(x)
    monkeypatch.setattr(_decoding_linear, "_packed_mm", None)
    plain = layer(x)
    size = F.linear(x.abs(), layer.quantized.abs().float()) * layer.scale
    assert ((fast - plain).abs() <= 2 * ROUNDOFF * size).all()


@torch.no_grad()
def test_strided_and_unaligned_inputs_are_taken(weights: torch.dtype | None) -> None:
    """The int8 kernel reads 32 aligned bytes at once, contiguous: any other address crashes the process."""
    linear = nn.Linear(64, 24).bfloat16()
    layer = prepared_linear(linear, weights)
    flat = torch.randn(64 * 6 + 1).bfloat16()
    x = flat[1:].view(6, 64)
    for view in (x, x[::2], x.view(64, 6).T, x[:1].expand(5, 64), x.view(2, 3, 64)[:, -1]):
        assert torch.equal(layer(view), layer(view.clone(memory_format=torch.contiguous_format)))


@torch.no_grad()
def test_int8_weights_assigned_from_unaligned_memory_do_not_crash() -> None:
    """`load_state_dict(assign=True)` takes tensors as they lie, in a mapped file at any byte."""
    model = prepare_for_decoding(nn.Sequential(nn.Linear(64, 24)), dtype=torch.int8)
    state = dict(model.state_dict())
    moved = torch.empty(24 * 64 + 1, dtype=torch.int8)[1:].view(24, 64)
    state["0.quantized"] = moved.copy_(state["0.quantized"])
    x = torch.randn(4, 64)
    expected = model(x)
    model.load_state_dict(state, assign=True)
    assert torch.equal(model(x), expected)


@torch.no_grad()
def test_a_tied_model_gives_the_same_logits(weights: torch.dtype | None, tokens: Tensor) -> None:
    model = Words().eval()
    prepared = prepare_for_decoding(model, dtype=weights)
    tolerance = {None: 1e-5, torch.bfloat16: 2e-2, torch.int8: 4e-2}[weights]
    expected = model(tokens)
    assert type(prepared) is Words
    assert (prepared(tokens) - expected).norm() <= tolerance * expected.norm()
    if weights is None:
        assert torch.equal(prepared(tokens).argmax(-1), expected.argmax(-1))


def test_the_original_stays_and_trains_on(weights: torch.dtype | None, tokens: Tensor) -> None:
    model = Words()
    before = copy.deepcopy(model.state_dict())
    prepared = prepare_for_decoding(model, dtype=weights)
    logits = prepared(tokens)
    assert model.training
    assert model.head.weight is model.embedding.weight
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(tokens).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model.embedding.weight, before["embedding.weight"])
    assert torch.equal(prepared(tokens), logits)


def test_it_is_frozen_and_survives_train(weights: torch.dtype | None, tokens: Tensor) -> None:
    prepared = prepare_for_decoding(Words(), dtype=weights)
    assert not any(module.training for module in prepared.modules())
    assert not any(parameter.requires_grad for parameter in prepared.parameters())
    assert not any(isinstance(module, nn.Linear) for module in prepared.modules())
    logits = prepared(tokens)
    assert not torch.equal(prepared.train()(tokens), logits)  # dropout
    assert torch.equal(prepared.eval()(tokens), logits)


@pytest.mark.parametrize("rows", [1, 4, 40])
def test_inputs_get_their_gradient(weights: torch.dtype | None, rows: int) -> None:
    """torch's int8 kernel has no derivative: inputs that want one take the plain product."""
    linear = nn.Linear(32, 8)
    layer = prepared_linear(linear, weights)
    x = torch.randn(rows, 32, requires_grad=True)
    layer(x).sum().backward()
    expected = linear.weight.sum(0).expand(rows, 32)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, expected, rtol=0, atol=1e-5 if weights is None else 0.05)


@torch.no_grad()
def test_state_loads_into_a_model_prepared_alike(weights: torch.dtype | None, tokens: Tensor) -> None:
    one, other = (prepare_for_decoding(Words(), dtype=weights) for _ in range(2))
    buffer = io.BytesIO()
    torch.save(one.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(one(tokens), other(tokens))
    assert torch.equal(copy.deepcopy(one)(tokens), one(tokens))


def test_an_original_checkpoint_is_not_taken_for_a_prepared_one(weights: torch.dtype | None) -> None:
    """A square weight has the same shape transposed: only its name tells them apart."""
    model = nn.Sequential(nn.Linear(16, 16))
    prepared = prepare_for_decoding(model, dtype=weights)
    with pytest.raises(RuntimeError, match="Missing key"):
        prepared.load_state_dict(model.state_dict())


def test_what_draws_weights_anew_finds_none(weights: torch.dtype | None) -> None:
    """A buffer called `weight` would be drawn as a linear layer's is, and the model silently lost."""
    layer = prepared_linear(nn.Linear(16, 16), weights)
    assert not hasattr(layer, "weight")
    with pytest.raises(ValueError, match="`reset_parameters` needs a model as it was built; one prepared"):
        layer.reset_parameters()
    decoder = Decoder(40, 16, num_layers=1, num_heads=2, ff_dim=16)
    with pytest.raises(ValueError, match="one prepared for decoding has no parameters"):
        prepare_for_decoding(decoder, dtype=weights).reset_parameters()


@torch.no_grad()
def test_casting_the_whole_prepared_model_keeps_it_working(
    weights: torch.dtype | None, tokens: Tensor
) -> None:
    prepared = prepare_for_decoding(Words(), dtype=weights)
    expected = prepared(tokens)
    for dtype in (torch.float64, torch.bfloat16):
        logits = copy.deepcopy(prepared).to(dtype)(tokens)
        assert logits.dtype == dtype
        assert (logits - expected).norm() <= 0.05 * expected.norm()


def test_memory_is_that_of_the_formula(weights: torch.dtype | None) -> None:
    model = Words()
    prepared = prepare_for_decoding(model, dtype=weights)
    width = {None: 4, torch.bfloat16: 2, torch.int8: 1}[weights]
    linears = 2 * (32 * 96 + 48 * 32) + 32 * 40
    scales = 2 * (2 * (96 + 32) + 40) if weights == torch.int8 else 0
    others = 4 * (40 * 32 + 2 * 32 + 2 * 32)  # embedding, biases of `down`, norm
    assert sum(value.nbytes for value in prepared.state_dict().values()) == linears * width + scales + others
    ours = {value.data_ptr() for value in prepared.state_dict().values()}
    assert ours.isdisjoint(value.data_ptr() for value in model.state_dict().values())


def test_layers_by_dtype() -> None:
    for weights, own, layer in (
        (None, torch.float32, TransposedLinear),
        (None, torch.float64, TransposedLinear),
        (None, torch.bfloat16, BFloat16Linear),
        (torch.bfloat16, torch.float32, BFloat16Linear),
        (torch.int8, torch.bfloat16, Int8Linear),
    ):
        assert type(prepared_linear(nn.Linear(4, 3).to(own), weights)) is layer
    stored = prepared_linear(nn.Linear(4, 3), None)
    assert isinstance(stored, TransposedLinear)
    assert stored.transposed.shape == (4, 3)
    assert stored.transposed.is_contiguous()
    assert repr(stored) == "TransposedLinear(in_features=4, out_features=3, bias=True)"


def test_a_layer_used_twice_stays_one() -> None:
    linear = nn.Linear(4, 4)
    model = nn.Sequential(linear, nn.ReLU(), linear)
    model.extra = [linear]  # in no module list, and found all the same
    prepared = prepare_for_decoding(model)
    assert prepared[0] is prepared[2] is prepared.extra[0]


def test_subclasses_hooked_and_empty_layers_are_copied_as_they_are() -> None:
    """A hook or a parametrization computes the weight anew: a copy of today's would go stale."""

    class Scaled(nn.Linear):
        pass

    hooked, parametrized = nn.Linear(4, 4), nn.Linear(4, 4)
    hooked.register_forward_hook(lambda module, inputs, output: 2 * output)
    parametrize.register_parametrization(parametrized, "weight", nn.Identity())
    with pytest.warns(UserWarning, match="zero-element"):
        empty = nn.Linear(0, 4)
    model = nn.Sequential(Scaled(4, 4), hooked, parametrized, nn.Linear(4, 4))
    prepared = prepare_for_decoding(model, dtype=torch.int8)
    assert [isinstance(layer, DecodingLinear) for layer in prepared] == [False, False, False, True]
    x = torch.randn(3, 4)
    torch.testing.assert_close(prepared(x), model(x), rtol=0.05, atol=0.05)
    assert type(prepare_for_decoding(nn.Sequential(empty, nn.Linear(4, 1)))[0]) is nn.Linear


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 3, 40])
def test_compiles_in_one_graph(weights: torch.dtype | None, rows: int) -> None:
    prepared = prepare_for_decoding(Words(), dtype=weights)
    tokens = torch.randint(40, (1, rows))
    compiled = torch.compile(prepared, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens), prepared(tokens), rtol=0.02, atol=0.02)


@torch.no_grad()
def test_exports_with_any_number_of_rows(weights: torch.dtype | None) -> None:
    """Which path is fastest depends on the rows, and must not fix them in an exported program."""
    prepared = prepare_for_decoding(Words(), dtype=weights)
    time = torch.export.Dim("time", min=1, max=64)
    program = torch.export.export(
        prepared, (torch.randint(40, (1, 5)),), dynamic_shapes=({1: time},)
    ).module()
    for length in (1, 40):
        tokens = torch.randint(40, (1, length))
        torch.testing.assert_close(program(tokens), prepared(tokens), rtol=0.02, atol=0.02)


@torch.no_grad()
def test_meta_takes_the_general_path(weights: torch.dtype | None) -> None:
    """Devices other than the CPU compute by general products."""
    prepared = prepare_for_decoding(Words(), dtype=weights).to("meta")
    assert prepared(torch.zeros(1, 1, dtype=torch.long, device="meta")).shape == (1, 1, 40)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
@torch.no_grad()
def test_an_accelerator_agrees_with_the_cpu(weights: torch.dtype | None, tokens: Tensor) -> None:
    prepared = prepare_for_decoding(Words(), dtype=weights)
    device = torch.accelerator.current_accelerator()
    moved = copy.deepcopy(prepared).to(device)
    torch.testing.assert_close(moved(tokens.to(device)).cpu(), prepared(tokens), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, "int8", torch.uint8])
def test_other_dtypes_are_refused(dtype: object) -> None:
    with pytest.raises(ValueError, match=r"`dtype` must be None, torch.bfloat16 or torch.int8; got .*\.$"):
        prepare_for_decoding(Words(), dtype=dtype)


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must hold an nn\.Linear without hooks; got Embedding with none"):
        prepare_for_decoding(nn.Embedding(3, 4))


def test_a_prepared_model_is_refused(weights: torch.dtype | None) -> None:
    with pytest.raises(ValueError, match="must not be prepared yet"):
        prepare_for_decoding(prepare_for_decoding(Words()), dtype=weights)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_int8_refuses_weights_that_are_not_finite(value: float) -> None:
    model = Words()
    with torch.no_grad():
        model.layers[1]["up"].weight[3, 5] = value
    with pytest.raises(ValueError, match=r"layers.1.up: .*finite"):
        prepare_for_decoding(model, dtype=torch.int8)
