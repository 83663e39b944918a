"""Newton-Schulz iteration: the nearest orthogonal matrix, roughly and by products alone."""

from __future__ import annotations

import torch
from torch import Tensor

from athena_core import without_autocast

#: Coefficients with a steep slope at 0: five steps take singular values of 0.01 to 1 near 1, not to it.
JORDAN = (3.4445, -4.7750, 2.0315)


def newton_schulz(
    matrices: Tensor,
    *,
    coefficients: tuple[float, float, float] = JORDAN,
    n_steps: int = 5,
    eps: float = 1e-7,
) -> Tensor:
    r"""Move all singular values of a matrix towards 1, its singular vectors kept.

    .. math::
        X_0 = G / \max(\|G\|_F, \epsilon), \qquad
        X_{k+1} = a X_k + \big(b A_k + c A_k^2\big) X_k, \quad A_k = X_k X_k^\top

    Each step maps every singular value :math:`\sigma` to :math:`a\sigma + b\sigma^3 + c\sigma^5`. With
    the default coefficients five steps bring those above a hundredth of the norm to about 0.7 to 1.2;
    0 stays 0. Computed in the dtype of ``matrices``; autograd may run through it.

    Shape: ``(m, n)`` or ``(batch, m, n)``, the result's too.
    Source: Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/. Departs from it: no.

    >>> singular = torch.linalg.svdvals(newton_schulz(torch.tensor([[3.0, 1.0], [0.0, 2.0]])))
    >>> bool((singular > 0.6).all() and (singular < 1.3).all())
    True
    """
    a, b, c = coefficients
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    multiply, multiply_add = (torch.bmm, torch.baddbmm) if matrices.ndim == 3 else (torch.mm, torch.addmm)
    # Each norm alone: a reduction over a batch may add in another order than one over a matrix.
    alone = matrices.unbind() if matrices.ndim == 3 else [matrices]
    norms = torch.stack([torch.linalg.vector_norm(matrix) for matrix in alone]).clamp(min=eps)
    x = matrices / (norms[:, None, None] if matrices.ndim == 3 else norms)
    x = x.mT if is_tall else x  # the smaller of the two Gram matrices
    with without_autocast(x.device.type):
        for _ in range(n_steps):
            factor = multiply(x, x.mT)
            factor = multiply_add(factor, factor, factor, beta=b, alpha=c)  # the name again: memory is freed
            x = multiply_add(x, factor, x, beta=a)
    return x.mT if is_tall else x
