"""The processes of one engine of the benchmark, a rank each: started once, asked many times, waited for with a bound."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any, Dict, List, Optional

RANK = Path(__file__).resolve().parent / "torch_bench.py"
ANSWER = "answer "


class Engine:
    """Ranks of ``torch_bench.py``. Its name is what carries collectives out, then variables of their environment as ``NAME=VALUE``.

    What they write to standard output is theirs, but for lines that begin as an answer does.
    """

    def __init__(self, name: str, ranks: int, preload: Optional[Path], arguments: List[str], limit: float) -> None:
        self.name = name
        self._limit = limit
        environment = dict(os.environ, MASTER_ADDR="127.0.0.1", WORLD_SIZE=str(ranks))
        # Multicast is off in every row, so that engines differ in nothing else; a user's choice stays.
        environment.setdefault("NCCL_NVLS_ENABLE", "0")
        environment.setdefault("OMP_NUM_THREADS", "1")
        kind, *settings = name.split()
        environment.update(setting.split("=", 1) for setting in settings)
        if kind == "preloaded" and preload is not None:
            environment["LD_PRELOAD"] = str(preload.resolve())
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            environment["MASTER_PORT"] = str(free.getsockname()[1])
        backend = "myelon" if kind == "myelon" else "nccl"
        # Not by torchrun, which would import torch once more before its ranks do.
        self._ranks = [
            subprocess.Popen(
                [sys.executable, str(RANK), "--backend", backend, *arguments],
                env=dict(environment, RANK=str(rank), LOCAL_RANK=str(rank)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if rank == 0 else None,
                text=True,
            )
            for rank in range(ranks)
        ]
        self._answers: "queue.Queue[str]" = queue.Queue()
        threading.Thread(target=self._read, args=(self._ranks[0].stdout,), daemon=True).start()

    def ask(self, what: str) -> Dict[str, Any]:
        """Tells all ranks a word, and returns what rank 0 answers."""
        end = time.monotonic() + self._limit
        for rank in self._ranks:
            assert rank.stdin is not None
            try:
                rank.stdin.write(what + "\n")
                rank.stdin.flush()
            except BrokenPipeError:
                # It ended: the loop tells.
                continue
        while True:
            try:
                answer: Dict[str, Any] = json.loads(self._answers.get(timeout=0.2))
                return answer
            except queue.Empty:
                pass
            codes = [rank.poll() for rank in self._ranks]
            if any(code is not None for code in codes):
                raise SystemExit(f"{self.name}: asked to {what}, ranks ended with {codes}: what they wrote is above")
            if time.monotonic() > end:
                raise SystemExit(f"{self.name}: asked to {what}, no answer within {self._limit:.0f} s (--limit)")

    def end(self) -> None:
        """Lets the ranks end, and ends those that do not."""
        for rank in self._ranks:
            assert rank.stdin is not None
            try:
                rank.stdin.close()
            except BrokenPipeError:
                continue
        end = time.monotonic() + 20
        for rank in self._ranks:
            try:
                rank.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                rank.kill()
                rank.wait()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            if line.startswith(ANSWER):
                self._answers.put(line[len(ANSWER) :])
            else:
                print(line, end="", flush=True)
