"""Embeddings and linear layers whose weight lies in pieces of rows, each an allocation of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

_JOINED = WeakIdKeyDictionary()  # a joined weight's pieces, so that tied modules save it once


class SplitRows(nn.Module):
    r"""Base of `SplitEmbedding` and `SplitLinear`: a weight of rows :math:`W = [W_0; W_1; \dots]`.

    The state dict has the key ``weight``, all rows joined on the host, and is loaded from one: it is
    that of the module that was split, so that a checkpoint fits both. Modules given the same pieces are
    tied. The attribute ``weight`` is missing, as joined on the device it would exceed what may be
    allocated there at once: take `pieces`.

    Args:
        pieces: of at least one row each and of one width, in order.

    Raises ValueError for pieces that are no matrices of one width.
    """

    def __init__(self, pieces: Sequence[nn.Parameter]) -> None:
        super().__init__()
        shapes = [tuple(piece.shape) for piece in pieces]
        if not shapes or any(len(shape) != 2 or shape[1] != shapes[0][-1] for shape in shapes):
            raise ValueError(f"`pieces` must be matrices of one width, at least one; got {shapes}.")
        self.n_pieces = len(pieces)
        for name, piece in zip(self._names(), pieces, strict=True):
            self.register_parameter(name, piece)

    @property
    def pieces(self) -> tuple[Tensor, ...]:
        """The weight's rows, in order."""
        return tuple(getattr(self, name) for name in self._names())

    @property
    def starts(self) -> tuple[int, ...]:
        """The first row of each piece in the whole weight, and at last how many there are."""
        return (0, *accumulate(piece.shape[0] for piece in self.pieces))  # pruning makes pieces smaller

    def _names(self, prefix: str = "") -> list[str]:
        return [f"{prefix}weight_{i}" for i in range(self.n_pieces)]

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(
                f"`weight` of this {type(self).__name__} lies in {self.n_pieces} pieces, as the device cannot"
                " allocate it whole; take `pieces`, or `state_dict()['weight']` on the host."
            )
        return super().__getattr__(name)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        joined = _joined(self.pieces, destination)
        destination[f"{prefix}weight"] = joined if keep_vars else joined.detach()
        _JOINED[destination[f"{prefix}weight"]] = _as_they_are(self.pieces)
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name in self._names(prefix):
            del destination[name]

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        whole, shape = f"{prefix}weight", (self.starts[-1], self.pieces[0].shape[1])
        state = dict(state_dict)
        weight = state.pop(whole, None)
        if weight is None:
            missing_keys.append(whole)
        elif tuple(weight.shape) != shape:
            error_msgs.append(f"{whole} has the shape {tuple(weight.shape)}; the pieces here have {shape}.")
        else:
            rows = [piece.shape[0] for piece in self.pieces]
            state.update(zip(self._names(prefix), weight.split(rows), strict=True))
        missing: list[str] = []
        super()._load_from_state_dict(
            state, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs
        )
        missing_keys += [name for name in missing if name not in self._names(prefix)]


@final
class SplitEmbedding(SplitRows):
    r"""`torch.nn.Embedding` with its weight in pieces of rows.

    .. math:: y_t = W_k[i_t - s_k] \quad\text{for the piece } k \text{ with } s_k \le i_t < s_{k+1}

    Each piece is asked for all ids, those of other pieces wrapped into it and their rows dropped: no
    shape depends on the ids, so the host never waits. An id outside all pieces is the last one's or the
    first one's own error, as in the layer that was split.

    Args:
        pieces: of at least one row each and of one width, in order.
        padding_idx: a row of the whole weight that takes no gradient.

    Shape: ``ids (...) -> (..., width)``, on the first piece's device. Raises IndexError on the CPU for an
    id outside the rows. Source: none.

    >>> embedding = torch.nn.Embedding(5, 2)
    >>> split = split_rows(embedding, [nn.Parameter(rows) for rows in embedding.weight.detach().split(3)])
    >>> torch.equal(split(torch.tensor([0, 4, 2])), embedding(torch.tensor([0, 4, 2])))
    True
    """

    def __init__(self, pieces: Sequence[nn.Parameter], *, padding_idx: int | None = None) -> None:
        super().__init__(pieces)
        self.padding_idx = padding_idx

    @property
    def num_embeddings(self) -> int:
        """Rows of the whole weight."""
        return self.starts[-1]

    @property
    def embedding_dim(self) -> int:
        """Width of each row."""
        return self.pieces[0].shape[1]

    def forward(self, ids: Tensor) -> Tensor:
        output: Tensor | None = None
        starts = self.starts
        for i, piece in enumerate(self.pieces):
            start, end = starts[i : i + 2]
            inside = torch.ones_like(ids, dtype=torch.bool) if i == 0 else ids >= start
            if i + 1 < self.n_pieces:
                inside &= ids < end
            # wrapped, not all to one row: their zeros are added to the gradient of as many rows
            local = torch.where(inside, ids - start, ids % (end - start))
            pad = self.padding_idx
            pad = pad - start if pad is not None and start <= pad < end else None
            rows = F.embedding(local.to(piece.device), piece, padding_idx=pad)
            if output is None:
                output = rows
            else:
                output = torch.where(inside.to(output.device)[..., None], rows.to(output.device), output)
        assert output is not None
        return output

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, n_pieces={self.n_pieces}"


@final
class SplitLinear(SplitRows):
    r"""`torch.nn.Linear` with its weight in pieces of rows: :math:`y = [x W_0^\top, x W_1^\top, \dots] + b`.

    Args:
        pieces: of at least one row each and of one width, in order.
        bias: of all rows; None for none.

    Shape: ``x (..., width) -> (..., rows)``, on the device of ``x``. Source: none.

    >>> linear = torch.nn.Linear(3, 5)
    >>> pieces = [nn.Parameter(rows) for rows in linear.weight.detach().split(3)]
    >>> split_rows(linear, pieces)(torch.ones(2, 3)).shape
    torch.Size([2, 5])
    """

    def __init__(self, pieces: Sequence[nn.Parameter], bias: nn.Parameter | None = None) -> None:
        super().__init__(pieces)
        self.register_parameter("bias", bias)

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.pieces[0].shape[1]

    @property
    def out_features(self) -> int:
        """Rows of the whole weight."""
        return self.starts[-1]

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for start, piece in zip(self.starts, self.pieces, strict=False):
            bias = None if self.bias is None else self.bias[start : start + len(piece)].to(piece.device)
            outputs.append(F.linear(x.to(piece.device), piece, bias).to(x.device))
        return torch.cat(outputs, dim=-1)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, n_pieces={self.n_pieces}"


def splits(module: object, *, own_hooks: int = 0) -> bool:
    """Whether `split_rows` knows the module: an embedding or linear layer as torch has it.

    A subclass may say that its results are its parent's, by an attribute ``computes_as`` of its own. Other
    subclasses, parametrized ones too, hooks beyond ``own_hooks``, sparse gradients, gradients scaled by
    frequency and rows kept below a norm would mean something else, or nothing, in pieces.

    >>> splits(nn.Linear(2, 3)), splits(nn.Embedding(3, 2, sparse=True)), splits(nn.Bilinear(1, 2, 3))
    (True, False, False)
    """
    if not isinstance(module, nn.Embedding | nn.Linear):
        return False
    hooks = (
        *(module._forward_hooks, module._forward_pre_hooks),
        *(module._backward_hooks, module._backward_pre_hooks),
        *(module._state_dict_hooks, module._state_dict_pre_hooks),
        *(module._load_state_dict_pre_hooks, module._load_state_dict_post_hooks),
    )
    kind = vars(type(module)).get("computes_as", type(module))  # an heir may compute otherwise
    if sum(map(len, hooks)) > own_hooks or type(module._parameters.get("weight")) is not nn.Parameter:
        return False
    if isinstance(module, nn.Embedding):
        usual = not (module.sparse or module.scale_grad_by_freq) and module.max_norm is None
        return kind is nn.Embedding and usual
    return kind is nn.Linear


def split_rows(module: nn.Module, pieces: Sequence[nn.Parameter]) -> SplitRows:
    """A module with these rows in place of the weight of ``module``, which `splits`; the bias is shared."""
    made: SplitRows
    if isinstance(module, nn.Embedding):
        made = SplitEmbedding(pieces, padding_idx=module.padding_idx)
    else:
        assert isinstance(module, nn.Linear)
        made = SplitLinear(pieces, module.bias)
    return made.train(module.training)


def _joined(pieces: Sequence[Tensor], saved: Mapping[str, Any]) -> Tensor:
    """All rows on the host (on the meta device, there); what a tied module has saved, if it has."""
    same = _as_they_are(pieces)
    for tensor in saved.values():
        if isinstance(tensor, Tensor) and _JOINED.get(tensor) == same:
            return tensor
    return torch.cat([piece if piece.is_meta else piece.cpu() for piece in pieces])


def _as_they_are(pieces: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    """Which pieces, and how often each was changed: a dict that is saved into may hold an earlier state."""
    return tuple((id(piece), 0 if piece.is_inference() else piece._version) for piece in pieces)
