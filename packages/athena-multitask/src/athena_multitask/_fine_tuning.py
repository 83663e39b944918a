"""Fine-tuning: the next task is learned from the last one's weights, all of which go on changing."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import nn

from athena_multitask._fresh import fresh_copy, named_parts


def fine_tuning(model: nn.Module, *, fresh: Sequence[str] = ()) -> nn.Module:
    """A copy of the model to train on the next task, all of it.

    Args:
        model: any module.
        fresh: names of submodules whose weights are drawn anew, such as the last layer.

    Shape: as of the model.

    Raises ValueError for an unknown name, or a submodule that cannot be drawn anew.

    Source: Rusu et al. 2016, arXiv:1606.04671, its baseline 3. Departs from it: no.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    >>> tuned = fine_tuning(model, fresh=["1"])
    >>> torch.equal(tuned[0].weight, model[0].weight), torch.equal(tuned[1].weight, model[1].weight)
    (True, False)
    """
    named_parts(model, fresh, "fresh")
    copied = copy.deepcopy(model)
    for name in fresh:
        copied.set_submodule(name, fresh_copy(copied.get_submodule(name)))
    for parameter in copied.parameters():
        parameter.requires_grad_(True)
        parameter.grad = None
    return copied
