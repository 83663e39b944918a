"""What an encoder-decoder looks at in its source."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from athena_nn._attend import attention_weights
from athena_nn._encoder_decoder import EncoderDecoder
from athena_nn._modes import evaluating


def cross_attention_weights(model: EncoderDecoder, source: Tensor, target: Tensor) -> Tensor:
    """The weights of every cross-attention, for one source and one target.

    Shape: ``source (keys,)``, ``target (time,)`` -> ``(layers, heads, time, keys)``, rows of sum 1.

    >>> from athena_nn import Decoder, Encoder
    >>> encoder = Encoder(9, 8, num_layers=1, num_heads=2, ff_dim=16)
    >>> decoder = Decoder(9, 8, num_layers=3, num_heads=2, ff_dim=16, memory_dim=8)
    >>> model = EncoderDecoder(encoder, decoder, start_token=0)
    >>> cross_attention_weights(model, torch.tensor([5, 6, 7, 8]), torch.tensor([0, 5])).shape
    torch.Size([3, 2, 2, 4])
    """
    crosses = [block.cross_attention for block in model.decoder.layers() if block.cross_attention is not None]
    asked: dict[Any, Tensor] = {}

    def note(cross: Any, _module: Any, _inputs: Any, q: Tensor) -> None:
        asked[cross] = q

    hooks = [cross.q.register_forward_hook(partial(note, cross)) for cross in crosses]
    try:
        with evaluating(model):
            memory = model.encode(source[None])
            model.decoder(target[None], memory=memory)
            weights = []
            for cross in crosses:
                q = asked[cross].unflatten(-1, (-1, cross.head_dim)).transpose(1, 2)
                q = q if cross.q_norm is None else cross.q_norm(q)
                k, _ = cross.memory_heads(memory)
                weights.append(attention_weights(q, k, mask=None, scale=cross._scale))
            return torch.cat(weights)
    finally:
        for hook in hooks:
            hook.remove()
