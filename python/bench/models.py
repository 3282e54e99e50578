"""The models of the benchmark: a GPT-2 to train, and a token of a tensor-parallel model to replay."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

VOCABULARY, CONTEXT, WIDTH, HEADS, LAYERS = 50304, 1024, 768, 12, 12
HIDDEN, SEQUENCES, DECODE_LAYERS = 8192, 8, 32
# Of a layer of a 70-billion-parameter model: the projections of its attention with 8 heads of keys, and its gated feed-forward.
KEYS, FEED_FORWARD = 1024, 28672


class Block(nn.Module):
    """A layer of a GPT-2: attention and feed-forward, each behind a norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mix, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, data: torch.Tensor) -> torch.Tensor:
        batch, length, width = data.shape
        split = self.mix(self.first_norm(data)).view(batch, length, 3, self.heads, width // self.heads)
        queries, keys, contents = split.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(queries, keys, contents, is_causal=True)
        data = data + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return data + self.down(F.gelu(self.up(self.second_norm(data)), approximate="tanh"))


class Gpt2(nn.Module):
    """A decoder whose output layer shares the weights of its embedding."""

    def __init__(self, width: int, heads: int, layers: int, vocabulary: int, context: int) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.apply(_initialise)
        self.head.weight = self.tokens.weight

    def forward(self, tokens: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        data = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        scores = self.head(self.norm(self.blocks(data)))
        return F.cross_entropy(scores.flatten(0, 1).float(), wanted.flatten())


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


class Decode:
    """A token of a tensor-parallel model: what each rank computes of a layer, and the sums over the ranks."""

    def __init__(
        self, device: torch.device, layers: int, hidden: int, keys: int, feed_forward: int, multiply: bool
    ) -> None:
        ranks = dist.get_world_size()
        generator = torch.Generator(device).manual_seed(5 + dist.get_rank())

        def weight(rows: int, columns: int) -> torch.Tensor:
            values = torch.empty(rows, columns, dtype=torch.bfloat16, device=device)
            return values.normal_(std=columns**-0.5, generator=generator)

        self.layers, self.multiply, self.hidden = layers, multiply, hidden
        if multiply:
            # Layers share their weights, which are far larger than a cache: the time is that of layers of their own.
            self.mix = weight((hidden + 2 * keys) // ranks, hidden)
            self.out = weight(hidden, hidden // ranks)
            self.up = weight(2 * (feed_forward // ranks), hidden)
            self.down = weight(hidden, feed_forward // ranks)
        self.input = torch.empty(SEQUENCES, hidden, dtype=torch.bfloat16, device=device)
        self.input.normal_(generator=torch.Generator(device).manual_seed(4))

    def token(self) -> torch.Tensor:
        data = self.input
        for _ in range(self.layers):
            part = F.rms_norm(data, (self.hidden,))
            if self.multiply:
                mixed = F.linear(part, self.mix)
                part = F.linear(mixed[:, : self.out.shape[1]], self.out)
            else:
                part = part.clone()
            dist.all_reduce(part)
            data = part
            part = F.rms_norm(data, (self.hidden,))
            if self.multiply:
                gate, content = F.linear(part, self.up).chunk(2, dim=1)
                part = F.linear(F.silu(gate) * content, self.down)
            else:
                part = part.clone()
            dist.all_reduce(part)
            data = part
        return data
