"""Processes that tests run functions in, one a rank: started once, told what to run, waited for with a bound."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import time
import traceback
from typing import Any, Callable, Dict, List, Optional

# Tenfold of what a slow machine needs: kernels of the CPU device are compiled at their first use.
PATIENCE = float(os.environ.get("MYELON_TEST_PATIENCE", "240"))


class Failure:
    """What a rank raised."""

    def __init__(self, error: BaseException) -> None:
        self.text = traceback.format_exc()
        self.kind = type(error).__name__
        self.message = str(error)
        self.fields = {name: getattr(error, name, None) for name in ("rank", "peer", "lane", "status")}

    def __repr__(self) -> str:
        return f"Failure({self.kind}: {self.message})"


def _serve(pipe: Any, environment: Dict[str, str], rank: int, size: int) -> None:
    os.environ.update(environment, RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        if task is None:
            return
        function, arguments = task
        # Where a rank hangs is told before the parent loses patience.
        faulthandler.dump_traceback_later(0.9 * PATIENCE)
        try:
            pipe.send(function(*arguments))
        except BaseException as error:  # noqa: BLE001, the parent judges
            pipe.send(Failure(error))
        finally:
            faulthandler.cancel_dump_traceback_later()


class Ranks:
    """``size`` processes; in each of them ``RANK`` and ``WORLD_SIZE`` are set as torchrun does."""

    def __init__(self, size: int, environment: Optional[Dict[str, str]] = None) -> None:
        context = multiprocessing.get_context("spawn")
        self.size = size
        self._pipes, self.processes = [], []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, environment or {}, rank, size), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self.processes.append(process)

    def tell(self, rank: int, function: Callable[..., Any], *arguments: Any) -> None:
        """Starts a function on one rank; :meth:`hear` has what it returns."""
        self._pipes[rank].send((function, arguments))

    def hear(self, rank: int, patience: float = PATIENCE) -> Any:
        """What the function that a rank was told returned, or its :class:`Failure`."""
        if not self._pipes[rank].poll(patience):
            raise AssertionError(f"rank {rank} did not end within {patience} seconds")
        return self._pipes[rank].recv()

    def outcomes(self, function: Callable[..., Any], *arguments: Any, patience: float = PATIENCE) -> List[Any]:
        """Runs a function on all ranks at once and returns what each returned or failed with."""
        for rank in range(self.size):
            self.tell(rank, function, *arguments)
        end = time.monotonic() + patience
        return [self.hear(rank, max(0.0, end - time.monotonic())) for rank in range(self.size)]

    def run(self, function: Callable[..., Any], *arguments: Any, patience: float = PATIENCE) -> List[Any]:
        """As :meth:`outcomes`; a failure of a rank is one of the test."""
        outcomes = self.outcomes(function, *arguments, patience=patience)
        failures = [f"rank {rank}: {told.text}" for rank, told in enumerate(outcomes) if isinstance(told, Failure)]
        assert not failures, "\n".join(failures)
        return outcomes

    def close(self) -> None:
        """Ends the processes, by force where they do not end by themselves."""
        for pipe in self._pipes:
            try:
                pipe.send(None)
            except (BrokenPipeError, OSError):
                pass
            pipe.close()
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.kill()
                process.join()
