"""Three tasks that share layers in several ways, and a method that is no balancer."""

from __future__ import annotations

from torch import Tensor, nn

Losses = dict[str, Tensor]


class Summed:
    """Not a balancer: any function of the matrix is taken. Remembers what it was given."""

    def __call__(self, matrix: Tensor) -> Tensor:
        self.matrix = matrix.clone()
        return matrix.sum(0)


class Tasks(nn.Module):
    """Three tasks; what they share depends on ``kind``."""

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        self.kind = kind
        self.below = nn.Linear(3, 4)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.unused = nn.Linear(2, 2)
        self.heads = nn.ModuleDict({name: nn.Linear(4, 1) for name in "abc"})
        self.double()
        if kind == "tied":
            self.second.weight = self.first.weight
        if kind == "tied to a head":
            self.heads["b"].weight = nn.Parameter(self.first.bias[None])
            del self.first.bias
            self.first.register_parameter("bias", None)

    def losses(self, x: Tensor) -> Losses:
        inner = self.first(self.below(x).tanh()).tanh()
        outer = self.second(inner).tanh()
        features = dict.fromkeys(self.heads, outer)
        if self.kind == "two depths":
            features["a"] = inner  # where b and c enter goes through it
        if self.kind == "one task leaves out":
            features["c"] = inner.detach() + inner
        if self.kind == "skip":
            features["b"] = outer + 2 * inner
        if self.kind == "direct":
            features["b"] = outer * self.first.weight.sum()
        predictions = {name: head(features[name]) for name, head in self.heads.items()}
        return {name: (one - i).square().mean() for i, (name, one) in enumerate(predictions.items())}

    def shared(self) -> list[nn.Parameter]:
        return [*self.first.parameters(), *self.second.parameters(), *self.unused.parameters()]


KINDS = ["plain", "tied", "tied to a head", "two depths", "one task leaves out", "skip", "direct"]
