#!/usr/bin/env python3
"""Times a training step of genir against PyTorch's, both processes alternating in one run.

    python3 benches/side_by_side/run.py [--modes full restricted] [--shape t5-small] [--rounds 15]

Both train the same shape on 32 sources of 32 tokens with AdamW in f32 on the same cores, one step at a time, so that
whatever else the machine does meets both alike. benches/README.md has the line protocol and how to read the table.
"""

import argparse
import contextlib
import importlib.util
import math
import os
import shlex
import statistics
import subprocess
import sys
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
REQUIREMENTS = REPOSITORY / "tests" / "python" / "requirements.txt"
ENVIRONMENT = REPOSITORY / "target" / "side_by_side_venv"
OURS = "cargo run --quiet --release --example step_server -- MODE SHAPE"
# The thread pools of one process may spin for a moment after its step; the other's step waits for that to end.
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
    def start(cls, name: str, command: list[str], threads: int) -> "Peer":
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env=environment(threads)
            )
        except OSError as error:
            raise PeerError(f"{name} cannot be started: {shlex.join(command)}: {error}") from error
        return cls(name, process)

    def wait_until_ready(self, threads: int):
        fields = self.answer("READY")
        self.trained = int(fields[0]) if fields else None
        pin(self.process.pid, threads)

    def step(self):
        self.tell("step")
        seconds, loss = self.answer("T", 2)
        self.seconds.append(float(seconds))
        self.losses.append(float(loss))
        if not math.isfinite(self.losses[-1]):
            raise PeerError(f"{self.name}: the loss of step {len(self.losses)} is {loss}")

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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="+", choices=("full", "restricted"), default=["full", "restricted"])
    parser.add_argument("--shape", choices=("t5-small", "t5-base"), default="t5-small")
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each process")
    parser.add_argument("--threads", type=int, default=2, help="threads and cores of each process")
    parser.add_argument("--fused", action="store_true", help="let PyTorch use its fused AdamW")
    parser.add_argument("--ours", default=OURS, help="command of genir's side; MODE and SHAPE are filled in (default: %(default)s)")
    parser.add_argument("--pytorch-only", action="store_true", help="PyTorch against itself: shows how far equal things seem apart")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")

    python = python_with_torch()
    rows = []
    try:
        for mode in arguments.modes:
            theirs = [python, str(HERE / "pytorch_peer.py"), mode, arguments.shape, "--threads", str(arguments.threads)]
            theirs += ["--fused"] if arguments.fused else []
            ours = [{"MODE": mode, "SHAPE": arguments.shape}.get(word, word) for word in shlex.split(arguments.ours)]
            first = ("PyTorch again", theirs) if arguments.pytorch_only else ("genir", ours)
            rows += compare(mode, [first, ("PyTorch", theirs)], arguments.rounds, arguments.threads)
    except PeerError as error:
        sys.exit(str(error))
    print(f"\n{arguments.shape}, {arguments.rounds} rounds, {arguments.threads} threads\n")
    print_table(rows)


def compare(mode: str, commands: list[tuple[str, list[str]]], rounds: int, threads: int) -> list[list[str]]:
    """Table rows of the processes, the last being what the others are compared with."""
    peers = []
    try:
        for name, command in commands:
            print(f"{mode}: starting {name}", file=sys.stderr)
            peers.append(Peer.start(name, command, threads))
            # One after the other: a warm-up beside another's start would be slower, and its memory peak another.
            peers[-1].wait_until_ready(threads)
        warn_if_different(peers)
        for number in range(rounds):
            # Turn about, so that neither is always the one that follows the other.
            for peer in peers if number % 2 else reversed(peers):
                peer.step()
                time.sleep(PAUSE_SECONDS)
        for peer in peers:
            peer.quit()
    finally:
        for peer in peers:
            if peer.process.poll() is None:
                peer.process.kill()
    return [table_row(mode, peer, peers[-1]) for peer in peers]


def warn_if_different(peers: list[Peer]):
    counts = {peer.trained for peer in peers} - {None}
    if len(counts) > 1:
        listed = ", ".join(f"{peer.name} {peer.trained:,}" for peer in peers if peer.trained is not None)
        print(f"warning: not the same number of trained parameters: {listed}", file=sys.stderr)


def table_row(mode: str, peer: Peer, base: Peer) -> list[str]:
    row = [mode, peer.name, f"{peer.trained:,}" if peer.trained is not None else "?"]
    row += [f"{1e3 * statistics.median(peer.seconds):.1f}", f"{1e3 * min(peer.seconds):.1f}"]
    if peer is base:
        return [*row, "1", "", f"{peer.peak_mib}", "1"]
    ratios = [mine / other for mine, other in zip(peer.seconds, base.seconds)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    row += [f"{statistics.median(ratios):.3f}", f"{low:.3f}-{high:.3f}"]
    return [*row, f"{peer.peak_mib}", f"{peer.peak_mib / base.peak_mib:.2f}"]


def print_table(rows: list[list[str]]):
    heading = ["mode", "process", "trained", "median ms", "best ms", "ratio", "its quartiles", "peak MiB", "ratio"]
    widths = [max(len(row[column]) for row in [heading, *rows]) for column in range(len(heading))]
    for row in [heading, ["-" * width for width in widths], *rows]:
        cells = [cell.ljust(width) if column < 2 else cell.rjust(width) for column, (cell, width) in enumerate(zip(row, widths))]
        print(f"| {' | '.join(cells)} |")


def environment(threads: int) -> dict[str, str]:
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


def python_with_torch() -> str:
    """This Python if it has what the peer needs, else one in an environment of its own, made on first use."""
    if all(importlib.util.find_spec(module) for module in ("torch", "transformers")):
        return sys.executable
    python = ENVIRONMENT / "bin" / "python"
    installed = ENVIRONMENT / "installed"
    if not installed.exists():
        print(f"installing PyTorch into {ENVIRONMENT}: 5 GB, a few minutes", file=sys.stderr)
        venv.create(ENVIRONMENT, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", REQUIREMENTS], check=True)
        installed.touch()
    return str(python)


if __name__ == "__main__":
    main()
