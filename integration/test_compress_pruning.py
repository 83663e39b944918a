"""athena-compress removes heads, neurons and layers of athena-nn's decoder, and athena-optim goes on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import athena_core as athena
from athena_compress import dependencies, layer_candidates, parameter_count, remove_layers
from athena_nn import AlibiPositions, Decoder, RotaryPositions

OPTIONS = {"num_layers": 2, "num_heads": 4, "ff_dim": 24}
TOKENS = torch.arange(10).view(2, 5)


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
