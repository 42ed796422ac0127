"""Processes that train a step when told to, alternating: what run.py, benches/growth and scripts/gpu_check.py share.

The line protocol is in benches/README.md.
"""

import contextlib
import importlib.util
import math
import os
import shlex
import subprocess
import sys
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PYTORCH_PEER = Path(__file__).resolve().parent / "pytorch_peer.py"
REQUIREMENTS = REPOSITORY / "tests" / "python" / "requirements.txt"
ENVIRONMENT = REPOSITORY / "target" / "side_by_side_venv"
# The thread pools of one process may spin for a moment after its step; the other's turn waits for that to end.
PAUSE_SECONDS = 0.05


class PeerError(Exception):
    """A process died or did not keep to the protocol."""


@dataclass
class Peer:
    """One process that trains a step when told to."""

    name: str
    process: subprocess.Popen
    trained: int | None = None
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak_mib: int = 0

    @classmethod
    def start(cls, name: str, command: list[str], threads: int | None = None) -> "Peer":
        """Starts `command`; with `threads`, on as many cores and with thread pools of that size."""
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment(threads)
            )
        except OSError as error:
            raise PeerError(f"{name} cannot be started: {shlex.join(command)}: {error}") from error
        return cls(name, process)

    def wait_until_ready(self, threads: int | None = None):
        fields = self.answer("READY")
        self.trained = int(fields[0]) if fields else None
        if threads:
            pin(self.process.pid, threads)

    def step(self):
        self.tell("step")
        seconds, loss = self.answer("T", 2)
        self.seconds.append(float(seconds))
        self.losses.append(float(loss))
        if not math.isfinite(self.losses[-1]):
            raise PeerError(f"{self.name}: the loss of step {len(self.losses)} is {loss}")

    def turn(self, steps: int):
        """Steps in a row. Of several the first does not count: it finds the caches full of what another process left there, where a step
        of a training follows its like."""
        before = len(self.seconds)
        for _ in range(steps):
            self.step()
        if steps > 1:
            del self.seconds[before]

    def products(self) -> tuple[float, float]:
        """Seconds that a step's matrix products take alone, and their GFLOP."""
        self.tell("products")
        seconds, gigaflop = self.answer("P", 2)
        return float(seconds), float(gigaflop)

    def quit(self):
        self.tell("quit")
        self.peak_mib = int(self.answer("HWM", 1)[0])
        self.process.wait()

    def tell(self, line: str):
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(f"{self.name} ended before `{line}` with status {self.process.wait()}") from None

    def answer(self, word: str, least: int = 0) -> list[str]:
        """What follows `word` on the next line that starts with it; other lines are passed on for the reader."""
        for line in self.process.stdout:
            fields = line.split()
            if fields[:1] == [word] and len(fields) > least:
                return fields[1:]
            print(f"[{self.name}] {line}", end="", file=sys.stderr)
        raise PeerError(f"{self.name} ended with status {self.process.wait()} instead of saying `{word}`")


@contextlib.contextmanager
def started(commands: dict[str, list[str]], threads: int | None = None):
    """The processes of `commands` by name, ready for their first step; none is left behind."""
    peers: dict[str, Peer] = {}
    try:
        for name, command in commands.items():
            print(f"starting {name}", file=sys.stderr)
            peers[name] = Peer.start(name, command, threads)
            # One after the other: a warm-up beside another's start would be slower, and its memory peak another.
            peers[name].wait_until_ready(threads)
        yield peers
    finally:
        for peer in peers.values():
            if peer.process.poll() is None:
                peer.process.kill()


def alternate(peers: list[Peer], rounds: int, steps: int):
    """`rounds` turns of each, of so many `steps`, one after another, then their ends."""
    for number in range(rounds):
        # There and back, so that none is always the one that follows a certain other.
        for peer in peers if number % 2 else reversed(peers):
            peer.turn(steps)
            time.sleep(PAUSE_SECONDS)
    for peer in peers:
        peer.quit()


def print_table(heading: list[str], rows: list[list[str]], left: int = 2):
    """A Markdown table whose first `left` columns are words."""
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
    rules = ["-" * width if column < left else "-" * (width - 1) + ":" for column, width in enumerate(widths)]
    for row in [heading, rules, *rows]:
        cells = [cell.ljust(width) if column < left else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths))]
        print(f"| {' | '.join(cells)} |")


def environment(threads: int | None) -> dict[str, str]:
    if threads is None:
        return dict(os.environ)
    count = str(threads)
    return os.environ | {"RAYON_NUM_THREADS": count, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count}


def pin(process: int, threads: int):
    """Keeps all threads of a process on the first cores: some libraries size their pools by the machine. Linux only."""
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))[:threads]
    for thread in os.listdir(f"/proc/{process}/task"):
        with contextlib.suppress(ProcessLookupError):  # the thread has ended since
            os.sched_setaffinity(int(thread), cores)


def has_torch() -> bool:
    return all(importlib.util.find_spec(module) for module in ("torch", "transformers", "peft"))


def python_with_torch() -> str:
    """This Python if it has what the peer needs, else one in an environment of its own, made on first use."""
    if has_torch():
        return sys.executable
    python = ENVIRONMENT / "bin" / "python"
    installed = ENVIRONMENT / "installed"
    requirements = REQUIREMENTS.read_text()
    if not installed.exists() or installed.read_text() != requirements:
        print(f"installing PyTorch into {ENVIRONMENT}: 5 GB, a few minutes", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        installed.write_text(requirements)
    return str(python)
