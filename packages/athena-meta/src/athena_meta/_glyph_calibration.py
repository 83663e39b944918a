"""How hard a few-shot data set is, told without any learner: the nearest neighbour by pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def pixel_accuracy(
    images: Tensor, labels: Tensor, *, n_way: int, episodes: int = 2000, n_query: int = 5, seed: int = 0
) -> float:
    r"""One-shot accuracy of the nearest support image by the cosine of the pixels.

    :math:`\hat y(q) = y_{\arg\max_s \langle q, s \rangle / (|q| |s|)}` with one support image a class and
    queries by others. Nothing is learned, so a data set may be tuned by it before any learner is measured.

    Args:
        images: uint8 or float, ``(count, ...)``.
        labels: ``(count,)`` integers.
        n_way: classes of an episode.
        episodes: drawn, each of other classes and images.
        n_query: images asked of each class.
        seed: of the draw.

    Raises ValueError for fewer than ``n_way`` classes or a class of fewer than ``n_query + 1`` images.
    Source: the baseline "Pixels" of Vinyals et al. 2016, arXiv:1606.04080, table 1. Departs from it: no.

    >>> images = torch.eye(4).repeat_interleave(3, dim=0)
    >>> pixel_accuracy(images, torch.arange(12) // 3, n_way=2, n_query=2, episodes=10)
    1.0
    """
    classes = labels.unique()
    if len(classes) < n_way:
        raise ValueError(
            f"`n_way` must be at most the {len(classes)} classes there are; got {n_way}. Lower it."
        )
    members = [(labels == label).nonzero()[:, 0] for label in classes]
    fewest = min(len(member) for member in members)
    if fewest <= n_query:
        raise ValueError(f"`n_query` must be below the {fewest} images of a class; got {n_query}. Lower it.")
    pixels = torch.nn.functional.normalize(images.flatten(1).float(), dim=1)
    generator = torch.Generator().manual_seed(seed)
    right = 0
    for _ in range(episodes):
        ways = torch.randperm(len(classes), generator=generator)[:n_way]
        chosen = torch.stack(
            [
                members[way][torch.randperm(len(members[way]), generator=generator)[: n_query + 1]]
                for way in ways
            ]
        )
        support, query = pixels[chosen[:, 0]], pixels[chosen[:, 1:]]
        right += int(((query @ support.T).argmax(-1) == torch.arange(n_way)[:, None]).sum())
    return right / (episodes * n_way * n_query)
