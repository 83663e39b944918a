"""Windows of a byte text: drawn at random for training, laid side by side for evaluation."""

from __future__ import annotations

from math import log
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_core import backend
from athena_nn._modes import evaluating


def as_tensor(text: bytes) -> Tensor:
    """The bytes as a uint8 tensor."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


class Windows:
    """Random windows of ``context`` bytes and the bytes that follow each, from its own generator.

    Shape: `draw` returns inputs and targets, ``(batch, context)`` each, int64.

    >>> inputs, targets = Windows(b"abcdef", batch=2, context=3, seed=0).draw()
    >>> bool((targets[:, :-1] == inputs[:, 1:]).all())
    True
    """

    def __init__(self, text: bytes, *, batch: int, context: int, seed: int) -> None:
        self._windows = as_tensor(text).unfold(0, context + 1, 1)
        self._batch = batch
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        rows = torch.randint(len(self._windows), (self._batch,), generator=self._generator)
        windows = self._windows[rows].long()
        return windows[:, :-1], windows[:, 1:]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"])


def bits_per_byte(
    model: nn.Module, text: bytes, *, before: bytes, context: int, batch: int, dtype: torch.dtype
) -> float:
    """Mean :math:`-\\log_2 p` of every byte of ``text``, each predicted once.

    The text is cut into pieces of half a context. A piece is predicted in one window that ends with
    it, so each byte is given at least half a context and at most a whole one; the first pieces see
    the end of ``before``, which must hold a whole context. No random number is drawn.

    >>> from athena_nn import Decoder
    >>> model = Decoder(256, 16, num_layers=1, num_heads=2, ff_dim=16, max_length=4)
    >>> torch.nn.init.zeros_(model.embedding.weight).sum().item()  # all bytes alike: 8 bits
    0.0
    >>> round(bits_per_byte(model, b"hello", before=b"abcd", context=4, batch=2, dtype=torch.float32), 6)
    8.0
    """
    device = next(model.parameters()).device
    stride = max(1, context // 2)
    windows = as_tensor(before[-context:] + text).unfold(0, context + 1, 1)
    starts = torch.arange(0, len(text), stride)
    ends = (starts + stride).clamp(max=len(text))
    total = torch.zeros((), dtype=torch.float64)
    with evaluating(model), backend(device).autocast(dtype):
        for start, end in zip(starts.split(batch), ends.split(batch), strict=True):
            window = windows[end - 1].to(device).long()
            logits = model(window[:, :-1]).float()
            nats = F.cross_entropy(logits.transpose(1, 2), window[:, 1:], reduction="none").cpu()
            counted = torch.arange(context) >= context - (end - start)[:, None]
            total += nats[counted].sum(dtype=torch.float64)
    return total.item() / len(text) / log(2)
