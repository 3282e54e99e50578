"""Which operations of a GPU a step waits for, with a GPU and a communicator that only say what they were asked."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, List, Optional

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from myelon_ccl import Aborted, ReduceOp  # noqa: E402
from myelon_ccl.torch import issue, steps  # noqa: E402


class Event:
    """Reached once something has waited for it on the stream that is then synchronised, or ``reached`` is set."""

    def __init__(self) -> None:
        self.reached = False

    def query(self) -> bool:
        return self.reached

    def synchronize(self) -> None:
        self.reached = True


class Stream:
    def __init__(self, *_: Any) -> None:
        self.cuda_stream = id(self)
        self.waited: List[Event] = []

    def wait_stream(self, _: Any) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        self.waited.append(event)

    def record_event(self) -> Event:
        return Event()

    def query(self) -> bool:
        return all(event.reached for event in self.waited)


class Machine:
    """Stands for the GPU and the communicator on it."""

    def __init__(self) -> None:
        self.current = Stream()
        self.capturing = False
        self.asked: List[str] = []
        self.error: Optional[Exception] = None

    def status(self) -> None:
        if self.error is not None:
            raise self.error

    def synchronize(self, stream: int) -> None:
        assert stream == self.current.cuda_stream
        self.asked.append("synchronize")
        for event in self.current.waited:
            event.reached = True

    def queue_status(self, *_: Any) -> None:
        self.asked.append("queue_status")

    def prepare(self, *_: Any) -> None:
        pass

    all_reduce = prepare


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    for name, value in {
        "Stream": Stream,
        "current_stream": lambda *_: made.current,
        "device": lambda _: contextlib.nullcontext(),
        "stream": lambda _: contextlib.nullcontext(),
        "is_current_stream_capturing": lambda: made.capturing,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    return made


@pytest.fixture
def issuer(machine: Machine) -> Iterator[Any]:
    made = issue.CudaIssuer(machine, torch.device("cpu"))  # type: ignore[arg-type]
    steps.guard(made)
    yield made
    steps.release(made)


def weights_and(**settings: Any) -> Any:
    weights = torch.nn.Parameter(torch.ones(2))
    weights.grad = torch.ones(2)
    return weights, torch.optim.SGD([weights], lr=0.1, **settings)


def test_a_step_waits_for_what_was_waited_for_since_the_one_before(machine: Machine, issuer: Any) -> None:
    (one, first), (other, second) = weights_and(), weights_and()
    works = [issuer.all_reduce([each.grad], ReduceOp.SUM, True) for each in (one, other)]
    works[0].wait()
    first.step()
    works[1].wait()
    second.step()
    assert machine.asked == ["synchronize"] * 2
    # Now both are known to be good.
    first.step()
    assert machine.asked == ["synchronize"] * 2


def test_an_all_reduce_of_the_current_stream_is_waited_for_once(machine: Machine, issuer: Any) -> None:
    weights, optimizer = weights_and()
    issuer.all_reduce([weights.grad], ReduceOp.SUM, False)
    optimizer.step()
    optimizer.step()
    assert machine.asked == ["synchronize"]


def test_a_captured_step_looks_whatever_was_known_before(machine: Machine, issuer: Any) -> None:
    weights, optimizer = weights_and()
    issuer.all_reduce([weights.grad], ReduceOp.SUM, False)
    optimizer.step()
    machine.capturing = True
    weights_and(fused=True)[1].step()
    assert machine.asked == ["synchronize", "queue_status"]


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_blocking_wait_is_for_its_own_operation(
    machine: Machine, issuer: Any, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    monkeypatch.setenv("MYELON_TORCH_BLOCKING_WAIT", "1")
    works = [issuer.all_reduce([torch.ones(2)], ReduceOp.SUM, asynchronous) for _ in range(2)]
    works[0].wait()
    assert [work.is_completed() for work in works] == [True, False] and machine.asked == []
    machine.error = Aborted("a peer gave up")
    with pytest.raises(Aborted):
        works[1].wait()
