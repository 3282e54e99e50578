"""How the ranks of a torch group come to a communicator, or to one verdict that they do not."""

from __future__ import annotations

import json
import os
from typing import Callable, List, Optional

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from .._library import library
from ..core import CPU_DEVICE, Communicator, UniqueId
from ..errors import MyelonError, Unsupported
from . import settings

MAX_RANKS = 8

Exchange = Callable[[str, str], List[str]]
"""Gives a text of this rank's under a name, and returns what all ranks gave under it, in order of rank."""


def over_store(store: Store, rank: int, size: int) -> Exchange:
    """An exchange through the store of a rendezvous."""

    def exchange(name: str, mine: str) -> List[str]:
        store.set(f"myelon/{name}/{rank}", mine)
        return [store.get(f"myelon/{name}/{other}").decode() for other in range(size)]

    return exchange


def over_group(group: "dist.ProcessGroup") -> Exchange:
    """An exchange through collectives of a group of any backend."""

    def exchange(_: str, mine: str) -> List[str]:
        answers: List[Optional[str]] = [None] * group.size()
        dist.all_gather_object(answers, mine, group=group)
        return [str(answer) for answer in answers]

    return exchange


def connect(exchange: Exchange, rank: int, size: int, device: torch.device) -> Communicator:
    """A communicator of the group's ranks, on this rank's ``device``. Collective.

    Every rank gets one, or every rank gets an error: :class:`Unsupported` where the group is none for Myelon, the rank's own
    error where its part failed, and :class:`Unsupported` naming the rank where that of another one did.
    """
    if not 1 <= size <= MAX_RANKS:
        raise Unsupported(f"a group of {size} ranks: Myelon runs 1 to {MAX_RANKS} ranks of one node")
    failure = _attempt(library)
    answers = [json.loads(answer) for answer in exchange("place", json.dumps([_host(), _text(failure)]))]
    _agree([told for _, told in answers], failure)
    hosts = {host for host, _ in answers}
    if len(hosts) > 1:
        raise Unsupported(
            f"the group's {size} ranks are on {len(hosts)} nodes: Myelon runs 1 to {MAX_RANKS} ranks of one node"
        )

    id_text, failure = "", None
    if rank == 0:
        try:
            id_text = UniqueId.create().data.hex()
        except MyelonError as error:
            failure = error
    answers = [json.loads(answer) for answer in exchange("id", json.dumps([id_text, _text(failure)]))]
    _agree([told for _, told in answers], failure)
    unique_id = UniqueId(bytes.fromhex(answers[0][0]))

    communicator: Optional[Communicator] = None
    try:
        ordinal = CPU_DEVICE if device.type == "cpu" else device.index
        communicator = Communicator.init_rank(size, unique_id, rank, ordinal, settings.options())
    except MyelonError as error:
        failure = error
    try:
        _agree(exchange("verdict", _text(failure)), failure)
    except BaseException:
        if communicator is not None:
            communicator.destroy()
        raise
    assert communicator is not None, "a rank without an error has a communicator"
    return communicator


def _host() -> str:
    """The same on two ranks exactly where they share a kernel and a network, which is what a communicator needs."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return f"{boot}/{os.stat('/proc/self/ns/net').st_ino}"


def _attempt(step: Callable[[], object]) -> Optional[MyelonError]:
    try:
        step()
    except MyelonError as error:
        return error
    return None


def _text(failure: Optional[MyelonError]) -> str:
    return "" if failure is None else f"{type(failure).__name__}: {failure}"


def _agree(told: List[str], own: Optional[MyelonError]) -> None:
    if own is not None:
        raise own
    for rank, text in enumerate(told):
        if text:
            raise Unsupported(f"rank {rank} of the group failed: {text}", rank=rank)
