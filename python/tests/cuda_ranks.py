"""What ranks run in the tests that only GPUs can have: streams, graphs, allocators, sharded models."""

from __future__ import annotations

import gc
import time
from typing import Any, Callable, List

import torch
import torch.distributed as dist

import myelon_ccl
from torch_ranks import DEVICE, RANK, SIZE, check, expected, values


def graph() -> None:
    """Replays of a graph with all-reduces of sizes that were never reduced before, plain, asynchronous and coalesced."""
    warm_up = torch.ones(16, device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        dist.all_reduce(warm_up)
        dist.group.WORLD.allreduce_coalesced([warm_up, torch.ones(3, device=DEVICE)]).wait()
    torch.cuda.current_stream().wait_stream(stream)

    counts = (100, 70_001, 5_000_000)
    inputs = [torch.zeros(count, device=DEVICE) for count in counts]
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        doubled = [tensor * 2 for tensor in inputs]
        dist.all_reduce(doubled[0])
        work = dist.all_reduce(doubled[1], async_op=True)
        dist.all_reduce(doubled[2])
        work.wait()
        results = [tensor + 1 for tensor in doubled]
        many = [tensor.clone() for tensor in results]
        dist.group.WORLD.allreduce_coalesced(many).wait()
    for turn in range(4):
        for tensor in inputs:
            tensor.fill_(RANK + turn)
        captured.replay()
        wanted = 2.0 * sum(rank + turn for rank in range(SIZE)) + 1
        for tensor, sums in zip(results, many):
            assert tensor.unique().tolist() == [wanted], turn
            assert sums.unique().tolist() == [wanted * SIZE], turn
    # Eager operations and replays on one stream take turns.
    for _ in range(10):
        captured.replay()
        dist.all_reduce(warm_up)
    torch.cuda.synchronize()
    del captured
    gc.collect()


def waits_in_a_capture() -> None:
    """Operations that a side stream of a capture issues and the capturing stream waits for, by their works and futures alone."""
    dist.all_reduce(torch.ones(16, device=DEVICE))
    torch.cuda.synchronize()
    side, source = torch.cuda.Stream(), torch.zeros(3_000_000, device=DEVICE)
    results = []
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        for wait in (lambda work: work.wait(), lambda work: work.get_future().wait()):
            tensor = source * 2
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                work = dist.all_reduce(tensor, async_op=True)
            # Without it the sum below takes what is not there yet, and the capture fails for a stream that has not joined.
            wait(work)
            results.append((tensor + 1, tensor))
    for turn in range(4):
        source.fill_(RANK + turn)
        captured.replay()
        wanted = 2.0 * sum(rank + turn for rank in range(SIZE)) + 1
        for result, _ in results:
            assert result.unique().tolist() == [wanted], turn
    torch.cuda.synchronize()
    del captured
    gc.collect()


def first_in_a_capture() -> str:
    """An operator that was not used before is refused inside a capture, and works after it."""
    tensor = torch.ones(100, dtype=torch.float64, device=DEVICE)
    try:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            dist.all_reduce(tensor, op=dist.ReduceOp.PRODUCT)
    except myelon_ccl.InvalidArgument as error:
        dist.all_reduce(tensor, op=dist.ReduceOp.PRODUCT)
        assert tensor.sum().item() == 100
        return str(error)
    raise AssertionError("captured")


def side_streams() -> None:
    """Operations on several streams, each after a product of matrices that keeps its stream busy."""
    streams = [torch.cuda.Stream() for _ in range(3)]
    busy = torch.randn(2048, 2048, device=DEVICE)
    tensors: List[torch.Tensor] = []
    for place in range(30):
        with torch.cuda.stream(streams[place % 3]):
            for _ in range(place % 4):
                torch.mm(busy, busy)
            tensor = values(RANK, 10_000 + place, torch.float32).to(DEVICE, non_blocking=True)
            work = dist.all_reduce(tensor, async_op=place % 2 == 0)
            if work is not None:
                work.wait()
            tensors.append(tensor * 1)
    for stream in streams:
        stream.synchronize()
    for tensor in tensors:
        check(tensor, "SUM", torch.float32, "on a side stream")


def memory_goes_on() -> None:
    """Tensors and works that are dropped while the operation runs: the memory is not another's before it has ended."""
    busy = torch.randn(4096, 4096, device=DEVICE)
    others = []
    for _ in range(50):
        torch.mm(busy, busy)
        dist.all_reduce(torch.ones(1_000_000, device=DEVICE), async_op=True)
        others.append(torch.full((1_000_000,), 7.0, device=DEVICE))
    torch.cuda.synchronize()
    for other in others:
        assert other.unique().tolist() == [7.0]


def the_host_is_not_held() -> None:
    """Operations and their waits return while the GPU is still busy with what was before them."""
    tensor = torch.ones(1000, device=DEVICE)
    dist.all_reduce(tensor)
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    dist.all_reduce(tensor)
    dist.all_reduce(tensor, async_op=True).wait()
    dist.all_reduce(tensor, async_op=True).get_future().wait()
    assert not torch.cuda.current_stream().query(), "the host was held until the GPU had ended"
    torch.cuda.synchronize()


def a_step_waits_once() -> None:
    """A step holds the host until the all-reduces before it have ended, and not again before the next one. Nothing captured so far."""
    weights = torch.nn.Parameter(torch.ones(1000, device=DEVICE))
    optimizer = torch.optim.AdamW([weights], lr=0.1)
    weights.grad = torch.ones_like(weights)
    optimizer.step()
    for reduced in (True, False):
        torch.cuda._sleep(1_000_000_000)
        if reduced:
            dist.all_reduce(weights.grad, async_op=True).wait()
        before = torch.cuda.current_stream().record_event()
        optimizer.step()
        assert before.query() == reduced, f"with an all-reduce before the step: {reduced}"
        torch.cuda.synchronize()


def a_fused_step_looks_itself() -> None:
    """A step goes to the GPU while that is still at work before it, and so does a captured one; both change the weights."""
    weights = torch.nn.Parameter(torch.zeros(1000, device=DEVICE))
    optimizer = torch.optim.AdamW([weights], lr=0.1, fused=True, capturable=True)
    weights.grad = torch.ones_like(weights)

    def step() -> None:
        dist.all_reduce(weights.grad, async_op=True).wait()
        optimizer.step()

    def moves(change: Callable[[], Any]) -> bool:
        old = weights.detach().clone()
        change()
        return bool((weights < old).all())

    assert moves(step)
    torch.cuda._sleep(1_000_000_000)
    before = torch.cuda.current_stream().record_event()
    step()
    assert not before.query(), "the host was held"
    # What a scaler found is looked at by the step as well.
    scaler = torch.amp.GradScaler("cuda")
    scaler.scale(torch.ones((), device=DEVICE))
    weights.grad.mul_(scaler.get_scale())

    def scaled() -> None:
        scaler.step(optimizer)
        scaler.update()

    assert moves(scaled)
    captured, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(captured):
        step()
    assert moves(captured.replay) and moves(captured.replay)
    assert not hasattr(optimizer, "found_inf")
    del captured
    gc.collect()


def captured_step() -> None:
    """A graph of an all-reduce and the step on it: nothing waits inside the capture, and replays are steps."""
    weights = torch.nn.Parameter(torch.zeros(1000, device=DEVICE))
    optimizer = torch.optim.Adam([weights], lr=0.1, capturable=True)
    weights.grad = torch.ones_like(weights)

    def step() -> None:
        weights.grad.fill_(RANK + 1.0)
        dist.all_reduce(weights.grad)
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        step()
    seen = [weights.detach().clone()]
    for _ in range(3):
        captured.replay()
        seen.append(weights.detach().clone())
    for before, after in zip(seen, seen[1:]):
        assert (after < before).all()
    assert weights.grad.unique().tolist() == [SIZE * (SIZE + 1) / 2]
    # Behind replays a step waits as well.
    torch.cuda._sleep(1_000_000_000)
    captured.replay()
    before = torch.cuda.current_stream().record_event()
    torch.optim.SGD([weights], lr=0.1).step()
    assert before.query()
    del captured
    gc.collect()


def late_peer() -> None:
    """Rank 0 waits for a rank that does not come; the host hears of it with a later call, or with a blocking wait at once."""
    tensor = torch.ones(1000, device=DEVICE)
    dist.all_reduce(tensor)
    torch.cuda.synchronize()
    if RANK == 0:
        dist.all_reduce(tensor, async_op=True).wait()
        torch.cuda.synchronize()
        dist.all_reduce(tensor)
    else:
        time.sleep(8)
        dist.all_reduce(tensor)
        dist.all_reduce(tensor)
    torch.cuda.synchronize()


def expandable_segments() -> None:
    allocator = torch.cuda.memory.get_allocator_backend()
    assert allocator == "native", allocator
    for count in (1000, 3_000_000, 40_000_000):
        tensor = values(RANK, count, torch.bfloat16).to(DEVICE)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        check(tensor, "MAX", torch.bfloat16, f"{count} elements of an expandable segment")
    segments = torch.cuda.memory_snapshot()
    assert any(segment.get("is_expandable") for segment in segments), "no segment is expandable: the test shows nothing"


def sums_of_a_future() -> None:
    """What is done with a future's value runs behind the operation, on whatever stream."""
    tensor = values(RANK, 1_000_000, torch.float32).to(DEVICE)
    torch.cuda._sleep(100_000_000)
    future = dist.all_reduce(tensor, async_op=True).get_future()
    with torch.cuda.stream(torch.cuda.Stream()):
        value = future.wait()[0] * 2
        torch.cuda.current_stream().synchronize()
    torch.testing.assert_close(value.cpu().double(), expected("SUM", 1_000_000, torch.float32, SIZE) * 2)
