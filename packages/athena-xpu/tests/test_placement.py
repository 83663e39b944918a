"""Plans for Intel GPUs that are not here, from their capabilities, and placing on a fake `torch.xpu`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fake_xpu import Transfers
from torch import nn

from athena_core import (
    DeviceCaps,
    DeviceRoom,
    PlacementError,
    SplitEmbedding,
    SplitLinear,
    place,
    plan,
    tensor_sizes,
)
from athena_xpu import ARCHITECTURES, XPU

GIB = 2**30
A770 = ARCHITECTURES["alchemist"]


def language_model(words, width=4096, *, layers=2, tied=False, dtype=torch.bfloat16):
    """Shapes alone."""
    with torch.device("meta"):
        blocks = [nn.TransformerEncoderLayer(width, 8, 2 * width, dtype=dtype) for _ in range(layers)]
        model = nn.Sequential(
            nn.Embedding(words, width, dtype=dtype),
            *blocks,
            nn.Linear(width, words, bias=False, dtype=dtype),
        )
    if tied:
        model[-1].weight = model[0].weight
    return model


def cards(count, caps=A770):
    return [DeviceRoom(f"xpu:{index}", caps, caps.total) for index in range(count)]


@pytest.mark.parametrize("arch", ["alchemist", "meteor_lake"])
@pytest.mark.parametrize(("words", "pieces"), [(2**19 - 1, 0), (2**19, 2), (2**19 + 2**18, 2)])
def test_a_vocabulary_of_4_gib_is_split_where_allocations_are_limited(arch, words, pieces):
    """Pitfall: 4.00 GiB fail on a card with 15.1 GiB free (triton-xpu#7477)."""
    sizes = tensor_sizes(language_model(words, tied=True))
    made = plan(sizes, cards(1, ARCHITECTURES[arch]), training=False)
    assert [len(placed.pieces) for placed in made.splits] == [pieces] * bool(pieces)
    for newer in ("battlemage", "lunar_lake"):
        assert plan(sizes, cards(1, ARCHITECTURES[newer]), training=False).splits == ()


def test_in_training_the_float32_state_decides():
    """2**18 rows of 4,096: 2 GiB in bfloat16, and 4 GiB each of AdamW's moments."""
    sizes = tensor_sizes(language_model(2**18, tied=True))
    made = plan(sizes, cards(2))
    assert [placed.pieces for placed in made.splits] == [(2**17, 2**17)]
    assert "split: `0.weight` (262144 x 4096, bfloat16, 2.00 GiB) into 2 pieces" in str(made)
    assert plan(sizes, cards(2), training=False).splits == ()


def test_what_cannot_be_split_is_refused_with_its_name_and_size():
    with torch.device("meta"):
        model = nn.ModuleDict({"table": nn.EmbeddingBag(2**18, 4096)})
    with pytest.raises(
        PlacementError, match=r"`table.weight` \(262144 x 4096, float32, 4.00 GiB\): 4.00 GiB"
    ):
        plan(tensor_sizes(model), cards(1), training=False)


def test_layers_fill_the_cards_in_order_and_the_host_takes_the_rest():
    sizes = tensor_sizes(language_model(2**15, layers=40))
    host = DeviceRoom("cpu", DeviceCaps())
    with pytest.raises(PlacementError, match=r"Give more devices, or the CPU as the last"):
        plan(sizes, cards(2))
    where = [placed.device for placed in plan(sizes, [*cards(2), host]).tensors]
    assert where == sorted(where, key=["xpu:0", "xpu:1", "cpu"].index)
    assert set(where) == {"xpu:0", "xpu:1", "cpu"}


def test_float64_is_cast_or_refused_as_the_card_lacks_it():
    """Pitfall: Meteor Lake has float64 and no matrix unit; the A series is the reverse."""
    sizes = tensor_sizes(language_model(10, 8, dtype=torch.float64))
    assert all(placed.dtype == torch.float32 for placed in plan(sizes, cards(1)).casts)
    assert len(plan(sizes, cards(1)).casts) == len(sizes)
    assert plan(sizes, cards(1, ARCHITECTURES["meteor_lake"])).casts == ()
    with pytest.raises(PlacementError, match=r"`0.weight` .*: xpu:0 lacks float64; pass `cast=True`"):
        plan(sizes, cards(1), cast=False)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(40, 8), nn.Linear(8, 40, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        return self.head(self.embedding(ids).tanh())


def test_a_model_is_split_cast_and_moved_by_pieces(fake_xpu, monkeypatch):
    fake = fake_xpu("alchemist")
    monkeypatch.setattr(XPU, "caps", lambda self, index=0: replace(A770, max_alloc=400))
    fake.room = 400
    model = Words().double()
    expected = model(torch.arange(40))
    with Transfers(fake):
        place(model, "xpu")
    assert isinstance(model.embedding, SplitEmbedding)
    assert isinstance(model.head, SplitLinear)
    assert [len(piece) for piece in model.head.pieces] == [10] * 4
    assert model.head.pieces[3] is model.embedding.pieces[3]
    moved = [told for told in fake.log if told[0] == "to"]
    assert [dtype for _, dtype, _ in moved] == [torch.float32] * 4
    torch.testing.assert_close(model(torch.arange(40)), expected.float())
    assert list(model.state_dict()) == ["embedding.weight", "head.weight"]


def test_out_of_memory_names_what_was_moved_and_what_would_fit(fake_xpu):
    fake = fake_xpu("alchemist")
    fake.room, fake.free = 800, 2**20
    model = nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 30), nn.Linear(30, 2))
    before = [(parameter, parameter.data_ptr()) for parameter in model.parameters()]
    with Transfers(fake), pytest.raises(PlacementError) as caught:
        place(model, "xpu")
    message = str(caught.value)
    assert "`1.weight` (30 x 10, float32, 1.17 KiB): xpu:0 ran out of memory" in message
    assert "440 B had fitted before it. 1.00 MiB is free there now, of 15.11 GiB" in message
    assert [(parameter, parameter.data_ptr()) for parameter in model.parameters()] == before


def test_convolutions_are_channels_last(fake_xpu):
    with Transfers(fake_xpu("alchemist")):
        model = place(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv1d(3, 8, 3)), "xpu")
        plain = place(nn.Conv2d(3, 8, 3), "xpu", channels_last=False)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert not model[0].weight.is_contiguous()
    assert model[1].weight.is_contiguous()
    assert plain.weight.is_contiguous()
