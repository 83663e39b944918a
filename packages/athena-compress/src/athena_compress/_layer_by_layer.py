"""Layer by layer: a student's layers follow the teacher's one after another, before it learns the output."""

from __future__ import annotations

from collections.abc import Mapping

from athena_compress._progressive import Stage
from athena_compress._select import Patterns, as_patterns


def layer_by_layer(
    features: Mapping[str, str],
    *,
    steps: int,
    output_steps: int,
    freeze: bool = True,
    stem: Patterns = (),
) -> list[Stage]:
    """A stage for each pair of layers, in order, and one for the output.

    Stage k matches the k-th pair alone, so that the student learns up to its k-th layer: nothing that comes
    later gets a gradient. The last stage learns from labels and soft targets, with no pair, and all of the
    student learns.

    Args:
        features: as the distiller's, from the first layer to the last.
        steps: of each stage of a pair.
        output_steps: of the last stage.
        freeze: whether the layers of earlier pairs stay as they are while later ones learn.
        stem: patterns of the student's modules in front of the first pair, which stay with it.

    Raises ValueError for no features and steps below 1.
    Source: Sun et al. 2020, arXiv:2004.02984, section 3.4 (progressive knowledge transfer); with one pair,
    Romero et al. 2015, arXiv:1412.6550, algorithm 1. Departs from it: no.

    >>> for stage in layer_by_layer({"a": "0", "b": "2"}, steps=5, output_steps=9):
    ...     print(stage.steps, stage.features, stage.output, stage.freeze)
    5 ('a',) False ()
    5 ('b',) False ('0',)
    9 () True ()
    """
    if not features:
        raise ValueError("`features` must hold at least one pair; got none. Use the Distiller alone.")
    stages = []
    frozen: tuple[str, ...] = ()
    for teacher, student in features.items():
        stages.append(Stage(steps=steps, features=(teacher,), output=False, freeze=frozen))
        if freeze:
            frozen = (*(frozen or as_patterns(stem)), student)
    return [*stages, Stage(steps=output_steps, features=())]
