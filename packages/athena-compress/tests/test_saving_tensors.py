"""Tensors on disk: what shares memory is written once; strides, dtypes, odd and empty shapes come back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import user_models
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from athena_compress import load, save

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.float8_e4m3fnuz, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16),
    *(torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128),
]


def as_bytes(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor).view(-1).view(torch.uint8)


def assert_same(found: Tensor, expected: Tensor) -> None:
    assert (found.dtype, found.shape, found.stride()) == (expected.dtype, expected.shape, expected.stride())
    assert type(found) is type(expected)
    assert torch.equal(as_bytes(found.detach()), as_bytes(expected.detach()))


def through(folder, **tensors: Tensor) -> nn.Module:
    model = nn.Module()
    for name, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter):
            model.register_parameter(name, tensor)
        else:
            model.register_buffer(name, tensor)
    save(model, folder)
    return load(folder)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 5), (), (0,), (2, 0, 3), (1,), (7, 1)], ids=str)
def test_dtypes_and_shapes(dtype, shape, tmp_path):
    size = torch.empty(shape, dtype=dtype).nbytes
    tensor = torch.randint(256, (size,), dtype=torch.uint8)
    tensor = (tensor % 2 if dtype == torch.bool else tensor).view(dtype).view(shape)
    again = through(tmp_path, tensor=tensor, again=tensor.clone())
    assert_same(again.tensor, tensor)
    assert_same(again.again, tensor)
    assert again.tensor.data_ptr() != again.again.data_ptr() or not size


def test_not_a_number_keeps_its_bits(tmp_path):
    bits = torch.tensor([0x7FC00001, 0x7F800000, -1, 0x00000001], dtype=torch.int32)
    again = through(tmp_path, tensor=bits.view(torch.float32))
    assert torch.equal(again.tensor.view(torch.int32), bits)


STRIDED = {
    "transposed": lambda x: x.t(),
    "channels-last": lambda x: x.reshape(2, 3, 2, 1).to(memory_format=torch.channels_last),
    "every-second": lambda x: x[:, ::2],
    "inner": lambda x: x[1:, 1:2],
    "expanded": lambda x: x[:1].expand(5, 4),
    "expanded-scalar": lambda x: x[0, 0].expand(3),
    "windows": lambda x: x.reshape(-1).unfold(0, 4, 2),
    "diagonal": lambda x: x.diagonal(),
    "squeezed": lambda x: x[:, :1],
}


@pytest.mark.parametrize("name", STRIDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64], ids=str)
def test_strides(name, dtype, tmp_path):
    view = STRIDED[name](torch.randn(3, 4, dtype=dtype))
    again = through(tmp_path, tensor=view)
    assert_same(again.tensor, view)
    assert again.tensor.storage_offset() == 0 or name == "windows" or dtype == torch.complex64


def test_a_small_view_of_large_memory_is_small(tmp_path):
    large = torch.randn(1000, 100)
    through(tmp_path, a=large[:2], b=large[5])
    assert (tmp_path / "model.safetensors").stat().st_size < 4000


def test_the_file_reads_as_a_state_dict(tmp_path):
    model = user_models.ResNet()
    save(model, tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert stored.keys() == model.state_dict().keys()
    user_models.ResNet().load_state_dict(stored)


def test_tied_tensors_stay_tied(tmp_path):
    weight = nn.Parameter(torch.randn(4, 3))
    again = through(tmp_path, a=weight, b=weight)
    assert again.a is again.b
    assert list(load_file(tmp_path / "model.safetensors")) == ["a"]


def test_views_of_one_memory_stay_views(tmp_path):
    whole = torch.randn(4, 3)
    parameter = nn.Parameter(whole)  # another tensor over the same memory
    views = {"whole": whole, "rows": whole[1:3], "turned": whole.t(), "one": whole[3, 2]}
    again = through(tmp_path, parameter=parameter, **views)
    assert list(load_file(tmp_path / "model.safetensors")) == ["parameter"]
    for name, view in views.items():
        assert_same(getattr(again, name), view)
    with torch.no_grad():
        again.parameter.fill_(7)
    assert all((getattr(again, name) == 7).all() for name in views)


def test_views_that_none_of_them_covers(tmp_path):
    whole = torch.arange(20.0)
    again = through(tmp_path, a=whole[3:9], b=whole[7:12:2], c=whole[5:5])
    assert torch.equal(again.a, whole[3:9])
    assert torch.equal(again.b, whole[7:12:2])
    assert again.c.shape == (0,)
    again.a[4] = -1
    assert again.b[0] == -1


def test_the_same_memory_as_several_dtypes(tmp_path):
    numbers = torch.randn(5, dtype=torch.complex64)
    again = through(tmp_path, a=numbers[1:], b=torch.view_as_real(numbers), c=numbers.view(torch.int64))
    assert torch.equal(again.a, numbers[1:])
    again.b.zero_()
    assert not again.a.any()
    assert not again.c.any()


def test_arrays_of_numpy_that_share_memory(tmp_path):
    array = np.arange(6, dtype=np.float32)
    tensors = [torch.from_numpy(part) for part in (array[:2], array[:5], array)]
    again = through(tmp_path, a=tensors[0], b=tensors[1].view(5, 1), c=tensors[2][1:], d=tensors[2])
    assert torch.equal(again.d, tensors[2])
    again.d.zero_()
    assert not again.a.any()
    assert not again.b.any()
    again = through(tmp_path, a=tensors[0], c=tensors[2][1:])
    assert torch.equal(again.a, tensors[0])
    assert torch.equal(again.c, tensors[2][1:])


def test_conjugates_are_resolved(tmp_path):
    numbers = torch.randn(3, dtype=torch.complex64)
    again = through(tmp_path, a=numbers.conj(), b=numbers.conj().imag)
    assert torch.equal(again.a, numbers.conj().resolve_conj())
    assert torch.equal(again.b, numbers.conj().imag.resolve_neg())


def test_tensors_on_meta(tmp_path):
    with torch.device("meta"):
        model = user_models.TiedModel()
    save(model, tmp_path)
    again = load(tmp_path)
    assert again.head.weight is again.embedding.weight
    assert all(p.is_meta and p.requires_grad for p in again.parameters())
    assert [p.shape for p in again.parameters()] == [p.shape for p in model.parameters()]
    assert not load_file(tmp_path / "model.safetensors")
    again = through(tmp_path, a=torch.empty(3, 0, device="meta"), b=torch.empty(3, 4, device="meta").t()[1:])
    assert again.a.shape == (3, 0)
    assert again.b.stride() == (1, 4)


def test_parameters_that_are_no_leaves(tmp_path):
    weight = nn.Parameter(torch.ones(2))
    model = user_models.Holder(scaled=2 * weight, fixed=nn.Parameter(torch.ones(1), requires_grad=False))
    model.leaf = torch.ones(2, requires_grad=True)
    save(model, tmp_path)
    again = load(tmp_path)
    assert torch.equal(again.scaled, torch.full((2,), 2.0))
    assert not again.scaled.requires_grad
    assert again.leaf.requires_grad
    assert not again.fixed.requires_grad


def test_a_model_without_tensors(tmp_path):
    save(nn.ReLU(), tmp_path)
    assert isinstance(load(tmp_path), nn.ReLU)


def test_loaded_tensors_are_aligned_and_ones_own(tmp_path):
    model = through(tmp_path, a=torch.ones(3, dtype=torch.int8), b=torch.ones(64))
    assert model.b.data_ptr() % 64 == 0
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert model.b.sum() == 64


@given(st.data())
def test_drawn_views(tmp_path_factory, data):
    base = torch.randn(64)
    views = {}
    for name in "abc"[: data.draw(st.integers(1, 3))]:
        shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
        stride = data.draw(st.lists(st.integers(0, 9), min_size=len(shape), max_size=len(shape)))
        views[name] = base.as_strided(shape, stride, data.draw(st.integers(0, 9)))
    again = through(tmp_path_factory.mktemp("model"), **views)
    for name, view in views.items():
        assert_same(getattr(again, name), view)
