"""CIFAR-FS: the classes of CIFAR-100, divided for few-shot learning."""

from __future__ import annotations

from pathlib import Path

from athena_meta._class_folders import class_folder_listing, existing_folder, images_in
from athena_meta._example_images import write_example_image
from athena_meta._few_shot_dataset import Transform
from athena_meta._image_files import ImageFiles, Reading, Unreadable
from athena_meta._split_folders import NAMES, check_split

REMEDY = (
    "Get cifar100.zip as https://github.com/bertinetto/r2d2 describes and unpack it there: class folders in "
    "`data`, and train.txt, val.txt and test.txt in `splits/bertinetto`."
)


class CIFARFS(ImageFiles):
    """64 classes to train, 16 to validate and 20 to test, 600 images each, ``(3, 32, 32)``.

    Read are the class folders in ``data`` that ``splits/bertinetto/train.txt``, ``val.txt`` or ``test.txt``
    names, one a line; or folders ``train``, ``val`` and ``test`` of class folders.

    Args:
        folder: which holds these, or a folder ``cifar100`` with them.
        split: ``"train"``, ``"validation"`` or ``"test"``.
        size: of the side that images are scaled to; 32 in the published files.
        unreadable, cache, transform: as in :class:`ClassFolders`.

    Raises FileNotFoundError with where to get the files if they are absent, or naming the class that is;
    ValueError for an unknown split, a class without images, an unreadable image.
    Source: Bertinetto et al. 2019, arXiv:1805.08136. Departs from it: no.

    >>> from tempfile import mkdtemp
    >>> folder = mkdtemp()
    >>> CIFARFS.write_example(folder)
    >>> CIFARFS(folder).classes
    ('class0', 'class1', 'class2')
    """

    def __init__(
        self,
        folder: Path | str,
        split: str = "train",
        *,
        size: int = 32,
        unreadable: Unreadable = "raise",
        cache: bool = False,
        transform: Transform | None = None,
    ) -> None:
        check_split(split)
        root = existing_folder(folder, REMEDY)
        root = root / "cifar100" if (root / "cifar100").is_dir() else root
        reading = Reading(size=size, unreadable=unreadable, cache=cache)
        super().__init__(root, _listing(root, split), reading, transform=transform)

    @staticmethod
    def write_example(folder: Path | str) -> None:
        """Write a small data set in this layout: 3, 2 and 2 classes of 4 images."""
        root, lists = Path(folder), Path(folder) / "splits" / "bertinetto"
        lists.mkdir(parents=True)
        for split, classes in (("train", range(3)), ("val", range(3, 5)), ("test", range(5, 7))):
            (lists / f"{split}.txt").write_text(
                "".join(f"class{label}\n" for label in classes), encoding="utf-8"
            )
            for number in range(4 * classes[0], 4 * classes[-1] + 4):
                path = root / "data" / f"class{number // 4}" / f"{number:04}.png"
                write_example_image(path, number, channels=3, size=32)


def _listing(root: Path, split: str) -> list[tuple[Path, str]]:
    for name in NAMES[split]:
        file = root / "splits" / "bertinetto" / f"{name}.txt"
        if file.is_file():
            return _named(root / "data", file)
        if (root / name).is_dir():
            return class_folder_listing(root / name)
    raise FileNotFoundError(
        f"`folder` must hold splits/bertinetto/{NAMES[split][0]}.txt and data; got {str(root)!r}. {REMEDY}"
    )


def _named(data: Path, file: Path) -> list[tuple[Path, str]]:
    """The images of the classes that a file names."""
    names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    # Only folders that lie in `data`: a name such as ../.. is not followed.
    present = {path.name: path for path in data.iterdir()} if data.is_dir() else {}
    missing = [name for name in names if name not in present]
    if missing:
        raise FileNotFoundError(
            f"{str(data)!r} must hold the classes that {str(file)!r} names; got no {missing[0]!r}. {REMEDY}"
        )
    return [(path, name) for name in names for path in images_in(present[name])]
