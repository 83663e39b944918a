"""FSDP2: a model whose blocks are sharded one by one, in a group of one process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from athena_nn import Decoder, RelativeBias, RotaryPositions

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")


@pytest.fixture
def mesh() -> Iterator[dist.DeviceMesh]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("memory_dim", [None, 16])
def test_shards_block_by_block(mesh, memory_dim, checkpoint):
    """Blocks are called, so that their hooks gather what they need; no parameter is made on the way."""

    def make() -> Decoder:
        torch.manual_seed(0)
        positions = RotaryPositions(8) if checkpoint else RelativeBias(4, bidirectional=False)
        return Decoder(
            50,
            32,
            num_layers=2,
            num_heads=4,
            ff_dim=48,
            positions=positions,
            tie_embeddings=False,
            memory_dim=memory_dim,
            checkpoint=checkpoint,
        )

    whole, sharded = make(), make()
    for block in sharded.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    register_fsdp_forward_method(sharded, "loss")
    tokens = torch.randint(50, (2, 7))
    memory = {} if memory_dim is None else {"memory": torch.randn(2, 3, memory_dim)}
    torch.testing.assert_close(sharded(tokens, **memory), whole(tokens, **memory))
    for model in (whole, sharded):
        model.loss(tokens, tokens, **memory).backward()
    for (name, ours), theirs in zip(sharded.named_parameters(), whole.parameters(), strict=True):
        assert isinstance(ours.grad, torch.distributed.tensor.DTensor), name
        torch.testing.assert_close(ours.grad.to_local(), theirs.grad)


def test_forward_hooks_of_every_part_are_called():
    model = Decoder(50, 32, num_layers=2, num_heads=4, ff_dim=48, memory_dim=16)
    called: list[nn.Module] = []
    for module in model.modules():
        module.register_forward_hook(lambda part, *_: called.append(part))
    model(torch.zeros(1, 3, dtype=torch.long), memory=torch.randn(1, 2, 16))
    silent = {
        name
        for name, module in model.named_modules()
        if module not in called and not isinstance(module, nn.ModuleList | nn.Dropout)
    }
    assert {name.rpartition(".")[2] for name in silent} == {
        "positions"
    }  # which act through hooks of their own
