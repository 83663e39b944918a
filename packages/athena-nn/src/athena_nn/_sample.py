"""Sampling from a language model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from athena_nn._decoder import DecoderLM


def _check_options(temperature: float, top_k: int | None, top_p: float | None) -> None:
    if not 0 <= temperature < float("inf"):
        raise ValueError(f"`temperature` must be finite and at least 0 (0 is greedy); got {temperature}.")
    if top_k is not None and top_k < 1:
        raise ValueError(f"`top_k` must be at least 1, or None for all; got {top_k}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must lie in (0, 1], or be None for all; got {top_p}.")


def filter_logits(
    logits: Tensor, *, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    r"""Divide logits by a temperature, and exclude what is not among the most probable tokens.

    In this order: temperature, then the ``top_k`` largest, then the smallest set whose probability
    under what is left reaches ``top_p``. Among equal logits the lower token id comes first, so
    exactly ``top_k`` stay.

    Args:
        logits: scores of the next token.
        temperature: below 1 sharpens, above 1 flattens; 0 keeps the largest alone (greedy).
        top_k: how many tokens may stay; None means all.
        top_p: the probability that those kept must reach; None means all.

    Shape: ``(..., vocabulary) -> (..., vocabulary)``, float32, excluded tokens at minus infinity.
    Raises ValueError for options outside their ranges.
    Source: Fan et al. 2018, arXiv:1805.04833 (top-k); Holtzman et al. 2020, arXiv:1904.09751,
    equations 2 and 3 (top-p). Departs from it: no.

    >>> filter_logits(torch.tensor([1.0, 3.0, 2.0]), temperature=0.5, top_k=2)
    tensor([-inf, 6., 4.])
    """
    _check_options(temperature, top_k, top_p)
    logits = logits.float()
    if temperature == 0:
        top_k, temperature = 1, 1.0
    logits = logits / temperature
    if top_k is None and top_p is None:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(logits.shape[-1], device=logits.device)
    kept = (rank < (logits.shape[-1] if top_k is None else top_k)).expand_as(ordered)
    if top_p is not None:
        probability = ordered.masked_fill(~kept, float("-inf")).softmax(dim=-1)
        # summed from the smallest: the other way, float32 reaches 1 before the tail ends
        remaining = probability.flip(-1).cumsum(dim=-1).flip(-1)
        kept = kept & ((remaining > 1 - top_p) | (rank == 0))
    return logits.masked_fill(~torch.zeros_like(kept).scatter(-1, order, kept), float("-inf"))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode without gradients, and each of its modules back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def sample(
    model: DecoderLM,
    prompt: Tensor,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Continue each row of ``prompt`` by drawing one token after the other.

    The model runs in evaluation mode, and is put back. It sees at most its last ``max_length``
    tokens. Global generators stay untouched: tokens are drawn with ``generator``, or with a new one
    from ``seed``, or from the system's entropy if both are None.

    Args:
        max_new_tokens: how many tokens to add to each row.
        temperature, top_k, top_p: as in `filter_logits`; temperature 0 draws nothing.
        seed: of a generator for this call.
        generator: on the model's device; its state moves on.

    Shape: ``(batch, time) -> (batch, max_new_tokens)``, the new tokens alone.
    Raises ValueError for an empty prompt, options outside their ranges, or both ``seed`` and
    ``generator``.

    >>> model = DecoderLM(256, 32, num_layers=1, num_heads=4, ff_dim=64, max_length=16)
    >>> sample(model, torch.tensor([[72, 105]]), max_new_tokens=5, seed=0).shape
    torch.Size([1, 5])
    """
    _check_options(temperature, top_k, top_p)
    if prompt.ndim != 2 or prompt.shape[1] < 1:
        raise ValueError(
            f"`prompt` must have shape (batch, time) with time at least 1; got {tuple(prompt.shape)}."
        )
    if max_new_tokens < 0:
        raise ValueError(f"`max_new_tokens` must be at least 0; got {max_new_tokens}.")
    if seed is not None and generator is not None:
        raise ValueError("`seed` and `generator` exclude each other; pass one of them.")
    if generator is None:
        generator = torch.Generator(prompt.device)
        generator.seed() if seed is None else generator.manual_seed(seed)
    tokens = prompt
    with evaluating(model):
        for _ in range(max_new_tokens):
            logits = model(tokens[:, -model.max_length :])[:, -1]
            probability = filter_logits(logits, temperature=temperature, top_k=top_k, top_p=top_p).softmax(-1)
            if temperature == 0:
                new = probability.argmax(-1, keepdim=True)
            else:
                new = torch.multinomial(probability, 1, generator=generator)
            tokens = torch.cat((tokens, new), dim=1)
    return tokens[:, prompt.shape[1] :]
