#!/usr/bin/env python3
"""Times training steps of genir against PyTorch's, all processes alternating in one run.

    python3 benches/side_by_side/run.py [--shape t5-small t5-base] [--rounds 15]

All train the same shape on 32 sources of 32 tokens (denoising: of 128 tokens, with 32 labels) with AdamW in f32 on the
same cores, one at a time, so that whatever else the machine does meets all alike. benches/README.md has the line protocol and how to read the tables.
"""

import argparse
import shlex
import statistics
import sys

from peers import PYTORCH_PEER, Peer, PeerError, alternate, print_table, python_with_torch, started

OURS = "cargo run --quiet --release --example step_server -- MODE SHAPE"
SETS = ("restricted", "cached", "lora", "cached-lora")
MODES = ("full", "denoising", *SETS, *(f"{mode}+docids" for mode in SETS))
SHAPES = ("t5-small", "t5-base", "t5-large")
BEFORE = ", before"
FULL, FROZEN, PEFT = "PyTorch full", "PyTorch, the same frozen", "PyTorch, the same LoRA"
DENOISING = "PyTorch denoising"
# Sources and labels of denoising, in tokens.
TEXT = ["--length", "128", "--target", "32"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["full", "cached", "cached+docids", "cached-lora"], help="of genir")
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["t5-small", "t5-base"])
    parser.add_argument("--rounds", type=int, default=15, help="turns of each process")
    parser.add_argument("--steps", type=int, default=3, help="steps of a turn; of several the first is not counted (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="threads and cores of each process")
    parser.add_argument("--fused", action="store_true", help="let PyTorch use its fused AdamW")
    parser.add_argument("--ours", default=OURS, help="command of genir's side; MODE and SHAPE are filled in (default: %(default)s)")
    parser.add_argument("--before", metavar="COMMAND", help="command of an earlier build, in the form of --ours: each mode is compared with it, too")
    parser.add_argument("--pytorch-only", action="store_true", help="PyTorch against itself: shows how far equal things seem apart")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.steps < 1:
        parser.error("--rounds and --steps must be at least 1")

    python = python_with_torch()
    steps, ratios = [], []
    try:
        for shape in arguments.shape:
            print(f"{shape}:", file=sys.stderr)
            with started(commands(arguments, python, shape), arguments.threads) as peers:
                alternate(list(peers.values()), arguments.rounds, arguments.steps)
            warn_if_different(peers)
            steps += [step_row(shape, peer) for peer in peers.values()]
            ratios += [ratio_row(shape, peers[one], peers[other]) for one, other in pairs(peers)]
    except PeerError as error:
        sys.exit(str(error))
    print(f"\n{arguments.rounds} rounds of {arguments.steps} steps, {arguments.threads} threads\n")
    print_table(["shape", "process", "trained", "median ms", "best ms", "peak MiB"], steps)
    print()
    print_table(["shape", "genir", "against", "time", "", "of pairs", "its quartiles", "memory"], ratios, left=3)


def commands(arguments: argparse.Namespace, python: str, shape: str) -> dict[str, list[str]]:
    """Of each process, by its name."""

    def theirs(mode: str) -> list[str]:
        command = [python, str(PYTORCH_PEER), mode, shape, "--threads", str(arguments.threads)]
        command += TEXT if mode == "denoising" else []
        return [*command, "--fused"] if arguments.fused else command

    if arguments.pytorch_only:
        return {"PyTorch full again": theirs("full"), FULL: theirs("full")}

    def ours(command: str, mode: str) -> list[str]:
        words = [{"MODE": mode, "SHAPE": shape}.get(word, word) for word in shlex.split(command)]
        return words + (TEXT if mode == "denoising" else [])

    started = {}
    for mode in arguments.modes:
        started[f"genir {mode}"] = ours(arguments.ours, mode)
        if arguments.before:
            started[f"genir {mode}{BEFORE}"] = ours(arguments.before, mode)
    if "denoising" in arguments.modes:
        started[DENOISING] = theirs("denoising")
    if any(mode != "denoising" for mode in arguments.modes):
        started[FULL] = theirs("full")
    if any("lora" not in mode and mode not in ("full", "denoising") for mode in arguments.modes):
        started[FROZEN] = theirs("restricted")
    if any("lora" in mode for mode in arguments.modes):
        started[PEFT] = theirs("lora")
    return started


def pairs(peers: dict[str, Peer]) -> list[tuple[str, str]]:
    """Which process is compared with which."""
    found = []
    for name in peers:
        if name in (FULL, FROZEN, PEFT, DENOISING) or name.endswith(BEFORE):
            continue
        if name + BEFORE in peers:
            found.append((name, name + BEFORE))
        found.append((name, DENOISING if name == "genir denoising" else FULL))
        if "lora" in name:
            found.append((name, PEFT))
            trained = name.replace("cached-lora", "cached").replace("lora", "restricted")
            if trained in peers:
                found.append((name, trained))
        elif name.startswith(("genir restricted", "genir cached")):
            found.append((name, FROZEN))
        without = name.removesuffix("+docids")
        if without != name and without in peers:
            found.append((name, without))
    return found


def warn_if_different(peers: dict[str, Peer]):
    """Says so where two processes that should train the same do not."""
    pairs = [("genir full", FULL), ("genir denoising", DENOISING), ("genir restricted", FROZEN), ("genir cached", FROZEN)]
    for one, other in [*pairs, ("genir lora", PEFT), ("genir cached-lora", PEFT)]:
        counts = [peers[name].trained for name in (one, other) if name in peers]
        if len(counts) == 2 and counts[0] != counts[1]:
            print(f"warning: {one} trains {counts[0]} parameters, {other} {counts[1]}", file=sys.stderr)


def step_row(shape: str, peer: Peer) -> list[str]:
    milliseconds = [1e3 * seconds for seconds in peer.seconds]
    trained = f"{peer.trained:,}" if peer.trained is not None else "?"
    return [shape, peer.name, trained, f"{statistics.median(milliseconds):.1f}", f"{min(milliseconds):.1f}", f"{peer.peak_mib}"]


def ratio_row(shape: str, one: Peer, other: Peer) -> list[str]:
    """Of medians, and of the steps of one round, each with the other's."""
    time = statistics.median(one.seconds) / statistics.median(other.seconds)
    ratios = [mine / theirs for mine, theirs in zip(one.seconds, other.seconds)]
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    said = f"1/{1 / time:.1f}" if time < 0.5 else f"{100 * (time - 1):+.0f}%"
    of_pairs = [f"{statistics.median(ratios):.3f}", f"{low:.3f}-{high:.3f}"]
    return [shape, one.name, other.name, f"{time:.3f}", said, *of_pairs, f"{one.peak_mib / other.peak_mib:.2f}"]


if __name__ == "__main__":
    main()
