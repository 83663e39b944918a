"""Quantized models for other runtimes: ONNX, with the rounding of activations and weights in its graph."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from athena_compress._export_nodes import dequantize_rows, translations
from athena_compress._int8_embedding import CodedEmbedding
from athena_compress._weight_only import CodedWeight, WeightOnlyConv, WeightOnlyLinear
from athena_core import AthenaError

#: Of torch's exporter about itself (2.13), which a user can do nothing about.
_OWN_WARNINGS = (".*LeafSpec.*", "# The axis name", ".*torch.jit.*")


def export_onnx(
    model: nn.Module, example_inputs: Any, path: str | Path, *, dynamic_shapes: Any = None
) -> None:
    r"""Write a quantized model, or any other, as an ONNX file for onnxruntime and its like.

    Weights stay int8 in the file. By the scheme of a layer:

    - static: QuantizeLinear and DequantizeLinear around the input, DequantizeLinear behind the weights, an
      ordinary product; runtimes fuse these into integer products. Outputs differ from the model's by
      the rounding of inputs that lie between two steps: onnxruntime divides by the scale, where torch
      multiplies by its inverse.
    - dynamic: a scale a row, found in the graph, and MatMulInteger or ConvInteger.
    - weight-only: DequantizeLinear behind the weights, and float products. Weights of 4
      bits stay two a byte, in layers that are not small. With ``symmetric=False`` and no groups onnxruntime
      fuses the two and rounds inputs to 8 bits, unless its session's configuration has
      ``session.qdq_matmulnbits_accuracy_level`` at 1.

    Args:
        model: in any mode; a copy in evaluation mode is exported.
        example_inputs: a tensor, a tuple of positional arguments, or a mapping of named ones.
        path: the file to write; parameters above 2 GB go beside it.
        dynamic_shapes: the axes that may change, as `torch.export.export` takes them, such as
            ``({0: torch.export.Dim("batch")},)``. None fixes all sizes to those of the example.

    Raises AthenaError without onnx and onnxscript, with the command that installs them; what cannot be
    exported raises torch's own error.
    Source: Jacob et al. 2018, arXiv:1712.05877, equations 7 and 8, as nodes. Departs from it: no.

    >>> from tempfile import TemporaryDirectory
    >>> from athena_compress import quantize
    >>> model = quantize(nn.Sequential(nn.Linear(8, 4)), "int8-weight-only")
    >>> with TemporaryDirectory() as folder:
    ...     if importlib.util.find_spec("onnxscript"):  # the extra is installed
    ...         export_onnx(model, torch.randn(1, 8), f"{folder}/model.onnx")
    """
    if any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript")):
        raise AthenaError(
            "`export_onnx` needs onnx and onnxscript: run `pip install 'athena-compress[onnx]'`."
        )
    named = isinstance(example_inputs, Mapping)
    listed = isinstance(example_inputs, tuple | list)
    positional = tuple(example_inputs) if listed else (example_inputs,)
    with warnings.catch_warnings():
        for message in _OWN_WARNINGS:
            warnings.filterwarnings("ignore", message)
        program = torch.onnx.export(
            exportable(model),
            () if named else positional,
            kwargs=dict(example_inputs) if named else None,
            dynamo=True,
            dynamic_shapes=dynamic_shapes,
            custom_translation_table=translations(),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with the paths of this machine
    program.save(path)


def exportable(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose weight-only layers dequantize by an op that ONNX knows.

    >>> exportable(nn.ReLU()).training
    False
    """
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    for module in twin.modules():
        if type(module) in _EXPORTED:
            module.__class__ = _EXPORTED[type(module)]
    return twin


class _Exported(CodedWeight):
    """Weights dequantized by `dequantize_rows`, each group as a row of its own."""

    def decoded(self, held: Tensor, scale: Tensor, zero_point: Tensor | None, dtype: torch.dtype) -> Tensor:
        codes = _unpacked(held) if self.halves else held
        rows = codes.reshape(scale.numel(), -1)
        zeros = None if zero_point is None else zero_point.flatten()
        return dequantize_rows(rows, scale.flatten(), zeros).to(dtype).view(codes.shape)


def _unpacked(held: Tensor) -> Tensor:
    """Signed codes of 4 bits from bytes that hold two, without shifts, which torch 2.13 exports wrongly."""
    wide = held.to(torch.int32)
    low = wide & 15
    both = torch.stack((low, torch.div(wide - low, 16, rounding_mode="trunc")), -1).flatten(-2)
    return ((both ^ 8) - 8).to(torch.int8)


class _ExportedLinear(_Exported, WeightOnlyLinear):
    pass


class _ExportedEmbedding(_Exported, CodedEmbedding):
    pass


class _ExportedConv(_Exported, WeightOnlyConv):
    pass


_EXPORTED: dict[type[nn.Module], type[nn.Module]] = {
    WeightOnlyLinear: _ExportedLinear,
    WeightOnlyConv: _ExportedConv,
    CodedEmbedding: _ExportedEmbedding,
}
