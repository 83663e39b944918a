"""Small transformers: vision, GPT-2, Llama with grouped queries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainAttention(nn.Module):
    """Four projections and the fused kernel."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, head_dim
        self.query = nn.Linear(width, heads * head_dim)
        self.key = nn.Linear(width, heads * head_dim, bias=False)
        self.value = nn.Linear(width, heads * head_dim)
        self.out = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        q, k, v = (
            layer(x).view(batch, time, self.num_heads, self.head_dim).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(batch, time, self.num_heads * self.head_dim))


class FusedAttention(nn.Module):
    """One projection of three, split by a reshape, and the scores written out."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, head_dim
        self.qkv = nn.Linear(width, 3 * heads * head_dim)
        self.out = nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        qkv = self.qkv(x).reshape(batch, time, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class VisionBlock(nn.Module):
    def __init__(self, attention: nn.Module, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = attention
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, a class token, learned positions; plain projections, then fused ones."""

    def __init__(self, heads: tuple[int, int] = (4, 2), hidden: tuple[int, int] = (20, 12)) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.positions = nn.Parameter(torch.randn(1, 5, 16))
        self.blocks = nn.ModuleList(
            [
                VisionBlock(PlainAttention(16, heads[0], 4), 16, hidden[0]),
                VisionBlock(FusedAttention(16, heads[1], 8), 16, hidden[1]),
            ]
        )
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class GPTAttention(nn.Module):
    """Queries, keys and values in chunks of one projection; a causal mask kept as a buffer."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.n_head, self.head_dim = heads, head_dim
        self.split_size = heads * head_dim
        self.attend = nn.Linear(width, 3 * heads * head_dim)
        self.project = nn.Linear(heads * head_dim, width)
        self.register_buffer("mask", torch.ones(16, 16, dtype=torch.bool).tril()[None, None])

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        q, k, v = self.attend(x).split(self.split_size, dim=2)
        q, k, v = (one.view(batch, time, self.n_head, -1).transpose(1, 2) for one in (q, k, v))
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / self.head_dim**0.5
        scores = scores.masked_fill(~self.mask[:, :, :time, :time], float("-inf"))
        return self.project(torch.matmul(scores.softmax(-1), v).transpose(1, 2).reshape(batch, time, -1))


class GPT(nn.Module):
    """GPT-2: learned positions, norms first, an output projection tied to the embedding."""

    def __init__(self, heads: int = 4, hidden: int = 24) -> None:
        super().__init__()
        self.tokens = nn.Embedding(30, 16)
        self.positions = nn.Embedding(16, 16)
        self.blocks = nn.ModuleList(VisionBlock(GPTAttention(16, heads, 4), 16, hidden) for _ in range(2))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)


class GroupedQueryAttention(nn.Module):
    """Llama's attention: rotary positions, norms of queries and keys, repeated key-value heads."""

    def __init__(self, width: int, heads: int, kv_heads: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim, self.num_key_value_groups = head_dim, heads // kv_heads
        self.q_proj = nn.Linear(width, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, width, bias=False)
        self.q_norm, self.k_norm = RMSNorm(head_dim), RMSNorm(head_dim)
        self.register_buffer("frequencies", 10.0 ** -torch.arange(head_dim // 2), persistent=False)

    def rotate(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[2]).float(), self.frequencies)
        cos, sin = (torch.cat((one, one), -1) for one in (angles.cos(), angles.sin()))
        first, second = x[..., : self.head_dim // 2], x[..., self.head_dim // 2 :]
        return x * cos + torch.cat((-second, first), -1) * sin

    def repeat(self, x: Tensor) -> Tensor:
        batch, heads, time, width = x.shape
        x = x[:, :, None].expand(batch, heads, self.num_key_value_groups, time, width)
        return x.reshape(batch, heads * self.num_key_value_groups, time, width)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], -1, self.head_dim)
        q = self.rotate(self.q_norm(self.q_proj(x).view(shape)).transpose(1, 2))
        k = self.rotate(self.k_norm(self.k_proj(x).view(shape)).transpose(1, 2))
        v = self.v_proj(x).view(shape).transpose(1, 2)
        k, v = self.repeat(k), self.repeat(v)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(*x.shape[:-1], -1).contiguous())


class GatedFeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class LlamaBlock(nn.Module):
    def __init__(self, heads: int, kv_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = RMSNorm(16), RMSNorm(16)
        self.attention = GroupedQueryAttention(16, heads, kv_heads, 4)
        self.mlp = GatedFeedForward(16, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Llama(nn.Module):
    """Llama with grouped queries."""

    def __init__(self, heads: int = 6, kv_heads: int = 3, hidden: int = 20) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 16)
        self.layers = nn.ModuleList(LlamaBlock(heads, kv_heads, hidden) for _ in range(2))
        self.norm = RMSNorm(16)
        self.head = nn.Linear(16, 30, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))
