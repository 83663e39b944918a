"""Glyphs: the same bytes everywhere, calibrated, apart in splits, and safe in their file."""

from __future__ import annotations

import hashlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from athena_meta import FewShotDataset, Glyphs, export_glyphs, picture_page, pixel_accuracy
from athena_meta import _glyph_file as files
from athena_meta._counter import GOLDEN, mixed
from athena_meta._glyph_alphabet import CHARACTERS, TOO_ALIKE, alphabet_style, skeletons, thumbnail
from athena_meta._glyph_drawer import draw_character, drawers
from athena_meta._glyph_random import bells, uniforms
from athena_meta._glyph_raster import rasterize, stroke_points

# Frozen on 2026-11-27, before any learner saw the data. Another drawing is another VERSION of the file.
WHOLE = "1fdc95bf379637bdc2706dfbcd56c27b9cb8c8d824c0ba67903a806a5782e588"
TWO_ALPHABETS = "6a32bfb5de566cd794889d662f3d0ebf9a46a0e2009c78e7cebe596c9dd27492"

HASH = """
import hashlib
from athena_meta._glyph_file import draw_alphabets
digest = hashlib.sha256()
for images in draw_alphabets(0, 2):
    digest.update(images.tobytes())
print(digest.hexdigest())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the whole set is made once for this file."""
    place = tmp_path_factory.mktemp("glyphs")
    Glyphs("train", folder=place)
    return place


@pytest.mark.slow
def test_whole_set_has_the_frozen_bytes(folder: Path) -> None:
    every = Glyphs("all", folder=folder, verify=True)
    assert len(every) == 32_460
    assert len(every.classes) == 1_623
    assert every.images.shape == (32_460, 1, 28, 28)
    assert hashlib.sha256(every.images.numpy().tobytes()).hexdigest() == WHOLE


def test_another_process_with_plain_instructions_draws_the_same_bytes() -> None:
    # NumPy's vector instructions switched off, the scalar and baseline loops must give the same bits.
    plain = {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512_SKX", "PYTHONWARNINGS": "ignore"}
    for environment in ({}, plain):
        done = subprocess.run(
            [sys.executable, "-c", HASH],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == TWO_ALPHABETS


@pytest.mark.slow
def test_calibration_by_pixels(folder: Path) -> None:
    test = Glyphs("test", folder=folder)
    images = test.raw(torch.arange(len(test)))
    # 41.7 and 26.7 % are Omniglot's; 2,000 and 800 episodes have a standard error below 0.5 %.
    assert pixel_accuracy(images, test.labels, n_way=5) == pytest.approx(0.417, abs=0.015)
    assert pixel_accuracy(images, test.labels, n_way=20, episodes=800) == pytest.approx(0.267, abs=0.015)


@pytest.mark.parametrize("by", ["alphabet", "character"])
def test_splits_share_no_character_and_hold_all(folder: Path, by: str) -> None:
    names = ("train", "test") if by == "character" else ("train", "validation", "test")
    parts = [Glyphs(name, by=by, folder=folder) for name in names]  # type: ignore[arg-type]
    classes = [name for part in parts for name in part.classes]
    assert len(classes) == len(set(classes)) == 1_623
    assert [len(part.classes) for part in parts] == ([1200, 423] if by == "character" else [814, 170, 639])
    for part in parts:
        assert set(part.counts.tolist()) == {20}


def test_splits_by_alphabet_share_no_drawer(folder: Path) -> None:
    drawn_by = [set(Glyphs(name, folder=folder).drawers.tolist()) for name in ("train", "validation", "test")]  # type: ignore[arg-type]
    assert [len(each) for each in drawn_by] == [500, 100, 400]
    assert len(set.union(*drawn_by)) == 1000


def test_splits_by_character_share_the_drawers(folder: Path) -> None:
    train, test = (Glyphs(split, by="character", folder=folder) for split in ("train", "test"))
    assert set(train.drawers.tolist()) >= set(test.drawers.tolist())


def test_rotations_are_made_after_the_split(folder: Path) -> None:
    upright = Glyphs("validation", folder=folder)
    turned = Glyphs("validation", rotations=True, folder=folder)
    test = Glyphs("test", rotations=True, folder=folder)
    assert len(turned.classes) == 4 * len(upright.classes)
    bases = [{name.split(" ")[0] for name in data.classes} for data in (turned, test)]
    assert not bases[0] & bases[1]
    name = upright.classes[7]
    image = upright.fetch(upright.index_of(name))
    assert torch.equal(turned.fetch(turned.index_of(f"{name} turned 270")), image.rot90(3, (-2, -1)))
    assert torch.equal(turned.drawers[turned.index_of(f"{name} turned 90")], upright.drawers[:20])


def test_turns_of_one_glyph_are_never_parted(folder: Path) -> None:
    turned = Glyphs("validation", rotations=True, folder=folder)
    name = turned.classes[0]
    with pytest.raises(ValueError, match=r"all turns of a class or none, .* got 1 of"):
        turned.select([name])
    family = [name, *(f"{name} turned {angle}" for angle in (90, 180, 270))]
    assert turned.select(family).classes == tuple(family)


def test_selected_classes_know_their_drawers(folder: Path) -> None:
    data = Glyphs("test", folder=folder)
    part = data.select([data.classes[-1], data.classes[3]])
    assert part.drawers.unique().tolist() == [*range(600, 620), *range(980, 1000)]


def test_no_glyph_is_like_another_or_itself_turned() -> None:
    images = [thumbnail(glyph).astype(float) for alphabet in skeletons(0, 4) for glyph in alphabet]
    upright = np.stack([image.ravel() / np.linalg.norm(image) for image in images])
    for turn in range(4):
        turned = np.stack([np.rot90(image, turn).ravel() / np.linalg.norm(image) for image in images])
        likeness = upright @ turned.T
        if turn == 0:
            np.fill_diagonal(likeness, 0)
        assert likeness.max() <= TOO_ALIKE + 1e-9


def test_first_alphabets_do_not_depend_on_how_many_are_drawn() -> None:
    few, many = skeletons(0, 1), skeletons(0, 2)
    for ours, others in zip(few[0], many[0], strict=True):
        np.testing.assert_array_equal(ours, others)
    assert sum(CHARACTERS) == 1_623
    assert (len(CHARACTERS), min(CHARACTERS) >= 10) == (50, True)


def test_seed_changes_everything() -> None:
    assert not np.array_equal(alphabet_style(0, 0).primitives, alphabet_style(1, 0).primitives)
    assert not np.array_equal(drawers(0, 0).slant, drawers(1, 0).slant)


def test_drawers_keep_their_habits() -> None:
    hands = drawers(0, 3)
    line = np.array([[[-0.5, 0.0], [-0.2, 0.0], [0.2, 0.0], [0.5, 0.0]]])
    ink = [draw_character(0, 3, number, line, hands).astype(float).sum((1, 2)) for number in range(30)]
    # Those with a broad pen who write large leave more ink, whatever they write.
    assert np.corrcoef(np.mean(ink, axis=0), (2 * hands.radius + 0.1) * hands.size)[0, 1] > 0.9


def test_ink_does_not_touch_the_border() -> None:
    for images in [*files.draw_alphabets(0, 1)]:
        assert not images[..., [0, -1], :].max(initial=0) > 128  # the pen's rim alone may reach it
        assert images.reshape(20, -1).max(1).min() == 255


def test_uniform_numbers_by_counter() -> None:
    # SplitMix64 of Steele et al. with seed 0: the state is the counter times the golden ratio.
    first = 0xE220A8397B1DCDAF >> 11
    state = np.uint64(0)
    key = uniforms(5, [0, 1, 2], count=4)
    assert key.shape == (3, 4)
    np.testing.assert_array_equal(key[1], uniforms(5, 1, count=4)[0])
    many = uniforms(9, np.arange(1000), count=50)
    assert ((many >= 0) & (many < 1)).all()
    assert abs(many.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(many[:, 0], many[:, 1])[0, 1]) < 0.1
    assert len(np.unique(many)) == many.size
    assert int(mixed(np.array([state + GOLDEN]))[0]) >> 11 == first


def test_bells_have_unit_variance() -> None:
    drawn = bells(uniforms(0, count=40_000))
    assert abs(drawn.mean()) < 0.03
    assert abs(drawn.std() - 1) < 0.03
    assert abs(drawn).max() <= 2 * 3**0.5


def test_distance_field_against_a_dense_reference() -> None:
    generator = np.random.default_rng(0)
    control = generator.uniform(4, 24, (3, 2, 4, 2))
    radius = np.array([0.5, 1.0, 2.0])
    points = stroke_points(control)
    drawn = rasterize(points, radius, size=28)
    grid = np.stack(np.meshgrid(np.arange(28) + 0.5, np.arange(28) + 0.5), -1)
    for image, path, half in zip(drawn, points, radius, strict=True):
        shares = np.linspace(0, 1, 400)[:, None, None, None]
        dense = ((1 - shares) * path[:, :-1] + shares * path[:, 1:]).reshape(-1, 2)
        distance = np.sqrt(((grid[:, :, None] - dense) ** 2).sum(-1)).min(-1)
        expected = np.clip(half + 0.5 - distance, 0, 1) * 255
        assert abs(image - expected).max() < 1.5


def test_curve_of_a_stroke_against_de_casteljau() -> None:
    control = np.random.default_rng(0).normal(size=(5, 4, 2))
    points = stroke_points(control, segments=4)
    for index, t in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
        level = control
        while level.shape[1] > 1:
            level = (1 - t) * level[:, :-1] + t * level[:, 1:]
        np.testing.assert_allclose(points[:, index], level[:, 0], atol=1e-12)


def test_a_stroke_without_length_is_a_dot() -> None:
    dot = rasterize(np.full((1, 1, 3, 2), 2.5), np.array([0.5]), size=5)[0]
    assert dot[2, 2] == 255
    assert dot.astype(int).sum() == 255


@pytest.mark.parametrize("harm", ["cut", "empty", "text", "longer"])
def test_damaged_file_is_made_again(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "some.npy"
    files.make_file(path, 0, 1)
    whole = path.read_bytes()
    assert files.is_whole(path, 1)
    path.write_bytes({"cut": whole[:-1], "empty": b"", "text": b"glyphs", "longer": whole + b"0"}[harm])
    assert not files.is_whole(path, 1)
    files.make_file(path, 0, 1)
    assert path.read_bytes() == whole
    assert [each.name for each in tmp_path.iterdir()] == ["some.npy"]


@pytest.mark.slow
def test_changed_bytes_are_found_when_asked(folder: Path, tmp_path: Path) -> None:
    path = files.glyph_path(tmp_path, 0)
    path.write_bytes(files.glyph_path(folder, 0).read_bytes())
    with path.open("r+b") as file:
        file.seek(1_000_000)
        file.write(b"changed")
    assert Glyphs("all", folder=tmp_path).images.numpy().tobytes().find(b"changed") > 0
    healed = Glyphs("all", folder=tmp_path, verify=True)
    assert hashlib.sha256(healed.images.numpy().tobytes()).hexdigest() == WHOLE


def test_two_processes_at_once(tmp_path: Path) -> None:
    code = "import sys, pathlib, athena_meta._glyph_file as f; f.make_file(pathlib.Path(sys.argv[1]), 0, 1)"
    running = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "some.npy")]) for _ in range(2)]
    assert [each.wait() for each in running] == [0, 0]
    assert files.is_whole(tmp_path / "some.npy", 1)
    assert files.is_intact(tmp_path / "some.npy")
    assert len([*tmp_path.iterdir()]) == 1


def test_interrupted_making_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files, "draw_character", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.make_file(tmp_path / "some.npy", 0, 1)
    assert not [*tmp_path.iterdir()]


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OSError, match=r"`folder` must be one that can be written to.*Pass another as `folder="
    ):
        Glyphs("train", folder=tmp_path / "file")


def test_writing_into_images_does_not_reach_the_file(folder: Path) -> None:
    data = Glyphs("all", folder=folder)
    data.images[0] = 7
    assert not torch.equal(Glyphs("all", folder=folder).images[0], data.images[0])


def test_workers_get_the_path_not_the_images(folder: Path) -> None:
    data = Glyphs("test", folder=folder)
    sent = pickle.dumps(data)
    assert len(sent) < 2_000_000
    assert torch.equal(pickle.loads(sent).fetch(torch.arange(3)), data.fetch(torch.arange(3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, r"`seed` must lie in \[0, 2\*\*63\); got -1"),
        ({"split": "tests"}, "`split` must be one of train, validation, test, all; got 'tests'"),
        ({"by": "drawer"}, "`by` must be 'alphabet' or 'character'; got 'drawer'"),
        ({"split": "validation", "by": "character"}, "`split` must be 'train', 'test' or 'all' by character"),
    ],
)
def test_refused_options_draw_nothing(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Glyphs(**options, folder=tmp_path)  # type: ignore[arg-type]
    assert not [*tmp_path.iterdir()]


def test_pixel_accuracy_is_chance_on_noise_and_refuses_too_few() -> None:
    images, labels = torch.rand(60, 1, 6, 6), torch.arange(60) // 6
    assert pixel_accuracy(images, labels, n_way=5, episodes=400) == pytest.approx(0.2, abs=0.04)
    with pytest.raises(ValueError, match="`n_way` must be at most the 10 classes"):
        pixel_accuracy(images, labels, n_way=11)
    with pytest.raises(ValueError, match="`n_query` must be below the 6 images"):
        pixel_accuracy(images, labels, n_way=5, n_query=6)


def test_picture_of_a_page(folder: Path) -> None:
    data = Glyphs("test", folder=folder)
    page = np.asarray(picture_page(data, classes=3, images=4, zoom=1))
    assert page.shape == (87, 116, 3)
    first = data.raw(data.index_of(data.classes[0])[:1])[0, 0].numpy()
    np.testing.assert_array_equal(page[:28, :28, 0], 255 - first)
    coloured = FewShotDataset(torch.rand(3, 3, 5, 4), [0, 1, 1])
    assert picture_page(coloured, classes=9, images=9).size == (20, 24)
    with pytest.raises(ValueError, match="must be at least 1; got 0"):
        picture_page(data, classes=0)
    with pytest.raises(ValueError, match=r"must hold images \(1 or 3, height, width\); got \(4,\)"):
        picture_page(FewShotDataset(torch.rand(3, 4), [0, 1, 2]))


def test_export_refuses(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match="`layout` must be 'omniglot' or 'mini-imagenet'; got 'coco'"):
        export_glyphs(tmp_path, "coco")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`classes` must lie in \[1, 814\] for train; got 815"):
        export_glyphs(tmp_path, "omniglot", classes=(815, 1, 1), cache=folder)
