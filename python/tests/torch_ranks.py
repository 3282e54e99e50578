"""What ranks run in the tests with torch: everything here is called in a process of its own."""

from __future__ import annotations

import os
import time
import warnings
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.distributed as dist

import myelon_ccl

ON_CUDA = os.environ.get("MYELON_TEST_DEVICE", "cpu") == "cuda"

RANK = int(os.environ.get("RANK", "0"))
SIZE = int(os.environ.get("WORLD_SIZE", "1"))
DEVICE = torch.device("cuda", RANK) if ON_CUDA else torch.device("cpu")
DELEGATE = "nccl" if ON_CUDA else "gloo"

DTYPES = [
    name
    for name in "float32 float64 float16 bfloat16 int8 uint8 int32 int64 uint32 uint64 float8_e4m3fn float8_e5m2".split()
    if hasattr(torch, name)
]
OPS = ["SUM", "PRODUCT", "MIN", "MAX", "AVG"]


def init(store: str, backend: str = "myelon") -> str:
    torch.set_num_threads(1)
    if ON_CUDA:
        torch.cuda.set_device(DEVICE)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=RANK, world_size=SIZE)
    return dist.get_backend()


def destroy() -> None:
    dist.destroy_process_group()


def engine() -> str:
    communicator = myelon_ccl.communicator_of()
    return communicator.engine if communicator is not None else "none"


def values(rank: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Small numbers of a rank's, exact in every type, so that sums and products of few ranks are too."""
    places = torch.arange(count, dtype=torch.int64)
    return ((places * 7 + rank * 3) % 4 + 1).to(torch.float64).to(dtype)


def expected(op: str, count: int, dtype: torch.dtype, size: int) -> torch.Tensor:
    all_values = torch.stack([values(rank, count, dtype).to(torch.float64) for rank in range(size)])
    reduced = {
        "SUM": lambda: all_values.sum(0),
        "PRODUCT": lambda: all_values.prod(0),
        "MIN": lambda: all_values.amin(0),
        "MAX": lambda: all_values.amax(0),
        "AVG": lambda: all_values.sum(0) / size,
    }[op]()
    return reduced if dtype.is_floating_point else reduced.trunc()


def check(tensor: torch.Tensor, op: str, dtype: torch.dtype, what: str, size: Optional[int] = None) -> None:
    wanted = expected(op, tensor.numel(), dtype, SIZE if size is None else size)
    bits = {torch.float32: 24, torch.float64: 53, torch.float16: 11, torch.bfloat16: 8}.get(dtype, 3)
    tolerance = 2.0**-bits if dtype.is_floating_point else 0.0
    torch.testing.assert_close(
        tensor.detach().reshape(-1).cpu().to(torch.float64),
        wanted,
        rtol=tolerance,
        atol=0.0,
        msg=lambda text: f"{what}: {text}",
    )


def all_types_and_operators(pairs: List[Tuple[str, str]]) -> None:
    for name, op in pairs:
        dtype = getattr(torch, name)
        for count in (1, 1027):
            tensor = values(RANK, count, dtype).to(DEVICE)
            dist.all_reduce(tensor, op=getattr(dist.ReduceOp, op))
            check(tensor, op, dtype, f"{op} of {count} {name}")


def sizes() -> None:
    empty = torch.empty(0, device=DEVICE)
    dist.all_reduce(empty)
    for count in (2, 4095, 300_000) + ((30_000_000,) if ON_CUDA else ()):
        tensor = values(RANK, count, torch.float32).to(DEVICE)
        dist.all_reduce(tensor)
        check(tensor, "SUM", torch.float32, f"{count} elements")
    scalar = torch.tensor(float(RANK), device=DEVICE)
    dist.all_reduce(scalar)
    assert scalar.item() == sum(range(SIZE))


def asynchronous() -> None:
    tensors = [values(RANK, 500 + place, torch.float32).to(DEVICE) for place in range(6)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    for work, tensor in zip(works, tensors):
        assert work.wait()
        check(tensor, "SUM", torch.float32, "asynchronous")
        assert work.is_success() and work.exception() is None
        assert work.result()[0] is tensor
    end = time.monotonic() + 60
    while not works[-1].is_completed():
        assert time.monotonic() < end
    # What is not waited for is done all the same, also where its tensor is gone.
    for _ in range(20):
        dist.all_reduce(torch.ones(10_000, device=DEVICE), async_op=True)
    last = torch.ones(3, device=DEVICE)
    dist.all_reduce(last)
    assert last.tolist() == [float(SIZE)] * 3


def futures() -> None:
    tensor = values(RANK, 1000, torch.float32).to(DEVICE)
    work = dist.all_reduce(tensor, async_op=True)
    halved = work.get_future().then(lambda future: [future.value()[0] / 2])
    result = halved.wait()[0]
    torch.testing.assert_close(result.cpu().double(), expected("SUM", 1000, torch.float32, SIZE) / 2)
    check(tensor, "SUM", torch.float32, "the tensor of a future")


def coalesced() -> None:
    tensors = [values(RANK, count, torch.float32).to(DEVICE) for count in (3, 1000, 64)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dist.all_reduce_coalesced(tensors)
        for tensor in tensors:
            check(tensor, "SUM", torch.float32, "coalesced")
        tensors = [values(RANK, count, torch.float32).to(DEVICE) for count in (3, 1000, 64)]
        dist.all_reduce_coalesced(tensors, async_op=True).wait()
    for tensor in tensors:
        check(tensor, "SUM", torch.float32, "coalesced, asynchronous")
    tensors = [values(RANK, 40, torch.float32).to(DEVICE), values(RANK, 7, torch.int64).to(DEVICE)]
    dist.group.WORLD.allreduce_coalesced(tensors).wait()
    for tensor in tensors:
        check(tensor, "SUM", tensor.dtype, "coalesced, of two types")
    tensors = [values(RANK, count, torch.float32).to(DEVICE) for count in (5, 70)]
    with dist._coalescing_manager(async_ops=True) as manager:
        for tensor in tensors:
            dist.all_reduce(tensor)
    manager.wait()
    for tensor in tensors:
        check(tensor, "SUM", torch.float32, "by a coalescing manager")
    if ON_CUDA:
        tensors = [values(RANK, count, torch.float32).to(DEVICE) for count in (5, 70)]
        with dist._coalescing_manager(device=DEVICE, async_ops=True) as manager:
            for tensor in tensors:
                dist.all_reduce(tensor)
        manager.wait()
        for tensor in tensors:
            check(tensor, "SUM", torch.float32, "by a coalescing manager of a device")


def gaps() -> None:
    for asynchronous in (False, True):
        plain = values(RANK, 24, torch.float32).to(DEVICE)
        transposed = plain.clone().reshape(4, 6).t()
        every_second = torch.zeros(48, device=DEVICE)[::2].copy_(plain)
        # One rank's tensor is contiguous, the others' are not: what counts is the shape.
        mixed = plain.clone().reshape(4, 6) if RANK == 0 else plain.clone().reshape(4, 6).t().contiguous().t()
        for tensor in (transposed, every_second, mixed):
            work = dist.all_reduce(tensor, async_op=asynchronous)
            if work is not None:
                work.wait()
        check(transposed.t(), "SUM", torch.float32, "transposed")
        check(every_second, "SUM", torch.float32, "with gaps")
        check(mixed, "SUM", torch.float32, "strides that differ")


def delegated() -> None:
    flag = torch.tensor([RANK == 0, False], device=DEVICE)
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    assert flag.tolist() == [True, False]
    if not ON_CUDA:
        bits = torch.tensor([1 << RANK])
        dist.all_reduce(bits, op=dist.ReduceOp.BOR)
        assert bits.item() == (1 << SIZE) - 1
    complex_tensor = torch.full((5,), 1 + 2j, device=DEVICE)
    dist.all_reduce(complex_tensor)
    assert complex_tensor[0].item() == SIZE * (1 + 2j)
    gathered = [torch.zeros(2, device=DEVICE) for _ in range(SIZE)]
    dist.all_gather(gathered, torch.full((2,), float(RANK), device=DEVICE))
    assert [int(piece[0]) for piece in gathered] == list(range(SIZE))
    flat = torch.zeros(2 * SIZE, device=DEVICE)
    dist.all_gather_into_tensor(flat, torch.full((2,), float(RANK), device=DEVICE))
    assert flat[::2].tolist() == [float(rank) for rank in range(SIZE)]
    piece = torch.zeros(3, device=DEVICE)
    dist.reduce_scatter_tensor(piece, torch.ones(3 * SIZE, device=DEVICE))
    assert piece.tolist() == [float(SIZE)] * 3
    told = torch.full((4,), float(RANK), device=DEVICE)
    dist.broadcast(told, src=SIZE - 1)
    assert told.tolist() == [SIZE - 1.0] * 4
    total = torch.full((3,), float(RANK), device=DEVICE)
    dist.reduce(total, dst=1)
    assert RANK != 1 or total.tolist() == [float(sum(range(SIZE)))] * 3
    mine = torch.full((2,), float(RANK), device=DEVICE)
    parts = [torch.zeros(2, device=DEVICE) for _ in range(SIZE)]
    dist.gather(mine, parts if RANK == 0 else None, dst=0)
    assert RANK != 0 or [int(part[0]) for part in parts] == list(range(SIZE))
    dist.scatter(mine, parts if RANK == 0 else None, src=0)
    assert mine.tolist() == [float(RANK)] * 2
    swapped = torch.zeros(2 * SIZE, device=DEVICE)
    dist.all_to_all_single(swapped, torch.full((2 * SIZE,), float(RANK), device=DEVICE))
    assert swapped[::2].tolist() == [float(rank) for rank in range(SIZE)]
    flats = [torch.zeros(count * SIZE, device=DEVICE) for count in (2, 5)]
    pieces = [torch.full((count,), float(RANK), device=DEVICE) for count in (2, 5)]
    with dist._coalescing_manager():
        for flat, own in zip(flats, pieces):
            dist.all_gather_into_tensor(flat, own)
    assert [flat.sum().item() for flat in flats] == [sum(range(SIZE)) * count for count in (2, 5)]
    pieces = [torch.zeros(count, device=DEVICE) for count in (2, 5)]
    with dist._coalescing_manager():
        for own, count in zip(pieces, (2, 5)):
            dist.reduce_scatter_tensor(own, torch.ones(count * SIZE, device=DEVICE))
    assert [own.sum().item() for own in pieces] == [SIZE * count for count in (2, 5)]
    objects: List[Any] = [None] * SIZE
    dist.all_gather_object(objects, {"rank": RANK})
    assert [entry["rank"] for entry in objects] == list(range(SIZE))
    # Many, each behind works whose tensors a thread of the backend lets go of.
    for _ in range(200):
        dist.broadcast(torch.zeros(4, device=DEVICE), src=0, async_op=True)
        dist.barrier()
    if RANK == 0:
        dist.send(torch.full((2,), 5.0, device=DEVICE), dst=1)
    elif RANK == 1:
        received = torch.zeros(2, device=DEVICE)
        dist.recv(received, src=0)
        assert received.tolist() == [5.0, 5.0]


def other_collectives() -> None:
    """Those that MYELON_TORCH_COLLECTIVES names, of types that Myelon has and that it has not."""
    for asynchronous in (False, True):
        for dtype in (torch.float32, torch.bool, torch.int16):
            piece = (values(RANK, 100, torch.float32) > 2).to(dtype).to(DEVICE)
            whole = torch.zeros(100 * SIZE, dtype=dtype, device=DEVICE)
            work = dist.all_gather_into_tensor(whole, piece, async_op=asynchronous)
            if work is not None:
                work.wait()
            wanted = torch.cat([(values(rank, 100, torch.float32) > 2).to(dtype) for rank in range(SIZE)])
            assert torch.equal(whole.cpu(), wanted), f"all-gather of {dtype}"
            told = piece.clone()
            work = dist.broadcast(told, src=1, async_op=asynchronous)
            if work is not None:
                work.wait()
            assert torch.equal(told.cpu(), wanted[100:200]), f"broadcast of {dtype}"
        for op in ("SUM", "MAX"):
            whole = values(RANK, 30 * SIZE, torch.float32).to(DEVICE)
            piece = torch.zeros(30, device=DEVICE)
            work = dist.reduce_scatter_tensor(piece, whole, op=getattr(dist.ReduceOp, op), async_op=asynchronous)
            if work is not None:
                work.wait()
            wanted = expected(op, 30 * SIZE, torch.float32, SIZE)[30 * RANK : 30 * RANK + 30]
            assert torch.equal(piece.cpu().double(), wanted), f"reduce-scatter by {op}"


def functional() -> None:
    from torch.distributed import _functional_collectives as functional_collectives

    tensor = values(RANK, 100, torch.float32).to(DEVICE)
    reduced = functional_collectives.all_reduce(tensor, "sum", dist.group.WORLD)
    check(functional_collectives.wait_tensor(reduced), "SUM", torch.float32, "functional")
    assert torch.equal(tensor.cpu(), values(RANK, 100, torch.float32)), (
        "a functional collective leaves its operand alone"
    )


def groups() -> Dict[str, Any]:
    """Pairs, a group of one and a part of a group, beside the whole one."""
    world = torch.ones(10, device=DEVICE)
    dist.all_reduce(world)
    told: Dict[str, Any] = {}
    pairs = [list(range(first, min(first + 2, SIZE))) for first in range(0, SIZE, 2)]
    for ranks in pairs:
        group = dist.new_group(ranks)
        if RANK in ranks:
            told["backend"] = dist.get_backend(group)
            tensor = torch.full((1000,), float(RANK), device=DEVICE)
            dist.all_reduce(tensor, group=group)
            assert tensor[0].item() == sum(ranks)
            dist.all_reduce(world, group=group)
            assert world[0].item() == SIZE * len(ranks)
            own, whole = myelon_ccl.communicator_of(group), myelon_ccl.communicator_of()
            told["own"] = len(ranks) == 1 or (own is not None and own is not whole and own.world_size == len(ranks))
            dist.destroy_process_group(group)
    alone = [dist.new_group([rank]) for rank in range(SIZE)][RANK]
    tensor = torch.ones(3, device=DEVICE)
    dist.all_reduce(tensor, group=alone)
    told["alone"] = tensor.tolist()
    part = dist.group.WORLD.split_group([0, SIZE - 1], group_name="ends", group_desc="both ends")
    if RANK in (0, SIZE - 1):
        tensor = torch.full((4,), float(RANK + 1), device=DEVICE)
        part.allreduce([tensor]).wait()
        told["part"] = tensor[0].item()
        part.shutdown()
    else:
        assert part is None
    return told


def direct() -> str:
    """``myelon_ccl.all_reduce`` over a group of another backend."""
    tensor = values(RANK, 1000, torch.float32).to(DEVICE)
    assert myelon_ccl.all_reduce(tensor) is None
    check(tensor, "SUM", torch.float32, "direct")
    tensor = values(RANK, 1000, torch.float32).to(DEVICE)
    myelon_ccl.all_reduce(tensor, "max", async_op=True).wait()
    check(tensor, "MAX", torch.float32, "direct, asynchronous")
    tensor = values(RANK, 1000, torch.float32).to(DEVICE)
    myelon_ccl.all_reduce(tensor, dist.ReduceOp.AVG)
    check(tensor, "AVG", torch.float32, "direct, by torch's operator")
    for wrong in (
        lambda: myelon_ccl.all_reduce(tensor > 1),
        lambda: myelon_ccl.all_reduce(tensor, dist.ReduceOp.BOR),
        lambda: myelon_ccl.all_reduce(tensor.to_sparse()),
    ):
        try:
            wrong()
        except myelon_ccl.Unsupported:
            continue
        raise AssertionError("taken all the same")
    communicator = myelon_ccl.communicator_of()
    assert communicator is not None
    return communicator.engine


def wait_for_peers(die: bool) -> None:
    tensor = torch.ones(100, device=DEVICE)
    dist.all_reduce(tensor)
    if die and RANK == SIZE - 1:
        os._exit(9)
    end = time.monotonic() + 60
    # On a GPU the host runs ahead, and hears of a failure with a later call.
    while time.monotonic() < end:
        dist.all_reduce(tensor)
        if ON_CUDA:
            torch.cuda.synchronize()


def abort_group() -> None:
    tensor = torch.ones(100, device=DEVICE)
    dist.all_reduce(tensor)
    if RANK == 1:
        dist.group.WORLD.abort()
    wait_for_peers(False)


def mismatch() -> None:
    tensor = torch.ones(100 + RANK, device=DEVICE)
    dist.all_reduce(torch.ones(100, device=DEVICE))
    for _ in range(2):
        dist.all_reduce(tensor)
        if ON_CUDA:
            torch.cuda.synchronize()
    # The rank with fewer elements may have had all of its own: its next operation fails, which on a GPU nobody has asked for yet.
    communicator = myelon_ccl.communicator_of()
    assert communicator is not None
    communicator.status()


def warned(environment: Dict[str, str]) -> List[str]:
    """The warnings of two all-reduces of a group that cannot run on Myelon, whose results are right all the same."""
    os.environ.update(environment)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            tensor = torch.ones(3, device=DEVICE)
            dist.all_reduce(tensor)
            assert tensor.tolist() == [float(SIZE)] * 3
    assert myelon_ccl.communicator_of() is None
    return [str(warning.message) for warning in caught if "Myelon" in str(warning.message)]


def pretend_nodes() -> None:
    """Every rank of the next group that comes up is on a node of its own."""
    from myelon_ccl.torch import meeting

    meeting._host = lambda: f"node {RANK}"  # type: ignore[assignment]
