"""The diagonal of the Fisher information, from gradients of single rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, vmap

LogLikelihood = Callable[[Tensor, Tensor], Tensor]


def diagonal_fisher(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor | None = None,
    *,
    log_likelihood: LogLikelihood | None = None,
    chunk: int = 32,
    mode: Literal["vmap", "loop"] = "vmap",
) -> dict[str, Tensor]:
    r"""How much the model's predictions depend on each parameter.

    .. math::
        F_m &= \frac1B \sum_b \sum_c p(c \mid x_b)\,
            \Big(\frac{\partial \log p(c \mid x_b)}{\partial \theta_m}\Big)^2
            \quad \text{(without targets)} \\
        F_m &= \frac1B \sum_b \Big(\frac{\partial \log p(y_b \mid x_b)}{\partial \theta_m}\Big)^2
            \quad \text{(empirical, with targets)}

    The square of each row's gradient, not of their mean. The first is exact, without draws, for outputs that
    are logits of classes. The model is in eval mode meanwhile.

    Args:
        model: any module that gives a tensor; parameters that are not trained are left out.
        inputs: as the model takes.
        targets: of each row.
        log_likelihood: of one row's output and target, a scalar; by default of classes, from logits. Needs
            ``targets``.
        chunk: rows at once, of which each needs the memory of a gradient (of one a class without targets).
        mode: "vmap", or "loop", one row after another, for what `torch.func.vmap` cannot do, such as a GRU.

    Shape: ``inputs`` ``(B, ...)``, ``targets`` ``(B, ...)``; the result as the parameters.

    Raises ValueError for no row, another mode, a likelihood without targets, targets that are not of the rows
    or, without a likelihood, are no classes, or without targets for outputs that are no logits of several
    classes; RuntimeError for a model that cannot be mapped.

    Source: Kirkpatrick et al. 2017, Overcoming catastrophic forgetting in neural networks, arXiv:1612.00796,
    the F of its equation 3. Departs from it: no.

    >>> model = nn.Linear(1, 2)
    >>> _ = model.weight.data.zero_(), model.bias.data.zero_()
    >>> diagonal_fisher(model, torch.tensor([[1.0], [3.0]]))["weight"]  # p (1 - p) mean(x ** 2)
    tensor([[1.2500],
            [1.2500]])
    """
    if len(inputs) < 1 or chunk < 1:
        raise ValueError(
            f"`inputs` must have a row and `chunk` be at least 1; got {len(inputs)} and {chunk}. Give more."
        )
    if mode not in ("vmap", "loop"):
        raise ValueError(f"`mode` must be 'vmap' or 'loop'; got {mode!r}. Take one of them.")
    if log_likelihood is not None and targets is None:
        raise ValueError("`log_likelihood` must come with `targets`; got none. Pass those of the inputs.")
    if targets is not None:
        _check_targets(targets, len(inputs), classes=log_likelihood is None)
    likelihood = log_likelihood or _categorical
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        if mode == "loop":
            sums = _one_by_one(model, inputs, targets, likelihood)
        else:
            sums = _mapped(model, inputs, targets, likelihood, chunk)
    finally:
        for module, training in modes:
            module.training = training
    return {name: total / len(inputs) for name, total in sums.items()}


def _mapped(
    model: nn.Module, inputs: Tensor, targets: Tensor | None, likelihood: LogLikelihood, chunk: int
) -> dict[str, Tensor]:
    """Sums of squares, many rows at once."""
    parameters = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}

    def output(theta: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(model, theta, (x[None],))[0]

    def one(theta: dict[str, Tensor], x: Tensor, target: Tensor) -> Tensor:
        return likelihood(output(theta, x), target)

    def all_classes(theta: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        logarithms = _log_probabilities(output(theta, x))
        return logarithms, logarithms

    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for start in range(0, len(inputs), chunk):
        x = inputs[start : start + chunk]
        try:
            if targets is None:
                gradients, logarithms = vmap(jacrev(all_classes, has_aux=True), (None, 0))(parameters, x)
                weights = logarithms.exp()
            else:
                y = targets[start : start + chunk]
                gradients = vmap(grad(one), (None, 0, 0))(parameters, x, y)
                gradients = {name: gradient[:, None] for name, gradient in gradients.items()}
                weights = torch.ones(len(x), 1).to(x.device)
        except RuntimeError as error:
            why = " ".join(str(error).split())
            raise RuntimeError(f"the model cannot be mapped over rows: {why}. Pass `mode='loop'`.") from error
        for name, gradient in gradients.items():
            sums[name] += torch.einsum("bc,bc...->...", weights.to(gradient), gradient.square())
    return sums


def _one_by_one(
    model: nn.Module, inputs: Tensor, targets: Tensor | None, likelihood: LogLikelihood
) -> dict[str, Tensor]:
    """Sums of squares, a row and a class after the other."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sums = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for row, x in enumerate(inputs):
        output = model(x[None])[0]
        if targets is None:
            terms = _log_probabilities(output)
            weights = terms.detach().exp()
        else:
            terms = likelihood(output, targets[row])[None]
            weights = torch.ones_like(terms)
        for term, weight in zip(terms, weights, strict=True):
            gradients = torch.autograd.grad(
                term, list(parameters.values()), retain_graph=True, materialize_grads=True
            )
            for name, gradient in zip(parameters, gradients, strict=True):
                sums[name] += weight * gradient.square()
    return sums


def _check_targets(targets: Tensor, rows: int, *, classes: bool) -> None:
    if len(targets) != rows:
        raise ValueError(f"`targets` must be of the {rows} rows of `inputs`; got {len(targets)}. Give all.")
    if classes and (targets.ndim != 1 or targets.is_floating_point()):
        raise ValueError(
            "`targets` must be the class of each row, (B,), whole numbers; got "
            f"{targets.dtype} of shape {tuple(targets.shape)}. Pass `log_likelihood` for others."
        )


def _log_probabilities(logits: Tensor) -> Tensor:
    if logits.ndim != 1 or len(logits) < 2:
        raise ValueError(
            "without `targets` the model must give logits of at least 2 classes a row, (B, classes); got "
            f"{tuple(logits.shape)} a row. Pass `targets` and `log_likelihood`."
        )
    return logits.log_softmax(-1)


def _categorical(logits: Tensor, target: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, target[None])[0]
