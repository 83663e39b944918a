"""From the logits of the next token to the token: penalties, filters and the draw."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from numbers import Integral, Real

import torch
from torch import Tensor


def check_integer(name: str, value: object, least: int | None = None) -> None:
    """Raise TypeError unless a value is an integer, which True is not; ValueError if it is too low."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be an integer; got {value!r}.")
    if least is not None and value < least:
        raise ValueError(f"`{name}` must be at least {least}; got {value}.")


def check_number(name: str, value: object) -> None:
    """Raise TypeError unless a value is a real number, or a tensor."""
    if not isinstance(value, Real | Tensor):
        raise TypeError(f"`{name}` must be a number; got {value!r}.")


def check_filters(temperature: float, top_k: int | None, top_p: float | None, min_p: float | None) -> None:
    """Raise ValueError for an option of `filter_logits` outside its range, TypeError for another type."""
    for name, value in (("temperature", temperature), ("top_p", top_p), ("min_p", min_p)):
        if value is not None or name == "temperature":
            check_number(name, value)
    if not 1e-6 <= temperature < float("inf"):  # below, float32 logits overflow
        raise ValueError(f"`temperature` must be finite and at least 1e-6; got {temperature}.")
    if top_k is not None:
        check_integer("top_k", top_k, 1)
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must lie in (0, 1], or be None for all; got {top_p}.")
    if min_p is not None and not 0 <= min_p <= 1:
        raise ValueError(f"`min_p` must lie in [0, 1], or be None for all; got {min_p}.")


def filter_logits(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    r"""Divide logits by a temperature, and exclude what is not among the most probable tokens.

    In this order, each seeing what the one before it left:

    1. temperature: :math:`l / T`;
    2. top-k: the :math:`k` largest, and what equals the last of them;
    3. top-p: the smallest set of the most probable whose probability reaches :math:`p`; among equal
       logits the lower token id comes first;
    4. min-p: those with at least :math:`p_\text{min}` times the largest probability.

    The most probable token always stays.

    Args:
        logits: scores of the next token.
        temperature: below 1 sharpens, above 1 flattens.
        top_k: how many tokens may stay; None means all.
        top_p: the probability that those kept must reach; None means all.
        min_p: the least probability, as a fraction of the largest; None means any.

    Shape: ``(..., vocabulary) -> (..., vocabulary)``, float32, excluded tokens at minus infinity.
    Raises ValueError for options outside their ranges, TypeError for options of another type.
    Source: Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2020, arXiv:1904.09751,
    equations 2 and 3 (top-p); Nguyen et al. 2024, arXiv:2407.01082, section 3 (min-p). Departs from
    them: no.

    >>> filter_logits(torch.tensor([1.0, 3.0, 2.0]), temperature=0.5, top_k=2)
    tensor([-inf, 6., 4.])
    """
    check_filters(temperature, top_k, top_p, min_p)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    if top_p is not None:
        logits = logits.masked_fill(_beyond_top_p(logits, top_p), float("-inf"))
    if min_p is not None:
        probability = logits.softmax(dim=-1)
        least = min_p * probability.amax(dim=-1, keepdim=True)
        logits = logits.masked_fill(probability < least, float("-inf"))
    return logits


def _beyond_top_p(logits: Tensor, top_p: float) -> Tensor:
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    # summed from the smallest: the other way, float32 reaches 1 before the tail ends
    remaining = ordered.softmax(dim=-1).flip(-1).cumsum(dim=-1).flip(-1)
    beyond = remaining <= 1 - top_p
    beyond[..., 0] = False
    return torch.zeros_like(beyond).scatter(-1, order, beyond)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    r"""Make tokens that have occurred less likely: :math:`l / \theta`, or :math:`l\,\theta` below 0.

    Args:
        logits: scores of the next token.
        seen: True for tokens that occur in the prompt, or were generated.
        penalty: :math:`\theta`; above 1 discourages, below 1 encourages, 1 changes nothing.

    Shape: ``(..., vocabulary)`` both and returned, float32.
    Raises ValueError unless ``penalty`` is finite and above 0, TypeError for another type.
    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1. Departs from it: negative logits are
    multiplied, since dividing them would make a repetition more likely.

    >>> penalize_repetition(torch.tensor([2.0, -2.0, 1.0]), torch.tensor([True, True, False]), 2.0)
    tensor([ 1., -4.,  1.])
    """
    check_penalty(penalty)
    logits = logits.float()
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def check_penalty(penalty: float) -> None:
    """Raise TypeError unless the penalty of `penalize_repetition` is a number, ValueError unless above 0."""
    check_number("repetition_penalty", penalty)
    if not 0 < penalty < float("inf"):
        raise ValueError(
            f"`repetition_penalty` must be finite and above 0 (1 changes nothing); got {penalty}."
        )


def draw_tokens(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    r"""Draw a token a row: :math:`\arg\max_i\, l_i - \log E_i` with :math:`E_i \sim \text{Exp}(1)`.

    Of independent exponential variables with rates :math:`p_i \propto e^{l_i}`, the smallest is that of
    token :math:`i` with probability :math:`p_i`; their logarithms are :math:`\log E_i - l_i` plus a
    constant. Each row has a generator of its own, so its draw does not depend on other rows.

    Shape: ``(batch, vocabulary) -> (batch,)``, int64; one generator a row, on the device of ``logits``.
    Source: Yellott 1977, doi:10.1016/0022-2496(77)90026-8 (Gumbel-max). Departs from it: no.

    >>> draw_tokens(torch.tensor([[0.0, float("-inf")]]), [torch.Generator()])
    tensor([0])
    """
    noise = torch.empty(logits.shape, dtype=torch.float32, device=logits.device)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    return (logits - noise.log_()).argmax(dim=-1)


def check_finite_rows(finite: Tensor) -> None:
    """Raise ValueError unless each row's largest logits were finite, ``(batch,)``."""
    if not finite.all():
        raise ValueError(
            "`model` must predict finite logits; got NaN or infinite ones after prompts "
            f"{(~finite).nonzero()[:, 0].tolist()}. Look for such weights, or compute in a wider dtype."
        )


def row_seeds(seed: int, batch: int) -> list[int]:
    """The seeds of the rows of a batch that one seed stands for: different for each row, and unlike
    those of the next seed.

    With them a row can be generated again, alone: ``seed=[row_seeds(7, 8)[3]]`` for row 3 of 8.

    >>> row_seeds(7, 2) == row_seeds(7, 3)[:2]
    True
    """
    first = int.from_bytes(blake2b(str(seed).encode(), digest_size=7).digest())
    return [first + row for row in range(batch)]
