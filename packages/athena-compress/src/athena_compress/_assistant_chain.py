"""Teacher assistants: a student learns from a model of middle size, which learnt from the teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from torch import nn

Train = Callable[[nn.Module, nn.Module], None]


def assistant_chain(models: Sequence[nn.Module], train: Train, *, begin: int = 0) -> nn.Module:
    """Train each model by the one before it, and return the last, the student.

    A small student follows a far larger teacher badly; assistants between them bridge the gap.

    Args:
        models: the teacher, which is trained already, one or more assistants, and the student.
        train: called with a teacher, in eval mode, and a student, which it trains in place, by a `Distiller`
            or as it likes.
        begin: how many links of the chain are trained already, to resume at the next; load the weights of
            the models up to that one before.

    Raises ValueError for fewer than two models, the same one twice, and a ``begin`` that is no link.
    Source: Mirzadeh et al. 2020, arXiv:1902.03393, section 3. Departs from it: no.

    >>> teacher, assistant, student = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    >>> def train(teacher, student):
    ...     student.load_state_dict(teacher.state_dict())
    >>> trained = assistant_chain([teacher, assistant, student], train)
    >>> trained is student, bool((student.weight == teacher.weight).all())
    (True, True)
    """
    if len(models) < 2 or len(set(models)) < len(models):
        raise ValueError(
            f"`models` must be a teacher and one or more other models, each once; got {len(models)}, of "
            f"which {len(set(models))} differ. Pass [teacher, assistant, student]."
        )
    if not 0 <= begin < len(models):
        raise ValueError(f"`begin` must lie in [0, {len(models) - 1}]; got {begin}. It counts trained links.")
    for teacher, student in list(pairwise(models))[begin:]:
        teacher.eval()
        train(teacher, student)
    return models[-1]
