"""The planner, a pure function: laws over drawn layers and devices, and every refusal."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from athena_core import AthenaError, DeviceCaps, DeviceRoom, PlacementError, TensorSize, plan, tensor_sizes
from athena_core._placement import size_text

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool)


@st.composite
def layers(draw):
    """Tensors of one to six layers, each layer one module, so that none can be torn."""
    tensors = []
    for i in range(draw(st.integers(1, 6))):
        for j in range(draw(st.integers(1, 3))):
            dtype = draw(st.sampled_from(DTYPES))
            shape = (draw(st.integers(0, 40)),)
            trainable = dtype.is_floating_point and draw(st.booleans())
            width, splittable = draw(st.integers(0, 5)), draw(st.booleans())
            tensors.append(TensorSize(f"{i}.t{j}", shape, dtype, str(i), trainable, width, splittable))
    return tensors


@st.composite
def devices(draw):
    rooms = []
    for i in range(draw(st.integers(1, 3))):
        caps = DeviceCaps(fp64=draw(st.booleans()), max_alloc=draw(st.none() | st.integers(0, 400)))
        rooms.append(DeviceRoom(f"gpu:{i}", caps, draw(st.none() | st.integers(0, 3000))))
    return rooms


options = st.fixed_dictionaries(
    {
        "training": st.booleans(),
        "optimizer_bytes": st.sampled_from([0, 2, 8]),
        "rows": st.integers(0, 4),
        "cast": st.booleans(),
    }
)


def load_of(tensors, room, *, training, optimizer_bytes, rows, cast):
    """The documented load, term by term; None if a tensor cannot be there at all."""
    total, outputs = 0, []
    for t in tensors:
        dtype = torch.float32 if t.dtype is torch.float64 and not room.caps.fp64 else t.dtype
        if dtype != t.dtype and not cast:
            return None
        state = training and t.trainable
        n = math.prod(t.shape)
        largest = max(n * dtype.itemsize, n * min(4, optimizer_bytes) if state else 0)
        row = largest // max(1, n) if t.splittable else largest
        if room.caps.max_alloc is not None and row > room.caps.max_alloc:
            return None
        total += n * dtype.itemsize + (n * (dtype.itemsize + optimizer_bytes) if state else 0)
        outputs.append(room.activation(t, rows))
    return total + (sum(outputs) if training else max(outputs, default=0))


def fits(tensors, room, **options):
    load = load_of(tensors, room, **options)
    return load is not None and (room.free is None or load <= room.free)


def split_exists(groups, rooms, **options):
    """Every split of the layers into as many runs as there are devices."""
    if not rooms:
        return not groups
    return any(
        fits([t for group in groups[:k] for t in group], rooms[0], **options)
        and split_exists(groups[k:], rooms[1:], **options)
        for k in range(len(groups) + 1)
    )


def assert_allocatable(placed, limit, options):
    """Whole if that can be, else in as few pieces as can be, of rows that differ by one at most."""
    state = options["training"] and placed.tensor.trainable
    row = max(placed.dtype.itemsize, min(4, options["optimizer_bytes"]) if state else 0)
    rows = placed.tensor.shape[0]
    if limit is None or row * rows <= limit:
        assert placed.pieces == ()
        return
    assert sum(placed.pieces) == rows
    assert max(placed.pieces) * row <= limit
    assert max(placed.pieces) - min(placed.pieces) <= 1
    assert (len(placed.pieces) - 1) * (limit // row) < rows


@given(layers(), devices(), options)
def test_plan_is_complete_ordered_within_capacity_and_refuses_only_the_impossible(tensors, rooms, options):
    groups = {}
    for t in tensors:
        groups.setdefault(t.layer, []).append(t)
    if not split_exists(list(groups.values()), rooms, **options):
        with pytest.raises(PlacementError) as caught:
            plan(tensors, rooms, **options)
        assert "\n" not in str(caught.value)
        assert any(f"`{t.name}`" in str(caught.value) for t in tensors)
        return
    made = plan(tensors, rooms, **options)
    assert [placed.tensor for placed in made.tensors] == tensors
    order = [room.device for room in rooms]
    where = [order.index(placed.device) for placed in made.tensors]
    assert where == sorted(where)
    for room, load in zip(rooms, made.loads, strict=True):
        here = [placed for placed in made.tensors if placed.device == room.device]
        assert load.total == load_of([placed.tensor for placed in here], room, **options)
        assert load.fits
        assert room.caps.fp64 or all(placed.dtype is not torch.float64 for placed in here)
        for placed in here:
            assert_allocatable(placed, room.caps.max_alloc, options)
    assert len({(placed.tensor.layer, placed.device) for placed in made.tensors}) == len(groups)


@given(layers(), devices(), options)
def test_plan_is_a_function_of_its_arguments(tensors, rooms, options):
    def answer():
        try:
            return str(plan(tensors, rooms, **options))
        except PlacementError as error:
            return str(error)

    assert answer() == answer()


def block(name, n=100, dtype=torch.float32):
    return [
        TensorSize(f"{name}.attention.weight", (n,), dtype, name, True),
        TensorSize(f"{name}.mlp.weight", (n,), dtype, name, True),
    ]


def test_a_layer_is_torn_only_when_no_device_holds_it_whole():
    small = [DeviceRoom("gpu:0", DeviceCaps(), 600), DeviceRoom("gpu:1", DeviceCaps(), 600)]
    torn = plan(block("0"), small, training=False)
    assert torn.torn == ("0",)
    assert [placed.device for placed in torn.tensors] == ["gpu:0", "gpu:1"]
    assert "torn apart, too large for one device: 0" in str(torn)
    large = [DeviceRoom("gpu:0", DeviceCaps(), 600), DeviceRoom("gpu:1", DeviceCaps(), 800)]
    whole = plan(block("0"), large, training=False)
    assert whole.torn == ()
    assert [placed.device for placed in whole.tensors] == ["gpu:1", "gpu:1"]


def test_largest_single_allocation():
    """Pitfall: a 4 GiB tensor fails on a 16 GB card (triton-xpu#7477)."""
    room = DeviceRoom("xpu:0", DeviceCaps(max_alloc=4 * 2**30 - 1), 16 * 2**30)
    embedding = TensorSize("embedding.weight", (2**20, 2048), torch.bfloat16)
    with pytest.raises(
        PlacementError, match=r"`embedding.weight` \(1048576 x 2048, bfloat16, 4.00 GiB\)"
    ) as caught:
        plan([embedding], [room], training=False)
    assert "the largest allocation on xpu:0 is 4.00 GiB" in str(caught.value)
    assert plan([TensorSize("e", (2**20, 2047), torch.bfloat16)], [room], training=False)


def test_a_vocabulary_over_the_largest_allocation_is_split():
    """Weight, gradient and each float32 moment: the larger of them says how many rows fit."""
    room = DeviceRoom("xpu:0", DeviceCaps(max_alloc=4 * 2**30 - 1), 64 * 2**30)
    words = TensorSize(
        "embedding.weight", (2**20, 2048), torch.bfloat16, trainable=True, splittable=True, width=2048
    )
    assert plan([words], [room], training=False).tensors[0].pieces == (2**19, 2**19)
    exact = DeviceRoom("xpu:0", DeviceCaps(max_alloc=4 * 2**30))
    assert plan([words], [exact], training=False).splits == ()
    made = plan([words], [room])
    assert [placed.pieces for placed in made.splits] == [(349526, 349525, 349525)]
    assert made.loads[0].total == 2**31 * (2 + 2 + 8)
    line = "split: `embedding.weight` (1048576 x 2048, bfloat16, 4.00 GiB) into 3 pieces"
    assert f"{line} of 349526 rows or one less" in str(made)
    host = [DeviceRoom("xpu:0", room.caps, 2**20), DeviceRoom("cpu", DeviceCaps())]
    assert plan([words], host).splits == ()
    with pytest.raises(PlacementError, match=r"4\.00 GiB in one row"):
        plan([TensorSize("wide", (3, 2**30), torch.float32, splittable=True)], [room], training=False)


def test_optimizer_state_of_a_small_dtype_is_the_larger_allocation():
    room = DeviceRoom("xpu:0", DeviceCaps(max_alloc=2**20), 2**30)
    weight = TensorSize("w", (2**18 + 1,), torch.bfloat16, trainable=True)
    assert plan([weight], [room], training=False).loads[0].total == 2**19 + 2
    with pytest.raises(PlacementError, match="in one piece"):
        plan([weight], [room])
    assert plan([weight], [room], optimizer_bytes=0)


def test_float64_is_cast_or_refused_by_policy():
    room = DeviceRoom("mps:0", DeviceCaps(fp64=False))
    tensors = [
        TensorSize("w", (3,), torch.float64, trainable=True),
        TensorSize("z", (3,), torch.complex128),
        TensorSize("i", (3,), torch.int64),
        TensorSize("h", (3,), torch.float16),
    ]
    made = plan(tensors, [room])
    assert [placed.dtype for placed in made.tensors] == [
        torch.float32,
        torch.complex64,
        torch.int64,
        torch.float16,
    ]
    assert [placed.tensor.name for placed in made.casts] == ["w", "z"]
    assert "cast: w, float64 to float32" in str(made)
    with pytest.raises(
        PlacementError, match=r"`w` \(3, float64, 24 B\): mps:0 lacks float64; pass `cast=True`"
    ):
        plan(tensors, [room], cast=False)
    assert plan(tensors, [DeviceRoom("cpu", DeviceCaps())], cast=False).casts == ()


def test_loads_by_hand():
    """10 trainable float32 elements of width 2, 3 of int64, 5 rows."""
    tensors = [TensorSize("w", (5, 2), torch.float32, "0", True, 2), TensorSize("i", (3,), torch.int64, "0")]
    room = DeviceRoom("gpu:0", DeviceCaps())
    load = plan(tensors, [room], rows=5).loads[0]
    assert (load.parameters, load.gradients, load.optimizer, load.activations) == (40 + 24, 40, 80, 80)
    load = plan(tensors, [room], rows=5, training=False).loads[0]
    assert (load.parameters, load.gradients, load.optimizer, load.activations) == (64, 0, 0, 80)


def test_the_backend_supplies_the_activation_estimate():
    room = DeviceRoom("gpu:0", DeviceCaps(), 1000, lambda tensor, rows: 7 * rows)
    assert plan([TensorSize("w", (1,), torch.float32)], [room], rows=3).loads[0].activations == 21


def test_offloading_to_the_host_as_the_last_device():
    rooms = [DeviceRoom("gpu:0", DeviceCaps(), 900), DeviceRoom("cpu", DeviceCaps())]
    made = plan([*block("0"), *block("1")], rooms, training=False)
    assert [placed.device for placed in made.tensors] == ["gpu:0", "gpu:0", "cpu", "cpu"]


def test_refusal_names_needed_free_tensor_and_remedy():
    rooms = [DeviceRoom("gpu:0", DeviceCaps(), 900), DeviceRoom("gpu:1", DeviceCaps(), 500)]
    with pytest.raises(PlacementError) as caught:
        plan([*block("0"), *block("1")], rooms, training=False)
    for part in (
        "`1.attention.weight` (100, float32, 400 B)",
        "800 B; 500 B is left on gpu:1, after all up to `0.mlp.weight`, which fit.",
        "1.56 KiB",
        "gpu:0 900 B",
        "Give more",
    ):
        assert part in str(caught.value)
    assert isinstance(caught.value, AthenaError)


def test_table():
    made = plan(block("0"), [DeviceRoom("gpu:0", DeviceCaps(), 2**20), DeviceRoom("cpu", DeviceCaps())])
    head, first, second = str(made).splitlines()
    assert head.split() == [
        *("device", "tensors", "from", "to"),
        *("parameters", "gradients", "optimizer", "activations", "total", "free"),
    ]
    assert first.split("  ")[0] == "gpu:0"
    assert "1.00 MiB" in first
    assert second.split()[:4] == ["cpu", "0", "-", "-"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "unknown"),
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (4 * 2**30, "4.00 GiB"),
        (2**60, "1048576.00 TiB"),
    ],
)
def test_sizes_in_words(count, text):
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda t, r: plan([t, t], [r]), r"`tensors` must have distinct names; got \['w'\]"),
        (lambda t, r: plan([t], [r, r]), r"`devices` must have distinct names; got \['gpu:0'\]"),
        (lambda t, r: plan([t], []), "`devices` must hold at least one"),
    ],
)
def test_bad_arguments(call, said):
    with pytest.raises(ValueError, match=said):
        call(TensorSize("w", (1,), torch.float32), DeviceRoom("gpu:0", DeviceCaps()))


def test_a_tensor_may_be_called_as_a_device_is():
    assert plan([TensorSize("cpu", (1,), torch.float32)], [DeviceRoom("cpu", DeviceCaps())]).tensors


@pytest.mark.parametrize("name", ["rows", "optimizer_bytes"])
def test_counts_below_zero(name):
    with pytest.raises(ValueError, match=f"`{name}` must be at least 0; got -1"):
        plan([], [DeviceRoom("gpu:0", DeviceCaps())], **{name: -1})


def test_no_tensors_and_scalars_and_empty_ones():
    room = DeviceRoom("gpu:0", DeviceCaps(), 4)
    assert plan([], [room]).tensors == ()
    made = plan([TensorSize("s", (), torch.float32), TensorSize("e", (0, 9), torch.float64)], [room])
    assert made.loads[0].total == 4


def decoder(width, n_layers, vocabulary):
    with torch.device("meta"):
        blocks = [torch.nn.TransformerEncoderLayer(width, 8, 4 * width) for _ in range(n_layers)]
        return torch.nn.Sequential(
            torch.nn.Embedding(vocabulary, width), *blocks, torch.nn.Linear(width, vocabulary)
        )


def test_seventy_billion_parameters_from_shapes():
    sizes = tensor_sizes(decoder(8192, 84, 128_256))
    assert sum(math.prod(size.shape) for size in sizes) > 69e9
    rooms = [DeviceRoom(f"gpu:{i}", DeviceCaps(), 80 * 2**30) for i in range(16)]
    assert len(plan(sizes, rooms[:4], training=False).tensors) == len(sizes)
    with pytest.raises(PlacementError, match="All together"):
        plan(sizes, rooms[:8], rows=1)


def test_activation_estimate_against_what_autograd_keeps():
    """Between one and three times the bytes that a transformer's training step saves."""
    width, rows = 64, 4 * 32
    layer = torch.nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
    own = {parameter.data_ptr() for parameter in layer.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = layer(torch.randn(4, 32, width, requires_grad=True))
    estimate = plan(tensor_sizes(layer), [DeviceRoom("cpu", DeviceCaps())], rows=rows).loads[0].activations
    assert output.shape == (4, 32, width)
    assert sum(kept.values()) <= estimate <= 3 * sum(kept.values())
