"""The decoder language model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from athena_nn._block import TransformerBlock
from athena_nn._positions import NoPositions, Positions
from athena_nn._rms_norm import RMSNorm


class DecoderLM(nn.Module):
    r"""Predict each next token from those up to it: embedding, causal blocks, norm, projection.

    Args:
        vocabulary: number of token ids.
        embed_dim: width of the stream.
        num_layers: blocks.
        num_heads: query heads of each.
        ff_dim: width inside each feed-forward layer.
        max_length: longest sequence accepted.
        num_kv_heads: key-value heads; None means as many as query heads.
        dropout: probability of dropping, in embeddings and blocks, while training.
        bias: whether the blocks' projections have biases.
        positions: one built part, shared by all blocks; None means no positions.
        tie_embeddings: whether the output projection is the embedding's matrix.

    Shape: ``(batch, time) -> (batch, time, vocabulary)``, logits. ``positions`` of ``forward`` is
    ``(time,)`` or ``(batch, time)``, by default 0, 1, 2, ...

    Raises ValueError for sizes that do not fit, a sequence longer than ``max_length``, and on the CPU
    for a token id outside the vocabulary. On an accelerator such an id is the device's own assertion:
    looking would make the host wait at every call.

    Weights start as in GPT-2 (Radford et al. 2019, section 2.3): normal with standard deviation 0.02,
    projections onto the stream divided by :math:`\sqrt{2N}` for :math:`N` blocks; biases 0, gains 1.
    Source: Radford et al. 2019; norm, gate and rotary as in Touvron et al. 2023, arXiv:2302.13971.
    Departs from it: no.

    >>> model = DecoderLM(256, 32, num_layers=2, num_heads=4, ff_dim=64, max_length=16)
    >>> model(torch.randint(256, (2, 9))).shape
    torch.Size([2, 9, 256])
    """

    def __init__(
        self,
        vocabulary: int,
        embed_dim: int,
        *,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        max_length: int,
        num_kv_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool = False,
        positions: Positions | None = None,
        tie_embeddings: bool = True,
    ) -> None:
        super().__init__()
        for name, size in (
            ("vocabulary", vocabulary),
            ("num_layers", num_layers),
            ("max_length", max_length),
        ):
            if size < 1:
                raise ValueError(f"`{name}` must be at least 1; got {size}.")
        self.vocabulary = vocabulary
        self.max_length = max_length
        self.positions = NoPositions() if positions is None else positions
        self.embedding = nn.Embedding(vocabulary, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                embed_dim,
                num_heads,
                ff_dim=ff_dim,
                num_kv_heads=num_kv_heads,
                dropout=dropout,
                bias=bias,
                causal=True,
                positions=self.positions,
            )
            for _ in range(num_layers)
        )
        self.norm = RMSNorm(embed_dim)
        self.head = nn.Linear(embed_dim, vocabulary, bias=False)
        if tie_embeddings:
            self.head.weight = self.embedding.weight
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw all weights anew from the global generator."""
        std = 0.02
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, RMSNorm):
                nn.init.ones_(module.weight)
        nn.init.normal_(self.embedding.weight, std=std)
        for block in self.blocks:
            assert isinstance(block, TransformerBlock)
            for projection in (block.attention.out, block.feed_forward.down):
                nn.init.normal_(projection.weight, std=std / (2 * len(self.blocks)) ** 0.5)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        self._check(tokens)
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.positions.embed(self._embed(tokens), positions))
        for block in self.blocks:
            x = block(x, positions)
        return self.head(self.norm(x))

    def _check(self, tokens: Tensor) -> None:
        if tokens.ndim != 2:
            raise ValueError(f"`tokens` must have shape (batch, time); got {tuple(tokens.shape)}.")
        if tokens.shape[1] > self.max_length:
            raise ValueError(
                f"`tokens` must hold at most `max_length` = {self.max_length} a row; got {tokens.shape[1]}. "
                "Cut them, or build the model with a larger `max_length`."
            )

    def _embed(self, tokens: Tensor) -> Tensor:
        try:
            return self.embedding(tokens)
        except IndexError as error:  # the CPU's kernel looks at every id anyway
            low, high = (bound.item() for bound in tokens.aminmax())
            wrong = low if low < 0 else high
            raise ValueError(f"`tokens` must lie in [0, {self.vocabulary}); got {wrong}.") from error
