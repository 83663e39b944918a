"""The laws of quantization schemes: what the conformance kit asks of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial

import torch
from torch import nn

from athena_compress._observer_min_max import MinMaxObserver
from athena_compress._scheme import NotQuantizable, Scheme
from athena_core import Component
from athena_core.testing import Check

SchemeFactory = Callable[..., Scheme]


def example_quantization_scheme(target: SchemeFactory) -> Scheme:
    """A scheme with its defaults."""
    return target()


def _case() -> tuple[nn.Linear, torch.Tensor, MinMaxObserver]:
    generator = torch.Generator().manual_seed(0)
    linear, x = nn.Linear(64, 16), torch.randn(32, 64, generator=generator)
    with torch.no_grad():
        linear.weight.copy_(torch.randn(16, 64, generator=generator))
        linear.bias.zero_()
    observer = MinMaxObserver()
    observer(x)
    return linear, x, observer


def _made(target: SchemeFactory) -> tuple[nn.Module, nn.Linear, torch.Tensor]:
    linear, x, observer = _case()
    return target().quantize(linear, observer), linear, x


def _is_close(target: SchemeFactory) -> None:
    made, linear, x = _made(target)
    error = ((made(x) - linear(x)).norm() / linear(x).norm()).item()
    assert error < 0.25, f"the output is off by {error} of its norm"


def _leaves_the_layer(target: SchemeFactory) -> None:
    before = deepcopy(_case()[0].state_dict())
    _, linear, _ = _made(target)
    assert all(torch.equal(value, before[name]) for name, value in linear.state_dict().items())


def _is_smaller(target: SchemeFactory) -> None:
    made, linear, _ = _made(target)
    sizes = [sum(value.nbytes for value in one.state_dict().values()) for one in (made, linear)]
    assert sizes[0] < sizes[1], f"{sizes[0]} bytes in place of {sizes[1]}"


def _round_trips(target: SchemeFactory) -> None:
    made, _, x = _made(target)
    other = deepcopy(made)
    for buffer in other.buffers():
        buffer.zero_()
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(x), made(x))


def _repeats(target: SchemeFactory) -> None:
    (one, _, x), (other, _, _) = _made(target), _made(target)
    assert torch.equal(one(x), other(x))


def _takes_zeros(target: SchemeFactory) -> None:
    linear, x, observer = _case()
    with torch.no_grad():
        linear.weight.zero_()
    y = target().quantize(linear, observer)(x)
    assert torch.equal(y, torch.zeros_like(y)), "a layer without weights must give exactly its bias"


def _refuses_what_it_does_not_know(target: SchemeFactory) -> None:
    reason = ""
    try:
        target().quantize(nn.Bilinear(2, 2, 2), _case()[2])
    except NotQuantizable as error:
        reason = str(error)
    assert reason, "a layer that is not known must raise NotQuantizable, with the reason"


def quantization_scheme_checks(component: Component, target: SchemeFactory) -> Iterator[Check]:  # noqa: ARG001
    """The laws of a quantization scheme."""
    laws = {
        "outputs are close to the float layer's": _is_close,
        "the float layer is left alone": _leaves_the_layer,
        "the layer is smaller": _is_smaller,
        "its state goes through a state dict": _round_trips,
        "twice the same": _repeats,
        "a layer of zeros gives its bias": _takes_zeros,
        "unknown layers are refused with a reason": _refuses_what_it_does_not_know,
    }
    for name, law in laws.items():
        yield Check(name, partial(law, target))
