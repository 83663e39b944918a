"""Glyphs: how long the set takes to be made the first time, and to be opened from then on.

Peers are the bars: 60 s on two cores to make 32,460 images, 0.2 s to map them. Opening is what a process pays
once imports are done, the split's classes included.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from athena_core.testing.bench import medians, parser, row, run, seconds
from athena_meta import Glyphs, pixel_accuracy


def rows(*, repeats: int) -> Iterator[dict[str, Any]]:
    """The first time, later times, and the difficulty beside Omniglot's."""
    with tempfile.TemporaryDirectory() as folder:

        def make() -> float:
            for file in Path(folder).iterdir():
                file.unlink()
            return seconds(lambda: Glyphs("train", folder=folder))

        (made,) = medians(max(1, repeats // 10), make)
        yield row("make 32,460 images", ours=made, peers={"bar": 60.0}, unit="s")
        for case, verify in (("open train", False), ("open train, verified", True)):
            (opened,) = medians(
                repeats, lambda verify=verify: seconds(lambda: Glyphs(folder=folder, verify=verify))
            )
            yield row(case, ours=opened, peers={"bar": 0.2}, unit="s")
        test = Glyphs("test", folder=folder)
        images = test.raw(torch.arange(len(test)))
        for n_way, omniglot in ((5, 41.7), (20, 26.7)):
            accuracy = 100 * pixel_accuracy(images, test.labels, n_way=n_way)
            yield row(f"pixels, {n_way}-way 1-shot", ours=accuracy, peers={"Omniglot": omniglot}, unit="%")


if __name__ == "__main__":
    run(parser(__doc__, repeats=20), rows)
