"""Teacher annealing: a student learns from its teacher first, and from the labels in the end."""

from __future__ import annotations

from athena_compress._progressive import Stage


def teacher_annealing(steps: int, *, start: float = 1.0, end: float = 0.0) -> list[Stage]:
    r"""A stage in which the soft targets' share falls on a line.

    .. math:: \alpha_k = (1 - k/n)\, \alpha_{\text{start}} + (k/n)\, \alpha_{\text{end}}

    at step k of n, counted from 0, and the end's from step n on.

    Args:
        steps: n.
        start: the share at the first step.
        end: the share that the last step leads to.

    Raises ValueError for steps below 1 and shares outside [0, 1].
    Source: Clark et al. 2019, arXiv:1907.04829, section 3.2. Departs from it: the two losses are mixed, not
    the targets of one, which for the cross-entropy at temperature 1 has the same gradient.

    >>> from torch import nn
    >>> from athena_compress import Distiller, ProgressiveDistiller
    >>> progressive = ProgressiveDistiller(Distiller(nn.Linear(2, 2), nn.Linear(2, 2)), teacher_annealing(4))
    >>> for _ in range(5):
    ...     print(progressive.distiller.alpha)
    ...     progressive.step()
    1.0
    0.75
    0.5
    0.25
    0.0
    """
    return [Stage(steps=steps, alpha=(start, end))]
