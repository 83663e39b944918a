"""Norms and activations by name, and what is refused in their place."""

from __future__ import annotations

from functools import partial

import pytest
from torch import nn

from athena_core import AthenaError, components
from athena_nn import FeedForward, RMSNorm, TransformerBlock
from athena_nn._named import build_activation, build_norm
from athena_nn._plugin import ACTIVATIONS, NORMS


def test_every_name_of_this_package_is_built_without_plugins(monkeypatch):
    monkeypatch.setattr("athena_nn._named.create", None)
    assert all(isinstance(build_norm(name, 4), nn.Module) for name, *_ in NORMS)
    assert all(isinstance(build_activation(name), nn.Module) for name, *_ in ACTIVATIONS)


def test_callables_make_the_part():
    assert build_norm(partial(RMSNorm, eps=0.5), 4).eps == 0.5
    assert isinstance(build_activation(nn.Tanh), nn.Tanh)


def test_an_activation_may_be_a_built_module():
    module = nn.PReLU()
    assert build_activation(module) is module


@pytest.mark.parametrize(
    ("norm", "got"),
    [(RMSNorm(8), "RMSNorm, a built module"), (8, "int, neither"), (None, "NoneType, neither")],
)
def test_a_norm_that_makes_none_is_refused(norm, got):
    """A module is callable too: called with a width, it would fail inside its forward."""
    with pytest.raises(TypeError, match=rf"^A norm must be given by name, .*; got {got}\.$"):
        build_norm(norm, 8)
    with pytest.raises(TypeError, match=r"^A norm must be given by name"):
        TransformerBlock(8, 2, ff_dim=8, norm=norm)


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(AthenaError, match=r"^unknown norm `rmss`\. Did you mean `rms`\?$"):
        build_norm("rmss", 4)
    with pytest.raises(AthenaError, match=r"^unknown activation `gelu-tan`\. Did you mean `gelu-tanh`\?$"):
        FeedForward(8, 8, activation="gelu-tan")


def test_without_plugins_an_unknown_name_is_refused_with_the_names_that_work(monkeypatch, athena_host):
    """The registry then knows no such kind, and would say that nothing is offered at all."""
    monkeypatch.setattr("athena_nn._named.components", athena_host.components)
    with pytest.raises(AthenaError, match=r"^unknown norm `rmss`\. Allowed: layer, rms; no plugin .*`\.$"):
        build_norm("rmss", 4)
    with pytest.raises(AthenaError, match=r"Allowed: geglu, gelu, gelu-tanh, relu, silu, swiglu; no plugin"):
        build_activation("mish")


def test_the_names_that_work_are_those_that_are_offered():
    for kind, rows in (("norm", NORMS), ("activation", ACTIVATIONS)):
        assert {name for name, *_ in rows} <= {component.name for component in components(kind)}
