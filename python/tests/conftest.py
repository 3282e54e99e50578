"""What all tests share: ranks that are ended whatever happens."""

from __future__ import annotations

import os
from typing import Any, Callable, Iterator

import pytest

from ranks import Ranks

ON_CUDA = os.environ.get("MYELON_TEST_DEVICE", "cpu") == "cuda"


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
