"""What only GPUs can show: MYELON_TEST_DEVICE=cuda on a machine with two of them."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import cuda_ranks  # noqa: E402
import torch_ranks  # noqa: E402
from conftest import ON_CUDA  # noqa: E402
from ranks import Failure, Ranks  # noqa: E402

if not ON_CUDA:
    pytest.skip("these need two GPUs and MYELON_TEST_DEVICE=cuda", allow_module_level=True)
if torch.cuda.device_count() < 2:
    pytest.skip("MYELON_TEST_DEVICE=cuda needs two GPUs", allow_module_level=True)

Start = Callable[..., Ranks]


def test_a_step_waits_for_the_all_reduces_before_it(two: Ranks) -> None:
    two.run(cuda_ranks.a_step_waits_once)


def test_a_fused_step_looks_itself(two: Ranks) -> None:
    two.run(cuda_ranks.a_fused_step_looks_itself)


@pytest.mark.parametrize(
    "what", ["captured_step", "graph", "waits_in_a_capture", "side_streams", "memory_goes_on", "sums_of_a_future"]
)
def test_streams_and_graphs(two: Ranks, what: str) -> None:
    two.run(getattr(cuda_ranks, what))
    assert two.run(torch_ranks.engine) == ["myelon"] * 2


def test_an_unprepared_operation_is_refused_in_a_capture(two: Ranks) -> None:
    for told in two.run(cuda_ranks.first_in_a_capture):
        assert "all_reduce of f64 by prod" in told and "run one before the capture" in told


def test_the_host_runs_ahead(two: Ranks) -> None:
    two.run(cuda_ranks.the_host_is_not_held)


def test_expandable_segments(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2, PYTORCH_CUDA_ALLOC_CONF="expandable_segments:True", MYELON_TORCH_STRICT="1")
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    ranks.run(cuda_ranks.expandable_segments)


@pytest.mark.parametrize("blocking", ["0", "1"])
def test_a_deadline_of_the_users_is_an_exception_that_names_the_late_rank(
    start_ranks: Start, tmp_path: Path, blocking: str
) -> None:
    ranks = start_ranks(2, MYELON_TIMEOUT="2", MYELON_TORCH_BLOCKING_WAIT=blocking)
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    failure = ranks.outcomes(cuda_ranks.late_peer, patience=60)[0]
    assert isinstance(failure, Failure) and failure.kind == "Stalled", failure
    assert (failure.fields["rank"], failure.fields["peer"]) == (0, 1) and failure.fields["lane"] is not None
    assert "rank 1 had not started" in failure.message


def test_no_deadline_of_ours_fires_unasked(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    assert ranks.outcomes(cuda_ranks.late_peer, patience=60) == [None, None]
