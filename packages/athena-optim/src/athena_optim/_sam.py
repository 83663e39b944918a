"""SAM: the gradient where the loss is highest nearby."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from athena_optim._base import evaluate
from athena_optim._buckets import buckets, kind, local, norms
from athena_optim._checks import NonFinite, check_gradients, check_nonfinite
from athena_optim._clip import usable, with_gradients
from athena_optim._wrapper import Wrapper, replayed

#: The share of a weight's step that does not depend on its size, eta of ASAM.
_ETA = 0.01


class SAM(Wrapper):
    r"""Sharpness-aware minimisation: any optimizer, with the gradient of the worst place nearby.

    .. math::
        \hat\epsilon(w) = \rho\, \frac{\nabla L(w)}{\lVert \nabla L(w) \rVert_2}, \qquad
        g = \nabla L(w)\big|_{w + \hat\epsilon(w)}

    ``adaptive`` measures nearness in units of each weight's own size, so that rescaling layers changes
    nothing (ASAM), with :math:`T = \mathrm{diag}(|w|) + 0.01`:

    .. math:: \hat\epsilon(w) = \rho\, \frac{T^2 \nabla L(w)}{\lVert T\, \nabla L(w) \rVert_2}

    The inner optimizer steps from :math:`w`, to which the parameters return bit for bit, also when the
    second evaluation fails; the copies that this takes are kept from step to step. The norm is that of all
    gradients together, of whole tensors where they are sharded; at a norm of 0, :math:`\hat\epsilon = 0`.

    Args:
        optimizer: the inner optimizer.
        rho: radius :math:`\rho`. Good ones are some 10 times larger with ``adaptive``.
        adaptive: ASAM's scaling.
        nonfinite: what a NaN or infinite gradient does, the first or the second: ``"raise"``,
            ``"skip"`` (no step is taken), ``"zero"``; None does not look.

    ``step(closure)`` calls the closure twice: it zeroes the gradients, computes the loss, calls
    ``backward`` and returns the loss. The first call's loss is returned. With a GradScaler, or to sum
    gradients of several batches, call the parts instead; the scale of the first gradients does not
    matter::

        scaler.scale(loss()).backward()
        optimizer.perturb()
        optimizer.zero_grad()
        scaler.scale(loss()).backward()
        optimizer.restore()
        scaler.step(optimizer)

    A layer such as BatchNorm updates its running statistics in both evaluations; to leave the second
    out, set its momentum to 0 while `perturbed`.

    Raises ValueError for options outside their ranges, RuntimeError for a step without a closure (but
    after `restore`, or if all gradients are 0), and for sparse gradients.
    Source: Foret et al. 2021, arXiv:2010.01412, equations 2 and 3; Kwon et al. 2021, arXiv:2102.11600.
    Departs from them: no; ASAM's scaling holds for biases too.

    >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    >>> optimizer = SAM(torch.optim.SGD([weight], lr=0.25), rho=0.5)
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = (weight**2).sum()
    ...     loss.backward()
    ...     return loss
    >>> optimizer.step(closure).item()
    25.0
    >>> weight.data  # 3 - 0.25 * 2 * (3 + 0.5 * 3 / 5), and so on
    tensor([1.3500, 1.8000])
    """

    options = ("rho", "adaptive", "nonfinite")

    def __init__(
        self,
        optimizer: Optimizer,
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        nonfinite: NonFinite | None = None,
    ) -> None:
        if not 0 <= rho < float("inf"):
            raise ValueError(f"`rho` must be finite and at least 0; got {rho}. 0.05 is the paper's.")
        check_nonfinite(nonfinite)
        super().__init__(optimizer)
        self.rho = rho
        self.adaptive = adaptive
        self.nonfinite: NonFinite | None = nonfinite
        self._copies: dict[Tensor, Tensor] = {}
        self._moved: list[Tensor] | None = None  # parameters to restore

    @property
    def perturbed(self) -> bool:
        """Whether the parameters are at :math:`w + \\hat\\epsilon(w)`."""
        return self._moved is not None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Step the inner optimizer with the gradient at the perturbed parameters."""
        self._refuse_perturbed("step")
        if closure is None:
            self._check_second()
            self._notes.skipped = not usable(self.parameters, self.nonfinite)
            return None if self._notes.skipped else self.inner_step(None)
        loss = self._evaluate_twice(closure)
        if self.skipped:
            return loss
        return self.inner_step(replayed(loss, lambda: self._evaluate_twice(closure)))

    @torch._disable_dynamo
    def _evaluate_twice(self, closure: Callable[[], Any]) -> Any:
        """Leave the gradients of the perturbed parameters, or ``skipped``; returns the first loss."""
        loss = evaluate(closure)
        self._notes.skipped = not usable(self.parameters, self.nonfinite)
        if self.skipped:
            return loss
        self.perturb()
        try:
            evaluate(closure)
        finally:
            self.restore()
            self._notes.restored = False
        self._notes.skipped = not usable(self.parameters, self.nonfinite)
        return loss

    def _check_second(self) -> None:
        """Raise unless a step without a closure is one of SAM: after `restore`, or with gradients of 0."""
        grads = [p.grad for p in with_gradients(self.parameters) if p.grad is not None]
        if not self._notes.restored and any(local(grad).any() for grad in grads):
            raise RuntimeError(
                "`closure` is required: SAM evaluates the loss twice. Pass one, step(closure), or call "
                "perturb(), evaluate the gradients again, and restore() before step()."
            )
        self._notes.restored = False

    @torch.no_grad()
    def perturb(self) -> None:
        """Move the parameters that have a gradient to where the loss is highest nearby."""
        self._refuse_perturbed("perturb")
        params = with_gradients(self.parameters)
        check_gradients(params, complex_too=True)
        grads = [p.grad for p in params if p.grad is not None]
        copies = [self._copy_of(param) for param in params]
        norm = self._norm(params, grads)
        scale = torch.where(norm > 0, self.rho / norm, 0.0)
        self._moved = params
        for _, weights, gradients, kept in buckets(params, grads, copies):
            torch._foreach_copy_(kept, weights)
            torch._foreach_add_(weights, self._directions(weights, gradients, scale))

    @torch.no_grad()
    def restore(self) -> None:
        """Give the parameters back the very values that `perturb` moved them from."""
        if self._moved is None:
            raise RuntimeError("`restore` must follow perturb(); call it first.")
        for _, weights, kept in buckets(self._moved, [self._copies[param] for param in self._moved]):
            torch._foreach_copy_(weights, kept)
        self._moved = None
        self._notes.restored = True

    def _copy_of(self, param: Tensor) -> Tensor:
        """Memory to keep a parameter's value in, from step to step."""
        copy = self._copies.get(param)
        if copy is None or kind(copy) != kind(param) or copy.shape != param.shape:
            copy = self._copies[param] = torch.empty_like(param)
        return copy

    def _norm(self, params: list[Tensor], grads: list[Tensor]) -> Tensor:
        parts = [
            norms([params[i] for i in at], self._scaled(weights, gradients))
            for at, weights, gradients in buckets(params, grads, cut=False)
        ]
        if not parts:
            return torch.zeros(())
        return torch.linalg.vector_norm(torch.cat([part.to(parts[0].device) for part in parts]))

    def _scaled(self, weights: list[Tensor], grads: list[Tensor]) -> list[Tensor]:
        """:math:`T \\nabla L`, the gradient in ASAM's units; the gradient itself without."""
        if not self.adaptive:
            return grads
        sizes = torch._foreach_abs(weights)
        torch._foreach_add_(sizes, _ETA)
        return list(torch._foreach_mul(_precise(grads), sizes))

    def _directions(self, weights: list[Tensor], grads: list[Tensor], scale: Tensor) -> list[Tensor]:
        """:math:`\\hat\\epsilon` of parameters at :math:`w`."""
        directions = self._scaled(weights, self._scaled(weights, _precise(grads)))
        return list(torch._foreach_mul(directions, scale.to(weights[0].device)))

    def _refuse_perturbed(self, action: str) -> None:
        if self._moved is not None:
            raise RuntimeError(f"`{action}` must not come between perturb() and restore(); restore first.")

    def state_dict(self) -> dict[str, Any]:
        """The inner optimizer's state dict, unless the parameters are perturbed."""
        self._refuse_perturbed("state_dict")
        return super().state_dict()

    def _load(self, state_dict: dict[str, Any]) -> None:
        self._refuse_perturbed("load_state_dict")
        super()._load(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        self._refuse_perturbed("copy")
        return super().__getstate__() | {"_copies": {}, "_moved": None}


def _precise(tensors: list[Tensor]) -> list[Tensor]:
    """The same in at least float32: the scale of small gradients of 16 bits has no place in them."""
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]
