"""Beam search: the most probable continuations, several at once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import log
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from athena_nn._logits import check_finite_rows, check_integer, check_number
from athena_nn._modes import evaluating
from athena_nn._passes import (
    LanguageModel,
    as_rows,
    check_chunk,
    check_lengths,
    check_model,
    decoder_of,
    decoder_rows,
    new_cache,
    prefill,
    step,
)
from athena_nn._stopping import check_stop_tokens


class Beam(NamedTuple):
    """One continuation that `beam_search` found.

    Attributes:
        tokens: the new tokens, ``(time,)``, int64; with the stop token, if it ended with one.
        score: the sum of their log-probabilities, divided by their number to the power of the length
            penalty.

    >>> Beam(tokens=torch.tensor([7, 3]), score=-1.5).score
    -1.5
    """

    tokens: Tensor
    score: float


def beam_search(
    model: LanguageModel,
    prompts: Tensor | Sequence[Tensor],
    *,
    num_beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    stop_tokens: Collection[int] = (),
    early_stopping: bool | Literal["never"] = False,
    int8_cache: bool = False,
    prefill_chunk: int | None = None,
) -> list[list[Beam]]:
    r"""Search each prompt's continuations of the highest score :math:`\log p(y) / |y|^\alpha`.

    Every step extends the ``num_beams`` best unfinished continuations by every token. Of the extensions,
    those among the best ``num_beams`` that end (with a stop token, or at ``max_new_tokens``) compete for
    the result; the best that do not end go on. Rows do not touch each other, and the model runs in
    evaluation mode and is put back.

    For an `EncoderDecoder` the prompts are the sources, and decoding begins with its start token.

    Args:
        model: what predicts the next token.
        prompts: as in `generate`.
        num_beams: continuations kept at each step, and most returned.
        max_new_tokens: most tokens of a continuation.
        length_penalty: :math:`\alpha`; above 0 favours long continuations, 0 scores by probability alone.
        stop_tokens: a continuation ends with the first of these.
        early_stopping: when a row ends before ``max_new_tokens``. True: as soon as it has ``num_beams``
            results. False: when its best unfinished continuation, scored at its present length, is no
            better than the worst of them. "never": when it could not become better at any length.
        int8_cache, prefill_chunk: as in `generate`.

    Returns each prompt's continuations, best first; fewer than ``num_beams`` if there are no more.
    Raises, before any work, what `generate` raises for such arguments, and ValueError for ``num_beams``
    or ``max_new_tokens`` below 1; after it, ValueError for logits that `generate` refuses.
    Source: Wu et al. 2016, arXiv:1609.08144, section 7. Departs from it: the length penalty is
    :math:`|y|^\alpha`, there is no coverage penalty, and pruning is by rank alone.

    >>> from athena_nn import Decoder
    >>> model = Decoder(256, 32, num_layers=1, num_heads=4, ff_dim=64)
    >>> [beams] = beam_search(model, torch.tensor([[72, 105]]), num_beams=3, max_new_tokens=4)
    >>> [len(beam.tokens) for beam in beams], beams[0].score >= beams[1].score
    ([4, 4, 4], True)
    """
    check_model(model)
    check_integer("num_beams", num_beams, 1)
    check_integer("max_new_tokens", max_new_tokens, 1)
    rows = as_rows(model, prompts)
    check_lengths(model, rows, max_new_tokens)
    check_chunk(prefill_chunk)
    check_stop_tokens(stop_tokens, decoder_of(model).vocabulary)
    check_number("length_penalty", length_penalty)
    # scores are divided by lengths to this power, which must stay a number
    if not abs(length_penalty) * log(max_new_tokens + 1) < 600:
        raise ValueError(
            f"`length_penalty` must be finite, and so must {max_new_tokens + 1} to that power be; "
            f"got {length_penalty}."
        )
    if not isinstance(early_stopping, bool) and early_stopping != "never":
        raise ValueError(f'`early_stopping` must be True, False or "never"; got {early_stopping!r}.')
    search = _Search(
        len(rows), num_beams, max_new_tokens, length_penalty, stop_tokens, early_stopping, rows[0].device
    )
    decoder = decoder_of(model)
    with evaluating(model):
        cache = new_cache(model, rows, max_new_tokens=max_new_tokens, int8=int8_cache)
        logits = prefill(decoder, decoder_rows(model, rows), cache, prefill_chunk)
        # the prompts pass through the model once; only then does each row become several
        every = torch.arange(len(rows), device=logits.device).repeat_interleave(num_beams)
        cache.reorder(every)
        search.update(logits[every])
        while search.goes_on():
            cache.reorder(search.parents)
            search.update(step(decoder, search.tokens, cache))
    return search.results()


class _Search:
    """The unfinished continuations of each row, and the finished ones.

    Scores are minus infinity where there is no continuation: at first all beams but one.

    Attributes:
        parents: which beam each of those now unfinished extends, ``(batch * num_beams,)``.
    """

    parents: Tensor

    def __init__(
        self,
        batch: int,
        num_beams: int,
        max_new_tokens: int,
        length_penalty: float,
        stop_tokens: Collection[int],
        early_stopping: bool | Literal["never"],
        device: torch.device,
    ) -> None:
        shape = (batch, num_beams)
        self._length, self._max_length = 0, max_new_tokens
        self._penalty, self._early_stopping = length_penalty, early_stopping
        self._stop_tokens = torch.tensor(sorted(set(stop_tokens)), dtype=torch.int64, device=device)
        self._running = torch.zeros(*shape, max_new_tokens, dtype=torch.int64, device=device)
        self._scores = torch.full(shape, float("-inf"), device=device)
        self._scores[:, 0] = 0.0
        self._finished = torch.zeros_like(self._running)
        self._finished_scores = torch.full_like(self._scores, float("-inf"))
        self._finished_lengths = torch.zeros(shape, dtype=torch.int64, device=device)
        self._open = torch.ones(batch, 1, dtype=torch.bool, device=device)
        self._finite = torch.ones(batch, dtype=torch.bool, device=device)
        self._first_rows = torch.arange(batch, device=device)[:, None] * num_beams

    @property
    def tokens(self) -> Tensor:
        """The last token of each beam, ``(batch * num_beams,)``."""
        return self._running[:, :, self._length - 1].flatten()

    def goes_on(self) -> bool:
        if self._length == self._max_length:
            return False
        return not len(self._stop_tokens) or bool(self._open.any())  # nothing else ends a row early

    def update(self, logits: Tensor) -> None:
        """Extend all beams by one token. Shape: ``(batch * num_beams, vocabulary)``."""
        batch, num_beams = self._scores.shape
        total = self._scores[..., None] + logits.float().log_softmax(-1).view(batch, num_beams, -1)
        # enough for as many that do not end, even if all beams' most probable tokens are stop tokens
        most = min((len(self._stop_tokens) + 1) * num_beams, total[0].numel())
        scores, index = total.flatten(1).topk(most, dim=-1)
        self._finite &= ~(self._open[:, 0] & scores[:, 0].isnan())  # NaN comes first
        parents, tokens = index // total.shape[-1], index % total.shape[-1]
        extended = self._running.gather(1, parents[..., None].expand(-1, -1, self._max_length))
        extended[:, :, self._length] = tokens
        self._length += 1
        ends = torch.isin(tokens, self._stop_tokens) | (self._length == self._max_length)
        self._finish(extended[:, :num_beams], scores[:, :num_beams], ends[:, :num_beams])
        self._scores, kept = scores.masked_fill(ends, float("-inf")).topk(num_beams, dim=-1)
        self._running = extended.gather(1, kept[..., None].expand(-1, -1, self._max_length))
        self.parents = (self._first_rows + parents.gather(1, kept)).flatten()
        self._open &= self._could_improve()

    def _finish(self, extended: Tensor, scores: Tensor, ends: Tensor) -> None:
        """Let extensions that end compete with the finished ones of their row, if it is open."""
        scores = (scores / self._length**self._penalty).masked_fill(~(ends & self._open), float("-inf"))
        num_beams = scores.shape[1]
        lengths = torch.full_like(self._finished_lengths, self._length)
        self._finished_scores, kept = torch.cat((self._finished_scores, scores), 1).topk(num_beams, dim=-1)
        self._finished_lengths = torch.cat((self._finished_lengths, lengths), 1).gather(1, kept)
        finished = torch.cat((self._finished, extended), 1)
        self._finished = finished.gather(1, kept[..., None].expand(-1, -1, self._max_length))

    def _could_improve(self) -> Tensor:
        """Whether an unfinished beam may still become one of its row's best."""
        worst = self._finished_scores[:, -1:]
        if self._early_stopping is True:
            return worst == float("-inf")
        longest = self._early_stopping == "never" and self._penalty > 0
        length = self._max_length if longest else self._length
        return self._scores[:, :1] / length**self._penalty > worst

    def results(self) -> list[list[Beam]]:
        check_finite_rows(self._finite)
        rows = zip(
            self._finished, self._finished_lengths.tolist(), self._finished_scores.tolist(), strict=True
        )
        return [
            [
                Beam(tokens[:length], score)
                for tokens, length, score in zip(*row, strict=True)
                if score > float("-inf")
            ]
            for row in rows
        ]
