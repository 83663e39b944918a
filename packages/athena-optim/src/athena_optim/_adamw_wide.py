"""AdamW's step for parameters of 16 bits, computed in float32."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from athena_optim._adamw_op import adamw_
from athena_optim._base import count, new_step
from athena_optim._buckets import FUSED_DEVICES, buckets, in_order
from athena_optim._rounding import round_stochastically

#: Dtypes of parameters that are updated in float32.
DTYPES = frozenset({torch.bfloat16, torch.float16})


class Wide:
    """One group's step in float32: with a master copy as state, or with everything rounded at random.

    Args:
        group: AdamW's options.
        stochastic: keep weights and moments in bfloat16, rounded at random; else a master copy and the
            moments are kept in float32.
    """

    def __init__(self, group: Mapping[str, Any], *, stochastic: bool) -> None:
        self.group = group
        self.stochastic = stochastic
        self.moments = ("exp_avg", "exp_avg_sq") + (("max_exp_avg_sq",) if group["amsgrad"] else ())

    @staticmethod
    def check(params: Iterable[Tensor], *, stochastic: bool) -> None:
        """Raise ValueError for parameters that cannot be updated so."""
        for param in params:
            if not isinstance(param, Tensor):
                continue  # torch says so
            if param.dtype in DTYPES and param.device.type not in FUSED_DEVICES:
                raise ValueError(
                    f"`precision` needs torch's fused AdamW, which is on {', '.join(sorted(FUSED_DEVICES))}; "
                    f"got a parameter on {param.device}. Use precision='param'."
                )
            if stochastic and param.dtype == torch.float16:
                raise ValueError(
                    "`precision` 'stochastic' is for bfloat16; got a float16 parameter. Use 'float32'."
                )

    def step(self, params: list[Tensor], state: dict[Tensor, Any], *, seed: tuple[int, int]) -> None:
        """Update ``params`` and what ``state`` holds of them, in place."""
        states = [self._state(p, state) for p in params]
        steps = [one["step"] for one in states]
        count(steps)
        kept = [[one[name] for one in states] for name in self.moments]
        masters = params if self.stochastic else [one["master"] for one in states]
        grads = [p.grad for p in params if p.grad is not None]
        with torch.no_grad():
            generators: dict[torch.device, torch.Generator] = {}
            for places, weights, gradients, master, *moments in buckets(params, grads, masters, *kept):
                times = [steps[i] for i in places]
                if not self.stochastic:
                    _take_changes(master, weights)
                    self._adamw(master, gradients, moments, times)
                    torch._foreach_copy_(weights, master)
                    continue
                device = weights[0].device
                if device not in generators:
                    generators[device] = _generator(device, *seed, int(steps[places[0]].item()))
                # In a row a bucket is rounded by as many calls as one tensor, which decide the time on a GPU.
                rows = [_row(held).float() for held in (weights, *moments)]
                exact = [_parts(row, weights) for row in rows]
                self._adamw(exact[0], _parts(_row(gradients).float(), weights), exact[1:], times)
                for held, row in zip((weights, *moments), rows, strict=True):
                    rounded = round_stochastically(row, generators[device])
                    torch._foreach_copy_(held, _parts(rounded, held))

    def _state(self, param: Tensor, state: dict[Tensor, Any]) -> dict[str, Any]:
        own = state[param]
        if not own:
            dtype = param.dtype if self.stochastic else torch.float32
            own["step"] = new_step(param, self.group)
            for name in self.moments:
                own[name] = torch.zeros_like(param, dtype=dtype, memory_format=torch.preserve_format)
            if not self.stochastic:
                own["master"] = param.detach().to(torch.float32, copy=True)
        return own

    def adopt(self, params: Iterable[Tensor], state: dict[Tensor, Any]) -> None:
        """Give loaded state the dtypes that it has here, and a master copy where one is missing."""
        for param in params:
            own = state.get(param, {})
            with_master = param.dtype in DTYPES and not self.stochastic
            dtype = torch.float32 if with_master else param.dtype
            own.update({name: own[name].to(dtype) for name in self.moments if name in own})
            if own and with_master and "master" not in own:
                own["master"] = param.detach().to(torch.float32, copy=True)

    def _adamw(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        moments: list[list[Tensor]],
        steps: list[Tensor],
    ) -> None:
        lists = [weights, [one.float() for one in gradients], *moments]
        # The fused kernel knows no strides.
        dense = lists if in_order(*lists) else [[t.contiguous() for t in one] for one in lists]
        times = steps if weights[0].is_cpu else [step.to(weights[0].device) for step in steps]
        fused_adamw_(self.group, dense, times)
        if dense is not lists:
            for one, values in zip((weights, *moments), (dense[0], *dense[2:]), strict=True):
                torch._foreach_copy_(one, values)


def takes_op(group: Mapping[str, Any], params: list[Tensor]) -> bool:
    """Whether the op `adamw_` steps these: amsgrad, and what must stay in a graph, are torch's alone.

    A device's kernel knows no other classes of tensors, such as DTensor; the op's reference on the CPU does.
    """
    if group["amsgrad"] or group["capturable"] or isinstance(group["lr"], Tensor) or is_compiling():
        return False
    return params[0].is_cpu or all(type(p) in (Tensor, torch.nn.Parameter) for p in params)


def fused_adamw_(group: Mapping[str, Any], lists: list[list[Tensor]], steps: list[Tensor]) -> None:
    """The fused step for one group's parameters, gradients, and two or three lists of moments."""
    beta1, beta2 = group["betas"]
    params, grads, exp_avgs, exp_avg_sqs, *_ = lists
    lr, eps, decay, maximize = (group[name] for name in ("lr", "eps", "weight_decay", "maximize"))
    if takes_op(group, params):
        adamw_(params, grads, exp_avgs, exp_avg_sqs, steps, lr, beta1, beta2, eps, decay, maximize)
        return
    torch._fused_adamw_(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        lists[4] if group["amsgrad"] else [],
        steps,
        amsgrad=group["amsgrad"],
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=decay,
        eps=eps,
        maximize=maximize,
    )


def _take_changes(masters: list[Tensor], params: list[Tensor]) -> None:
    """Put into the masters what someone else wrote into their parameters since the last step.

    An element that is no longer its master's rounding was changed: by Lookahead, by loading a model.
    """
    if len(masters) > 1 and masters[0].device.type != "cpu":  # where the number of calls decides the time
        master, param = _row(masters), _row(params)
        taken = torch.where(master.to(param.dtype) == param, master, param.float())
        torch._foreach_copy_(masters, _parts(taken, masters))
        return
    for master, param in zip(masters, params, strict=True):
        torch.where(master.to(param.dtype) == param, master, param.float(), out=master)


def _row(tensors: list[Tensor]) -> Tensor:
    """The elements of all tensors, one after the other; of one tensor perhaps a view."""
    return torch.cat([one.reshape(-1) for one in tensors]) if len(tensors) > 1 else tensors[0].reshape(-1)


def _parts(row: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Views of a `_row` of tensors of these shapes."""
    parts = row.split([one.numel() for one in like])
    return [part.view(one.shape) for part, one in zip(parts, like, strict=True)]


def _generator(device: torch.device, *numbers: int) -> torch.Generator:
    """A generator whose stream is a function of the numbers alone."""
    seed = 0
    for number in numbers:
        seed = (seed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return torch.Generator(device).manual_seed(seed)
