"""athena-optim's groups for Muon, of athena-nn's models."""

from __future__ import annotations

import pytest

from athena_nn import Decoder, LearnedPositions, Positions, RelativeBias, ShawPositions
from athena_optim import muon_groups


@pytest.mark.parametrize("positions", [LearnedPositions(8, 16), RelativeBias(4), ShawPositions(4)])
def test_tables_of_positions_are_not_orthogonalised(positions: Positions) -> None:
    model = Decoder(30, 16, num_layers=1, num_heads=4, ff_dim=24, max_length=8, positions=positions)
    names = {parameter: name for name, parameter in model.named_parameters()}
    hidden, others, _ = ([names[one] for one in group["params"]] for group in muon_groups(model))
    assert hidden
    assert all(name.startswith("blocks.") for name in hidden)
    assert {name.partition(".")[0] for name in others} == {"embedding", "positions"}
