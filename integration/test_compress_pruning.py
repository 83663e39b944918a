"""athena-compress removes heads, neurons and layers of athena-nn's decoder, and athena-optim goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import athena_core as athena
from athena_compress import dependencies, layer_candidates, parameter_count, remove_layers
from athena_core import Kernel, PluginHost, _kernels, hookimpl
from athena_nn import AlibiPositions, Decoder, RotaryPositions

OPTIONS = {"num_layers": 2, "num_heads": 4, "ff_dim": 24}
TOKENS = torch.arange(10).view(2, 5)
NORM_KERNEL = """
import torch


def rms_norm(x, weight, eps):
    return torch.rms_norm(x, weight.shape, weight, eps)


class Formula:
    setup_context = backward = None
"""


def decoder(kv_heads: int, **options: object) -> Decoder:
    torch.manual_seed(0)
    return Decoder(30, 16, **OPTIONS, num_kv_heads=kv_heads, **options).eval()  # type: ignore[arg-type]


def zeroed(model: nn.Module, share: float = 0.5) -> dict[str, Tensor]:
    """Make a share of each removable group 0, and return it."""
    named = dict(model.named_parameters())
    graph = dependencies(model, TOKENS)
    chosen = {g.name: torch.arange(int(g.size * share)) for g in graph.groups if g.removable}
    with torch.no_grad():
        for name, units in chosen.items():
            for one in graph.group(name).slices:
                gone = torch.isin(one.units, units).nonzero()[:, 0]
                named[one.tensor_name].index_fill_(one.dim, gone, 0)
    return chosen


@pytest.mark.parametrize(("kv_heads", "heads"), [(4, 4), (2, 2), (1, 4)])
@pytest.mark.parametrize("positions", ["rotary", "none", "query-key norms"])
def test_half_of_the_decoder(kv_heads: int, heads: int, positions: str) -> None:
    options: dict[str, object] = {"positions": RotaryPositions(4)} if positions == "rotary" else {}
    if positions == "query-key norms":
        options["qk_norm"] = "rms"
    model = decoder(kv_heads, **options)
    graph = dependencies(model, TOKENS)
    assert [g.size for g in graph.groups if g.removable and g.kind == "heads"] == [heads] * 2
    chosen = zeroed(model)
    before = model(TOKENS)
    graph.remove(chosen)
    torch.testing.assert_close(model(TOKENS), before, rtol=1e-5, atol=1e-5)
    attention = model.layers()[0].attention
    assert attention.num_heads == 2
    assert attention.num_kv_heads == max(kv_heads // 2, 1)
    smaller = Decoder(
        30,
        16,
        num_layers=2,
        num_heads=2,
        ff_dim=12,
        num_kv_heads=attention.num_kv_heads,
        head_dim=4,
        **options,  # type: ignore[arg-type]
    ).eval()
    assert parameter_count(model) == parameter_count(smaller)
    smaller.load_state_dict(model.state_dict())
    assert torch.equal(smaller(TOKENS), model(TOKENS))
    cache = model.new_cache(2)
    with torch.no_grad():
        steps = torch.cat([model(token, cache=cache) for token in TOKENS.split(1, dim=1)], 1)
    torch.testing.assert_close(steps, model(TOKENS), rtol=1e-4, atol=1e-5)


def test_positions_that_belong_to_each_head_keep_all_of_them() -> None:
    model = decoder(4, positions=AlibiPositions(4))
    groups = dependencies(model, TOKENS).groups
    assert not any(group.removable for group in groups if "attention" in group.name)


@pytest.mark.parametrize("name", ["lamb", "adamw", "lion"])
def test_optimizers_go_on(name: str) -> None:
    model = decoder(2)
    optimizer = athena.create("optimizer", name, model.parameters(), lr=1e-3)
    wrapped = athena.create("optimizer-wrapper", "lookahead", optimizer, k=2)

    def step() -> None:
        wrapped.zero_grad()
        model.loss(TOKENS[:, :-1], TOKENS[:, 1:]).backward()
        wrapped.step()

    for _ in range(3):
        step()
    graph = dependencies(model, TOKENS)
    graph.remove({g.name: torch.tensor([0]) for g in graph.groups if g.removable}, wrapped)
    for _ in range(3):
        step()
    for parameter in model.parameters():
        for value in wrapped.state[parameter].values():
            if isinstance(value, Tensor) and value.ndim:
                assert value.shape == parameter.shape


def test_layers_go() -> None:
    model = decoder(2)
    assert len(layer_candidates(model, TOKENS)) == 2
    remove_layers(model, ["blocks.0"], TOKENS)
    assert len(model.blocks) == 1


class NormOnTheHost:
    """A plugin with a kernel for an op that has the name of one of torch's."""

    @hookimpl
    def athena_kernels(self) -> list[Kernel]:
        return [Kernel("athena_nn::rms_norm", "cpu", "norm_kernel:rms_norm", autograd="norm_kernel:Formula")]


def test_a_devices_kernels_hide_no_units(
    athena_host: PluginHost, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "norm_kernel.py").write_text(NORM_KERNEL)
    monkeypatch.syspath_prepend(tmp_path)
    model = decoder(4)
    expected = [(g.name, g.size) for g in dependencies(model, TOKENS).groups if g.removable]
    athena_host.register(NormOnTheHost(), "norm")
    _kernels.forget()
    try:
        with torch.no_grad():
            model(TOKENS)
        assert "cpu" in _kernels.OPS["athena_nn::rms_norm"].installed
        assert [(g.name, g.size) for g in dependencies(model, TOKENS).groups if g.removable] == expected
    finally:
        _kernels.forget()


def test_neurons_of_a_layer_in_pieces_go() -> None:
    torch.manual_seed(0)
    whole = nn.Linear(6, 10)
    pieces = [nn.Parameter(rows) for rows in whole.weight.detach().split(4)]
    last = nn.Linear(10, 4)
    model = nn.Sequential(athena.SplitLinear(pieces, whole.bias), nn.Tanh(), last)
    inputs = torch.randn(5, 6)
    graph = dependencies(model, inputs)
    gone = {"0": torch.tensor([0, 1, 2]), "0#2": torch.tensor([1]), "0#3": torch.tensor([1])}
    last.weight.data[:, [0, 1, 2, 5, 9]] = 0
    before = model(inputs)
    graph.remove(gone)
    torch.testing.assert_close(model(inputs), before)
    assert str(model[0]) == "SplitLinear(6, 5, n_pieces=3)"
    model.load_state_dict(model.state_dict())
