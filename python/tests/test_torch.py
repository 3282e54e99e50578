"""torch.distributed over Myelon: on CPU tensors, or with MYELON_TEST_DEVICE=cuda on GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Callable, List

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import torch_groups  # noqa: E402
import torch_ranks  # noqa: E402
import torch_training  # noqa: E402
from conftest import ON_CUDA  # noqa: E402
from ranks import PATIENCE, Failure, Ranks  # noqa: E402

if ON_CUDA and torch.cuda.device_count() < 2:
    pytest.skip("MYELON_TEST_DEVICE=cuda needs two GPUs", allow_module_level=True)

FULL = os.environ.get("MYELON_TEST_FULL") == "1"
Start = Callable[..., Ranks]


def test_types_and_operators(two: Ranks) -> None:
    pairs = [(dtype, op) for dtype in torch_ranks.DTYPES for op in torch_ranks.OPS]
    if not FULL:
        # Each kernel is compiled once: every type, and every operator of a float and of an integer.
        pairs = [(dtype, op) for dtype, op in pairs if op == "SUM" or dtype in ("float32", "int64")]
    two.run(torch_ranks.all_types_and_operators, pairs)
    assert two.run(torch_ranks.engine) == ["myelon"] * 2


@pytest.mark.parametrize("what", ["sizes", "asynchronous", "futures", "coalesced", "gaps", "delegated", "functional"])
def test_operations(two: Ranks, what: str) -> None:
    two.run(getattr(torch_ranks, what))


def test_ddp_has_the_losses_of_the_other_backend(two: Ranks, start_ranks: Start, tmp_path: Path) -> None:
    other = start_ranks(2)
    other.run(torch_ranks.init, str(tmp_path / "store"), torch_ranks.DELEGATE)
    for how, tolerance in (("plain", 1e-5), ("bf16", 0.05)):
        ours, theirs = two.run(torch_training.train, how), other.run(torch_training.train, how)
        assert ours[0] == ours[1], "all ranks have the same losses"
        assert ours[0] == pytest.approx(theirs[0], rel=tolerance), how
        assert len(set(ours[0])) > 1, "the model learns"
    # The hook, on a model whose group is the other backend's.
    hooked = other.run(torch_training.train, "hook")
    assert hooked[0] == pytest.approx(other.run(torch_training.train, "plain")[0], rel=1e-5)
    assert other.run(torch_ranks.direct) == ["myelon"] * 2


def test_fsdp2_has_the_losses_of_the_other_backend(two: Ranks, start_ranks: Start, tmp_path: Path) -> None:
    other = start_ranks(2)
    other.run(torch_ranks.init, str(tmp_path / "store"), torch_ranks.DELEGATE)
    for replicas in (1, 2):
        ours, theirs = two.run(torch_training.fsdp, replicas), other.run(torch_training.fsdp, replicas)
        assert ours[0] == ours[1] and ours[0] == pytest.approx(theirs[0], rel=1e-5), f"{replicas} replicas"


def test_tensor_parallel_layers_have_the_losses_of_the_other_backend(
    two: Ranks, start_ranks: Start, tmp_path: Path
) -> None:
    other = start_ranks(2)
    other.run(torch_ranks.init, str(tmp_path / "store"), torch_ranks.DELEGATE)
    ours, theirs = two.run(torch_training.tensor_parallel), other.run(torch_training.tensor_parallel)
    assert ours[0] == ours[1] and ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert len(set(ours[0])) > 1 and two.run(torch_ranks.engine) == ["myelon"] * 2


def test_the_hook_on_a_group_of_myelon(two: Ranks) -> None:
    assert two.run(torch_training.train, "hook")[0] == pytest.approx(
        two.run(torch_training.train, "plain")[0], rel=1e-5
    )


def test_groups(start_ranks: Start, tmp_path: Path) -> None:
    size = min(4, torch.cuda.device_count()) if ON_CUDA else 4
    ranks = start_ranks(size)
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    for rank, told in enumerate(ranks.run(torch_ranks.groups)):
        assert told["backend"] == "myelon" and told["own"] and told["alone"] == [1.0] * 3
        if rank in (0, size - 1):
            assert told["part"] == size + 1
    ranks.run(torch_ranks.destroy)


def test_other_collectives_on_myelon(start_ranks: Start, tmp_path: Path) -> None:
    named = "all_reduce,reduce_scatter,all_gather,broadcast"
    ranks, other = start_ranks(2, MYELON_TORCH_COLLECTIVES=named, MYELON_TORCH_STRICT="1"), start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    ranks.run(torch_ranks.other_collectives)
    for told in ranks.run(torch_groups.parts_that_do_not_fit):
        assert len(told) == 4 and "between 16 torch.float32 and 4 torch.float32" in told[0], told
    assert ranks.run(torch_ranks.engine) == ["myelon"] * 2
    other.run(torch_ranks.init, str(tmp_path / "other"), torch_ranks.DELEGATE)
    for replicas in (1, 2):
        ours, theirs = ranks.run(torch_training.fsdp, replicas), other.run(torch_training.fsdp, replicas)
        assert ours[0] == ours[1] and ours[0] == pytest.approx(theirs[0], rel=1e-5), f"{replicas} replicas"
    assert ranks.run(torch_training.train, "plain")[0] == pytest.approx(
        other.run(torch_training.train, "plain")[0], rel=1e-5
    )


def failures(outcomes: List[object]) -> List[Failure]:
    assert all(isinstance(outcome, Failure) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Failure)]


def test_a_rank_that_dies_is_an_exception_in_the_others(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    for rank in (0, 1):
        ranks.tell(rank, torch_ranks.wait_for_peers, True)
    (failure,) = failures([ranks.hear(0, patience=45)])
    assert failure.kind == "PeerLost" and failure.fields["peer"] == 1, failure


def test_a_rank_that_dies_ends_a_step_of_ddp(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    for rank in (0, 1):
        ranks.tell(rank, torch_training.train, "plain", 1000, 2)
    (failure,) = failures([ranks.hear(0, patience=60)])
    assert "rank 0 lost rank 1" in failure.message or "onnection" in failure.message, failure


RAISED = {"killed": "PeerLost", "late": "Stalled", "abort": "Aborted"}


@pytest.mark.parametrize("how, kind", [("killed", "plain"), ("abort", "backend"), ("late", "hook")])
def test_gradients_that_never_come_are_no_step(start_ranks: Start, tmp_path: Path, how: str, kind: str) -> None:
    ranks = start_ranks(2, **({"MYELON_TIMEOUT": "4"} if how == "late" else {}))
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    for rank in (0, 1):
        ranks.tell(rank, torch_training.failing_step, how, kind)
    told = ranks.hear(0, patience=60)
    assert told["raised"] == RAISED[how] and told["unchanged"], told
    # The backward pass of DDP waits on the CPU device.
    assert told["reached"] == ("the optimizer" if ON_CUDA or kind == "plain" else "nothing"), told


def test_steps_do_not_wait_where_the_user_says_so(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2, MYELON_TORCH_STEP_CHECK="0")
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    for rank in (0, 1):
        ranks.tell(rank, torch_training.failing_step, "killed", "plain")
    told = ranks.hear(0, patience=60)
    assert told["reached"] == "the end" and "raised" not in told and not told["unchanged"], told


def test_a_fused_step_looks_itself(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    for rank in (0, 1):
        ranks.tell(rank, torch_training.failing_step, "killed", "plain", True)
    told = ranks.hear(0, patience=60)
    # The CPU device has no word for what the host queues: there the step waits.
    expected = ("the end", None) if ON_CUDA else ("the optimizer", "PeerLost")
    assert (told["reached"], told.get("raised")) == expected and told["unchanged"], told


def test_a_compiled_step_waits_and_a_destroyed_group_is_not_waited_for(two: Ranks) -> None:
    two.run(torch_training.compiled_step)


def test_compiled_functions_call_collectives(two: Ranks) -> None:
    two.run(torch_training.compiled_collectives)


def test_an_abort_ends_the_waits_of_all_ranks(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    for failure in failures(ranks.outcomes(torch_ranks.abort_group, patience=45)):
        assert failure.kind == "Aborted" and "rank 1 aborted its process group" in failure.message, failure


def test_operations_that_differ_are_told_with_both_sides(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    told = failures(ranks.outcomes(torch_ranks.mismatch, patience=45))
    assert any(failure.kind == "PeerMismatch" for failure in told), told
    assert any("sum of 100 f32" in failure.message and "sum of 101 f32" in failure.message for failure in told), told


def test_what_cannot_run_on_myelon_is_delegated_with_one_warning(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    for told in ranks.run(torch_ranks.warned, {"MYELON_VARIANT": "warp_drive"}):
        assert len(told) == 1 and "warp_drive" in told[0] and torch_ranks.DELEGATE.upper() in told[0], told


def test_a_group_of_several_nodes_is_delegated_with_one_warning(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    ranks.run(torch_ranks.pretend_nodes)
    for told in ranks.run(torch_ranks.warned, {}):
        assert len(told) == 1 and "2 ranks are on 2 nodes" in told[0], told


def test_the_benchmark_runs_all_engines_in_turns(tmp_path: Path) -> None:
    bench = Path(__file__).resolve().parent.parent / "bench" / "run.py"
    command = [sys.executable, str(bench), "--ranks", "2", "--results", str(tmp_path), "--runs", "2", "--starts", "1"]
    command += ["--tiny", "--steps", "3", "--tokens", "2", "--warm-up", "1", "--repeats", "2", "--batch", "2"]
    command += ["--also", "myelon", "MYELON_TORCH_STEP_CHECK=0", "MYELON_MAX_LANES=2"]
    subprocess.run(command, check=True, timeout=PATIENCE)
    stored = json.loads((tmp_path / "torch-2.json").read_text())
    assert [run["engine"] for run in stored["runs"]] == 2 * [
        "nccl",
        "myelon",
        "myelon MYELON_TORCH_STEP_CHECK=0 MYELON_MAX_LANES=2",
    ]
    assert all(run[kind]["ms"] > 0 for run in stored["runs"] for kind in ("ddp", "decode", "decode_sums"))
    assert [run["carried_out_by"] for run in stored["runs"]] == 2 * ["gloo", "myelon", "myelon"]


def test_more_ranks_than_a_node_has_are_refused_before_any_is_asked() -> None:
    from myelon_ccl.torch.meeting import connect

    def nobody(name: str, mine: str) -> List[str]:
        raise AssertionError("asked")

    with pytest.raises(torch_ranks.myelon_ccl.Unsupported, match="a group of 9 ranks"):
        connect(nobody, 0, 9, torch.device("cpu"), timedelta(seconds=1))


def test_every_collective_that_a_subclass_can_have_is_the_packages_own() -> None:
    """What is left to torch's C++ runs with the interpreter lock held, and can wait for a thread that needs it."""
    from myelon_ccl.torch.process_group import MyelonProcessGroup

    overridable = """allgather allgather_into_tensor_coalesced allreduce allreduce_coalesced alltoall_base barrier broadcast
        reduce_scatter reduce_scatter_tensor_coalesced send recv abort reduce gather scatter alltoall all_gather_single
        reduce_scatter_single all_to_all_single all_gather_single_coalesced reduce_scatter_single_coalesced"""
    for name in overridable.split():
        owner = next(owner for owner in MyelonProcessGroup.__mro__ if name in vars(owner))
        assert owner.__module__.startswith("myelon_ccl."), f"{name} is {owner}'s"


def test_a_backend_that_returns_no_work_is_taken_at_its_word() -> None:
    """NCCL's returns none where nobody asked for ``async_op``."""
    from myelon_ccl.torch.delegating import DelegatingProcessGroup

    class Backend:
        def scatter(self, outputs: "List[torch.Tensor]", *rest: object) -> None:
            outputs[0].fill_(1)

    class Group(DelegatingProcessGroup):
        def backend_of(self, device: "torch.device") -> Backend:
            return Backend()

    output = torch.zeros(2)
    assert Group(0, 1).scatter([output], [[output]]) is None
    assert output.tolist() == [1, 1]


def test_strict_makes_that_an_error(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2, MYELON_TORCH_STRICT="1")
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    for failure in failures(ranks.outcomes(torch_ranks.warned, {"MYELON_VARIANT": "warp_drive"})):
        assert "warp_drive" in failure.message, failure
