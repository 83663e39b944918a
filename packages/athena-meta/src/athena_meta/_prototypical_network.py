"""Prototypical networks: the class whose mean is nearest."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from athena_meta._distances import class_covariances, cosine, mahalanobis, squared_euclidean
from athena_meta._metric_learner import MetricLearner, Temperature
from athena_meta._prototypes import class_means

Distance = Literal["squared-euclidean", "cosine", "mahalanobis"]


class PrototypicalNetwork(MetricLearner):
    r"""Scores a query by its distance to the mean of each class, in the space of an encoder.

    .. math:: p(y = k \mid x) = \operatorname{softmax}_k(-d(f(x), c_k) / \tau), \qquad
        c_k = \frac{1}{|S_k|} \sum_{i \in S_k} f(x_i)

    Args:
        encoder: any module from inputs to features, whose axes after the first are flattened.
        distance: "squared-euclidean", :math:`\|f(x) - c_k\|^2`; "cosine", minus the cosine of the angle;
            "mahalanobis", half the squared distance under `class_covariances`, one a class.
        temperature: :math:`\tau`; None: 1, and 0.1 for the cosine, whose scores would not leave [-1, 1].
        learn_temperature: with the encoder.

    Shape: of ``predict``: episodes -> ``(tasks, n_query, n_way)``. Raises ValueError for an unknown distance
    and a temperature that is not positive.

    Source: Snell et al. 2017, arXiv:1703.05175, eq. 1 and 2; Bateni et al. 2020, arXiv:1912.03432, section 4,
    for the Mahalanobis distance. Departs from them: the temperature; of the latter the distance alone is
    taken, the encoder is not adapted.

    >>> from athena_meta import Episodes
    >>> x, y = torch.tensor([[[0.0, 0.0], [0.0, 2.0], [9.0, 9.0]]]), torch.tensor([[4, 4, 1]])
    >>> learner = PrototypicalNetwork(nn.Identity())
    >>> learner.predict(Episodes(x, y, torch.tensor([[[0.0, 3.0]]]), torch.tensor([[4]]))).tolist()
    [[[-117.0, -4.0]]]
    >>> learner.adapt(x[0], ["near", "near", "far"]).classes
    ('far', 'near')
    """

    def __init__(
        self,
        encoder: nn.Module,
        *,
        distance: Distance = "squared-euclidean",
        temperature: float | None = None,
        learn_temperature: bool = False,
    ) -> None:
        super().__init__(encoder)
        if distance not in get_args(Distance):
            raise ValueError(f"`distance` must be one of {', '.join(get_args(Distance))}; got {distance!r}.")
        if temperature is None:
            temperature = 0.1 if distance == "cosine" else 1.0
        self.distance = distance
        self.temperature = Temperature(temperature, learned=learn_temperature)

    def summary(self, support: Tensor, ranks: Tensor, n_way: int) -> tuple[Tensor, ...]:
        """The prototypes ``(tasks, n_way, features)``; for Mahalanobis, Cholesky factors beside them."""
        support = support.flatten(2)
        means = class_means(support, ranks, n_way)
        if self.distance != "mahalanobis":
            return (means,)
        return means, torch.linalg.cholesky(class_covariances(support, ranks, n_way))

    def scores(self, query: Tensor, *summary: Tensor) -> Tensor:
        query = query.flatten(2)
        if self.distance == "mahalanobis":
            return self.temperature(mahalanobis(query, *summary))
        similarity = cosine if self.distance == "cosine" else squared_euclidean
        return self.temperature(similarity(query, *summary))

    def extra_repr(self) -> str:
        return f"distance={self.distance!r}"
