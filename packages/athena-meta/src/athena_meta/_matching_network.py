"""Matching networks: a query takes the labels of the support set, by attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from athena_meta._distances import cosine
from athena_meta._metric_learner import MetricLearner, Temperature


class FullContext(nn.Module):
    r"""Embeddings that see the whole support set: a bi-LSTM :math:`g`, an attention LSTM :math:`f`.

    .. math::
        g(x_i) = \vec h_i + \overleftarrow h_i + g'(x_i), \qquad
        \hat h_k, c_k = \operatorname{LSTM}(f'(x), [h_{k-1}, r_{k-1}], c_{k-1}), \quad h_k = \hat h_k + f'(x),
        \quad r_{k-1} = \sum_i \operatorname{softmax}_i(h_{k-1} \cdot g(x_i))\, g(x_i)

    and :math:`f(x) = h_K`, from :math:`h_0 = c_0 = 0`. The bi-LSTM reads a support set in the order of its
    sorted labels, within a class as it is given, so that the order of the examples of a class matters a
    little.

    Args:
        features: of an example.
        reads: :math:`K`, how often a query reads the support set.

    Shape: ``(tasks, n_support, features)`` and ``(tasks, n_query, features)`` -> the same.
    Source: Vinyals et al. 2016, arXiv:1606.04080, section 2.1.2 and appendix A. Departs from it: no.

    >>> context = FullContext(8, reads=2)
    >>> support, query = torch.randn(3, 5, 8), torch.randn(3, 7, 8)
    >>> context.support(support).shape, context.query(query, support).shape
    (torch.Size([3, 5, 8]), torch.Size([3, 7, 8]))
    """

    def __init__(self, features: int, *, reads: int = 5) -> None:
        super().__init__()
        if reads < 1:
            raise ValueError(f"`reads` must be at least 1; got {reads}.")
        self.reads = reads
        self.encoder = nn.LSTM(features, features, bidirectional=True, batch_first=True)
        self.gates = nn.Linear(3 * features, 4 * features)

    def support(self, support: Tensor) -> Tensor:
        """Support sets in their own context."""
        forward, backward = self.encoder(support)[0].chunk(2, dim=-1)
        return forward + backward + support

    def query(self, query: Tensor, support: Tensor) -> Tensor:
        """Queries in the context of support sets that are embedded already, each query by itself."""
        hidden = cell = torch.zeros_like(query)
        for _ in range(self.reads):
            read = (hidden @ support.mT).softmax(-1) @ support
            into, forget, out, new = self.gates(torch.cat([query, hidden, read], dim=-1)).chunk(4, dim=-1)
            cell = forget.sigmoid() * cell + into.sigmoid() * new.tanh()
            hidden = out.sigmoid() * cell.tanh() + query
        return hidden


class MatchingNetwork(MetricLearner):
    r"""Gives a query the labels of the support set, each weighted by attention.

    .. math:: p(y = k \mid x) = \sum_{i \in S_k} a(x, x_i), \qquad
        a(x, x_i) = \operatorname{softmax}_i(\cos(f(x), g(x_i)) / \tau)

    Scores are the logarithms of these sums, so that their softmax is :math:`p`. A class with more examples
    than others has more weight, as in the paper.

    Args:
        encoder: any module from inputs to features, whose axes after the first are flattened.
        context: what embeds support and query in the context of the support set; None: the encoder alone.
        temperature: :math:`\tau`; 1 is the paper's, with which the scores of a class hardly differ.
        learn_temperature: with the encoder.

    Shape: of ``predict``: episodes -> ``(tasks, n_query, n_way)``. Raises ValueError for a temperature that
    is not positive.

    Source: Vinyals et al. 2016, arXiv:1606.04080, eq. 1 and section 2.1. Departs from it: the temperature.

    >>> from athena_meta import Episodes
    >>> x, y = torch.eye(2)[None], torch.tensor([[0, 1]])
    >>> learner = MatchingNetwork(nn.Identity(), temperature=1.0)
    >>> learner.predict(Episodes(x, y, x, y)).softmax(-1)[0, 0]
    tensor([0.7311, 0.2689])
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        context: FullContext | None = None,
        temperature: float = 0.1,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(encoder)
        self.context = context
        self.temperature = Temperature(temperature, learned=learn_temperature)

    def summary(self, support: Tensor, ranks: Tensor, n_way: int) -> tuple[Tensor, ...]:
        """Embeddings ``(tasks, n_support, features)`` by sorted label, and which are of each class."""
        order = ranks.argsort(dim=1, stable=True)
        support = support.flatten(2)
        support = support.gather(1, order.unsqueeze(-1).expand_as(support))
        members = F.one_hot(ranks.gather(1, order), n_way).bool()
        return (support if self.context is None else self.context.support(support)), members

    def scores(self, query: Tensor, *summary: Tensor) -> Tensor:
        support, members = summary
        query = query.flatten(2)
        if self.context is not None:
            query = self.context.query(query, support)
        attention = self.temperature(cosine(query, support)).log_softmax(-1)  # (tasks, n_query, n_support)
        of_class = attention.unsqueeze(-1).masked_fill(~members.unsqueeze(1), -torch.inf)
        return of_class.logsumexp(2)
