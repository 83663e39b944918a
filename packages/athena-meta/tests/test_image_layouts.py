"""Published layouts on disk: what was written is what is read, and what is wrong is named."""

from __future__ import annotations

import os
import pickle
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from athena_meta import (
    CIFARFS,
    ClassFolders,
    EpisodeSampler,
    Glyphs,
    MiniImageNet,
    Omniglot,
    RotatedDataset,
    TieredImageNet,
    UnreadableImageError,
    export_glyphs,
)
from athena_meta import _decode as decoding
from athena_meta._decode import decode

LOADERS = [CIFARFS, ClassFolders, MiniImageNet, Omniglot, TieredImageNet]
DIVIDED = [CIFARFS, MiniImageNet, TieredImageNet]
CLASSES = (3, 2, 2)


@pytest.fixture(scope="module")
def omniglot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("omniglot")
    export_glyphs(folder, "omniglot", classes=CLASSES)
    return folder


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mini")
    export_glyphs(folder, "mini-imagenet", classes=CLASSES)
    return folder


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)  # type: ignore[arg-type]
    return path


def test_omniglot_reads_what_glyphs_wrote(omniglot: Path) -> None:
    glyphs = Glyphs("test")
    data = Omniglot(omniglot, "test")
    assert len(data.classes) == 2
    for name in data.classes:
        ours = data.raw(data.index_of(name))
        assert torch.equal(ours, glyphs.raw(glyphs.index_of(name)))
    assert len(Omniglot(omniglot, "train").classes) == 5  # train and validation: the background set
    assert len(Omniglot(omniglot, "all").classes) == 7


def test_omniglot_without_parts_and_with_a_list_of_classes(omniglot: Path, tmp_path: Path) -> None:
    whole = Omniglot(omniglot, "test")
    alphabets = omniglot / "images_evaluation"
    assert Omniglot(alphabets, "all").classes == whole.classes
    split = tmp_path / "split.txt"
    split.write_text("".join(f"{whole.classes[1]}/rot{turn:03}\n" for turn in (0, 90, 180, 270)) + "\n")
    part = Omniglot(alphabets, split)
    assert part.classes == whole.classes[1:]
    assert Omniglot(omniglot, str(split)).classes == part.classes
    split.write_text("Nowhere/character01\n")
    with pytest.raises(ValueError, match="must name characters in `folder`; got 'Nowhere/character01'"):
        Omniglot(omniglot, split)
    with pytest.raises(FileNotFoundError, match=r"must hold 'images_background' for the split 'train'"):
        Omniglot(alphabets, "train")
    with pytest.raises(ValueError, match="'train', 'test', 'all' or a file of classes; got 'tests'"):
        Omniglot(omniglot, "tests")


def test_omniglot_rotations_follow_the_split(omniglot: Path) -> None:
    train, test = (Omniglot(omniglot, split, rotations=True) for split in ("train", "test"))
    assert (len(train.classes), len(test.classes)) == (20, 8)
    bases = [{name.split(" ")[0] for name in data.classes} for data in (train, test)]
    assert not bases[0] & bases[1]
    name = min(bases[1])
    upright = test.fetch(test.index_of(name))
    assert torch.equal(test.fetch(test.index_of(f"{name} turned 90")), upright.rot90(1, (-2, -1)))
    with pytest.raises(ValueError, match="all turns of a class or none"):
        test.select([name, f"{name} turned 90"])
    with pytest.raises(ValueError, match="`dataset` must not be turned already; got one, of type Omniglot"):
        RotatedDataset(test)


def test_omniglot_reads_published_bits_of_105(tmp_path: Path) -> None:
    page = np.full((105, 105), True)
    page[40:60, 20:90] = False  # black ink on white, one bit a pixel
    save(tmp_path / "images_background" / "Greek" / "character01" / "0394_01.png", page)
    data = Omniglot(tmp_path)
    image = data.fetch(torch.tensor(0))[0]
    assert image.shape == (28, 28)
    assert image[13, 14] == 1
    assert image[0].max() == 0
    assert float(image.sum()) == pytest.approx(20 * 70 * (28 / 105) ** 2, rel=0.02)
    with pytest.raises(FileNotFoundError, match="brendenlake/omniglot"):
        Omniglot(tmp_path, "test")


def test_mini_imagenet_reads_what_glyphs_wrote(mini: Path) -> None:
    for split, number in zip(("train", "validation", "test"), CLASSES, strict=True):
        data = MiniImageNet(mini, split)
        assert data.raw(torch.arange(2)).shape == (2, 3, 84, 84)
        assert (len(data.classes), set(data.counts.tolist())) == (number, {20})
    first = np.asarray(Image.open(mini / "images" / "g0000000100000001.png"))
    data = MiniImageNet(mini, "train")
    np.testing.assert_array_equal(data.raw(torch.tensor(0)).numpy(), first.transpose(2, 0, 1))
    assert EpisodeSampler(data, n_way=3, k_shot=5, n_query=5).draw(0, 2).support_x.shape == (2, 15, 3, 84, 84)


def test_exported_images_are_dark_on_light_in_many_colours(mini: Path) -> None:
    data = MiniImageNet(mini, "train")
    corner = data.raw(torch.arange(len(data)))[:, :, 0, 0]
    assert corner.min() >= 145
    assert len(corner.unique(dim=0)) > 50


def test_mini_imagenet_in_folders_of_classes(tmp_path: Path) -> None:
    MiniImageNet.write_example(tmp_path / "table")
    expected = MiniImageNet(tmp_path / "table", "test")
    for line in (tmp_path / "table" / "test.csv").read_text().splitlines()[1:]:
        name, label = line.split(",")
        (tmp_path / "nested" / "images" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "folders" / "test" / label).mkdir(parents=True, exist_ok=True)
        content = (tmp_path / "table" / "images" / name).read_bytes()
        (tmp_path / "nested" / "images" / label / name).write_bytes(content)
        (tmp_path / "folders" / "test" / label / name).write_bytes(content)
    (tmp_path / "nested" / "test.csv").write_bytes((tmp_path / "table" / "test.csv").read_bytes())
    for layout in ("nested", "folders"):
        data = MiniImageNet(tmp_path / layout, "test")
        assert data.classes == expected.classes
        assert torch.equal(data.raw(torch.arange(8)), expected.raw(torch.arange(8)))


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ("name,class\na.png,b\n", ValueError, "must begin with the line 'filename,label'"),
        ("", ValueError, "must begin with the line 'filename,label'"),
        ("filename,label\na.png\n", ValueError, "line 2 of .* must be a filename and a label"),
        (
            "filename,label\nabsent.png,b\n",
            FileNotFoundError,
            "line 2 of .* got none of the name 'absent.png'",
        ),
        ("filename,label\n../secret.png,b\n", FileNotFoundError, "got none of the name '../secret.png'"),
        ("filename,label\n", ValueError, "`folder` must hold images"),
    ],
)
def test_malformed_tables(tmp_path: Path, table: str, error: type[Exception], message: str) -> None:
    save(tmp_path / "secret.png", np.zeros((4, 4), np.uint8))
    save(tmp_path / "images" / "a.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "train.csv").write_text(table)
    with pytest.raises(error, match=message):
        MiniImageNet(tmp_path)


def test_cifar_fs_by_lists_in_a_subfolder_and_by_folders(tmp_path: Path) -> None:
    CIFARFS.write_example(tmp_path / "a" / "cifar100")
    listed = CIFARFS(tmp_path / "a", "validation")
    assert listed.classes == ("class3", "class4")
    for name in listed.classes:
        (tmp_path / "b" / "val").mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / "cifar100" / "data" / name).rename(tmp_path / "b" / "val" / name)
    assert torch.equal(
        CIFARFS(tmp_path / "b", "validation").raw(torch.arange(8)), listed.raw(torch.arange(8))
    )
    with pytest.raises(FileNotFoundError, match=r"got no 'class3'.*bertinetto/r2d2"):
        CIFARFS(tmp_path / "a", "validation")


@pytest.mark.parametrize("loader", DIVIDED)
def test_splits_of_published_layouts_share_no_class(loader: type[MiniImageNet], tmp_path: Path) -> None:
    loader.write_example(tmp_path)
    classes = [name for split in ("train", "validation", "test") for name in loader(tmp_path, split).classes]
    assert len(classes) == len(set(classes)) == 7
    with pytest.raises(ValueError, match="`split` must be one of train, validation, test; got 'val'"):
        loader(tmp_path, "val")


@pytest.mark.parametrize("loader", LOADERS)
def test_absent_files_are_told_how_to_get(loader: type[ClassFolders], tmp_path: Path) -> None:
    remedy = "class folders" if loader is ClassFolders else "https://github.com/"
    with pytest.raises(FileNotFoundError, match=f"`folder` must exist; got .*absent'. .*{remedy}"):
        loader(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="which is a file"):
        loader(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises((FileNotFoundError, ValueError), match="`folder` must hold"):
        loader(tmp_path / "empty")


def test_class_folders_are_sorted_and_hidden_ones_left(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/1.png", "a/1.jpeg", ".hidden/1.png", "a/.1.png"):
        save(tmp_path / name, np.full((6, 6), ord(name[0]), np.uint8))
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    data = ClassFolders(tmp_path, channels=1)
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [0, 1, 1])
    assert data.raw(torch.arange(3))[:, 0, 0, 0].tolist() == [97, 98, 98]
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match=f"must hold images; got '{re.escape(str(tmp_path / 'c'))}'"):
        ClassFolders(tmp_path)


@pytest.mark.parametrize("harm", ["cut", "empty", "text"])
def test_unreadable_images_are_named_or_skipped(tmp_path: Path, harm: str) -> None:
    ClassFolders.write_example(tmp_path)
    bad = tmp_path / "class1" / "5.png"
    whole = bad.read_bytes()
    bad.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"not an image"}[harm])
    with pytest.raises(UnreadableImageError, match=r"class1.5\.png.* must be readable: .*unreadable='skip'"):
        ClassFolders(tmp_path)
    for cache in (False, True):
        with pytest.warns(UserWarning, match=r"1 images are skipped; the first: .*class1.5\.png"):
            data = ClassFolders(tmp_path, unreadable="skip", cache=cache)
        assert data.counts.tolist() == [4, 3, 4]
        assert len(data.images) == 11


def test_class_whose_images_are_all_unreadable(tmp_path: Path) -> None:
    ClassFolders.write_example(tmp_path)
    for bad in (tmp_path / "class0").iterdir():
        bad.write_bytes(b"")
    with pytest.warns(UserWarning, match="4 images are skipped; no image is left of 'class0'"):
        assert ClassFolders(tmp_path, unreadable="skip").classes == ("class1", "class2")
    for bad in tmp_path.glob("*/*.png"):
        bad.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="12 images"),
        pytest.raises(ValueError, match="none of which is readable"),
    ):
        ClassFolders(tmp_path, unreadable="skip")


def test_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    save(tmp_path / "a" / "1.png", np.zeros((6, 8), np.uint8))
    save(tmp_path / "a" / "2.png", np.zeros((5, 8), np.uint8))
    with pytest.raises(ValueError, match=r"`size` must be given.*got 5 x 8 in .*2\.png' after 6 x 8"):
        ClassFolders(tmp_path)
    assert ClassFolders(tmp_path, size=(4, 3)).images.shape == (2, 3, 4, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 4}, "`channels` must be 1 or 3; got 4"),
        ({"size": 0}, "`size` must be at least 1; got 0"),
        ({"unreadable": "ignore"}, "`unreadable` must be 'raise' or 'skip'; got 'ignore'"),
    ],
)
def test_refused_options(tmp_path: Path, options: dict[str, object], message: str) -> None:
    ClassFolders.write_example(tmp_path)
    with pytest.raises(ValueError, match=message):
        ClassFolders(tmp_path, **options)  # type: ignore[arg-type]


def test_decoding_turns_as_exif_says(tmp_path: Path) -> None:
    array = np.zeros((4, 6), np.uint8)
    array[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    path = save(tmp_path / "turned.png", array, exif=exif)
    image = decode(path, channels=1, size=None)[0]
    assert image.shape == (6, 4)
    assert image[0, 3] == 255


def test_decoding_puts_transparent_images_on_white(tmp_path: Path) -> None:
    clear = np.zeros((2, 2, 4), np.uint8)
    clear[0, 0] = (10, 20, 30, 255)
    path = save(tmp_path / "clear.png", clear)
    assert decode(path, channels=3, size=None)[:, 0, 0].tolist() == [10, 20, 30]
    assert decode(path, channels=3, size=None)[:, 1, 1].tolist() == [255, 255, 255]
    assert decode(path, channels=1, size=None)[0, 1, 1] == 255
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    palette.save(tmp_path / "palette.png", transparency=1)
    assert decode(tmp_path / "palette.png", channels=3, size=None)[:, 0, 0].tolist() == [200, 0, 0]


def test_decoding_keeps_the_range_of_16_bits(tmp_path: Path) -> None:
    path = save(tmp_path / "deep.png", np.array([[0, 0x1234, 0xFFFF]], np.uint16))
    assert decode(path, channels=1, size=None)[0, 0].tolist() == [0, 0x12, 0xFF]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_decoding_takes_all_usual_modes(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new("RGB", (8, 8), "white").convert(mode).save(path)
    for channels in (1, 3):
        image = decode(path, channels=channels, size=None)
        assert (image.shape, image.dtype, image.flags.c_contiguous) == ((channels, 8, 8), np.uint8, True)
        assert image.min() >= 254


def test_decoding_refuses_bombs_floats_and_foreign_formats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = save(tmp_path / "small.png", np.zeros((30, 30), np.uint8))
    header = small.read_bytes()
    # A file of 100 bytes that claims 60,000 x 60,000 pixels.
    head = b"IHDR" + struct.pack(">II", 60_000, 60_000) + header[24:29]
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(
        header[:8] + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + header[33:]
    )
    with pytest.raises(UnreadableImageError, match="bomb"):
        decode(bomb, channels=1, size=(4, 4))
    monkeypatch.setattr(decoding, "MAX_PIXELS", 899)
    with pytest.raises(UnreadableImageError, match="it claims 30 x 30 pixels"):
        decode(small, channels=1, size=(4, 4))
    monkeypatch.undo()
    with pytest.raises(UnreadableImageError, match="pixels are floats"):
        decode(save(tmp_path / "float.tif", np.zeros((3, 3), np.float32)), channels=1, size=None)
    Image.new("RGB", (4, 4)).save(tmp_path / "real.eps")
    (tmp_path / "real.eps").rename(tmp_path / "named.png")
    with pytest.raises(UnreadableImageError, match="cannot identify"):
        decode(tmp_path / "named.png", channels=3, size=None)


@pytest.mark.parametrize("loader", LOADERS)
def test_cache_is_mapped_and_the_same(loader: type[ClassFolders], tmp_path: Path) -> None:
    loader.write_example(tmp_path)
    plain = loader(tmp_path)
    made, cached = loader(tmp_path, cache=True), loader(tmp_path, cache=True)
    for data in (made, cached):
        assert data.classes == plain.classes
        assert torch.equal(data.raw(torch.arange(len(plain))), plain.raw(torch.arange(len(plain))))
    assert len([*tmp_path.rglob(".few-shot-*")]) == 1
    sent = pickle.dumps(cached)
    assert len(sent) < len(pickle.dumps(plain))
    assert torch.equal(pickle.loads(sent).raw(torch.arange(3)), plain.raw(torch.arange(3)))


def remove_images(folder: Path) -> None:
    (folder / "images.npy").unlink()


def cut_images(folder: Path) -> None:
    os.truncate(folder / "images.npy", 200)


def spoil_names(folder: Path) -> None:
    (folder / "classes.json").write_text("{")


@pytest.mark.parametrize("harm", [remove_images, cut_images, spoil_names])
def test_damaged_cache_is_made_again(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    ClassFolders.write_example(tmp_path)
    plain = ClassFolders(tmp_path, cache=True)
    (cache,) = tmp_path.glob(".few-shot-*")
    expected = plain.raw(torch.arange(12))
    harm(cache)
    assert torch.equal(ClassFolders(tmp_path, cache=True).raw(torch.arange(12)), expected)
    assert [*tmp_path.glob(".few-shot-*")] == [cache]


def test_changed_files_make_the_cache_void(tmp_path: Path) -> None:
    ClassFolders.write_example(tmp_path)
    before = ClassFolders(tmp_path, cache=True).raw(torch.tensor(0))
    save(tmp_path / "class0" / "0.png", np.zeros((32, 32, 3), np.uint8))
    assert not torch.equal(ClassFolders(tmp_path, cache=True).raw(torch.tensor(0)), before)
    assert ClassFolders(tmp_path, cache=True, size=8).images.shape[-1] == 8
    assert ClassFolders(tmp_path, cache=True, channels=1).images.shape[1] == 1


def test_failure_while_caching_leaves_nothing(tmp_path: Path) -> None:
    ClassFolders.write_example(tmp_path)
    (tmp_path / "class2" / "11.png").write_bytes(b"")
    with pytest.raises(UnreadableImageError):
        ClassFolders(tmp_path, cache=True)
    assert not [*tmp_path.glob(".few-shot-*")]


def test_transform_is_applied_to_what_is_fetched(tmp_path: Path) -> None:
    TieredImageNet.write_example(tmp_path)
    data = TieredImageNet(tmp_path, size=8, transform=lambda images: 1 - images)
    expected = 1 - data.raw(torch.arange(2)).float() / 255
    torch.testing.assert_close(data.fetch(torch.arange(2)), expected)
