"""Born again: a model teaches a fresh one of its own architecture, which teaches the next."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

from torch import nn

from athena_compress._assistant_chain import Train


def born_again(
    teacher: nn.Module,
    train: Train,
    *,
    generations: int = 1,
    make: Callable[[], nn.Module] | None = None,
) -> list[nn.Module]:
    """Students of the teacher's architecture, each taught by the one before it.

    Args:
        teacher: a trained model; the first student learns from it.
        train: called with a teacher, in eval mode, and a student, which it trains in place.
        generations: how many students.
        make: makes a student; by default, `fresh_copy` of the teacher.

    To resume, pass the last student that was trained as the teacher. The mean of the students' probabilities
    is the paper's ensemble.

    Raises ValueError for no generations, and as `fresh_copy` does.
    Source: Furlanello et al. 2018, arXiv:1805.04770, section 3. Departs from it: no.

    >>> students = born_again(nn.Linear(2, 2), lambda teacher, student: None, generations=2)
    >>> len(students), students[0] is students[1]
    (2, False)
    """
    if generations < 1:
        raise ValueError(
            f"`generations` must be at least 1; got {generations}. The teacher is there already."
        )
    students: list[nn.Module] = []
    for _ in range(generations):
        student = fresh_copy(teacher) if make is None else make()
        teacher.eval()
        train(teacher, student)
        students.append(student)
        teacher = student
    return students


def fresh_copy(model: nn.Module) -> nn.Module:
    """A copy in train mode whose parameters and running statistics start anew, by ``reset_parameters``.

    Weights that modules share stay shared, and all of them learn. Raises ValueError for modules with
    parameters of their own that have no such method, naming them.

    >>> model = nn.Linear(2, 2)
    >>> copy = fresh_copy(model)
    >>> copy.weight.shape == model.weight.shape, bool((copy.weight == model.weight).any())
    (True, False)
    """
    copy = deepcopy(model).train()
    resets: list[Callable[[], Any]] = []
    stuck: list[str] = []
    for name, module in copy.named_modules():
        reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
        if callable(reset):
            resets.append(reset)
        elif any(True for _ in module.parameters(recurse=False)):
            stuck.append(f"{name or 'the model'} ({type(module).__name__})")
    if stuck:
        raise ValueError(
            "`teacher` must be of modules that have `reset_parameters`; these hold parameters and have none: "
            f"{', '.join(stuck[:5])}. Pass `make`, which makes a student."
        )
    for reset in reversed(resets):  # a module's own last, as it may set what is inside of it
        reset()
    for parameter in copy.parameters():
        parameter.requires_grad_()
        parameter.grad = None
    return copy
