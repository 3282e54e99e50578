"""A rank of the torch benchmark, as ``run.py`` starts it: each line of standard input asks for something, rank 0 answers.

- ``prepare``: the process group, both models, the graphs.
- ``measure``: one run of two workloads, the slowest rank counting. ``ddp``: training steps of a GPT-2 of small size (124 million
  parameters, bf16) under DistributedDataParallel, random data. ``decode``: a token of a tensor-parallel model, 8 sequences, hidden
  size 8192, 32 layers with two all-reduces each, as one CUDA graph; and the same graph with nothing but the all-reduces.

The collectives are those of ``--backend``, or of a library that is preloaded in NCCL's place; the answer says which.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from engine import ANSWER
from models import CONTEXT, DECODE_LAYERS, FEED_FORWARD, HEADS, HIDDEN, KEYS, LAYERS, VOCABULARY, WIDTH, Decode, Gpt2


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def now(device: torch.device) -> Any:
    """A mark behind what the current stream holds; on the CPU the time."""
    if device.type != "cuda":
        return time.perf_counter()
    mark = torch.cuda.Event(enable_timing=True)
    mark.record()
    return mark


def slowest(seconds: List[float], device: torch.device) -> List[float]:
    """Each time as the slowest rank has it."""
    times = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(times, op=dist.ReduceOp.MAX)
    return times.tolist()


def spread(seconds: List[float]) -> Dict[str, float]:
    """The middle of the times and where nine tenths of them lie, in milliseconds."""
    cuts = statistics.quantiles(seconds, n=20, method="inclusive") if len(seconds) > 1 else seconds
    return {"ms": statistics.median(seconds) * 1e3, "p5_ms": cuts[0] * 1e3, "p95_ms": cuts[-1] * 1e3}


class Training:
    """Steps of a GPT-2 under DistributedDataParallel that follow each other without a stop."""

    def __init__(self, device: torch.device, arguments: argparse.Namespace) -> None:
        self.device, self.arguments = device, arguments
        torch.manual_seed(1)
        small = arguments.tiny
        # WHY: made on the device: random numbers for all weights take seconds on the host.
        with device:
            model = Gpt2(64, 4, 2, 256, 64) if small else Gpt2(WIDTH, HEADS, LAYERS, VOCABULARY, CONTEXT)
        model = model.to(torch.bfloat16)
        self.parameters = sum(parameter.numel() for parameter in model.parameters())
        self.wrapped = DistributedDataParallel(
            model, device_ids=[device.index] if device.type == "cuda" else None, gradient_as_bucket_view=True
        )
        self.optimizer = torch.optim.AdamW(self.wrapped.parameters(), lr=1e-4, fused=device.type == "cuda")
        generator = torch.Generator().manual_seed(1000 + dist.get_rank())
        length, vocabulary = (16, 256) if small else (CONTEXT, VOCABULARY)
        shape = (arguments.batch, length + 1)
        self.batches = [torch.randint(vocabulary, shape, generator=generator).to(device) for _ in range(4)]
        self.loss = torch.zeros((), device=device)
        self.done = 0

    def passes(self) -> None:
        """Forward and backward, which hold the host with no engine."""
        tokens = self.batches[self.done % len(self.batches)]
        self.done += 1
        self.optimizer.zero_grad(set_to_none=False)
        self.loss = self.wrapped(tokens[:, :-1], tokens[:, 1:])
        self.loss.backward()

    def step(self) -> None:
        self.passes()
        self.optimizer.step()

    def launching(self) -> List[float]:
        """What the host takes to queue the passes while the GPU has nothing to do: where that is less than a step, the GPU sets its pace."""
        seconds = []
        for _ in range(self.arguments.warm_up):
            synchronize(self.device)
            start = time.perf_counter()
            self.passes()
            seconds.append(time.perf_counter() - start)
            self.optimizer.step()
        return seconds

    def measure(self) -> Dict[str, Any]:
        """The times from the end of a step to the end of the next, on the GPU's clock."""
        on_gpu, count = self.device.type == "cuda", self.arguments.steps
        launching = self.launching()
        for _ in range(self.arguments.warm_up):
            self.step()
        # WHY: no stop before the first mark, so that the host's lead over the GPU is what it is in training.
        ends = [now(self.device)]
        for _ in range(count):
            self.step()
            ends.append(now(self.device))
        synchronize(self.device)
        pairs = zip(ends, ends[1:])
        seconds = [before.elapsed_time(after) / 1e3 if on_gpu else after - before for before, after in pairs]
        total = self.loss.detach().float().clone()
        dist.all_reduce(total)
        result = {
            **spread(slowest(seconds, self.device)),
            "launch_ms": statistics.median(slowest(launching, self.device)) * 1e3,
            "steps": count,
            "sequences": self.arguments.batch,
            "loss": total.item() / dist.get_world_size(),
            "parameters": self.parameters,
            "gradient_bytes": 2 * self.parameters,
        }
        if on_gpu:
            # Other engines' processes need the room of the activations.
            torch.cuda.empty_cache()
        return result


class Decoding:
    """Tokens by the replay of a graph; eager where there is no GPU."""

    def __init__(self, device: torch.device, arguments: argparse.Namespace, multiply: bool) -> None:
        self.device, self.arguments = device, arguments
        if arguments.tiny:
            model = Decode(device, 2, 256, 32, 512, multiply)
        else:
            model = Decode(device, DECODE_LAYERS, HIDDEN, KEYS, FEED_FORWARD, multiply)
        # A graph knows addresses and nothing else: what it reads has to live as long as it is replayed.
        self.model = model
        self.output = model.token()
        self.step: Callable[[], Any] = self._eager(model)
        if device.type == "cuda":
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                model.token()
            torch.cuda.current_stream().wait_stream(stream)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self.output = model.token()
            self.step = graph.replay

    def _eager(self, model: Decode) -> Callable[[], None]:
        def step() -> None:
            self.output = model.token()

        return step

    def measure(self) -> Dict[str, Any]:
        """The time of a token, of repeats that all ranks start together and that end when the GPU has."""
        for _ in range(self.arguments.warm_up):
            self.step()
        seconds = []
        together = torch.zeros(1, device=self.device)
        for _ in range(self.arguments.repeats):
            dist.all_reduce(together)
            synchronize(self.device)
            start = time.perf_counter()
            for _ in range(self.arguments.tokens):
                self.step()
            synchronize(self.device)
            seconds.append((time.perf_counter() - start) / self.arguments.tokens)
        # What all ranks have to agree on, and what an engine that adds wrongly gets wrong.
        own = self.output.double().abs().mean()
        least, most = own.clone(), own.clone()
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        assert least.item() == most.item(), f"ranks have different results: {least.item()} to {most.item()}"
        return {**spread(slowest(seconds, self.device)), "tokens": self.arguments.tokens, "mean": own.item()}


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


def carried_out_by() -> str:
    """What runs the all-reduces: the engine of the backend ``myelon``, the preloaded library where it is loaded, else the backend."""
    backend: str = dist.get_backend()
    if backend == "myelon":
        import myelon_ccl

        communicator = myelon_ccl.communicator_of()
        return communicator.engine if communicator is not None else "what the group delegates to"
    # WHY: the loader only warns where it cannot load what is to be preloaded.
    asked = Path(os.environ.get("LD_PRELOAD", "")).name
    loaded = {Path(line.split()[-1]).name for line in Path("/proc/self/maps").read_text().splitlines()}
    return asked if asked in loaded else backend


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["nccl", "myelon"], required=True)
    parser.add_argument("--batch", type=int, default=16, help="sequences a rank and step (default 16)")
    parser.add_argument("--steps", type=int, default=30, help="timed training steps a run (default 30)")
    parser.add_argument("--tokens", type=int, default=50, help="tokens a repeat (default 50)")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of the tokens (default 5)")
    parser.add_argument(
        "--warm-up", type=int, default=5, help="steps and tokens of a run that are not timed (default 5)"
    )
    parser.add_argument("--tiny", action="store_true", help="small models: a test of this program, no measurement")
    arguments = parser.parse_args()

    workloads: Dict[str, Any] = {}
    device = torch.device("cpu")
    for line in sys.stdin:
        answer: Dict[str, Any] = {}
        if line.strip() == "prepare":
            if torch.cuda.is_available():
                device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
                torch.cuda.set_device(device)
            dist.init_process_group(
                "gloo" if arguments.backend == "nccl" and device.type == "cpu" else arguments.backend
            )
            workloads["ddp"] = Training(device, arguments)
            workloads["decode"] = Decoding(device, arguments, multiply=True)
            workloads["decode_sums"] = Decoding(device, arguments, multiply=False)
        else:
            answer = {"ranks": dist.get_world_size(), "provenance": provenance(device)}
            answer.update((name, workload.measure()) for name, workload in workloads.items())
            answer["carried_out_by"] = carried_out_by()
        if dist.get_rank() == 0:
            print(ANSWER + json.dumps(answer), flush=True)
    # Graphs go before their group, and the model of DDP holds on to its own: torch ends badly where a group outlives the interpreter.
    workloads.clear()
    gc.collect()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
