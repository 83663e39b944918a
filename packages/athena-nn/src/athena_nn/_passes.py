"""What generation and beam search share: prompts, and a model's passes over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from athena_nn._cache import KVCache
from athena_nn._decoder import Decoder
from athena_nn._encoder_decoder import EncoderDecoder
from athena_nn._logits import check_integer

LanguageModel = Decoder | EncoderDecoder


def check_model(model: LanguageModel) -> None:
    """Raise TypeError for what is no language model, and for one whose compilation would do nothing."""
    if not isinstance(model, Decoder | EncoderDecoder):
        _refuse("model", "a Decoder or an EncoderDecoder", model)
    if not isinstance(decoder_of(model), Decoder):
        _refuse("model.decoder", "a Decoder", decoder_of(model))


def _refuse(name: str, requirement: str, model: object) -> NoReturn:
    if hasattr(model, "_orig_mod"):  # what `torch.compile` makes of a module
        raise TypeError(
            f"`{name}` must not be compiled as a whole, which generation would pass by; compile the method "
            "that it calls: `decoder.hidden = torch.compile(decoder.hidden, fullgraph=True)`."
        )
    raise TypeError(f"`{name}` must be {requirement}; got {type(model).__name__}.")


def as_rows(model: LanguageModel, prompts: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The prompts as int64 tensors, each ``(time,)``.

    Raises TypeError for what is no tensor of integers, ValueError for an empty prompt, another number of
    dimensions, or a token id outside the vocabulary.
    """
    if isinstance(prompts, Tensor) and prompts.ndim != 2:
        raise ValueError(
            f"`prompts` must be a sequence of 1-D tensors, or have shape (batch, time); got shape "
            f"{tuple(prompts.shape)}. Write `[prompt]` for one prompt."
        )
    rows = list(prompts)
    if not rows:
        raise ValueError("`prompts` must hold at least one prompt; got none.")
    for index, row in enumerate(rows):
        _check_row(f"`prompts[{index}]`", row)
        if row.device != rows[0].device:
            raise ValueError(
                f"`prompts` must be on one device; got {rows[0].device} first, {row.device} at {index}."
            )
    rows = [row.long() for row in rows]
    vocabulary = (model.encoder if isinstance(model, EncoderDecoder) else model).vocabulary
    low, high = (bound.item() for bound in torch.cat(rows).aminmax())
    if low < 0 or high >= vocabulary:
        raise ValueError(
            f"`prompts` must hold token ids in [0, {vocabulary}); got {low if low < 0 else high}."
        )
    return rows


def _check_row(name: str, row: Tensor) -> None:
    if not isinstance(row, Tensor):
        raise TypeError(f"{name} must be a tensor of token ids; got {type(row).__name__}.")
    if row.dtype == torch.bool or row.is_floating_point() or row.is_complex():
        raise TypeError(f"{name} must be of an integer dtype; got {row.dtype}.")
    if row.ndim != 1 or not len(row):
        raise ValueError(f"{name} must have shape (time,), with time at least 1; got {tuple(row.shape)}.")


def check_lengths(model: LanguageModel, rows: list[Tensor], max_new_tokens: int) -> None:
    """Raise ValueError if a prompt, or a prompt and its new tokens, would be longer than the model allows.

    The last new token does not count: the model never sees it.
    """
    check_integer("max_new_tokens", max_new_tokens, 0)
    if isinstance(model, EncoderDecoder) and model.encoder.max_length is not None:
        longest = max(len(row) for row in rows)
        if longest > model.encoder.max_length:
            raise ValueError(
                f"`prompts` must hold at most {model.encoder.max_length} tokens each, the encoder's "
                f"`max_length`; got {longest}."
            )
    limit, begun = decoder_of(model).max_length, max(len(row) for row in decoder_rows(model, rows))
    if limit is not None and begun + max(0, max_new_tokens - 1) > limit:
        raise ValueError(
            f"a prompt and all new tokens but the last must fit into the decoder's `max_length` = {limit}; "
            f"got {begun} tokens and `max_new_tokens` = {max_new_tokens}."
        )


def check_chunk(prefill_chunk: int | None) -> None:
    """Raise TypeError unless a chunk is a number of tokens, or None; ValueError unless it holds one."""
    if prefill_chunk is not None:
        check_integer("prefill_chunk", prefill_chunk, 1)


def decoder_of(model: LanguageModel) -> Decoder:
    """The part that predicts the next token."""
    return model.decoder if isinstance(model, EncoderDecoder) else model


def decoder_rows(model: LanguageModel, rows: list[Tensor]) -> list[Tensor]:
    """What the decoder begins with: the prompts, or the start token where these are an encoder's sources."""
    if isinstance(model, EncoderDecoder):
        return [row.new_tensor([model.start_token]) for row in rows]
    return rows


def new_cache(model: LanguageModel, rows: list[Tensor], *, max_new_tokens: int, int8: bool) -> KVCache:
    """A cache with room for the decoder's rows and their new tokens but the last, which no pass takes;
    sources are encoded into it."""
    capacity = max(len(row) for row in decoder_rows(model, rows)) + max_new_tokens - 1
    if isinstance(model, EncoderDecoder):
        source, padding = _pad(rows)
        memory = model.encode(source, padding)
        return model.new_cache(len(rows), memory=memory, memory_padding=padding, capacity=capacity, int8=int8)
    return model.new_cache(len(rows), capacity=capacity, int8=int8)


def _pad(rows: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    """Rows side by side, ``(batch, time)``, and True where a token is real; None if all are."""
    lengths = [len(row) for row in rows]
    tokens = pad_sequence(rows, batch_first=True)
    if min(lengths) == max(lengths):
        return tokens, None
    places = torch.arange(tokens.shape[1], device=tokens.device)
    return tokens, places < torch.tensor(lengths, device=tokens.device)[:, None]


def prefill(decoder: Decoder, rows: list[Tensor], cache: KVCache, chunk: int | None) -> Tensor:
    """Put rows of tokens into the cache, ``chunk`` columns a pass, and predict what follows each row.

    Shape: ``(batch, vocabulary)``, logits.
    """
    tokens, padding = _pad(rows)
    shortest = min(len(row) for row in rows)
    last = torch.tensor([len(row) - 1 for row in rows], device=tokens.device)
    every = torch.arange(len(rows), device=tokens.device)
    found: Tensor | None = None
    start = 0
    for part in tokens.split(tokens.shape[1] if chunk is None else int(chunk), dim=1):
        end = start + part.shape[1]
        real = None if padding is None or end <= shortest else padding[:, start:end]
        hidden = decoder.hidden(part, padding=real, cache=cache).to(tokens.device)
        here = hidden[every, (last - start).clamp(0, part.shape[1] - 1)]
        # a row that ended in an earlier chunk keeps what it has; one that goes on is overwritten later
        found = here if found is None else torch.where((last < start)[:, None], found, here)
        start = end
    return decoder.head(found).to(tokens.device)


def step(decoder: Decoder, tokens: Tensor, cache: KVCache) -> Tensor:
    """Append one token a row to the cache, and predict the next.

    Shape: ``(batch,) -> (batch, vocabulary)``, logits.
    """
    return decoder.head(decoder.hidden(tokens[:, None], cache=cache)[:, -1]).to(tokens.device)
