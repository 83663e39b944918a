"""What a gate makes of its experts."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def mixed_experts(outputs: Tensor, logits: Tensor) -> Tensor:
    r"""Experts' outputs weighted by a gate, each row by its own weights.

    .. math:: z = \sum_{i=1}^n \mathrm{softmax}(g)_i \, f_i

    Shape: outputs ``(B, n, ...)``, logits ``(B, n)``, the result ``(B, ...)``.

    Raises ValueError for logits of another shape.

    Source: Ma et al. 2018, KDD, section 4.2. Departs from it: no.

    >>> outputs = torch.tensor([[[2.0], [4.0]]])
    >>> mixed_experts(outputs, torch.tensor([[0.0, 0.0]]))
    tensor([[3.]])
    """
    if logits.shape != outputs.shape[:2]:
        raise ValueError(
            f"gates must give a number for each row and expert, {tuple(outputs.shape[:2])}; "
            f"got the shape {tuple(logits.shape)}. Give each gate as many outputs as it has experts."
        )
    return torch.einsum("bn,bn...->b...", logits.softmax(1).to(outputs.dtype), outputs)


def expert_outputs(experts: Iterable[nn.Module], x: Tensor) -> Tensor:
    """What experts give side by side, ``(B, experts, ...)``.

    Raises ValueError for outputs of several shapes.

    >>> expert_outputs([nn.ReLU(), nn.Identity()], torch.tensor([[-1.0]])).flatten()
    tensor([ 0., -1.])
    """
    outputs = [expert(x) for expert in experts]
    shapes = [tuple(output.shape) for output in outputs]
    if len(set(shapes)) > 1:
        raise ValueError(f"experts must give outputs of one shape; got {shapes}. Make them of one width.")
    return torch.stack(outputs, dim=1)
