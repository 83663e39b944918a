"""What is folded, equalized or smoothed computes the same, on every architecture of the tests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models import CASES
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from athena_compress import equalizable_pairs, equalize, fold_batch_norm, smooth, smoothing_groups
from athena_compress._data_flow import call

# how many norms feed linear layers alone, and at least how many pairs of layers can be equalized
SMOOTHED = {"vit": 4, "gpt": 4, "llama": 5, "llama-multi-query": 5}
EQUALIZED = {"resnet": 3, "mobilenet": 1, "grouped": 7, "unet": 2, "flatten": 1, "llama": 2}


def double_case(name: str) -> tuple[nn.Module, Any]:
    """A model of the tests in float64, its norms as if it had been trained."""
    model, inputs = CASES[name]()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
            elif isinstance(module, nn.LayerNorm):
                module.weight.uniform_(0.1, 10)
    return model.double().eval(), tree_map(widened, inputs)


def widened(leaf: Any) -> Any:
    return leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def assert_same(rewritten: nn.Module, model: nn.Module, inputs: Any) -> None:
    with torch.no_grad():
        pairs = zip(tree_leaves(call(rewritten, inputs)), tree_leaves(call(model, inputs)), strict=True)
    for got, expected in pairs:
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("name", CASES)
def test_folded(name: str) -> None:
    model, inputs = double_case(name)
    assert_same(fold_batch_norm(model, inputs), model, inputs)
    assert_same(fold_batch_norm(model), model, inputs)


@pytest.mark.parametrize("name", CASES)
def test_equalized(name: str) -> None:
    model, inputs = double_case(name)
    folded = fold_batch_norm(model, inputs)
    pairs = equalizable_pairs(folded, inputs)
    assert len(pairs) >= EQUALIZED.get(name, 0)
    if pairs:
        assert_same(equalize(folded, pairs), model, inputs)


@pytest.mark.parametrize("name", CASES)
def test_smoothed(name: str) -> None:
    model, inputs = double_case(name)
    groups = smoothing_groups(model, inputs)
    assert len(groups) == SMOOTHED.get(name, 0)
    if groups:
        assert_same(smooth(model, [inputs]), model, inputs)
