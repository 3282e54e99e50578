"""The core on the CPU device: processes, no torch."""

from __future__ import annotations

import math
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterator, Optional

import pytest

import core_ranks
import myelon_ccl as myelon
from core_ranks import TYPECODES
from ranks import Failure, Ranks

SIZE = 3


@pytest.fixture(scope="module")
def three() -> Iterator[Ranks]:
    ranks = connected(Ranks(SIZE))
    yield ranks
    ranks.close()


def connected(
    ranks: Ranks, timeout: float = 60.0, meeting_timeout: float = 30.0, silence: Optional[float] = None
) -> Ranks:
    ranks.tell(0, core_ranks.create_id, silence)
    unique_id = ranks.hear(0)
    assert ranks.run(core_ranks.join, unique_id, timeout, meeting_timeout) == ["myelon"] * ranks.size
    return ranks


def expected(op: str, dtype: str, count: int) -> list:
    columns = [[rank + 1 + place for rank in range(SIZE)] for place in range(count)]
    of = {
        "sum": sum,
        "prod": math.prod,
        "min": min,
        "max": max,
        "avg": lambda column: sum(column) / SIZE if dtype in ("f32", "f64") else sum(column) // SIZE,
    }[op]
    return [of(column) for column in columns]


def test_version_is_that_of_the_package() -> None:
    major, minor, patch = map(int, myelon.__version__.split("."))
    assert myelon.version() == 10000 * major + 100 * minor + patch


@pytest.mark.parametrize("op", ["sum", "prod", "min", "max", "avg"])
def test_every_operator(three: Ranks, op: str) -> None:
    assert three.run(core_ranks.reduce_own, "i32", op, 5, True) == [expected(op, "i32", 5)] * SIZE


@pytest.mark.parametrize("dtype", sorted(TYPECODES))
def test_every_type_that_an_array_has(three: Ranks, dtype: str) -> None:
    assert three.run(core_ranks.reduce_own, dtype, "sum", 5, False) == [expected("sum", dtype, 5)] * SIZE


def test_counts_from_none_to_many(three: Ranks) -> None:
    for count in (0, 1, 1000, 100_001):
        assert three.run(core_ranks.reduce_own, "f32", "max", count, True) == [expected("max", "f32", count)] * SIZE


def test_a_batch_is_each_of_its_operations(three: Ranks) -> None:
    assert three.run(core_ranks.reduce_batch) == [[[6.0] * 1, [6.0] * 1000, [6.0] * 17]] * SIZE


def test_buckets_are_each_reduced(three: Ranks) -> None:
    assert three.run(core_ranks.reduce_buckets) == [[[2.0] * 1, [2.0] * 1000, [2.0] * 17]] * SIZE


def test_the_other_collectives_and_groups(three: Ranks) -> None:
    for rank, (part, gathered, told, place, number) in enumerate(three.run(core_ranks.others)):
        assert part == [2 + 4 * rank + place for place in range(4)]
        assert gathered == [2 + place for place in range(12)]
        assert told == [2.0] * 3
        # Ranks 0 and 2 in the order of their keys, which is the other way round; rank 1 by itself.
        assert (place, number) == {0: ([1, 2], 2), 1: ([0, 1], 1), 2: ([0, 2], 2)}[rank]


def test_a_window(three: Ranks) -> None:
    assert three.run(core_ranks.reduce_window) == [[6.0] * 3] * SIZE


def test_wrong_calls_say_what_is_wrong_and_lose_nothing(three: Ranks) -> None:
    for told in three.run(core_ranks.wrong_calls):
        assert len(told) == 3
        assert "known are f32" in told[1] and "known are sum" in told[2], told


def test_a_forked_child_leaves_the_parents_communicator_alone(three: Ranks) -> None:
    assert three.run(core_ranks.fork_and_use) == [[3.0]] * SIZE


def test_options_that_cannot_be_are_named() -> None:
    with pytest.raises(myelon.InvalidArgument, match="lanes is 0, 1 to 128"):
        myelon.Communicator.from_env(myelon.Options(max_lanes=0))
    with pytest.raises(myelon.InvalidArgument, match="lanes is 129, 1 to 128"):
        myelon.Communicator.from_env(myelon.Options(large_lanes=129))
    with pytest.raises(myelon.InvalidArgument, match="seconds is 0: use 0.1 to 86400"):
        myelon.Communicator.from_env(myelon.Options(meeting_timeout=0.0))
    with pytest.raises(myelon.InvalidArgument, match="seconds is 0: use 0.1 to 86400"):
        myelon.UniqueId.create(myelon.Options(silence=0.0))


def test_a_meeting_waits_as_long_as_its_option_says(start_ranks) -> None:
    ranks = connected(start_ranks(2), meeting_timeout=2.0)
    ranks.tell(0, core_ranks.prepare_alone)
    told, waited = ranks.hear(0)
    assert 2 <= waited < 20 and told.startswith("SystemFailure") and "rank 1" in told, (told, waited)


def test_a_process_may_stand_still_for_as_long_as_the_silence_says(start_ranks) -> None:
    ranks = connected(start_ranks(2), silence=60.0)
    os.kill(ranks.processes[1].pid, signal.SIGSTOP)
    # Longer than what counts as a loss by default.
    time.sleep(8)
    os.kill(ranks.processes[1].pid, signal.SIGCONT)
    assert ranks.run(core_ranks.reduce_own, "f32", "sum", 1, True) == [[3.0]] * 2


def test_others_hear_at_once_of_a_device_that_does_not_open(start_ranks) -> None:
    ranks = start_ranks(2)
    ranks.tell(0, core_ranks.create_id)
    unique_id = ranks.hear(0)
    ranks.tell(0, core_ranks.join_on, unique_id, myelon.CPU_DEVICE)
    ranks.tell(1, core_ranks.join_on, unique_id, 77)
    (other, waited), (own, _) = ranks.hear(0), ranks.hear(1)
    assert waited < 20 and "rank 1" in other and own.split(": ", 2)[2] in other, (other, own, waited)


def test_a_destroyed_communicator_says_so() -> None:
    ranks = connected(Ranks(2))
    try:
        for shown, told in ranks.run(core_ranks.destroy):
            assert "destroyed" in shown and "destroyed" in told
    finally:
        ranks.close()


def test_a_rank_that_dies_is_named_with_its_number(start_ranks) -> None:
    ranks = connected(start_ranks(SIZE), timeout=0.0)
    ranks.run(core_ranks.reduce_own, "f32", "sum", 1, True)
    for rank in (0, 1):
        ranks.tell(rank, core_ranks.wait_for_peers)
    ranks.tell(2, core_ranks.die)
    for rank in (0, 1):
        failure = ranks.hear(rank, patience=30)
        assert isinstance(failure, Failure) and failure.kind == "PeerLost", failure
        assert (failure.fields["rank"], failure.fields["peer"], failure.fields["lane"]) == (rank, 2, None)
        assert failure.fields["status"] == myelon.Status.PEER_LOST


def test_a_stall_names_rank_lane_and_peer(start_ranks) -> None:
    ranks = connected(start_ranks(2), timeout=0.5)
    assert ranks.run(core_ranks.queued_status) == [0, 0]
    ranks.tell(0, core_ranks.wait_for_peers)
    failure = ranks.hear(0, patience=30)
    assert isinstance(failure, Failure) and failure.kind == "Stalled", failure
    assert (failure.fields["rank"], failure.fields["peer"]) == (0, 1) and failure.fields["lane"] >= 0
    assert "rank 1 had not started" in failure.message
    ranks.tell(0, core_ranks.queued_status)
    assert ranks.hear(0) == 1


def test_an_abort_ends_a_wait_and_says_why(start_ranks) -> None:
    ranks = connected(start_ranks(2), timeout=0.0)
    ranks.tell(0, core_ranks.wait_for_peers)
    ranks.tell(1, core_ranks.abort, "the loss is not a number")
    assert ranks.hear(1) is None
    failure = ranks.hear(0, patience=30)
    assert isinstance(failure, Failure) and failure.kind == "Aborted", failure
    assert "the loss is not a number" in failure.message and failure.fields["rank"] == 0
    ranks.tell(1, core_ranks.status)
    assert ranks.hear(1).kind == "Aborted"


def test_peers_hear_of_the_exception_that_ended_a_process(start_ranks) -> None:
    ranks = connected(start_ranks(2), timeout=0.0)
    ranks.tell(0, core_ranks.wait_for_peers)
    ranks.tell(1, core_ranks.end_with_an_exception)
    failure = ranks.hear(0, patience=30)
    assert isinstance(failure, Failure) and "KeyError: 'a batch without labels'" in failure.message, failure


@pytest.mark.parametrize("how", ["with", "finally", "exit"])
def test_peers_hear_of_the_exception_that_a_communicator_ends_on(start_ranks, how: str) -> None:
    ranks = connected(start_ranks(2), timeout=0.0)
    ranks.tell(0, core_ranks.wait_for_peers)
    ranks.tell(1, core_ranks.destroy_on, how)
    failure = ranks.hear(0, patience=30)
    words = "SystemExit: 3" if how == "exit" else "KeyError: 'a batch without labels'"
    assert isinstance(failure, Failure) and f"ends its communicator on {words}" in failure.message, failure


def test_a_wait_for_a_rank_that_exits_ends_without_a_deadline(start_ranks) -> None:
    ranks = connected(start_ranks(2), timeout=0.0)
    assert ranks.run(core_ranks.reduce_own, "f32", "sum", 1, True) == [[3.0]] * 2
    ranks.tell(0, core_ranks.wait_for_peers)
    ranks.tell(1, core_ranks.end_without_a_word)
    failure = ranks.hear(0, patience=30)
    assert isinstance(failure, Failure) and failure.kind == "PeerLost", failure
    assert failure.fields["peer"] == 1 and "left in order after operation" in failure.message, failure


@pytest.mark.parametrize("how", ["end", "last"])
def test_an_end_that_is_none_of_a_failure_tells_nobody(start_ranks, how: str) -> None:
    ranks = connected(start_ranks(2), timeout=0.0)
    assert ranks.run(core_ranks.reduce_own, "f32", "sum", 1, True) == [[3.0]] * 2
    ranks.tell(1, core_ranks.destroy_on, how)
    assert ranks.hear(1) is None
    ranks.tell(0, core_ranks.status)
    failure = ranks.hear(0)
    assert failure is None or "ends its communicator" not in failure.message, failure


def test_an_exception_of_long_ago_is_no_reason(start_ranks) -> None:
    ranks = start_ranks(2)
    ranks.run(core_ranks.report_an_exception)
    connected(ranks, timeout=0.0)
    assert ranks.run(core_ranks.reduce_own, "f32", "sum", 1, True) == [[3.0]] * 2
    ranks.tell(1, core_ranks.end_long_after_an_exception)
    ranks.processes[1].join(30)
    ranks.tell(0, core_ranks.status)
    failure = ranks.hear(0)
    assert failure is None or "an old one" not in failure.message, failure


def test_a_communicator_is_freed_behind_the_last_call_on_it(start_ranks) -> None:
    ranks = connected(start_ranks(2), timeout=0.0)
    ranks.tell(0, core_ranks.destroy_beside_a_call)
    ranks.tell(1, core_ranks.reduce_late)
    assert [ranks.hear(rank, patience=30) for rank in (0, 1)] == ["reduced", [2.0]]


def test_numbers_that_do_not_fit_are_refused(three: Ranks) -> None:
    for told in three.run(core_ranks.numbers_that_do_not_fit):
        assert len(told) == 6 and "count 18446744073709551617" in told[0] and "root 4294967296" in told[4], told


def test_errors_are_values() -> None:
    error = myelon.Stalled("stalled: rank 1 lane 3", status=myelon.Status.STALLED, rank=1, peer=0, lane=3)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is myelon.Stalled and isinstance(again, (myelon.CommunicatorFailed, RuntimeError))
    assert (again.rank, again.peer, again.lane, again.status, str(again)) == (
        1,
        0,
        3,
        myelon.Status.STALLED,
        str(error),
    )
    assert issubclass(myelon.InvalidArgument, ValueError)


def test_the_compiler_of_the_interpreters_packages_is_found(tmp_path: Path) -> None:
    from myelon_ccl import _library

    folder = tmp_path / "nvidia" / "cu13" / "lib"
    folder.mkdir(parents=True)
    shutil.copy(_library.candidates()[0], folder / "libnvrtc.so.13")
    look = "from myelon_ccl import _library; _library.offer_nvrtc(); print(open('/proc/self/maps').read())"
    for variable, found in (("", True), ("/elsewhere/libnvrtc.so.13", False)):
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "MYELON_NVRTC_LIB": variable}
        told = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
        assert (str(folder / "libnvrtc.so.13") in told.stdout) == found


def test_a_missing_library_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from myelon_ccl import _library

    monkeypatch.setattr(_library, "_loaded", None)
    monkeypatch.setenv("MYELON_CCL_LIB", "/nonexistent/libmyelon_ccl.so")
    with pytest.raises(myelon.MyelonError, match="install the wheel, or name a built library in MYELON_CCL_LIB"):
        myelon.version()
