"""A sum and its norm: one op where the norm is known, and the module itself where somebody listens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from athena_nn import LayerNorm, RMSNorm, TransformerBlock, add_layer_norm, add_rms_norm, layer_norm, rms_norm


class Louder(RMSNorm):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the fused ops that were called, in order."""
    found: list[str] = []
    for op in (add_rms_norm, add_layer_norm):

        def counted(*args: Any, op: Any = op) -> Any:
            found.append(op.__name__)
            return op(*args)

        monkeypatch.setattr(f"athena_nn._add_norm.{op.__name__}", counted)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bit_for_bit_the_sum_and_its_norm(dtype: torch.dtype) -> None:
    x, residual = torch.randn(2, 3, 5, 33).to(dtype)
    weight, bias = torch.randn(2, 33).to(dtype)
    tensors = [one.requires_grad_() for one in (x, residual, weight, bias)]
    for found, total, norm in (
        (add_rms_norm(x, residual, weight, 1e-5), residual + x, lambda one: rms_norm(one, weight, 1e-5)),
        (
            add_layer_norm(x, residual, weight, bias, 1e-5),
            residual + x,
            lambda one: layer_norm(one, weight, bias, 1e-5),
        ),
    ):
        expected = (total, norm(total))
        slopes = [torch.randn_like(one) for one in expected]
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])
        for one, other in zip(
            torch.autograd.grad(found, tensors, slopes, allow_unused=True),
            torch.autograd.grad(expected, tensors, slopes, allow_unused=True),
            strict=True,
        ):
            assert (one is None and other is None) or torch.equal(one, other)


def test_a_weight_of_another_width() -> None:
    x = torch.randn(2, 4)
    with pytest.raises(ValueError, match=r"`weight` must have the shape of the last axis of `x`; got \(3,\)"):
        add_rms_norm(x, x, torch.ones(3), 1e-5)
    with pytest.raises(ValueError, match=r"`weight` must have the shape of the last axis of `x`; got \(3,\)"):
        add_layer_norm(x, x, torch.ones(3), None, 1e-5)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_a_block_uses_it_between_its_parts(norm: str, norm_first: bool, calls: list[str]) -> None:
    block = TransformerBlock(16, 4, ff_dim=24, norm=norm, norm_first=norm_first, memory_dim=6, dropout=0.1)
    block(torch.randn(2, 5, 16), torch.randn(2, 3, 6))
    assert calls == [f"add_{norm}_norm"] * (2 if norm_first else 3)


def test_torch_s_own_norm_is_called(calls: list[str]) -> None:
    TransformerBlock(16, 4, ff_dim=24, norm=nn.LayerNorm)(torch.randn(2, 5, 16))
    assert not calls


def _hooked(norm: nn.Module, heard: list[str]) -> None:
    norm.register_forward_hook(lambda *_: heard.append("forward"))


def _pre_hooked(norm: nn.Module, heard: list[str]) -> None:
    norm.register_forward_pre_hook(lambda *_: heard.append("before"))


def _backward_hooked(norm: nn.Module, heard: list[str]) -> None:
    norm.register_full_backward_hook(lambda *_: heard.append("backward"))


def _backward_pre_hooked(norm: nn.Module, heard: list[str]) -> None:
    norm.register_full_backward_pre_hook(lambda *_: heard.append("before backward"))


def _replaced(norm: nn.Module, heard: list[str]) -> None:
    forward = norm.forward
    norm.forward = lambda x: [heard.append("forward"), forward(x)][1]


@pytest.mark.parametrize("listen", [_hooked, _pre_hooked, _backward_hooked, _backward_pre_hooked, _replaced])
@pytest.mark.parametrize("norm_first", [True, False])
def test_hooks_are_heard(listen: Any, norm_first: bool) -> None:
    block = TransformerBlock(16, 4, ff_dim=24, norm_first=norm_first)
    x = torch.randn(2, 5, 16)
    expected = block(x)
    heard: list[str] = []
    listen(block.feed_forward_norm, heard)
    found = block(x)
    found.sum().backward()
    assert len(heard) == 1
    assert torch.equal(found, expected)


def test_global_hooks_are_heard() -> None:
    block, heard = TransformerBlock(16, 4, ff_dim=24), []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: heard.append(module))
    try:
        block(torch.randn(2, 5, 16))
    finally:
        handle.remove()
    assert block.feed_forward_norm in heard


def test_subclasses_and_parametrizations_act(calls: list[str]) -> None:
    x = torch.randn(2, 5, 16)
    block = TransformerBlock(16, 4, ff_dim=24)
    plain = block(x)
    block.feed_forward_norm = Louder(16)
    louder = block(x)
    calls.clear()
    block.feed_forward_norm = RMSNorm(16)
    parametrize.register_parametrization(block.feed_forward_norm, "weight", Doubled())
    doubled = block(x)
    assert not calls
    assert not torch.allclose(louder, plain)
    assert not torch.allclose(doubled, plain)
    assert not torch.allclose(doubled, louder)


def test_a_compiled_norm_is_called(calls: list[str]) -> None:
    block = TransformerBlock(16, 4, ff_dim=24, norm=LayerNorm)
    block.feed_forward_norm.compile(backend="eager")
    with torch.no_grad():  # Dynamo looks at the input's .grad, of which torch warns
        block(torch.randn(2, 5, 16))
    torch._dynamo.reset()
    assert not calls


def test_a_traced_block_holds_the_op() -> None:
    block = TransformerBlock(16, 4, ff_dim=24)
    names: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        names.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    x = torch.randn(2, 5, 16)
    found = torch.compile(block, backend=backend, fullgraph=True)(x)
    torch._dynamo.reset()
    assert sum("add_rms_norm" in name for name in names) == 1
    torch.testing.assert_close(found, block(x))
