"""The backend ``myelon`` of ``torch.distributed``: a process group whose all-reduces run on Myelon.

So do the other collectives that ``MYELON_TORCH_COLLECTIVES`` names. Everything else, and every all-reduce that Myelon does not take (other types and operators, sparse tensors, groups of one rank,
of more than 8 or of several nodes), is NCCL's, or gloo's on the CPU. Those are made as torch makes them and registered with
this group, so code that asks a group for its backend finds them.
"""

from __future__ import annotations

import threading
import warnings
from datetime import timedelta
from typing import Any, List, Optional, Set

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import AllgatherOptions
from torch.distributed.distributed_c10d import PrefixStore, Store

from ..core import Communicator
from ..errors import Aborted, InvalidArgument, MyelonError
from ..types import ReduceOp
from . import settings
from .delegating import DelegatingProcessGroup
from .issue import Issuer, issuer_on
from .mapping import dtype_of, op_of
from .meeting import MAX_RANKS, NobodyCame, connect, new_life, over_store, tell_of_abort

_DEFAULT_BACKEND = {"cuda": "NCCL", "cpu": "GLOO"}


class MyelonProcessGroup(DelegatingProcessGroup):
    """See the module. The communicator comes up at the first all-reduce that it is for, on the device of its tensor."""

    def __init__(
        self,
        store: Store,
        rank: int,
        size: int,
        timeout: timedelta,
        ranks: List[int],
        devices: Optional[List[torch.device]] = None,
    ) -> None:
        try:
            super().__init__(store, rank, size)
        except TypeError:
            # Releases of torch that have no such constructor for a subclass.
            super().__init__(rank, size)  # type: ignore[call-arg]
        self._store = store
        self._timeout = timeout
        # Of the default group torch gives none: it has all.
        self._ranks = ranks or list(range(size))
        self._type = settings.device_type()
        # ORDER: the communicator comes up under the first one, in time that peers decide on; the second is held for moments, by what
        # ends the group as well.
        self._connecting, self._lock = threading.Lock(), threading.Lock()
        self._issuer: Optional[Issuer] = None
        self._life = new_life(store, rank, size, timeout) if 1 < size <= MAX_RANKS else ""
        self._attempts = 0
        # By whom, where somebody has.
        self._aborted = ""
        self._shut_down = False
        self._delegated = size == 1
        self._collectives = settings.collectives()
        self._coalescing = False
        self._splits = 0
        self._register_delegates({device.type for device in devices} if devices is not None else {"cuda", "cpu"})

    def _register_delegates(self, devices: Set[str]) -> None:
        kinds = dist.ProcessGroup.BackendType
        rank, size = self.rank(), self.size()
        # They leave keys in it too.
        store = PrefixStore(f"{self._life}/", self._store)
        if "cuda" in devices and torch.cuda.is_available() and dist.is_nccl_available():
            options = dist.ProcessGroupNCCL.Options()
            options._timeout = self._timeout
            options.global_ranks_in_group = self._ranks
            nccl = dist.ProcessGroupNCCL(PrefixStore("nccl/", store), rank, size, options)
            _number(nccl)
            self._register_backend(torch.device("cuda"), kinds.NCCL, nccl)
        if "cpu" in devices and dist.is_gloo_available():
            gloo = dist.ProcessGroupGloo(PrefixStore("gloo/", store), rank, size, timeout=self._timeout)
            _number(gloo)
            self._register_backend(torch.device("cpu"), kinds.GLOO, gloo)
        self._delegated |= self._type not in devices
        default = self._type if self._type in devices else min(devices)
        self._set_default_backend(getattr(kinds, _DEFAULT_BACKEND[default]))

    def getBackendName(self) -> str:  # noqa: N802, the name that torch calls
        return "myelon"

    def get_group_store(self) -> Store:
        return self._store

    def backend_of(self, device: torch.device) -> Any:
        if self._shut_down:
            self._look()
        return super().backend_of(device)

    @property
    def communicator(self) -> Optional[Communicator]:
        """What the all-reduces run on; ``None`` before the first one, and where all of them are delegated."""
        return self._issuer.communicator if self._issuer is not None else None

    def allreduce(self, tensors: Any, opts: Any = None, timeout: Optional[timedelta] = None) -> dist.Work:
        """All-reduce of one tensor. In torch's three forms: of a list with options, of a list or a tensor with an operator."""
        tensors = [tensors] if isinstance(tensors, torch.Tensor) else tensors
        if not isinstance(opts, dist.AllreduceOptions):
            op = dist.ReduceOp.SUM if opts is None else opts
            opts = dist.AllreduceOptions()
            opts.reduceOp, opts.asyncOp = op, True
            if timeout is not None:
                opts.timeout = timeout
        op = self._reduces("all_reduce", tensors, opts)
        issuer = self._issuer_for(tensors[0]) if op is not None and len(tensors) == 1 else None
        if issuer is not None and op is not None:
            return issuer.all_reduce(tensors, op, _is_async(opts))
        work: dist.Work = self.backend_of(tensors[0].device).allreduce(tensors, opts)
        return work

    def allreduce_coalesced(self, tensors: List[torch.Tensor], opts: Any = None) -> dist.Work:
        """All-reduce of several tensors by one call, each by itself."""
        opts = dist.AllreduceCoalescedOptions() if opts is None else opts
        op = self._reduces("all_reduce", tensors, opts)
        issuer = self._issuer_for(tensors[0]) if op is not None else None
        if issuer is not None and op is not None:
            return issuer.all_reduce(tensors, op, _is_async(opts))
        work: dist.Work = self.backend_of(tensors[0].device).allreduce_coalesced(tensors, opts)
        return work

    def _reduce_scatter_base(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> dist.Work:
        opts = dist.ReduceScatterOptions() if opts is None else opts
        op = self._reduces("reduce_scatter", [output, input], opts)
        issuer = self._issuer_for(output) if op is not None else None
        if issuer is not None and op is not None:
            return issuer.reduce_scatter(output, input, op, _is_async(opts))
        work: dist.Work = self.backend_of(output.device)._reduce_scatter_base(output, input, opts)
        return work

    def _allgather_base(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> dist.Work:
        opts = AllgatherOptions() if opts is None else opts
        issuer = self._issuer_for(output) if self._takes("all_gather", [output, input]) else None
        if issuer is not None:
            return issuer.all_gather(output, input, _is_async(opts))
        work: dist.Work = self.backend_of(output.device)._allgather_base(output, input, opts)
        return work

    # What releases of torch from 2.15 on call the same.
    all_gather_single = _allgather_base
    reduce_scatter_single = _reduce_scatter_base  # type: ignore[assignment]

    def broadcast(self, tensors: Any, opts: Any = None, timeout: Optional[timedelta] = None) -> dist.Work:
        """Broadcast of one tensor. In torch's forms: of a list with options, of a tensor with the root."""
        tensors = [tensors] if isinstance(tensors, torch.Tensor) else tensors
        if not isinstance(opts, dist.BroadcastOptions):
            root = 0 if opts is None else opts
            opts = dist.BroadcastOptions()
            opts.rootRank = root
            if timeout is not None:
                opts.timeout = timeout
        issuer = self._issuer_for(tensors[0]) if len(tensors) == 1 and self._takes("broadcast", tensors) else None
        if issuer is not None:
            return issuer.broadcast(tensors[0], opts.rootRank, _is_async(opts))
        work: dist.Work = self.backend_of(tensors[0].device).broadcast(tensors, opts)
        return work

    def _start_coalescing(self, device: torch.device) -> None:
        super()._start_coalescing(device)
        # WHY: what is coalesced is waited for by one work of the delegate, so all of it is the delegate's.
        self._coalescing = True

    def _end_coalescing(self, device: torch.device) -> dist.Work:
        try:
            return super()._end_coalescing(device)
        finally:
            self._coalescing = False

    def split_group(
        self,
        ranks: List[int],
        timeout: Optional[timedelta] = None,
        opts: Any = None,
        group_name: Optional[str] = None,
        group_desc: Optional[str] = None,
        device_types: Optional[List[torch.device]] = None,
    ) -> Optional["MyelonProcessGroup"]:
        """A group of its own for these ranks of this group, for all devices or these; ``None`` on ranks that are not among them."""
        self._splits += 1
        if self.rank() not in ranks:
            return None
        name = (
            f"{self.group_name}:split:{self._splits}:{'-'.join(map(str, ranks))}" if group_name is None else group_name
        )
        part = MyelonProcessGroup(
            PrefixStore(f"{self._life}/{name}/", self._store),
            ranks.index(self.rank()),
            len(ranks),
            self._timeout if timeout is None else timeout,
            [self._ranks[rank] for rank in ranks],
            device_types,
        )
        part._set_group_name(name)  # type: ignore[arg-type]
        part._set_group_desc(group_desc or f"a part of {self.group_desc}")
        return part

    def abort(self) -> None:
        """Ends everything that runs or waits in this group, on all its ranks."""
        why = f"rank {self.rank()} aborted its process group"
        with self._lock:
            issuer, self._aborted = self._issuer, self._aborted or why
        if issuer is not None:
            issuer.abort(why)
        elif not self._delegated:
            try:
                tell_of_abort(self._store, self._life, why)
            except RuntimeError as error:
                warnings.warn(f"the other ranks were not told that {why}: {error}", RuntimeWarning, stacklevel=2)
        for backend in self._delegates():
            backend.abort()

    def shutdown(self) -> None:
        """Gives everything back; what is issued afterwards is an error."""
        with self._lock:
            issuer, self._issuer, self._delegated, self._shut_down = self._issuer, None, True, True
        if issuer is not None:
            issuer.destroy()
        for backend in self._delegates():
            backend.shutdown()

    def _delegates(self) -> List[Any]:
        return [self._get_backend(device) for device in self._device_types]

    def _takes(self, collective: str, tensors: List[torch.Tensor]) -> bool:
        """Whether a collective of these tensors is for Myelon, by what is equal on all ranks."""
        if self._delegated or self._coalescing or collective not in self._collectives or not tensors:
            return False
        return all(tensor.device.type == self._type and tensor.layout == torch.strided for tensor in tensors)

    def _reduces(self, collective: str, tensors: List[torch.Tensor], opts: Any) -> Optional[ReduceOp]:
        """The operator where Myelon has this reduction."""
        if not self._takes(collective, tensors) or any(dtype_of(tensor) is None for tensor in tensors):
            return None
        return op_of(opts.reduceOp)

    def _issuer_for(self, tensor: torch.Tensor) -> Optional[Issuer]:
        return self._connected(tensor.device)

    def _connected(self, device: torch.device) -> Optional[Issuer]:
        if self._issuer is None and not self._delegated:
            with self._connecting:
                if self._issuer is None and not self._delegated:
                    self._connect(device)
        if self._issuer is None:
            self._look()
        return self._issuer

    def _look(self) -> None:
        """Raises where the group was ended."""
        if self._shut_down:
            raise InvalidArgument("the process group was shut down before this call: make a new one")
        if self._aborted:
            raise Aborted(self._aborted, rank=self.rank())

    def _hear(self, aborted: str) -> None:
        self._aborted = self._aborted or aborted
        self._look()

    def _connect(self, device: torch.device) -> None:
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            raise InvalidArgument(
                "the first all-reduce of this group is inside a graph capture, where no communicator can come up: run one before"
            )
        self._look()
        self._attempts += 1
        rank, size = self.rank(), self.size()
        exchange = over_store(self._store, rank, size, self._life, self._attempts, self._timeout, self._hear)
        try:
            communicator = connect(exchange, rank, size, device, self._timeout)
        except MyelonError as error:
            if settings.strict() or isinstance(error, NobodyCame) or self._aborted or self._shut_down:
                raise
            # All ranks are here: connect fails on all or none.
            self._delegated = True
            instead = _DEFAULT_BACKEND[device.type]
            warnings.warn(
                f"this group's all-reduces run on {instead}, not on Myelon: {error}", RuntimeWarning, stacklevel=4
            )
            return
        with self._lock:
            ended = self._aborted or self._shut_down
            if not ended:
                self._issuer = issuer_on(communicator, device)
        if ended:
            communicator.abort(self._aborted or f"rank {rank} shut its process group down")
            communicator.destroy()
            self._look()

    def issuer(self, device: torch.device) -> Optional[Issuer]:
        """What issues this group's all-reduces, brought up where it was not; ``None`` where they are delegated. Collective."""
        return self._connected(device)


def _number(backend: Any) -> None:
    """Lets a backend number its collectives, which it does by itself from torch 2.15 on."""
    if torch.__version__ < (2, 15):  # type: ignore[operator]
        backend._set_sequence_number_for_group()


def _is_async(opts: Any) -> bool:
    # Releases of torch before the option had every collective on a stream of its own.
    return getattr(opts, "asyncOp", True)


def create(options: Any, backend_options: Any) -> MyelonProcessGroup:
    """What ``init_process_group("myelon")`` and ``new_group`` call."""
    if backend_options is not None:
        raise InvalidArgument(
            f"pg_options of {type(backend_options).__name__}: the backend myelon takes none; see its variables"
        )
    return MyelonProcessGroup(
        options.store, options.group_rank, options.group_size, options.timeout, list(options.global_ranks_in_group)
    )
