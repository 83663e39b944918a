"""Generation: a token a row a step, greedy or drawn, until a row stops."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from athena_nn._chooser import Chooser
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
from athena_nn._stopping import Stopping, check_stop_strings, check_stop_tokens


class Step(NamedTuple):
    """One step of `stream`.

    Attributes:
        tokens: each row's new token, ``(batch,)``, int64; -1 for a row that ended in an earlier step.
        done: whether each row has ended, with this token or an earlier one, ``(batch,)``, bool.

    >>> Step(tokens=torch.tensor([7, -1]), done=torch.tensor([False, True])).tokens
    tensor([ 7, -1])
    """

    tokens: Tensor
    done: Tensor


def generate(
    model: LanguageModel,
    prompts: Tensor | Sequence[Tensor],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop_tokens: Collection[int] = (),
    stop_strings: Collection[str] = (),
    decode: Callable[[list[int]], str] | None = None,
    seed: int | Sequence[int] | None = None,
    int8_cache: bool = False,
    prefill_chunk: int | None = None,
) -> list[Tensor]:
    r"""Continue each prompt, token by token.

    Rows do not touch each other: a batch of unequal prompts gives what each prompt gives alone. The model
    runs in evaluation mode and is put back; global generators stay untouched.

    For an `EncoderDecoder` the prompts are the sources, and decoding begins with its start token.

    Args:
        model: what predicts the next token. A compiled one has its decoder's `hidden` compiled, which
            each pass calls; what `model.compile()` compiles is `forward`, and is not called here.
        prompts: token ids, one tensor ``(time,)`` a row, of any lengths; or rows of equal length,
            ``(batch, time)``.
        max_new_tokens: most tokens that a row gains.
        temperature: 0 takes the most probable token; above it, tokens are drawn from `filter_logits`.
        top_k, top_p, min_p: as in `filter_logits`, only for a temperature above 0; but of tokens that tie
            with the last of the ``top_k``, as many stay as make up ``top_k`` exactly.
        repetition_penalty: as in `penalize_repetition`, over the decoder's prompt and the new tokens.
        stop_tokens: a row ends with the first of these, which is part of what is returned.
        stop_strings: a row ends with the token that completes the first of these in its new text.
        decode: the text of a list of token ids, as a tokenizer's method gives it; for ``stop_strings``.
        seed: of the draws. An integer gives each row a seed of its own (`row_seeds`); a sequence names
            each row's; None takes the system's entropy.
        int8_cache: whether to hold keys and values in 8 bits.
        prefill_chunk: how many of a prompt's tokens pass through the model at once, which bounds the
            memory of a long prompt; None: all of them. The tokens are the same.

    Shape: a list of int64 tensors, the new tokens of each row, on the prompts' device.

    Raises, before any work, TypeError for another model, one wrapped by `torch.compile`, prompts that are
    no integer tensors, and options of another type; ValueError for an empty prompt, a token id
    outside the vocabulary, a prompt and all new tokens but the last beyond the model's ``max_length``,
    options outside their ranges, and options that would do nothing. After it, ValueError if logits
    were NaN or infinite (minus infinity, which excludes a token, is none of these).
    Source: none; each filter names its own. Departs from it: no.

    >>> from athena_nn import Decoder
    >>> model = Decoder(256, 32, num_layers=1, num_heads=4, ff_dim=64)
    >>> prompts = [torch.tensor([72, 105]), torch.tensor([72, 101, 108])]
    >>> [len(new) for new in generate(model, prompts, max_new_tokens=5, temperature=0.8, seed=0)]
    [5, 5]
    """
    steps = stream(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        stop_tokens=stop_tokens,
        stop_strings=stop_strings,
        decode=decode,
        seed=seed,
        int8_cache=int8_cache,
        prefill_chunk=prefill_chunk,
    )
    columns = [step.tokens for step in steps]
    if not columns:
        return [prompt.new_empty(0, dtype=torch.int64) for prompt in prompts]
    new = torch.stack(columns, dim=1)
    if not stop_tokens and not stop_strings:
        return list(new)
    lengths = (new >= 0).sum(dim=1).tolist()
    return [row[:length] for row, length in zip(new, lengths, strict=True)]


def stream(
    model: LanguageModel,
    prompts: Tensor | Sequence[Tensor],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    stop_tokens: Collection[int] = (),
    stop_strings: Collection[str] = (),
    decode: Callable[[list[int]], str] | None = None,
    seed: int | Sequence[int] | None = None,
    int8_cache: bool = False,
    prefill_chunk: int | None = None,
) -> Iterator[Step]:
    """Yield each step's tokens as soon as they are known; arguments and errors are `generate`'s.

    Errors are raised by the call, before the first step; that of logits that are not finite comes after the
    last. The model is in evaluation mode, and gradients are off, only while a step is computed: between
    steps it is as it was, and other streams may run on it. Streams of several threads need a model that
    is in evaluation mode already.

    >>> from athena_nn import Decoder
    >>> model = Decoder(256, 32, num_layers=1, num_heads=4, ff_dim=64)
    >>> [step.tokens.shape for step in stream(model, torch.tensor([[72, 105]]), max_new_tokens=2)]
    [torch.Size([1]), torch.Size([1])]
    """
    check_model(model)
    rows = as_rows(model, prompts)
    check_lengths(model, rows, max_new_tokens)
    check_chunk(prefill_chunk)
    check_stop_tokens(stop_tokens, decoder_of(model).vocabulary)
    check_stop_strings(stop_strings, decode)
    starts = decoder_rows(model, rows)
    choose = Chooser(
        starts,
        decoder_of(model).vocabulary,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
    )
    stopping = Stopping(len(rows), stop_tokens=stop_tokens, stop_strings=stop_strings, decode=decode)
    return _steps(
        model, rows, choose, stopping, max_new_tokens=max_new_tokens, int8=int8_cache, chunk=prefill_chunk
    )


# Inference mode would save a twentieth of a step, but what a model keeps from it could not be trained with.
def _steps(
    model: LanguageModel,
    rows: list[Tensor],
    choose: Chooser,
    stopping: Stopping,
    *,
    max_new_tokens: int,
    int8: bool,
    chunk: int | None,
) -> Iterator[Step]:
    if max_new_tokens == 0:
        return
    decoder, begun = decoder_of(model), decoder_rows(model, rows)
    done = torch.zeros(len(rows), dtype=torch.bool, device=rows[0].device)
    evaluation = evaluating(model)
    with evaluation:
        cache = new_cache(model, rows, max_new_tokens=max_new_tokens, int8=int8)
        logits = prefill(decoder, begun, cache, chunk)
    for left in reversed(range(max_new_tokens)):
        tokens = choose(logits, done)
        shown = tokens.masked_fill(done, -1) if any(stopping.done) else tokens
        if stopping and stopping.update(tokens.tolist()):
            done = torch.tensor(stopping.done, device=done.device)
        yield Step(shown.clone(), done.clone())  # the caller's own, to be changed at will
        if not left or all(stopping.done):
            break
        # rows that are done go on too, unseen, so that no shape changes
        with evaluation:
            logits = step(decoder, tokens, cache)
    choose.check()
