"""Parameter groups for Muon: which matrices are orthogonalised, and what is left to AdamW."""

from __future__ import annotations

from typing import Any

from torch import nn

from athena_core import SplitEmbedding


def muon_groups(model: nn.Module, *, head: nn.Module | None = None) -> list[dict[str, Any]]:
    """Split a model's parameters into hidden matrices, other matrices, and those with fewer than two axes.

    Muon is for hidden layers: weights that take vectors to vectors. Embeddings have two axes too, but a
    row of them is a vector that one word selects, as in tables of positions, whose modules say so by an
    attribute ``selects_rows``. The output layer is commonly left to AdamW as well; so are kernels of
    convolutions, which have more than two axes. Vectors and scalars do not decay.

    Args:
        head: the output layer, such as ``model.lm_head``; None if all linear layers are hidden ones. A
            weight that it shares with an embedding is found without it.

    Returns groups with ``orthogonalize`` set, in the order above; an empty one is left out. A shared
    parameter appears once, a frozen one (``requires_grad=False``) not at all.
    Raises ValueError if ``head`` is no part of the model, or no parameter is trainable.
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/, section "Empirical
    considerations". Departs from it: convolutions (there flattened; to do so, add them to the first group).

    >>> model = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 9))
    >>> groups = muon_groups(model, head=model[2])
    >>> [(group["orthogonalize"], [tuple(p.shape) for p in group["params"]]) for group in groups]
    [(True, [(4, 4)]), (False, [(9, 4), (9, 4)]), (False, [(4,), (9,)])]
    """
    if head is not None and all(module is not head for module in model.modules()):
        raise ValueError(f"`head` must be a module of `model`; got a {type(head).__name__} that is not.")
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise ValueError(f"`model` must have a trainable parameter; {type(model).__name__} has none.")
    tables = (nn.Embedding, nn.EmbeddingBag, SplitEmbedding)
    outer = [m for m in model.modules() if isinstance(m, tables) or getattr(m, "selects_rows", False)]
    outer += [] if head is None else [head]
    left_out = {id(p) for module in outer for p in module.parameters()}
    hidden = [p for p in trainable if p.ndim == 2 and id(p) not in left_out]
    others = [p for p in trainable if p.ndim >= 2 and (p.ndim > 2 or id(p) in left_out)]
    vectors = [p for p in trainable if p.ndim < 2]
    groups = [
        {"params": hidden, "orthogonalize": True},
        {"params": others, "orthogonalize": False},
        {"params": vectors, "orthogonalize": False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
