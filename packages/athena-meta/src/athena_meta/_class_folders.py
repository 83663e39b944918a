"""Any folder of class folders."""

from __future__ import annotations

from pathlib import Path

from athena_meta._decode import SUFFIXES
from athena_meta._example_images import write_example_image
from athena_meta._few_shot_dataset import Transform
from athena_meta._image_files import ImageFiles, Reading, Unreadable


def existing_folder(folder: Path | str, remedy: str) -> Path:
    """The folder. Raises FileNotFoundError with the remedy if it is absent, NotADirectoryError for a file."""
    path = Path(folder).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"`folder` must exist; got {str(path)!r}. {remedy}")
    if not path.is_dir():
        raise NotADirectoryError(f"`folder` must be a folder; got {str(path)!r}, which is a file. {remedy}")
    return path


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def images_in(folder: Path) -> list[Path]:
    """The image files in a folder, sorted, without hidden ones. Raises ValueError for none."""
    found = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise ValueError(
            f"each class folder must hold images; got {str(folder)!r}, in which there are none. Remove it."
        )
    return found


def class_folder_listing(folder: Path) -> list[tuple[Path, str]]:
    """Every image in the folders of a folder, and the name of its folder."""
    return [(path, each.name) for each in folders_in(folder) for path in images_in(each)]


class ClassFolders(ImageFiles):
    """Images in ``folder/class/image.png``; the class is the name of the folder.

    PNG, JPEG, BMP, GIF, PPM, TIFF and WebP are read, whatever their mode; hidden files and folders are not.

    Args:
        folder: which holds the class folders.
        channels: 1 for grey, 3 for colour.
        size: of the side, or height and width, to scale to; None: all files must be of one size.
        unreadable: ``"raise"``, or ``"skip"`` a damaged file with one warning for all.
        cache: whether the decoded images are kept in a hidden folder beside the class folders and
            memory-mapped; files that change make it void.
        transform: of fetched images, as in :class:`FewShotDataset`.

    Raises FileNotFoundError if the folder is absent; ValueError for a folder without class folders, a class
    folder without images, an unreadable image, or images of several sizes with no ``size``, naming it.

    >>> from tempfile import mkdtemp
    >>> folder = mkdtemp()
    >>> ClassFolders.write_example(folder)
    >>> ClassFolders(folder, size=16)
    ClassFolders(12 images of 3 classes, 3x16x16)
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        channels: int = 3,
        size: int | tuple[int, int] | None = None,
        unreadable: Unreadable = "raise",
        cache: bool = False,
        transform: Transform | None = None,
    ) -> None:
        root = existing_folder(folder, "Name the folder that holds the class folders.")
        listing = class_folder_listing(root)
        if not listing:
            raise ValueError(
                f"`folder` must hold class folders; got {str(root)!r}, in which there are none. "
                "Put the images of each class in a folder of its own."
            )
        reading = Reading(channels=channels, size=size, unreadable=unreadable, cache=cache)
        super().__init__(root, listing, reading, transform=transform)

    @staticmethod
    def write_example(folder: Path | str) -> None:
        """Write a small data set in this layout: 3 classes of 4 images."""
        for number in range(12):
            path = Path(folder) / f"class{number // 4}" / f"{number}.png"
            write_example_image(path, number, channels=3, size=32)
