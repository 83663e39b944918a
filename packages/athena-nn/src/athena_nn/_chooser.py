"""The next token of each row, by the options of `generate`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from athena_nn._logits import (
    check_filters,
    check_finite_rows,
    check_integer,
    check_penalty,
    draw_tokens,
    filter_logits,
    penalize_repetition,
    row_seeds,
)


class Chooser:
    """Takes the most probable token of each row, or draws one; notes what has occurred if that matters.

    Args:
        rows: what the decoder begins with.
        vocabulary: number of token ids.
        temperature, top_k, top_p, min_p, repetition_penalty, seed: as in `generate`.

    Shape: logits ``(batch, vocabulary)``, and which rows have ended, ``(batch,)``, -> ``(batch,)``, int64.
    Raises ValueError for options outside their ranges, and those that would do nothing; TypeError for a
    ``top_k`` or ``seed`` that is no integer.

    >>> choose = Chooser([torch.tensor([0])], 3, temperature=0.0, repetition_penalty=4.0)
    >>> logits, done = torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([False])
    >>> [choose(logits, done).item() for _ in range(3)]
    [1, 2, 0]
    """

    def __init__(
        self,
        rows: Sequence[Tensor],
        vocabulary: int,
        *,
        temperature: float,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int | Sequence[int] | None = None,
    ) -> None:
        check_penalty(repetition_penalty)
        options = {"top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed}
        if temperature == 0:
            for name, value in options.items():
                if value is not None:
                    raise ValueError(f"`{name}` needs a `temperature` above 0: 0 draws nothing; got {value}.")
        else:
            check_filters(temperature, top_k, top_p, min_p)
        self._temperature, self._top_k, self._top_p, self._min_p = temperature, top_k, top_p, min_p
        self._generators = [] if temperature == 0 else _generators(seed, len(rows), rows[0].device)
        self._penalty = repetition_penalty
        self._zeros = torch.zeros(len(rows), device=rows[0].device)
        self._seen: Tensor | None = None
        if repetition_penalty != 1:
            self._seen = torch.zeros(len(rows), vocabulary, dtype=torch.bool, device=rows[0].device)
            for seen, row in zip(self._seen, rows, strict=True):
                seen[row] = True

    def __call__(self, logits: Tensor, done: Tensor) -> Tensor:
        if self._seen is not None:
            logits = penalize_repetition(logits, self._seen, self._penalty)
        tokens = self._choose(logits)
        if self._seen is not None:
            self._seen.scatter_(1, tokens[:, None], True)
        # 0 unless a logit is NaN or the largest is infinite: then such a one is chosen
        self._zeros += (0 * logits.gather(1, tokens[:, None])[:, 0]).masked_fill(done, 0)
        return tokens

    def check(self) -> None:
        """Raise ValueError if a row that had not ended met logits that were not finite.

        Looking makes the host wait for the device: once, at the end, not at every step.
        """
        check_finite_rows(self._zeros == 0)

    def _choose(self, logits: Tensor) -> Tensor:
        if self._temperature == 0:
            return logits.argmax(dim=-1)
        if self._top_k is None or self._top_k >= logits.shape[-1]:
            return self._draw(logits)
        # the other filters and the noise for these alone: sorting a vocabulary takes longer than a layer
        logits, ids = logits.topk(self._top_k, dim=-1)
        return ids.gather(-1, self._draw(logits)[:, None])[:, 0]

    def _draw(self, logits: Tensor) -> Tensor:
        kept = filter_logits(logits, temperature=self._temperature, top_p=self._top_p, min_p=self._min_p)
        return draw_tokens(kept, self._generators)


def _generators(seed: int | Sequence[int] | None, batch: int, device: torch.device) -> list[torch.Generator]:
    generators = [torch.Generator(device) for _ in range(batch)]
    if seed is None:
        for generator in generators:
            generator.seed()
        return generators
    if isinstance(seed, Sequence):
        seeds = list(seed)
        for row, one in enumerate(seeds):
            check_integer(f"seed[{row}]", one)
    else:
        check_integer("seed", seed)
        seeds = row_seeds(int(seed), batch)
    if len(seeds) != batch:
        raise ValueError(
            f"`seed` must be an integer or name one for each of {batch} prompts; got {len(seeds)}."
        )
    for generator, one in zip(generators, seeds, strict=True):
        generator.manual_seed(int(one))
    return generators
