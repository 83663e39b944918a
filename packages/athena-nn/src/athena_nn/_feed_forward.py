"""The feed-forward layer."""

from __future__ import annotations

from torch import Tensor, nn

from athena_nn._named import ActivationSpec, build_activation


class FeedForward(nn.Module):
    r"""Two projections with an activation between: :math:`W_d\,a(W_u x)`.

    A gated activation (one whose attribute ``gated`` is true: ``swiglu``, ``geglu``) takes twice the
    width, gate first, and so has three matrices in effect: ``ff_dim`` of 8/3 of the width, rather than
    4 times, gives the same number of parameters as without a gate.

    Args:
        embed_dim: width of input and output.
        ff_dim: width between, after the activation.
        activation: a built layer, or the name of one of the kind ``activation``.
        bias: whether the projections have biases.
        dropout: probability of dropping an element after the activation, while training.

    Shape: ``(..., embed_dim) -> (..., embed_dim)``. Raises ValueError if a width is below 1, and
    AthenaError if no activation of that name is installed.
    Source: Vaswani et al. 2017, arXiv:1706.03762, equation 2; gated, Shazeer 2020, arXiv:2002.05202,
    equation 6. Departs from it: no.

    >>> import torch
    >>> FeedForward(8, 16)(torch.zeros(2, 8)).abs().sum().item()
    0.0
    """

    def __init__(
        self,
        embed_dim: int,
        ff_dim: int,
        *,
        activation: ActivationSpec = "swiglu",
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dim < 1 or ff_dim < 1:
            raise ValueError(f"`embed_dim` and `ff_dim` must be at least 1; got {embed_dim} and {ff_dim}.")
        self.activation = build_activation(activation)
        gated = getattr(self.activation, "gated", False)
        self.up = nn.Linear(embed_dim, 2 * ff_dim if gated else ff_dim, bias=bias)
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Linear(ff_dim, embed_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.up(x))
        return self.down(self.dropout(x) if self.training else x)
