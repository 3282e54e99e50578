"""Opens NCCL by its path with ctypes, beside the one that PyTorch has loaded, and checks what it computes: eager, in a graph, in groups.

    MYELON_NCCL_LOG=1 torchrun --nproc-per-node=2 examples/torch/by_path.py PATH/libmyelon_nccl.so

What an inference engine with a communicator of its own does; vLLM, with the file that VLLM_NCCL_SO_PATH names. Runs with the real
libnccl.so.2 as well. Needs PyTorch and nothing else.
"""

import ctypes
import os
import sys

import torch
import torch.distributed as dist

INT, SIZE, POINTER = ctypes.c_int, ctypes.c_size_t, ctypes.c_void_p
SUM = 0
TYPES = {torch.int32: 2, torch.int64: 4, torch.float16: 6, torch.float32: 7, torch.bfloat16: 9}
# Types that the stand-in prepares by itself.
REDUCED = [torch.float32, torch.float16, torch.bfloat16, torch.int64]
COUNTS = [1, 1000, 65537, 8 * 8192, 1 << 22]


class UniqueId(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_byte * 128)]


TAKES = {
    "ncclGetVersion": [ctypes.POINTER(INT)],
    "ncclGetUniqueId": [ctypes.POINTER(UniqueId)],
    "ncclCommInitRank": [ctypes.POINTER(POINTER), INT, UniqueId, INT],
    "ncclAllReduce": [POINTER, POINTER, SIZE, INT, INT, POINTER, POINTER],
    "ncclReduce": [POINTER, POINTER, SIZE, INT, INT, INT, POINTER, POINTER],
    "ncclAllGather": [POINTER, POINTER, SIZE, INT, POINTER, POINTER],
    "ncclReduceScatter": [POINTER, POINTER, SIZE, INT, INT, POINTER, POINTER],
    "ncclBroadcast": [POINTER, POINTER, SIZE, INT, INT, POINTER, POINTER],
    "ncclSend": [POINTER, SIZE, INT, INT, POINTER, POINTER],
    "ncclRecv": [POINTER, SIZE, INT, INT, POINTER, POINTER],
    "ncclGroupStart": [],
    "ncclGroupEnd": [],
    "ncclCommDestroy": [POINTER],
}
# Looked up where symmetric memory is asked for.
LOOKED_UP = ["ncclCommWindowRegister", "ncclCommWindowDeregister", "ncclMemAlloc", "ncclMemFree"]


class Library:
    """The functions of the file, whose errors are exceptions."""

    def __init__(self, path: str):
        self.file = ctypes.CDLL(path)
        self.file.ncclGetErrorString.restype = self.file.ncclGetLastError.restype = ctypes.c_char_p
        self.file.ncclGetLastError.argtypes = [POINTER]
        for name in LOOKED_UP:
            getattr(self.file, name)
        for name, takes in TAKES.items():
            getattr(self.file, name).argtypes = takes

    def call(self, name: str, *arguments: object) -> None:
        code = getattr(self.file, name)(*arguments)
        if code != 0:
            what, why = self.file.ncclGetErrorString(code), self.file.ncclGetLastError(None)
            raise RuntimeError(f"{name}: {(what or b'').decode()}: {(why or b'').decode()}")

    def version(self) -> int:
        number = INT()
        self.call("ncclGetVersion", ctypes.byref(number))
        return number.value


class Communicator:
    """Of all ranks; every call takes a stream's address and tensors that stay alive."""

    def __init__(self, library: Library):
        self.opened, self.rank, self.ranks, self.handle = library, dist.get_rank(), dist.get_world_size(), POINTER()
        unique = UniqueId()
        if self.rank == 0:
            library.call("ncclGetUniqueId", ctypes.byref(unique))
        told = torch.tensor(list(unique.bytes), dtype=torch.int8)
        dist.broadcast(told, src=0)
        unique = UniqueId((ctypes.c_byte * 128)(*told.tolist()))
        library.call("ncclCommInitRank", ctypes.byref(self.handle), self.ranks, unique, self.rank)

    def all_reduce(self, given: torch.Tensor, to: torch.Tensor, stream: int, op: int = SUM) -> None:
        sizes = given.numel(), TYPES[given.dtype]
        self.opened.call("ncclAllReduce", given.data_ptr(), to.data_ptr(), *sizes, op, self.handle, stream)

    def others(self, device: torch.device, stream: int) -> None:
        """What is not an all-reduce, each checked."""
        rank, ranks, call = self.rank, self.ranks, self.opened.call
        ends = 7, self.handle, stream
        own, whole = torch.full((1000,), rank + 1.0, device=device), torch.zeros(1000 * ranks, device=device)
        settle(device)
        call("ncclAllGather", own.data_ptr(), whole.data_ptr(), 1000, *ends)
        settle(device)
        right(whole, torch.arange(1, ranks + 1.0, device=device).repeat_interleave(1000), "all-gather")
        call("ncclReduceScatter", whole.data_ptr(), own.data_ptr(), 1000, 7, SUM, self.handle, stream)
        settle(device)
        right(own, torch.full_like(own, ranks * (rank + 1.0)), "reduce-scatter")
        call("ncclBroadcast", own.data_ptr(), own.data_ptr(), 1000, 7, ranks - 1, self.handle, stream)
        settle(device)
        right(own, torch.full_like(own, float(ranks * ranks)), "broadcast")
        call("ncclReduce", own.data_ptr(), own.data_ptr(), 1000, 7, SUM, 0, self.handle, stream)
        settle(device)
        if rank == 0:
            right(own, torch.full_like(own, float(ranks**3)), "reduce")
        sent, received = torch.full_like(own, float(rank)), torch.zeros_like(own)
        settle(device)
        call("ncclGroupStart")
        call("ncclSend", sent.data_ptr(), 1000, 7, (rank + 1) % ranks, self.handle, stream)
        call("ncclRecv", received.data_ptr(), 1000, 7, (rank - 1) % ranks, self.handle, stream)
        call("ncclGroupEnd")
        settle(device)
        right(received, torch.full_like(own, float((rank - 1) % ranks)), "send and receive")


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def right(seen: torch.Tensor, expected: torch.Tensor, what: str) -> None:
    assert torch.equal(seen, expected), f"rank {dist.get_rank()}: {what}: {seen.flatten()[:4]} and not {expected.flatten()[:4]}"


def filled(count: int, dtype: torch.dtype, device: torch.device, shift: int) -> torch.Tensor:
    """Small whole numbers, whose sums are exact in every type."""
    return (torch.arange(count, device=device) % 7 + dist.get_rank() + shift).to(dtype)


def summed(count: int, dtype: torch.dtype, device: torch.device, shift: int) -> torch.Tensor:
    ranks = dist.get_world_size()
    return ((torch.arange(count, device=device) % 7 + shift) * ranks + ranks * (ranks - 1) // 2).to(dtype)


def eager(communicator: Communicator, device: torch.device, stream: int) -> int:
    """In place and not, of every type and size; the number of all-reduces."""
    done = 0
    for dtype in REDUCED:
        for count in COUNTS:
            given = filled(count, dtype, device, done % 5)
            expected = summed(count, dtype, device, done % 5)
            for to in (torch.empty_like(given), given):
                settle(device)
                communicator.all_reduce(given, to, stream)
                settle(device)
                right(to, expected, f"{count} of {dtype}")
            done += 2
    return done


def replayed(communicator: Communicator, device: torch.device, stream: torch.cuda.Stream) -> int:
    """A graph of all-reduces between other kernels, captured on the communicator's stream; the number of all-reduces."""
    given = [torch.zeros(count, dtype=torch.bfloat16, device=device) for count in COUNTS]
    graph = torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.graph(graph, stream=stream):
        outputs = []
        for tensor in given:
            doubled = tensor * 2
            communicator.all_reduce(doubled, doubled, stream.cuda_stream)
            outputs.append(doubled * 1)
    for turn in range(20):
        for tensor in given:
            tensor.copy_(filled(tensor.numel(), torch.bfloat16, device, turn))
        graph.replay()
        for tensor in outputs:
            right(tensor, 2 * summed(tensor.numel(), torch.bfloat16, device, turn), f"replay {turn}")
    torch.cuda.synchronize()
    # NCCL waits for graphs that hold its operations.
    del graph
    return 20 * len(given)


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(f"usage: torchrun --nproc-per-node=2 {sys.argv[0]} PATH/libmyelon_nccl.so")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl")
    library = Library(sys.argv[1])
    communicator = Communicator(library)
    stream = torch.cuda.Stream()
    done = eager(communicator, device, stream.cuda_stream)
    done += replayed(communicator, device, stream)
    communicator.others(device, stream.cuda_stream)
    # PyTorch's own NCCL goes on beside it.
    beside = filled(1000, torch.float32, device, 0)
    dist.all_reduce(beside)
    right(beside, summed(1000, torch.float32, device, 0), "PyTorch's own")
    torch.cuda.synchronize()
    library.call("ncclCommDestroy", communicator.handle)
    if dist.get_rank() == 0:
        kind = "the stand-in before NCCL" if hasattr(library.file, "ncclMyelonVersion") else "NCCL"
        print(f"by path: {done} all-reduces and 5 other collectives right on {communicator.ranks} ranks, by {kind} {library.version()}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
