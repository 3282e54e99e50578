"""How the ranks of a torch group come to a communicator, or to one verdict that they do not."""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import Callable, List, Optional

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import Store

from .._library import library
from ..core import CPU_DEVICE, Communicator, UniqueId
from ..errors import MyelonError, SystemFailure, Unsupported
from . import settings

MAX_RANKS = 8

Exchange = Callable[[str, str], List[str]]
"""Gives a text of this rank's under a name, and returns what all ranks gave under it, in order of rank."""


# Between two looks for what another rank has given, in seconds: at first, and at most.
_PAUSES = (1e-3, 5e-2)


class NobodyCame(SystemFailure):
    """This rank has given up waiting for another, which may come yet: nothing that all ranks have agreed on."""


def new_life(store: Store, rank: int, size: int, patience: timedelta) -> str:
    """A name for this life of a group that no other has, the same on all ranks. Collective.

    WHY: the store may hold what an earlier group of the same name has left, under keys that a rank would take for this one's. So
    every rank says hello by a word of its own, rank 0 offers a name with the words that it has heard, and that is the name once
    all ranks have found their words with it.
    """
    own = _word()
    store.set(_hello_key(rank), own)
    offered: List[str] = []
    life = ""

    def led() -> bool:
        nonlocal offered, life
        keys = [_hello_key(other) for other in range(size)]
        heard = [store.get(key).decode() for key in keys] if store.check(keys) else []
        if heard != offered:
            # An old word may have been among those before.
            offered, life = heard, _word()
            store.set("myelon/offer", json.dumps([life, heard]))
        if not offered or not store.check([f"myelon/{life}/found/{other}" for other in range(1, size)]):
            return False
        store.set(f"myelon/{life}/begun", "")
        return True

    def followed() -> bool:
        nonlocal life
        if life and store.check([f"myelon/{life}/begun"]):
            return True
        if store.check(["myelon/offer"]):
            offer, heard = json.loads(store.get("myelon/offer"))
            if heard[rank] == own and offer != life:
                life = offer
                store.set(f"myelon/{life}/found/{rank}", "")
        return False

    what = f"the group's {size} ranks did not all come up"
    _until(led if rank == 0 else followed, patience, what, rank)
    return life


def over_store(
    store: Store, rank: int, size: int, life: str, attempt: int, patience: timedelta, look: Callable[[str], None]
) -> Exchange:
    """An exchange through the store of a rendezvous, by keys that no other life of the group has, and no other attempt within it.

    ``look`` raises where waiting is to end; it is told which rank has aborted the group, if one has.
    """

    def exchange(name: str, mine: str) -> List[str]:
        keys = [f"myelon/{life}/{attempt}/{name}/{other}" for other in range(size)]
        store.set(keys[rank], mine)

        def there(key: str) -> bool:
            if store.check([key]):
                return True
            look(store.get(_abort_key(life)).decode() if store.check([_abort_key(life)]) else "")
            return False

        for other, key in enumerate(keys):
            what = f"rank {other} did not come to the group's first all-reduce"
            _until(lambda key=key: there(key), patience, what, rank, other)  # type: ignore[misc]
        return [store.get(key).decode() for key in keys]

    return exchange


def tell_of_abort(store: Store, life: str, why: str) -> None:
    """Ends the waits of the others' exchanges."""
    store.set(_abort_key(life), why)


def _until(done: Callable[[], bool], patience: timedelta, what: str, rank: int, peer: Optional[int] = None) -> None:
    # WHY: not by the store's own wait, which no abort of this process ends.
    end = time.monotonic() + patience.total_seconds()
    pause, longest = _PAUSES
    while not done():
        if time.monotonic() >= end:
            raise NobodyCame(f"{what} within {patience}: check that it runs", rank=rank, peer=peer)
        time.sleep(pause)
        pause = min(2 * pause, longest)


def _word() -> str:
    return os.urandom(8).hex()


def _hello_key(rank: int) -> str:
    return f"myelon/hello/{rank}"


def _abort_key(life: str) -> str:
    return f"myelon/{life}/aborted"


def over_group(group: "dist.ProcessGroup") -> Exchange:
    """An exchange through collectives of a group of any backend."""

    def exchange(_: str, mine: str) -> List[str]:
        answers: List[Optional[str]] = [None] * group.size()
        dist.all_gather_object(answers, mine, group=group)
        return [str(answer) for answer in answers]

    return exchange


def connect(exchange: Exchange, rank: int, size: int, device: torch.device, patience: timedelta) -> Communicator:
    """A communicator of the group's ranks, on this rank's ``device``, whose own meetings wait for ``patience``. Collective.

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

    options = settings.options(patience)
    # Before any rank waits for the others in the library, where it could not be told.
    id_text, failure = "", _attempt(options.check)
    if rank == 0 and failure is None:
        try:
            id_text = UniqueId.create(options).data.hex()
        except MyelonError as error:
            failure = error
    answers = [json.loads(answer) for answer in exchange("id", json.dumps([id_text, _text(failure)]))]
    _agree([told for _, told in answers], failure)
    unique_id = UniqueId(bytes.fromhex(answers[0][0]))

    communicator: Optional[Communicator] = None
    try:
        ordinal = CPU_DEVICE if device.type == "cpu" else device.index
        communicator = Communicator.init_rank(size, unique_id, rank, ordinal, options)
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
