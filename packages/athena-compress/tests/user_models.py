"""Models as a user writes them, in a module of their own, for tests of saving and exporting."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


class Mode(enum.Enum):
    FAST = "fast"
    SLOW = "slow"


@dataclass(frozen=True)
class Options:
    width: int
    factor: float = float("inf")
    mode: Mode = Mode.FAST
    inner: Options | None = None
    names: tuple[str, ...] = ()


@dataclass(slots=True)
class Slotted:
    rate: float
    kept: list[int] = field(default_factory=list)


class Plain:
    def __init__(self, width: int) -> None:
        self.width = width
        self.again = self


def twice(x: Tensor) -> Tensor:
    return 2 * x


def note(module: nn.Module, _: object) -> None:
    module.noted = True


class Residual(nn.Module):
    """Convolutions with batch norms beside a shortcut."""

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.shortcut = nn.Conv2d(channels, channels, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.ModuleList([Residual(8), Residual(8, 2)])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


class TiedModel(nn.Module):
    """A language model that ties its matrices, and holds a temporary buffer and a table of its own."""

    def __init__(self, vocabulary: int = 17, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("positions", torch.randn(32, width), persistent=False)
        self.table = torch.randn(vocabulary)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        return self.head(self.encoder(x)) + self.table


class Holder(nn.Module):
    """A module that holds whatever a test gives it."""

    def __init__(self, **attributes: object) -> None:
        super().__init__()
        for name, value in attributes.items():
            setattr(self, name, value)


class Cached(nn.Module):
    _not_saved = ("cache",)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.cache = lambda x: x

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class CachedMore(Cached):
    _not_saved = ("scratch", "helper")

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scratch", torch.ones(1000))
        self.helper = nn.Linear(2, 2)


class EveryLayer(nn.Module):
    """One of each layer that is quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.conv1 = nn.Conv1d(6, 8, 3, padding=1)
        self.turn1 = nn.ConvTranspose1d(8, 6, 2, stride=2)
        self.conv2 = nn.Conv2d(1, 4, 3, padding=1, padding_mode="reflect")
        self.depthwise = nn.Conv2d(4, 4, (3, 2), stride=2, dilation=(1, 2), groups=4, bias=False)
        self.turn2 = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1)
        self.head = nn.Linear(2, 10)
        self.last = nn.Linear(10, 3, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens).transpose(1, 2)
        x = torch.relu(self.turn1(torch.relu(self.conv1(x)))).unsqueeze(1)
        x = torch.relu(self.turn2(torch.relu(self.depthwise(torch.relu(self.conv2(x))))))
        return self.last(torch.tanh(self.head(x.mean((2, 3)))))
