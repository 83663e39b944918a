"""Attention taken apart: equal to torch's over all its options, also inside torch's transformer layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from athena_compress import SplitMultiheadAttention, split_attention


def split(model: nn.Module) -> Any:
    return split_attention(model)


def assert_equal(got: Tensor | None, expected: Tensor | None, tolerance: float = 1e-6) -> None:
    if expected is None:
        assert got is None
        return
    assert got is not None
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


def drawn_mask(kind: str, *shape: int) -> Tensor | None:
    if kind == "none":
        return None
    if kind == "float":
        return torch.randn(shape)
    mask = torch.rand(shape) < 0.4
    mask[..., 0] = False  # a query that may see nothing has no meaning in torch's
    return mask


@given(st.data())
def test_equals_torch(data: st.DataObject) -> None:
    draw = data.draw
    torch.manual_seed(draw(st.integers(0, 99)))
    heads, batch, queries, keys = (draw(st.integers(1, 3)) for _ in range(4))
    width = 4 * heads
    widths = draw(st.sampled_from([(None, None), (5, None), (None, 7), (5, 7)]))
    batch_first = draw(st.booleans())
    attention = nn.MultiheadAttention(
        width, heads, bias=draw(st.booleans()), kdim=widths[0], vdim=widths[1], batch_first=batch_first
    )
    for parameter in attention.parameters():
        nn.init.normal_(parameter)
    attention.train(draw(st.booleans()))
    batched = draw(st.booleans())
    leading = (batch,) if batched else ()

    def drawn(time: int, features: int) -> Tensor:
        x = torch.randn(*leading, time, features)
        return x if batch_first or not batched else x.transpose(0, 1)

    options = {
        "need_weights": draw(st.booleans()),
        "average_attn_weights": draw(st.booleans()),
        "key_padding_mask": None,
        "attn_mask": None,
    }
    kind = draw(st.sampled_from(["none", "bool", "float"]))  # torch deprecates masks of two kinds
    if draw(st.booleans()):
        options["key_padding_mask"] = drawn_mask(kind, *leading, keys)
    if draw(st.booleans()):
        shape = (queries, keys)
        if draw(st.booleans()):
            shape = ((batch if batched else 1) * heads, queries, keys)
        options["attn_mask"] = drawn_mask(kind, *shape)
    inputs = drawn(queries, width), drawn(keys, widths[0] or width), drawn(keys, widths[1] or width)
    for got, expected in zip(
        split(attention)(*inputs, **options), attention(*inputs, **options), strict=True
    ):
        assert_equal(got, expected, tolerance=2e-5)  # normal weights make scores of size ten
        assert expected is None or got.shape == expected.shape


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_causal_hint(need_weights: bool, padded: bool) -> None:
    attention, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 4, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    padding = torch.zeros(2, 4).masked_fill(torch.tensor([[0, 0, 0, 1]] * 2, dtype=torch.bool), -torch.inf)
    options: Any = {"attn_mask": mask, "is_causal": True, "need_weights": need_weights}
    options["key_padding_mask"] = padding if padded else None
    got, expected = split(attention)(x, x, x, **options), attention(x, x, x, **options)
    for ours, torchs in zip(got, expected, strict=True):
        assert_equal(ours, torchs)


@pytest.mark.parametrize("need_weights", [True, False])
def test_dropout_draws_as_torch_does(need_weights: bool) -> None:
    attention, x = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True), torch.randn(2, 4, 8)
    results = []
    for module in (attention, split(attention)):
        torch.manual_seed(1)
        results.append(module(x, x, x, need_weights=need_weights)[0])
    assert_equal(*results)
    assert_equal(split(attention).eval()(x, x, x)[0], attention.eval()(x, x, x)[0])


def test_gradients_equal_torchs() -> None:
    attention, x = nn.MultiheadAttention(8, 2).double(), torch.randn(4, 2, 8, dtype=torch.double)
    ours = split(attention)
    for module in (attention, ours):
        module(x, x, x, need_weights=False)[0].square().sum().backward()
    gradient = torch.cat([ours.query.weight.grad, ours.key.weight.grad, ours.value.weight.grad])
    assert_equal(gradient, attention.in_proj_weight.grad, tolerance=1e-12)
    assert_equal(ours.out.bias.grad, attention.out_proj.bias.grad, tolerance=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_encoder_layer(training: bool, norm_first: bool, grad: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)
    layer.train(training)
    ours, x = split(layer), torch.randn(3, 5, 8)
    padding = torch.tensor([[False] * 4 + [True]] * 3)
    with torch.set_grad_enabled(grad):
        for options in ({}, {"src_key_padding_mask": padding}, {"src_mask": torch.ones(5, 5).triu(1).bool()}):
            expected, got = layer(x, **options), ours(x, **options)
            kept = slice(0, 4) if "src_key_padding_mask" in options else slice(None)
            assert_equal(got[:, kept], expected[:, kept], tolerance=1e-5)  # of a fused kernel, in evaluation


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # torch's encoder itself
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_encoder_and_its_nested_tensors(training: bool, padded: bool) -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    encoder.train(training)
    ours, x = split(encoder), torch.randn(3, 5, 8)
    padding = torch.tensor([[False] * 4 + [True], [False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        expected = encoder(x, src_key_padding_mask=padding if padded else None)
        got = ours(x, src_key_padding_mask=padding if padded else None)
    kept = ~padding if padded else torch.ones_like(padding)
    assert_equal(got[kept], expected[kept], tolerance=1e-5)
    assert encoder.use_nested_tensor
    assert not any(isinstance(module, nn.MultiheadAttention) for module in ours.modules())


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_encoder_and_decoder(training: bool, batch_first: bool) -> None:
    torch.manual_seed(3)
    options: Any = {"dropout": 0.0, "batch_first": batch_first, "norm_first": True}
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, **options), 1, enable_nested_tensor=False
    )
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, **options), 2)
    model = nn.Transformer(8, 2, custom_encoder=encoder, custom_decoder=decoder, batch_first=batch_first)
    model.train(training)
    source, target = torch.randn(3, 5, 8), torch.randn(3, 4, 8)
    if not batch_first:
        source, target = source.transpose(0, 1), target.transpose(0, 1)
    mask = nn.Transformer.generate_square_subsequent_mask(4)
    expected = model(source, target, tgt_mask=mask, tgt_is_causal=True)
    assert_equal(split(model)(source, target, tgt_mask=mask, tgt_is_causal=True), expected, tolerance=1e-5)


def test_model_is_left_and_shared_stays_shared() -> None:
    attention = nn.MultiheadAttention(4, 1)
    model = nn.ModuleList([attention, nn.Linear(2, 2), attention])
    ours = split(model)
    assert ours[0] is ours[2]
    assert model[0] is attention
    assert [type(module) for module in ours] == [SplitMultiheadAttention, nn.Linear, SplitMultiheadAttention]
    with torch.no_grad():
        ours[0].query.weight.zero_()
    assert attention.in_proj_weight.count_nonzero() > 0


def test_patterns_choose() -> None:
    layer = nn.TransformerDecoderLayer(4, 1, 8)
    ours: Any = split_attention(layer, skip="multihead_attn")
    assert isinstance(ours.self_attn, SplitMultiheadAttention)
    assert isinstance(ours.multihead_attn, nn.MultiheadAttention)
    with pytest.raises(ValueError, match="matches none"):
        split_attention(layer, include="attention")


def test_frozen_stays_frozen_and_modes_stay() -> None:
    attention = nn.MultiheadAttention(4, 1).eval()
    attention.in_proj_weight.requires_grad_(False)
    ours = split(attention)
    assert not ours.training
    assert not ours.key.weight.requires_grad
    assert ours.key.bias.requires_grad
    assert split(attention.double()).query.weight.dtype == torch.float64


def test_subclass_with_its_own_forward_is_left() -> None:
    class Own(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return x

    assert isinstance(split(nn.Sequential(Own(4, 1)))[0], Own)


def test_heads_may_be_fewer_than_the_width_holds() -> None:
    attention, x = SplitMultiheadAttention(8, 3, head_dim=2, batch_first=True), torch.randn(2, 5, 8)
    output, weights = attention(x, x, x, average_attn_weights=False)
    assert output.shape == (2, 5, 8)
    assert weights.shape == (2, 3, 5, 5)


def test_no_tokens_and_no_rows() -> None:
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    for batch, queries in ((0, 3), (2, 0)):
        query, memory = torch.zeros(batch, queries, 4), torch.zeros(batch, 3, 4)
        got = split(attention)(query, memory, memory)
        assert got[0].shape == (batch, queries, 4)
        assert got[1].shape == (batch, queries, 3)


@pytest.mark.parametrize("option", ["add_bias_kv", "add_zero_attn"])
def test_extra_keys_are_refused(option: str) -> None:
    model = nn.ModuleDict({"mixer": nn.MultiheadAttention(4, 1, **{option: True})})
    with pytest.raises(
        ValueError, match="mixer: `attention` must have neither add_bias_kv nor add_zero_attn"
    ):
        split(model)
    assert isinstance(split_attention(model, skip="mixer")["mixer"], nn.MultiheadAttention)


def test_errors() -> None:
    attention, x = SplitMultiheadAttention(4, 2, batch_first=True), torch.randn(2, 3, 4)
    with pytest.raises(ValueError, match="`num_heads` must divide `embed_dim` = 4; got 3"):
        SplitMultiheadAttention(4, 3)
    with pytest.raises(ValueError, match="`attn_mask` is missing"):
        attention(x, x, x, is_causal=True)
    with pytest.raises(
        ValueError, match=r"`attn_mask` must have shape \(3, 3\) or \(4, 3, 3\); got \(2, 3, 3\)"
    ):
        attention(x, x, x, attn_mask=torch.zeros(2, 3, 3))
    with pytest.raises(ValueError, match=r"`key_padding_mask` must have shape \(2, 3\); got \(3, 2\)"):
        attention(x, x, x, key_padding_mask=torch.zeros(3, 2))
    with pytest.raises(ValueError, match="`key_padding_mask` must be boolean or floating-point; got"):
        attention(x, x, x, key_padding_mask=torch.zeros(2, 3, dtype=torch.long))
    nested = torch.nested.nested_tensor([x[0], x[1]], layout=torch.jagged)
    with pytest.raises(ValueError, match="must be padded; got a nested tensor"):
        attention(nested, nested, nested)
