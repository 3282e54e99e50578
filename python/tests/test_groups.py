"""How groups of the backend are waited for, used wrongly, end and begin anew: on CPU tensors, where waits hold the host."""

from __future__ import annotations

from typing import Callable, Iterator

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import torch_groups  # noqa: E402
import torch_ranks  # noqa: E402
from conftest import ON_CUDA  # noqa: E402
from ranks import Ranks  # noqa: E402

Start = Callable[..., Ranks]

if ON_CUDA:
    pytest.skip("of the CPU device", allow_module_level=True)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    ranks = Ranks(2)
    assert ranks.run(torch_ranks.init, str(tmp_path_factory.mktemp("store") / "two")) == ["myelon"] * 2
    yield ranks
    ranks.close()


def test_a_wait_ends_with_its_operation(two: Ranks) -> None:
    two.run(torch_groups.waits_end_with_their_operation, patience=30)


def test_a_step_does_not_wait_for_what_it_does_not_use(two: Ranks) -> None:
    two.run(torch_groups.steps_do_not_wait_for_what_they_do_not_use, patience=30)


def test_asking_does_not_wait_and_a_wait_has_a_timeout(two: Ranks) -> None:
    told = two.run(torch_groups.asking_does_not_wait, patience=30)[0]
    assert (told["completed"], told["exception"]) == (False, None)
    assert 0.5 <= told["waited"] < 20 and "not ended within the 0:00:00.500000" in told["timeout"], told
