"""Gradient centralisation: every output unit's gradient with mean 0."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling
from torch.optim import Optimizer

from athena_core import SplitEmbedding
from athena_optim._base import evaluate
from athena_optim._buckets import PIECE, is_sharded
from athena_optim._checks import NonFinite, check_gradients, check_nonfinite
from athena_optim._clip import check_clipping, prepare, with_gradients
from athena_optim._wrapper import Wrapper, chain, replayed

_CLIPPING = ("max_norm", "max_value", "adaptive_clip")
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def centralize_gradient(grad: Tensor, axis: int = 0, groups: int = 1) -> Tensor:
    r"""Subtract from the gradient of every output unit its mean over all inputs.

    .. math:: \Phi_{GC}(\nabla_{w_i} L) = \nabla_{w_i} L - \mu_{\nabla_{w_i} L}, \qquad
              \mu_{\nabla_{w_i} L} = \frac{1}{M} \sum_{j=1}^{M} \nabla_{w_{i,j}} L

    where :math:`w_i` are the weights of output unit :math:`i`, all of its :math:`M` elements.

    Args:
        grad: of any number of axes; with fewer than two it is returned as it is.
        axis: of the output units: 0 in `torch.nn.Linear` and convolutions, 1 in transposed ones.
        groups: equal blocks of axis 0, each with output units of its own, as in a transposed convolution
            with groups, or a stack of matrices flattened into one.

    Shape: any; returns the same.
    Raises ValueError if the gradient has no such axis, or axis 0 does not fall into ``groups``.
    Source: Yong et al. 2020, arXiv:2004.01461, equations 1 and 2. Departs from it: no.

    >>> centralize_gradient(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
    tensor([[-1.,  1.],
            [ 0.,  0.]])
    >>> centralize_gradient(torch.tensor([[1.0, 3.0], [5.0, 5.0]]), axis=1)
    tensor([[-2., -1.],
            [ 2.,  1.]])
    """
    if grad.ndim < 2:
        return grad
    units, _, inputs = _layout(grad, axis, groups)
    return (units - units.mean(inputs, keepdim=True)).view_as(grad)


def _layout(grad: Tensor, axis: int, groups: int) -> tuple[Tensor, int, list[int]]:
    """A view of a gradient, its axis of output units, and the axes to take means over."""
    if not -grad.ndim <= axis < grad.ndim:
        raise ValueError(
            f"`axis` must lie in [{-grad.ndim}, {grad.ndim}); got {axis}. It is that of the output units."
        )
    if not (groups >= 1 and grad.shape[0] % groups == 0):
        raise ValueError(
            f"`groups` must divide axis 0, of size {grad.shape[0]}; got {groups}. 1 is one block."
        )
    axis %= grad.ndim
    if groups == 1:
        return grad, axis, [d for d in range(grad.ndim) if d != axis]
    return grad.unflatten(0, (groups, -1)), axis + 1, [d for d in range(1, grad.ndim + 1) if d != axis + 1]


@torch.autocast("cpu", enabled=False)  # which would make the products coarse
def _centralize_(grad: Tensor, axis: int, groups: int) -> None:
    """`centralize_gradient` in place, on the CPU by so many output units at a time that they fit a cache."""
    units, axis, inputs = _layout(grad, axis, groups)
    if grad.device.type != "cpu" or is_compiling() or is_sharded(grad):
        units.sub_(units.mean(inputs, keepdim=True))
        return
    size = max(1, 2 * PIECE * units.shape[axis] // grad.numel())
    by_product = axis == 0 and grad.is_contiguous() and grad.dtype in (torch.float32, torch.float64)
    count = grad.numel() // max(units.shape[axis], 1)
    ones = grad.new_ones(count, 1) if by_product else None
    for piece in units.split(size, dim=axis) if size < units.shape[axis] else (units,):
        if ones is not None:  # the library of matrix products sums rows faster than `mean`
            rows = piece.view(len(piece), -1)
            rows.sub_(rows.mm(ones).div_(count))
        else:
            piece.sub_(piece.mean(inputs, keepdim=True))


def centralized_groups(
    model: nn.Module, groups: Iterable[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Groups in which `CentralizedGradients` finds the output axis of every layer.

    Each group is split by ``output_axis`` and ``output_groups``: axis 1 for transposed convolutions, with
    their groups, and for the ``Conv1D`` of Hugging Face's transformers, which stores ``(in, out)``; None,
    which leaves gradients as they are, for embeddings, whose rows are looked up; 0 for everything else.
    A tied parameter has the layout of the first layer that holds it.

    Args:
        model: whose layers are looked at.
        groups: such as `param_groups` makes; None is one group of all parameters that require gradients.

    >>> model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False))
    >>> [(group["output_axis"], group["output_groups"]) for group in centralized_groups(model)]
    [(0, 1), (1, 2)]
    """
    layouts: dict[int, tuple[int | None, int]] = {}
    for module in model.modules():
        for param in module.parameters(recurse=False):
            layouts.setdefault(id(param), _module_layout(module))
    whole = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    split: list[dict[str, Any]] = []
    for group in whole if groups is None else groups:
        by_layout: dict[tuple[int | None, int], list[Any]] = {}
        params = group["params"]
        for item in [params] if isinstance(params, Tensor) else params:
            tensor = item[1] if isinstance(item, tuple) else item
            by_layout.setdefault(layouts.get(id(tensor), (0, 1)), []).append(item)
        split += [
            {**group, "params": items, "output_axis": axis, "output_groups": count}
            for (axis, count), items in by_layout.items()
        ]
    return split


def _module_layout(module: nn.Module) -> tuple[int | None, int]:
    if isinstance(module, _TRANSPOSED):
        return 1, module.groups
    if isinstance(module, nn.Embedding | nn.EmbeddingBag | SplitEmbedding):
        return None, 1
    return (1 if any(c.__name__ == "Conv1D" for c in type(module).__mro__) else 0), 1


class CentralizedGradients(Wrapper):
    r"""Gradient centralisation around any optimizer: the mean of each output unit's gradient is removed.

    Before the inner optimizer steps, `centralize_gradient` changes the gradients of all parameters with two
    or more axes in place, as clipping does. The sum of each unit's weights is then not moved by them.
    Where output units do not lie on axis 0, a group says so: ``output_axis``, None for a group to leave
    out, and ``output_groups``; `centralized_groups` finds both.

    The right order is unscaling, clipping, centralising, stepping: a GradScaler unscales before; clipping
    is an option here; an inner optimizer that would clip by itself is refused.

    Args:
        optimizer: the inner optimizer.
        conv_only: leave matrices out, so that convolutions alone (three or more axes) are centralised.
        max_norm: clip all gradients together to this norm first.
        max_value: clip every element to this magnitude first.
        adaptive_clip: clip each unit's gradient to this multiple of its weights' norm first.
        nonfinite: what a NaN or infinite gradient does: ``"raise"``, ``"skip"`` (no step is taken),
            ``"zero"``; None does not look, except that ``max_norm`` raises.

    A closure's gradients are centralised each time the inner optimizer evaluates it; so it works with SAM
    outside or inside, and with LBFGS.

    Raises ValueError for options outside their ranges and an inner optimizer that clips, RuntimeError for
    sparse gradients.
    Source: Yong et al. 2020, arXiv:2004.01461, equations 1 and 2 and algorithm 1. Departs from it: no; the
    paper centralises fully connected layers too in part of its experiments, see ``conv_only``.

    >>> weight = nn.Parameter(torch.zeros(2, 2))
    >>> optimizer = CentralizedGradients(torch.optim.SGD([weight], lr=1.0))
    >>> weight.grad = torch.tensor([[1.0, 3.0], [5.0, 5.0]])
    >>> optimizer.step()
    >>> weight.data
    tensor([[ 1., -1.],
            [ 0.,  0.]])
    """

    options = ("conv_only", *_CLIPPING, "nonfinite")

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        conv_only: bool = False,
        max_norm: float | None = None,
        max_value: float | None = None,
        adaptive_clip: float | None = None,
        nonfinite: NonFinite | None = None,
    ) -> None:
        clipping = {"max_norm": max_norm, "max_value": max_value, "adaptive_clip": adaptive_clip}
        check_clipping(clipping)
        check_nonfinite(nonfinite)
        super().__init__(optimizer)
        for inner in chain(optimizer):
            for name in _CLIPPING:
                if getattr(inner, name, None) is not None:
                    raise ValueError(
                        f"`optimizer` must not clip after centralising; got {type(inner).__name__} with "
                        f"{name}={getattr(inner, name)}. Pass `{name}` to CentralizedGradients instead."
                    )
        self.conv_only = conv_only
        self.max_norm = max_norm
        self.max_value = max_value
        self.adaptive_clip = adaptive_clip
        self.nonfinite: NonFinite | None = nonfinite

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Clip and centralise the gradients, and step the inner optimizer."""

        def evaluated() -> Any:
            loss = evaluate(closure)
            self._prepare()
            return loss

        loss = evaluated()
        if self.skipped:
            return loss
        return self.inner_step(None if closure is None else replayed(loss, evaluated))

    @torch.no_grad()
    def _prepare(self) -> None:
        """Clip and centralise the gradients that are there, unless the step is to be skipped."""
        clipping = {name: getattr(self, name) for name in _CLIPPING}
        self._notes.skipped = not prepare(self.parameters, **clipping, nonfinite=self.nonfinite)
        if self._notes.skipped:
            return
        for group in self.param_groups:
            axis, groups = group.get("output_axis", 0), group.get("output_groups", 1)
            if axis is None:
                continue
            params = [p for p in with_gradients(group["params"]) if p.ndim > (2 if self.conv_only else 1)]
            check_gradients(params, complex_too=True)
            for param in params:
                if param.grad is not None and param.numel():
                    _centralize_(param.grad, axis, groups)
