"""The laws of importances: what the conformance kit asks of each."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from athena_compress._importance import Importance
from athena_core import Component
from athena_core.testing import Check

ImportanceFactory = Callable[..., Importance]
_NAME = "layer.weight"


def example_importance(target: ImportanceFactory) -> Importance:
    """An importance with its default options."""
    return target()


def _layer(dtype: torch.dtype = torch.float32) -> nn.Linear:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(5, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(4, 5, generator=generator))
    return layer.to(dtype)


def _weight(layer: nn.Linear) -> nn.Parameter:
    return layer.get_parameter("weight")


def _show(importance: Importance, layer: nn.Linear, step: int) -> None:
    generator = torch.Generator().manual_seed(1 + step)
    inputs, gradient = torch.randn(7, 5, generator=generator), torch.randn(4, 5, generator=generator)
    if importance.needs_gradients:
        importance.observe(_NAME, _weight(layer), gradient.to(layer.weight.dtype))
    if importance.needs_inputs:
        importance.observe_inputs(_NAME, layer, inputs.to(layer.weight.dtype))


def _scores(target: ImportanceFactory, layer: nn.Linear) -> Tensor:
    importance = target()
    _show(importance, layer, 0)
    return importance.scores(_NAME, _weight(layer))


def _one_score_an_element(target: ImportanceFactory) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        layer = _layer(dtype)
        before = layer.weight.detach().clone()
        scores = _scores(target, layer)
        assert scores.shape == layer.weight.shape, f"scores of shape {tuple(scores.shape)}"
        assert not scores.requires_grad, "scores are part of a graph"
        assert scores.dtype in (torch.float32, torch.float64), f"scores in {scores.dtype}"
        assert torch.isfinite(scores).all()
        assert torch.equal(layer.weight, before), "the weights changed"


def _repeats(target: ImportanceFactory) -> None:
    layers = _layer(), _layer()
    state = torch.get_rng_state()
    first, again = (_scores(target, layer) for layer in layers)
    assert torch.equal(first, again), "two importances that saw the same differ"
    assert torch.equal(torch.get_rng_state(), state), "the global generator was used"


def _resumes(target: ImportanceFactory) -> None:
    layer, importance, resumed = _layer(), target(), target()
    _show(importance, layer, 0)
    file = io.BytesIO()
    torch.save(importance.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for each in (importance, resumed):
        _show(each, layer, 1)
    assert torch.equal(*(each.scores(_NAME, _weight(layer)) for each in (importance, resumed))), (
        "scores differ after a resume"
    )


def _is_cut(target: ImportanceFactory) -> None:
    layer, importance = _layer(), target()
    _show(importance, layer, 0)
    kept = torch.tensor([0, 3])
    importance.cut(_NAME, 1, kept, 5)
    layer.weight.data = layer.weight.data[:, kept]
    assert importance.scores(_NAME, _weight(layer)).shape == (4, 2), "not cut with its parameter"


def importance_checks(component: Component, target: ImportanceFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of an importance."""
    laws = {
        "one finite score an element, without a graph": _one_score_an_element,
        "repeats without the global generator": _repeats,
        "resumes exactly after weights_only loading": _resumes,
        "is cut with its parameter": _is_cut,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))
