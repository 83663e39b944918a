"""The cache of teacher outputs: bit for bit, resumed, and refused where it is not what it must be."""

from __future__ import annotations

import copy
import json
import math
import pickle

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from athena_compress import Distiller, TeacherCache, soft_target_loss
from athena_compress._teacher_cache_files import INDEX
from athena_core import AthenaError

DATA = torch.randn(23, 4, generator=torch.Generator().manual_seed(1))


class Teacher(nn.Module):
    """Counts its examples; noisy in train mode."""

    def __init__(self, classes: int = 6) -> None:
        super().__init__()
        self.linear = nn.Linear(4, classes)
        self.drop = nn.Dropout(0.5)
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return 3 * self.drop(self.linear(x))


def expected(teacher: Teacher, data: torch.Tensor = DATA) -> torch.Tensor:
    return copy.deepcopy(teacher).eval()(data).detach()


def batches(data: torch.Tensor = DATA, size: int = 5):
    return data.split(size)


def interrupted(count: int, size: int = 5):
    yield from batches(size=size)[:count]
    raise KeyboardInterrupt


def test_holds_the_teachers_outputs_by_index(tmp_path):
    teacher = Teacher().train()
    cache = TeacherCache.write(tmp_path / "cache", teacher, batches(), shard_examples=10)
    assert teacher.training
    assert len(cache) == 23
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 3
    # Batches of another size may be multiplied in another order.
    logits = torch.cat([expected(teacher, batch) for batch in batches()])
    for indices in (
        list(range(23)),
        torch.randperm(23),
        [22, 0, 9, 10, 9],
        [],
        torch.tensor([[1, 2], [20, 4]]),
    ):
        found = cache[indices]
        assert torch.equal(found, logits[torch.as_tensor(indices, dtype=torch.long)])
    assert torch.equal(cache[7], logits[7])
    assert torch.equal(torch.stack(list(cache)), logits)
    assert torch.equal(TeacherCache(tmp_path / "cache", teacher=teacher, length=23)[range(23)], logits)


def test_takes_the_place_of_the_teacher(tmp_path):
    teacher, student = Teacher(), nn.Linear(4, 6)
    cache = TeacherCache.write(tmp_path, teacher, batches())
    chosen = torch.tensor([3, 17, 8])
    losses = Distiller(None, student).loss(DATA[chosen], teacher_outputs=cache[chosen])
    torch.testing.assert_close(losses.total, Distiller(teacher, student).loss(DATA[chosen]).total)


def test_sequences_and_other_forms_of_inputs(tmp_path):
    class Keywords(nn.Module):
        def forward(self, *, x, scale):
            return {"logits": x * scale}

    data = torch.randn(6, 3, 5)
    inputs = [{"x": part, "scale": 2.0} for part in data.split(4)]
    assert torch.equal(TeacherCache.write(tmp_path, Keywords(), inputs)[range(6)], 2 * data)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_16_bits(tmp_path, dtype):
    teacher = Teacher()
    cache = TeacherCache.write(tmp_path, teacher, batches(), dtype=dtype)
    logits = torch.cat([expected(teacher, batch) for batch in batches()])
    assert torch.equal(cache[range(23)], logits.to(getattr(torch, dtype)).float())
    assert load_file(tmp_path / "shard-00000.safetensors")["logits"].dtype == getattr(torch, dtype)


@pytest.mark.parametrize("top_k", [1, 2, 6])
def test_the_largest_alone(tmp_path, top_k):
    teacher = Teacher()
    cache = TeacherCache.write(tmp_path, teacher, batches(), top_k=top_k)
    logits, found = expected(teacher), cache[range(23)]
    values, classes = logits.topk(top_k)
    torch.testing.assert_close(found.gather(1, classes), values)
    probabilities = found.softmax(-1)
    torch.testing.assert_close(probabilities.gather(1, classes), logits.softmax(-1).gather(1, classes))
    others = probabilities.scatter(1, classes, 0.0)
    kept = torch.ones_like(others).scatter(1, classes, 0.0).bool()
    for row, own in zip(others, kept, strict=True):
        if own.any():
            torch.testing.assert_close(row[own], row[own].mean().expand(int(own.sum())))
    if top_k == 6:
        torch.testing.assert_close(found, logits)
        student = torch.randn(23, 6)
        torch.testing.assert_close(soft_target_loss(student, found), soft_target_loss(student, logits))
    assert load_file(tmp_path / "shard-00000.safetensors")["values"].shape == (23, top_k)


def test_is_written_once(tmp_path):
    teacher = Teacher()
    TeacherCache.write(tmp_path, teacher, batches(), shard_examples=10)
    assert teacher.seen == 23
    again = TeacherCache.write(tmp_path, teacher, batches(), shard_examples=10)
    assert teacher.seen == 23
    assert len(again) == 23


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
def test_goes_on_where_it_was_interrupted(tmp_path, count):
    teacher = Teacher()
    whole = TeacherCache.write(tmp_path / "whole", teacher, batches(), shard_examples=10)
    with pytest.raises(KeyboardInterrupt):
        TeacherCache.write(tmp_path / "cut", teacher, interrupted(count), shard_examples=10)
    with pytest.raises(AthenaError, match=r"no cache|not written to its end. Call TeacherCache.write again"):
        TeacherCache(tmp_path / "cut")
    (tmp_path / "cut" / ".shard-00009.safetensors.1.tmp").write_bytes(b"of a writer that was killed")
    teacher.seen = 0
    cache = TeacherCache.write(tmp_path / "cut", teacher, batches(), shard_examples=10)
    assert teacher.seen == 23 - 10 * (count // 2)
    assert torch.equal(cache[range(23)], whole[range(23)])
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("cut", "whole")]
    assert names[0] == names[1]
    for name in names[0]:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_failed_write_leaves_no_half_file(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        TeacherCache.write(tmp_path, Teacher(), batches())
    assert not list(tmp_path.iterdir())


def test_files_are_mapped_and_checked_at_first_use(tmp_path):
    TeacherCache.write(tmp_path, Teacher(), batches(), shard_examples=10)
    path = tmp_path / "shard-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    cache = TeacherCache(tmp_path)
    cache[[0, 22]]
    with pytest.raises(AthenaError, match=r"shard-00001.safetensors was changed: its checksum is"):
        cache[[12]]
    assert sorted(cache._mapped) == [0, 2]


def test_a_worker_maps_the_files_itself(tmp_path):
    cache = TeacherCache.write(tmp_path, Teacher(), batches())
    logits = cache[range(23)]
    other = pickle.loads(pickle.dumps(cache))
    assert not other._mapped
    assert torch.equal(other[range(23)], logits)


class TestRefused:
    def test_a_file_that_was_cut_short_or_is_gone(self, tmp_path):
        TeacherCache.write(tmp_path, Teacher(), batches())
        path = tmp_path / "shard-00000.safetensors"
        whole = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises(AthenaError, match=f"is cut short: it has {whole - 3} bytes of {whole}"):
            TeacherCache(tmp_path)
        path.unlink()
        with pytest.raises(AthenaError, match=f"is cut short: it has 0 bytes of {whole}"):
            TeacherCache(tmp_path)

    def test_another_teacher(self, tmp_path):
        teacher = Teacher()
        TeacherCache.write(tmp_path, teacher, batches())
        with torch.no_grad():
            teacher.linear.bias[0] += 1e-3
        for attempt in (
            lambda: TeacherCache(tmp_path, teacher=teacher),
            lambda: TeacherCache.write(tmp_path, teacher, batches()),
        ):
            with pytest.raises(AthenaError, match="is of another teacher: its weights differ"):
                attempt()

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (DATA + 1e-3, "differs in the batches of shard-00000"),
            (DATA.flip(0), "differs in the batches"),
            (DATA[:20], "has fewer batches"),
            (torch.cat([DATA, DATA[:2]]), "differs in the batches of shard-00002"),
        ],
    )
    def test_other_data(self, tmp_path, data, words):
        teacher = Teacher()
        TeacherCache.write(tmp_path, teacher, batches(), shard_examples=10)
        with pytest.raises(AthenaError, match=f"is of other data: what was passed {words}"):
            TeacherCache.write(tmp_path, teacher, batches(data), shard_examples=10)

    def test_more_data(self, tmp_path):
        teacher = Teacher()
        TeacherCache.write(tmp_path, teacher, batches(DATA[:20]), shard_examples=10)
        with pytest.raises(AthenaError, match="is of other data: what was passed has more batches"):
            TeacherCache.write(tmp_path, teacher, batches(), shard_examples=10)

    def test_data_of_another_length(self, tmp_path):
        TeacherCache.write(tmp_path, Teacher(), batches())
        with pytest.raises(
            AthenaError, match="of other data: it has outputs of 23 examples, and the data set has 24"
        ):
            TeacherCache(tmp_path, length=24)

    def test_other_options(self, tmp_path):
        teacher = Teacher()
        TeacherCache.write(tmp_path, teacher, batches())
        with pytest.raises(AthenaError, match="written with another `dtype`: float32, now float16"):
            TeacherCache.write(tmp_path, teacher, batches(), dtype="float16")

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            (None, "is no cache of teacher outputs"),
            ("{", "is damaged"),
            ("[]", "is not of version 1"),
            (json.dumps({"format": "athena-compress teacher cache", "version": 2}), "is not of version 1"),
        ],
    )
    def test_a_folder_that_is_no_cache_or_of_another_version(self, tmp_path, content, words):
        if content is not None:
            (tmp_path / INDEX).write_text(content)
        with pytest.raises(AthenaError, match=words):
            TeacherCache(tmp_path)

    @pytest.mark.parametrize("index", [-1, 23, [0, 99], torch.tensor([True]), 1.5, slice(2, 5)])
    def test_examples_that_are_not_there(self, tmp_path, index):
        cache = TeacherCache.write(tmp_path, Teacher(), batches())
        with pytest.raises(IndexError, match="ind"):
            cache[index]

    @pytest.mark.parametrize(
        ("words", "options"),
        [
            (r"`dtype` must be one of .* got 'int8'", {"dtype": "int8"}),
            ("`top_k` must be at least 1; got 0", {"top_k": 0}),
            (r"`top_k` must lie in \[1, 6\], the classes; got 7", {"top_k": 7}),
            ("`shard_examples` must be at least 1; got 0", {"shard_examples": 0}),
        ],
    )
    def test_options(self, tmp_path, words, options):
        with pytest.raises(ValueError, match=words):
            TeacherCache.write(tmp_path, Teacher(), batches(), **options)

    def test_logits_too_large_for_the_dtype(self, tmp_path):
        with pytest.raises(
            ValueError, match=r"`dtype` must hold the teacher's logits, up to 100000; got torch.float16"
        ):
            TeacherCache.write(tmp_path, nn.Identity(), [torch.tensor([[1e5, 0.0]])], dtype="float16")

    def test_infinite_logits_are_the_teachers_own(self, tmp_path):
        logits = torch.tensor([[-math.inf, 0.0, 1.0]])
        assert torch.equal(
            TeacherCache.write(tmp_path, nn.Identity(), [logits], dtype="float16")[[0]], logits
        )

    def test_outputs_of_different_shapes(self, tmp_path):
        with pytest.raises(ValueError, match=r"outputs of one shape; got \(3, 2\) and \(4, 2\). Pad"):
            TeacherCache.write(tmp_path, nn.Identity(), [torch.zeros(1, 3, 2), torch.zeros(1, 4, 2)])

    def test_no_data(self, tmp_path):
        with pytest.raises(ValueError, match="`batches` must hold at least one example; got none"):
            TeacherCache.write(tmp_path, Teacher(), [])
