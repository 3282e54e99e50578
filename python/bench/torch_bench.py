"""One run of the torch benchmark: a rank of it, under torchrun.

    torchrun --standalone --nproc-per-node 2 python/bench/torch_bench.py --engine myelon --output run.json

Two workloads, timed on the host around work that the GPU has finished, the slowest rank counting:

- ``ddp``: training steps of a GPT-2 of small size (124 million parameters, bf16) under DistributedDataParallel, random data.
- ``decode``: a token of a tensor-parallel model, 8 sequences, hidden size 8192, 32 layers with two all-reduces each, as one
  CUDA graph; and the same graph with nothing but the all-reduces.

The engine is what carries out the collectives: the backend ``nccl`` (also with a library preloaded in its place, which the
program cannot see and the caller names), or ``myelon``. ``run.py`` interleaves engines and keeps the results.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

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


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def slowest(seconds: List[float], device: torch.device) -> List[float]:
    """Each time as the slowest rank has it."""
    times = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(times, op=dist.ReduceOp.MAX)
    return times.tolist()


def timed(step: Callable[[], Any], turns: int, device: torch.device) -> List[float]:
    """Seconds of each turn: every rank starts together, and the turn ends when its GPU has."""
    seconds = []
    together = torch.zeros(1, device=device)
    for _ in range(turns):
        dist.all_reduce(together)
        synchronize(device)
        start = time.perf_counter()
        step()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return seconds


def ddp(device: torch.device, arguments: argparse.Namespace) -> Dict[str, Any]:
    """Milliseconds of a training step, in a row without a stop between steps, and the loss after them."""
    torch.manual_seed(1)
    small = arguments.tiny
    model = Gpt2(64, 4, 2, 256, 64) if small else Gpt2(WIDTH, HEADS, LAYERS, VOCABULARY, CONTEXT)
    model = model.to(device, torch.bfloat16)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    wrapped = DistributedDataParallel(
        model, device_ids=[device.index] if device.type == "cuda" else None, gradient_as_bucket_view=True
    )
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-4, fused=device.type == "cuda")
    generator = torch.Generator().manual_seed(1000 + dist.get_rank())
    length, vocabulary = (16, 256) if small else (CONTEXT, VOCABULARY)
    batches = [
        torch.randint(vocabulary, (arguments.batch, length + 1), generator=generator).to(device) for _ in range(4)
    ]
    loss = torch.zeros((), device=device)
    done = 0

    def step() -> None:
        nonlocal loss, done
        tokens = batches[done % len(batches)]
        done += 1
        optimizer.zero_grad(set_to_none=False)
        loss = wrapped(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        optimizer.step()

    for _ in range(arguments.warm_up):
        step()
    seconds = []
    for _ in range(arguments.repeats):
        (whole,) = timed(lambda: [step() for _ in range(arguments.steps)], 1, device)
        seconds.append(whole / arguments.steps)
    total = loss.detach().float().clone()
    dist.all_reduce(total)
    return {
        "ms": statistics.median(slowest(seconds, device)) * 1e3,
        "loss": total.item() / dist.get_world_size(),
        "parameters": parameters,
        "gradient_bytes": 2 * parameters,
    }


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
            self.up = weight(2 * feed_forward // ranks, hidden)
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


def decode(device: torch.device, arguments: argparse.Namespace, multiply: bool) -> Dict[str, Any]:
    """Milliseconds of a token by the replay of a graph; eager where there is no GPU."""
    if arguments.tiny:
        model = Decode(device, 2, 256, 32, 512, multiply)
    else:
        model = Decode(device, DECODE_LAYERS, HIDDEN, KEYS, FEED_FORWARD, multiply)
    output = model.token()
    if device.type == "cuda":
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            model.token()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = model.token()
        step: Callable[[], Any] = graph.replay
    else:
        step = model.token
    for _ in range(arguments.warm_up):
        step()
    seconds = []
    for _ in range(arguments.repeats):
        (whole,) = timed(lambda: [step() for _ in range(arguments.tokens)], 1, device)
        seconds.append(whole / arguments.tokens)
    # What all ranks have to agree on, and what an engine that adds wrongly gets wrong.
    own = output.double().abs().mean()
    least, most = own.clone(), own.clone()
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    dist.all_reduce(most, op=dist.ReduceOp.MAX)
    assert least.item() == most.item(), f"ranks have different results: {least.item()} to {most.item()}"
    result = {"ms": statistics.median(slowest(seconds, device)) * 1e3, "mean": own.item()}
    if device.type == "cuda":
        del step, graph
        torch.cuda.synchronize()
    return result


def provenance(device: torch.device) -> Dict[str, Any]:
    """What the numbers were measured on and with, as far as this process can tell."""
    on_gpu = device.type == "cuda"
    nccl = ".".join(map(str, torch.cuda.nccl.version())) if on_gpu else "not found"
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else "not found",
        "nccl": nccl,
        "nvls": ("off" if os.environ.get("NCCL_NVLS_ENABLE") == "0" else "default") if on_gpu else "not found",
        "gpu": torch.cuda.get_device_name(device) if on_gpu else "not found",
        "gpus": torch.cuda.device_count() if on_gpu else 0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["nccl", "preloaded", "myelon"], required=True)
    parser.add_argument("--output", type=Path, required=True, help="file that rank 0 writes")
    parser.add_argument("--batch", type=int, default=4, help="sequences a rank and step (default 4)")
    parser.add_argument("--steps", type=int, default=10, help="training steps a repeat (default 10)")
    parser.add_argument("--tokens", type=int, default=50, help="tokens a repeat (default 50)")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats, whose median counts (default 5)")
    parser.add_argument("--warm-up", type=int, default=5, help="steps and tokens before the first repeat (default 5)")
    parser.add_argument("--tiny", action="store_true", help="small models: a test of this program, no measurement")
    arguments = parser.parse_args()

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    backend = "myelon" if arguments.engine == "myelon" else "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend)
    result = {
        "engine": arguments.engine,
        "ranks": dist.get_world_size(),
        "ddp": ddp(device, arguments),
        "decode": decode(device, arguments, multiply=True),
        "decode_sums": decode(device, arguments, multiply=False),
        "provenance": provenance(device),
    }
    if arguments.engine == "myelon":
        import myelon_ccl

        communicator = myelon_ccl.communicator_of()
        assert communicator is not None, (
            "the group's all-reduces were delegated: the numbers would be of another engine"
        )
        result["carried_out_by"] = communicator.engine
    if dist.get_rank() == 0:
        arguments.output.write_text(json.dumps(result))
    # The model of DDP holds on to its group, and torch ends badly where a group outlives the interpreter.
    gc.collect()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
