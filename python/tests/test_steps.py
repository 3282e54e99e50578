"""How a step of an optimizer is kept from gradients that never came, with issuers that say what they are told to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Iterator, List, Optional, Tuple

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from myelon_ccl.torch import settings, steps  # noqa: E402

FUSED = [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD]


class Issuer:
    """``word`` is what the device says: 1.0 after a failure, 0.0 without, ``None`` where it has no word."""

    def __init__(self, word: Optional[float]) -> None:
        self.device = torch.device("cpu")
        self.word = word
        self.waits = 0
        self.aborted = False

    def is_left(self) -> bool:
        return False

    def failed(self) -> Any:
        return None if self.word is None else torch.tensor(self.word)

    def settle(self, optimizer: Any) -> None:
        self.waits += 1


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Guards steps by issuers of these words until the test ends."""
    monkeypatch.delenv("MYELON_TORCH_STEP_CHECK", raising=False)
    made: List[Issuer] = []

    def guard(*words: Optional[float]) -> List[Issuer]:
        made.extend(Issuer(word) for word in words)
        for issuer in made:
            steps.guard(issuer)  # type: ignore[arg-type]
        return made

    yield guard
    for issuer in made:
        steps.release(issuer)  # type: ignore[arg-type]


def weights_and(optimizer: Any, **settings: Any) -> Tuple[Any, Any]:
    """A parameter that has a gradient, and an optimizer of it."""
    weights = torch.nn.Parameter(torch.ones(10))
    weights.grad = torch.ones(10)
    return weights, optimizer([weights], lr=0.1, **settings)


def moves(weights: Any, step: Any) -> bool:
    old = weights.detach().clone()
    step()
    return not torch.equal(old, weights)


@pytest.mark.parametrize("kind", FUSED)
def test_a_fused_step_looks_on_the_device_and_the_host_does_not_wait(guarded: Any, kind: Any) -> None:
    weights, optimizer = weights_and(kind, fused=True)
    (issuer,) = guarded(0.0)
    assert moves(weights, optimizer.step)
    issuer.word = 1.0
    assert not moves(weights, optimizer.step)
    # The step did not count either.
    assert all(state["step"].item() == 1 for state in optimizer.state.values() if "step" in state)
    issuer.word = 0.0
    assert moves(weights, optimizer.step) and issuer.waits == 0
    assert not hasattr(optimizer, "found_inf")


def test_one_failure_of_several_is_enough(guarded: Any) -> None:
    weights, optimizer = weights_and(torch.optim.AdamW, fused=True)
    issuers = guarded(0.0, 1.0, None)
    assert not moves(weights, optimizer.step)
    assert sorted(issuer.waits for issuer in issuers) == [0, 0, 1], "who has no word is waited for"
    assert not hasattr(optimizer, "found_inf")


class Own(torch.optim.SGD):
    """Might do anything with ``found_inf``."""


@pytest.mark.parametrize(
    "kind, settings", [(torch.optim.AdamW, {}), (torch.optim.AdamW, {"foreach": True}), (Own, {"fused": True})]
)
def test_the_host_waits_for_steps_that_cannot_look(guarded: Any, kind: Any, settings: Any) -> None:
    weights, optimizer = weights_and(kind, **settings)
    (issuer,) = guarded(1.0)
    assert moves(weights, optimizer.step) and issuer.waits == 1


def test_the_host_waits_where_a_weight_is_elsewhere(guarded: Any) -> None:
    weights, optimizer = weights_and(torch.optim.SGD, fused=True)
    (issuer,) = guarded(1.0)
    issuer.device = torch.device("cuda", 0)
    assert moves(weights, optimizer.step) and issuer.waits == 1


def test_the_host_waits_where_the_user_says_so(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, optimizer = weights_and(torch.optim.SGD, fused=True)
    (issuer,) = guarded(1.0)
    monkeypatch.setenv("MYELON_TORCH_STEP_CHECK", "host")
    assert moves(weights, optimizer.step) and issuer.waits == 1


def test_what_a_gradient_scaler_found_counts_as_well_and_stays_its_own(guarded: Any) -> None:
    weights, optimizer = weights_and(torch.optim.SGD, fused=True)
    (issuer,) = guarded(0.0)
    for found, word in ((1.0, 0.0), (0.0, 1.0), (0.0, 0.0)):
        optimizer.found_inf, issuer.word = torch.tensor(found), word
        before = optimizer.found_inf
        assert moves(weights, optimizer.step) == (found == word == 0.0)
        assert optimizer.found_inf is before


def test_a_step_that_raises_tells_the_next_one_nothing(guarded: Any) -> None:
    weights, optimizer = weights_and(torch.optim.SGD, fused=True)
    (issuer,) = guarded(1.0)

    def closure() -> float:
        raise ValueError("a closure")

    with pytest.raises(ValueError, match="a closure"):
        optimizer.step(closure)
    issuer.word = 0.0
    assert moves(weights, optimizer.step) and not hasattr(optimizer, "found_inf")


def scaler_of_4() -> Any:
    """A scaler that has scaled a loss."""
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.ones(()))
    return scaler


def refuse(*_: Any) -> None:
    raise MemoryError("somebody's hook")


def test_a_scaler_is_heard_behind_a_step_that_raised(guarded: Any) -> None:
    weights, optimizer = weights_and(torch.optim.SGD, fused=True)
    guarded(0.0)
    hook = optimizer.register_step_pre_hook(refuse)
    with pytest.raises(MemoryError):
        optimizer.step()
    hook.remove()
    weights.grad.fill_(float("inf"))
    scaler = scaler_of_4()
    assert not moves(weights, lambda: scaler.step(optimizer))


def test_what_a_step_was_told_goes_where_a_later_issuer_raises(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, optimizer = weights_and(torch.optim.SGD, fused=True)
    guarded(0.0)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="a peer is lost"):
        patch.setattr(steps, "_guarded", [Issuer(1.0), failing_issuer()])
        optimizer.step()
    assert not hasattr(optimizer, "found_inf")


def failing_issuer() -> Issuer:
    issuer = Issuer(None)

    def failed() -> Any:
        raise RuntimeError("a peer is lost")

    issuer.failed = failed  # type: ignore[method-assign]
    return issuer


def test_a_scaler_that_met_no_gradient_of_an_optimizer(guarded: Any) -> None:
    guarded(0.0)
    (one, first), (other, second) = (weights_and(torch.optim.AdamW, fused=True) for _ in range(2))
    other.grad = None
    scaler = scaler_of_4()
    assert moves(one, lambda: scaler.step(first)) and not moves(other, lambda: scaler.step(second))
    scaler.update()


def test_a_scaler_begins_anew_behind_a_step_that_was_refused(guarded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, optimizer = weights_and(torch.optim.SGD, fused=True)
    weights.grad.fill_(4.0)
    scaler = scaler_of_4()
    guarded(0.0)
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="a peer is lost"):
        patch.setattr(steps, "_guarded", [Issuer(0.0), failing_issuer()])
        scaler.step(optimizer)
    assert not hasattr(optimizer, "grad_scale") and not hasattr(optimizer, "found_inf")
    scaler.step(optimizer)
    assert weights.tolist() == pytest.approx([0.9] * 10)


def test_the_host_waits_for_the_step_that_momentum_begins_with(guarded: Any) -> None:
    weights, optimizer = weights_and(torch.optim.SGD, fused=True, momentum=0.9)
    (issuer,) = guarded(0.0)
    weights.grad, gradient = None, weights.grad
    optimizer.step()
    assert issuer.waits == 0, "without a gradient nothing begins"
    weights.grad = gradient
    assert moves(weights, optimizer.step) and issuer.waits == 1
    issuer.word = 1.0
    assert not moves(weights, optimizer.step) and issuer.waits == 1


def test_a_compiled_step_looks_as_well(guarded: Any) -> None:
    weights, optimizer = weights_and(torch.optim.SGD, fused=True)
    (issuer,) = guarded(0.0)
    compiled = torch.compile(optimizer.step, backend="eager")
    for word in (0.0, 1.0, 0.0, 1.0):
        issuer.word = word
        assert moves(weights, compiled) == (word == 0.0)
    assert issuer.waits == 0


def test_a_value_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYELON_TORCH_STEP_CHECK", "2")
    with pytest.raises(Exception, match="MYELON_TORCH_STEP_CHECK is '2': it takes 0 or host or device"):
        steps.guard(Issuer(None))  # type: ignore[arg-type]


def test_an_empty_variable_counts_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEP_CHECK", "STRICT", "BLOCKING_WAIT", "COLLECTIVES"):
        monkeypatch.setenv(f"MYELON_TORCH_{name}", "")
    monkeypatch.setenv("MYELON_TIMEOUT", "")
    assert (settings.step_check(), settings.strict(), settings.blocking_wait()) == ("device", False, False)
    assert settings.collectives() == {"all_reduce"}
    monkeypatch.setenv("MYELON_MAX_LANES", "")
    options = settings.options(timedelta(minutes=10))
    assert (options.timeout, options.large_lanes, options.meeting_timeout) == (0.0, 64, 600.0)


@pytest.mark.parametrize("name", ["MYELON_MAX_LANES", "MYELON_LARGE_LANES"])
def test_lanes_that_the_environment_bounds_are_left_to_it(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "96")
    assert settings.options(timedelta(seconds=9)).large_lanes is None
