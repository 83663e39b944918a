"""`torch.export` of quantized models: the same numbers, saved and loaded too; the extra of ONNX."""

from __future__ import annotations

import importlib.util
import io

import pytest
import torch
from quantized import SCHEMES, every_layer, quantized
from torch import nn
from user_models import ResNet, TiedModel

from athena_compress import export_onnx, quantize
from athena_compress._int8_math import has_exact_int8
from athena_core import AthenaError

# of torch's own exporter
pytestmark = [pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")]


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
@pytest.mark.parametrize("scheme", SCHEMES)
@torch.no_grad()
def test_every_layer(scheme, strict, tmp_path):
    model, tokens = every_layer(scheme)
    program = torch.export.export(model, (tokens,), strict=strict)
    other = torch.randint(11, (4, 6))
    assert torch.equal(program.module()(other), model(other))


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
@torch.no_grad()
def test_with_a_free_batch_decomposed_and_saved(scheme):
    x = torch.randn(4, 3, 8, 8)
    model = quantized(ResNet().eval(), scheme, x)
    shapes = ({0: torch.export.Dim("batch", max=64)},)
    program = torch.export.export(model, (x,), dynamic_shapes=shapes).run_decompositions()
    written = io.BytesIO()
    torch.export.save(program, written)
    written.seek(0)
    again = torch.export.load(written)
    for batch in (1, 7):
        x = torch.randn(batch, 3, 8, 8)
        assert torch.equal(again.module()(x), model(x))


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
@torch.no_grad()
def test_a_transformer(scheme):
    tokens = torch.randint(17, (2, 5))
    model = quantized(TiedModel().eval(), scheme, tokens)
    program = torch.export.export(model, (tokens,))
    torch.testing.assert_close(program.module()(tokens), model(tokens))


def test_the_graph_holds_the_op_and_int8_weights():
    model = quantize(nn.Sequential(nn.Linear(8, 4)), "int8-dynamic")
    program = torch.export.export(model, (torch.randn(2, 8),))
    targets = {str(node.target) for node in program.graph.nodes}
    assert "athena_compress.int8_linear.default" in targets
    assert program.state_dict["0.weight_q"].dtype == torch.int8
    decomposed = {str(node.target) for node in program.run_decompositions().graph.nodes}
    assert not any("athena" in target for target in decomposed)  # it runs where athena is not installed


def test_the_first_use_may_be_an_export():
    has_exact_int8.cache_clear()  # it tries torch's products, which must not be traced
    model = quantize(nn.Sequential(nn.Linear(8, 4)), "int8-dynamic")
    x = torch.randn(2, 8)
    program = torch.export.export(model, (x,))
    assert torch.equal(program.module()(x), model(x))


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_without_the_extra(missing, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    with pytest.raises(AthenaError, match=r"run `pip install 'athena-compress\[onnx\]'`"):
        export_onnx(nn.Linear(1, 1), torch.ones(1, 1), tmp_path / "model.onnx")
