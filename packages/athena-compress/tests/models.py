"""Small models of the shapes that compression meets, each with an example of its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformer_models import GPT, Llama, ViT


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, which is projected where widths or strides differ."""

    def __init__(self, before: int, inside: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, inside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x), inplace=True)


class ResNet(nn.Module):
    """Stem, blocks of two stages, pooling, classifier."""

    def __init__(self, stem: int = 8, inside: tuple[int, ...] = (8, 6, 16), wide: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, stem, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(stem)
        self.blocks = nn.Sequential(
            ResidualBlock(stem, inside[0], stem, 1),
            ResidualBlock(stem, inside[1], wide, 2),
            ResidualBlock(wide, inside[2], wide, 1),
        )
        self.head = nn.Linear(wide, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu_(self.bn(self.conv(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class DenseNet(nn.Module):
    """Layers that each see all earlier ones, concatenated."""

    def __init__(self, growths: tuple[int, ...] = (6, 4, 4)) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        width = 3
        for growth in growths:
            self.layers.append(
                nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, growth, 3, padding=1))
            )
            width += growth
        self.bn = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], 1)
        return self.head(F.relu(self.bn(x)).mean((2, 3)))


class MobileNet(nn.Module):
    """Inverted residuals: expansion, a depthwise convolution, squeeze and excitation, projection."""

    def __init__(self, width: int = 8, inside: int = 12, squeezed: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.expand = nn.Sequential(nn.Conv2d(width, inside, 1), nn.BatchNorm2d(inside), nn.Hardswish())
        self.depthwise = nn.Sequential(
            nn.Conv2d(inside, inside, 3, padding=1, groups=inside), nn.BatchNorm2d(inside), nn.ReLU6()
        )
        self.squeeze = nn.Conv2d(inside, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, inside, 1)
        self.project = nn.Conv2d(inside, width, 1)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.depthwise(self.expand(x))
        gate = torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(y, 1)))))
        return self.head((x + self.project(y * gate)).mean((2, 3)))


class Grouped(nn.Module):
    """Convolutions of few wide groups and of many narrow ones, a depthwise multiplier, transposed ones."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(3, 12, 1)
        self.wide = nn.Conv2d(12, 8, 3, padding=1, groups=2)
        self.mix = nn.Conv2d(8, 8, 1)
        self.narrow = nn.Conv2d(8, 16, 3, padding=1, groups=4)
        self.norm = nn.GroupNorm(4, 16)
        self.multiply = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.spread = nn.Conv2d(32, 12, 1)
        self.up = nn.ConvTranspose2d(12, 8, 2, 2, groups=2)
        self.again = nn.Conv2d(8, 6, 1)
        self.deep = nn.ConvTranspose2d(6, 12, 2, 2, groups=6)
        self.plain = nn.GroupNorm(3, 12, affine=False)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.mix(F.relu(self.wide(F.relu(self.reduce(x))))))
        x = self.spread(F.relu(self.multiply(F.relu(self.norm(self.narrow(x))))))
        return self.head(self.plain(self.deep(F.relu(self.again(F.relu(self.up(x)))))))


class ShuffleNet(nn.Module):
    """Halves of channels, one transformed, shuffled by a reshape."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width // 2, width // 2, 1), nn.BatchNorm2d(width // 2), nn.ReLU())
            for _ in range(2)
        )
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            first, second = x.chunk(2, 1)
            x = torch.cat((first, branch(second)), 1)
            batch, channels, height, width = x.shape
            x = x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(x.shape)
        return self.head(x.mean((2, 3)))


class UNet(nn.Module):
    """Down and up again, with the way down concatenated."""

    def __init__(self, widths: tuple[int, int, int] = (6, 8, 5)) -> None:
        super().__init__()
        one, two, three = widths
        self.down1 = nn.Sequential(nn.Conv2d(3, one, 3, padding=1), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(one, two, 3, padding=1), nn.BatchNorm2d(two), nn.ReLU())
        self.up = nn.ConvTranspose2d(two, three, 2, 2)
        self.out = nn.Sequential(nn.Conv2d(three + one, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        return self.out(torch.cat([self.up(two), one], 1))


class SuperResolution(nn.Module):
    """Sub-pixel convolution, and channels padded on a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 9, 3, padding=1)
        self.spread = nn.Conv2d(9, 12, 3, padding=1)
        self.last = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.relu(self.second(x)) + F.pad(x, (0, 0, 0, 0, 1, 2))
        return self.last(F.pixel_shuffle(self.spread(x), 2))


class FlattenNet(nn.Module):
    """A convolution whose channels and places a linear layer reads."""

    def __init__(self, channels: int = 6, hidden: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, padding=1)
        self.norm = nn.LayerNorm([4, 4])
        self.hidden = nn.Linear(channels * 16, hidden)
        self.activation = nn.PReLU(hidden)
        self.head = nn.Linear(hidden, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.max_pool2d(F.relu(self.conv(x)), 2))
        return self.head(self.activation(self.hidden(torch.flatten(x, 1))))


class TwoInputs(nn.Module):
    """An image and numbers, in one width, with a shared layer and one whose weight is read both ways."""

    def __init__(self, width: int = 8, hidden: int = 6) -> None:
        super().__init__()
        self.image = nn.Conv2d(1, width, 3)
        self.numbers = nn.Linear(5, width)
        self.shared = nn.Linear(width, hidden)
        self.head = nn.Linear(hidden, 2)

    def forward(self, image: Tensor, *, numbers: Tensor) -> dict[str, Tensor]:
        first = self.shared(torch.tanh(self.image(image)).amax((2, 3)))
        second = self.shared(torch.tanh(self.numbers(numbers)))
        decoded = F.linear(second, self.shared.weight.t())
        return {"out": self.head(first * second), "decoded": decoded.sum(-1)}


class Experts(nn.Module):
    """A weight for each of several experts in one tensor, a product over stacked matrices, a fused gate."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.randn(3, 5, 2 * hidden))
        self.down = nn.Parameter(torch.randn(3, hidden, 5))
        self.router = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = (x.expand(3, *x.shape) @ self.up).chunk(2, -1)
        y = torch.bmm(F.silu(gate) * value, self.down)
        return (self.router(x).softmax(-1).t()[..., None] * y).sum(0)


def image(*shape: int) -> Tensor:
    return torch.randn(shape)


#: name -> (model, example inputs), made anew at each call.
CASES: dict[str, Callable[[], tuple[nn.Module, Any]]] = {
    "resnet": lambda: (ResNet(), image(2, 3, 8, 8)),
    "densenet": lambda: (DenseNet(), image(2, 3, 6, 6)),
    "mobilenet": lambda: (MobileNet(), image(2, 3, 8, 8)),
    "grouped": lambda: (Grouped(), image(2, 3, 4, 4)),
    "shufflenet": lambda: (ShuffleNet(), image(2, 3, 4, 4)),
    "unet": lambda: (UNet(), image(2, 3, 8, 8)),
    "super-resolution": lambda: (SuperResolution(), image(2, 3, 4, 4)),
    "flatten": lambda: (FlattenNet(), image(2, 1, 8, 8)),
    "vit": lambda: (ViT(), image(2, 3, 8, 8)),
    "gpt": lambda: (GPT(), torch.randint(30, (2, 7))),
    "llama": lambda: (Llama(), torch.randint(30, (2, 7))),
    "llama-multi-query": lambda: (Llama(4, 1), torch.randint(30, (2, 7))),
    "two-inputs": lambda: (TwoInputs(), {"image": image(2, 1, 5, 5), "numbers": image(2, 5)}),
    "experts": lambda: (Experts(), image(4, 5)),
}
