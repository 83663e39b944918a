"""Batch norm inside adaptation: statistics of a stated batch, and running statistics that nothing touches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._functorch import is_batchedtensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

Statistics = tuple[Tensor, Tensor]
Normalise = Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor]


class BatchNormMode(TorchFunctionMode):
    """Within it every ``F.batch_norm`` is ``normalise(x, weight, bias, eps)``, in train and eval mode alike.

    The layers' running statistics are neither read nor written: vmap could not write them (functorch#505),
    and tasks must not leak into each other, or into the base network, through them.
    """

    def __init__(self, normalise: Normalise) -> None:
        super().__init__()
        self.normalise = normalise

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            return self._batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _batch_norm(
        self,
        x: Tensor,
        running_mean: Tensor | None,  # noqa: ARG002
        running_var: Tensor | None,  # noqa: ARG002
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,  # noqa: ARG002
        momentum: float = 0.1,  # noqa: ARG002
        eps: float = 1e-5,
    ) -> Tensor:
        return self.normalise(x, weight, bias, eps)


def by_batch(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    """By the statistics of ``x`` itself."""
    if _unmapped(x):
        y = F.batch_norm(x, None, None, None, None, training=True, eps=eps)
        shape = (1, -1, *[1] * (x.ndim - 2))
        y = y if weight is None else y * weight.reshape(shape)
        return (y if bias is None else y + bias.reshape(shape)).to(x.dtype)
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)


def _unmapped(x: Tensor) -> bool:
    """Whether torch cannot vmap its batch norm of ``x`` with weights, which it can without.

    On CUDA it is cuDNN's then, before which torch asks for the memory format, and no vmap tells it.
    """
    return x.device.type != "cpu" and x.ndim > 3 and is_batchedtensor(x)


def recording(kept: list[Statistics]) -> Normalise:
    """By the statistics of ``x`` itself, which are kept in the order of the calls."""

    def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        kept.append(statistics(x))
        return _normalised(x, kept[-1], weight, bias, eps)

    return normalise


def replaying(kept: Iterable[Statistics]) -> Normalise:
    """By the statistics that were kept, in the order of the calls."""
    remaining = iter(kept)

    def normalise(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        return _normalised(x, next(remaining), weight, bias, eps)

    return normalise


def statistics(x: Tensor) -> Statistics:
    """Mean and biased variance a channel ``(channels,)`` of ``x (batch, channels, ...)``."""
    variance, mean = torch.var_mean(x, [axis for axis in range(x.ndim) if axis != 1], correction=0)
    return mean, variance


def _normalised(
    x: Tensor, given: Statistics, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean, variance = given
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return x * scale.reshape(shape) + shift.reshape(shape)


def batch_norms(network: nn.Module) -> list[_BatchNorm]:
    """The batch norms of a network."""
    return [module for module in network.modules() if isinstance(module, _BatchNorm)]


@torch.no_grad()
def settle_batch_norms(network: nn.Module, support_x: Tensor, *, transductive: bool) -> None:
    """Make a network's batch norms, in place, do by themselves what the modes do for the query set.

    Transductive ones have no running statistics any more, so that they use each batch's own. Others hold the
    support set's as their running ones, and the network is in evaluation mode.

    Raises ValueError for a batch norm that a forward pass calls more than once, unless transductive: it has
    several statistics and room for one.
    """
    norms = batch_norms(network)
    for norm in norms:
        norm.track_running_stats = not transductive
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
    if transductive:
        return
    with BatchNormMode(by_batch):
        handles = [norm.register_forward_pre_hook(_hold_statistics) for norm in norms]
        network.eval()(support_x)
    for handle in handles:
        handle.remove()


def _hold_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if norm.running_mean is not None:
        raise ValueError(
            "`network` must call each batch norm once a forward pass to have one with the statistics of the "
            "support set; got a second call. Give each place a layer of its own or pass transductive=True."
        )
    norm.running_mean, norm.running_var = statistics(inputs[0])
