"""How groups of the backend are waited for, used wrongly, end and begin anew: on CPU tensors, where waits hold the host."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

import torch_groups  # noqa: E402
import torch_others  # noqa: E402
import torch_ranks  # noqa: E402
from conftest import ON_CUDA  # noqa: E402
from ranks import Failure, Ranks  # noqa: E402

Start = Callable[..., Ranks]

if ON_CUDA:
    pytest.skip("of the CPU device", allow_module_level=True)


def test_a_wait_ends_with_its_operation(two: Ranks) -> None:
    two.run(torch_groups.waits_end_with_their_operation, patience=30)


def test_a_step_does_not_wait_for_what_it_does_not_use(two: Ranks) -> None:
    two.run(torch_groups.steps_do_not_wait_for_what_they_do_not_use, patience=30)


def test_a_wait_is_not_for_a_type_that_another_thread_prepares(two: Ranks) -> None:
    two.run(torch_groups.a_wait_is_not_for_a_late_type, patience=60)


def test_memory_goes_without_a_wait(two: Ranks) -> None:
    two.run(torch_groups.memory_goes_without_a_wait, patience=90)


def test_a_step_on_sparse_gradients_waits(two: Ranks) -> None:
    two.run(torch_groups.step_on_sparse_gradients, patience=30)


def test_asking_does_not_wait_and_a_wait_has_a_timeout(two: Ranks) -> None:
    told = two.run(torch_groups.asking_does_not_wait, patience=30)[0]
    assert (told["completed"], told["exception"]) == (False, None)
    assert 0.5 <= told["waited"] < 20 and "not ended within the 0:00:00.500000" in told["timeout"], told


def test_a_group_may_live_twice_over_one_store(start_ranks: Start, tmp_path: Path) -> None:
    start_ranks(2).run(torch_groups.live_twice, str(tmp_path / "store"), patience=25)


def test_what_did_not_come_up_may_be_tried_again(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2, MYELON_TORCH_STRICT="1")
    ranks.run(torch_ranks.init, str(tmp_path / "store"))
    ranks.run(torch_groups.try_twice, patience=25)


def test_an_abort_ends_the_wait_for_the_first_all_reduce(two: Ranks) -> None:
    for told in two.run(torch_groups.abort_the_first, patience=25):
        assert told == {"raised": "Aborted: rank 0 aborted its process group"}


def test_a_rank_may_be_late_for_the_first_operation_of_a_type(two: Ranks) -> None:
    waited, _ = two.run(torch_groups.be_late_for_a_type, patience=90)
    assert waited > 30, "longer than what the library waits by itself"


def test_a_rank_with_a_wrong_variable_takes_the_others_along(two: Ranks) -> None:
    assert max(two.run(torch_groups.come_up_with_a_wrong_variable, patience=90)) < 20


def test_an_abort_ends_the_wait_for_the_first_operation_of_a_type(two: Ranks) -> None:
    for told in two.run(torch_groups.abort_before_a_type, patience=25):
        assert told.startswith("Aborted: ") and "rank 0 aborted its process group" in told, told


def test_a_step_hears_of_an_abort_once(two: Ranks) -> None:
    assert two.run(torch_groups.steps_behind_an_abort) == [["Aborted", "stepped"]] * 2


def test_a_group_of_another_backend_may_be_destroyed_behind_a_failure(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"), "gloo")
    for told in ranks.run(torch_others.begin_anew_over_another_backend, str(tmp_path / "anew"), patience=60):
        assert told == [["Aborted"] * 2, ["stepped"] * 2, [2.0] * 2, ["stepped"] * 2, True, None]


def test_a_group_of_another_backend_may_have_another_communicator(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"), "gloo")
    for told in ranks.run(torch_others.destroy_a_failed_communicator, patience=60):
        assert told == [["Aborted"] * 2, "no sums", ["stepped"] * 2, [2.0] * 2, ["stepped"] * 2, True]


def test_groups_of_another_backend_come_up_beside_each_other(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"), "gloo")
    assert ranks.run(torch_others.come_up_in_two_orders, patience=150) == [[[2.0] * 2] * 2] * 2


def test_the_hook_brings_up_a_new_communicator(start_ranks: Start, tmp_path: Path) -> None:
    ranks = start_ranks(2)
    ranks.run(torch_ranks.init, str(tmp_path / "store"), "gloo")
    assert ranks.run(torch_others.hook_behind_a_destroyed_communicator, patience=60) == [[1.5, 1.5]] * 2


def test_a_group_of_the_backend_keeps_its_communicator(two: Ranks) -> None:
    for told in two.outcomes(torch_others.myelon_ccl.destroy_communicator):
        assert isinstance(told, Failure) and "use destroy_process_group" in told.message, told


def test_torch_splits_groups(two: Ranks) -> None:
    two.run(torch_groups.split_as_torch_does)


def test_a_group_that_was_shut_down_says_so(two: Ranks) -> None:
    for told in two.run(torch_groups.shut_down):
        assert len(told) == 3 and all("was shut down before this call" in text for text in told), told


def test_a_coalescing_that_fails_leaves_all_reduces_to_myelon(two: Ranks) -> None:
    two.run(torch_groups.coalesce_where_it_is_not_possible)


def test_a_work_of_a_group_of_one_is_finished(two: Ranks) -> None:
    two.run(torch_groups.alone)


def test_a_device_without_a_number_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from myelon_ccl.torch import direct

    class Group:
        def size(self) -> int:
            return 2

        def rank(self) -> int:
            return 0

    devices = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(direct, "_resolved", lambda group: group)
    monkeypatch.setattr(direct, "connect", lambda *arguments: devices.append(arguments[3]))
    monkeypatch.setattr(direct, "issuer_on", lambda _, device, __: devices.append(device))
    torch_groups.myelon_ccl.HookState(Group(), device="cuda")  # type: ignore[arg-type]
    assert devices == [torch.device("cuda", 3)] * 2
