"""What all tests share: ranks that are ended whatever happens."""

from __future__ import annotations

import os
from typing import Any, Callable, Iterator

import pytest

from ranks import Ranks

ON_CUDA = os.environ.get("MYELON_TEST_DEVICE", "cpu") == "cuda"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Two ranks in one group of Myelon's, for all tests of a module that leave it as it was. Needs torch."""
    import torch_ranks

    ranks = Ranks(2)
    assert ranks.run(torch_ranks.init, str(tmp_path_factory.mktemp("store") / "two")) == ["myelon"] * 2
    yield ranks
    ranks.close()


@pytest.fixture
def start_ranks() -> Iterator[Callable[..., Ranks]]:
    """Starts ranks for one test."""
    started = []

    def start(size: int, **environment: Any) -> Ranks:
        started.append(Ranks(size, environment))
        return started[-1]

    yield start
    for ranks in started:
        ranks.close()
