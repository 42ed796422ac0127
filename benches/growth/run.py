#!/usr/bin/env python3
"""A training step's cost beside that of its arithmetic alone, as one size after another grows.

    python3 benches/growth/run.py [--grow documents length depth] [--modes full cached+docids]

For each size the step and its matrix products alone take turns in one process (`examples/step_server`), the products
with the step's own library. A step may cost more than its products, but must not grow faster: the last column is the
power of the size with which step / products grows from row to row; 0 is what it should be, 1 a factor too many.
"""

import argparse
import math
import shlex
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "side_by_side"))
from peers import PeerError, print_table, started  # noqa: E402

OURS = "cargo run --quiet --release --example step_server --"
SIZES = {
    "documents": [1_000, 10_000, 100_000, 1_000_000],
    "length": [16, 32, 64, 128, 256, 512],
    "depth": [3, 6, 12, 24],
}
QUICK = {"documents": [1_000, 10_000], "length": [16, 32], "depth": [3, 6]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grow", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--modes", nargs="+", default=["full", "restricted", "cached+docids"], help="as step_server has them")
    parser.add_argument("--width", type=int, default=128, help="d_model; the MLP is four times as wide")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="the first sizes only")
    parser.add_argument("--ours", default=OURS, help="step_server's command (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        for grown in arguments.grow:
            sizes = (QUICK if arguments.quick else SIZES)[grown]
            for mode in arguments.modes:
                rows = [measured(arguments, mode, grown, size) for size in sizes]
                print(f"\n{mode}, growing {grown} ({described(arguments, grown)})\n")
                show(grown, sizes, rows)
    except PeerError as error:
        sys.exit(str(error))


def described(arguments: argparse.Namespace, grown: str) -> str:
    fixed = {"documents": "1,000 documents", "length": "32 tokens", "depth": "6 + 6 layers"}
    rest = ", ".join(text for size, text in fixed.items() if size != grown)
    return f"width {arguments.width}, batch {arguments.batch}, 5,000 words, {rest}"


def measured(arguments: argparse.Namespace, mode: str, grown: str, size: int) -> tuple[float, float, float, int]:
    """Medians of a step's and of its products' seconds, their GFLOP, and the peak memory in MiB after the steps."""
    at = {"documents": 1_000, "length": 32, "depth": 6} | {grown: size}
    width = arguments.width
    shape = f"{width},{4 * width},{max(1, width // 64)},{at['depth']}"
    command = [*shlex.split(arguments.ours), mode, shape, "--words", "5000", "--warm-up", "2"]
    command += ["--batch", str(arguments.batch), "--length", str(at["length"]), "--documents", str(at["documents"])]
    name = f"{mode}, {grown} {size:,}"
    with started({name: command}, arguments.threads) as peers:
        peer = peers[name]
        alone = []
        for _ in range(arguments.rounds):
            peer.step()
            alone.append(peer.products())
        peer.quit()
    seconds = [seconds for seconds, _ in alone]
    return statistics.median(peer.seconds), statistics.median(seconds), alone[0][1], peer.peak_mib


def show(grown: str, sizes: list[int], rows: list[tuple[float, float, float, int]]):
    table = []
    before = None
    for size, (step, products, gigaflop, _) in zip(sizes, rows, strict=True):
        ratio = step / products
        power = f"{math.log(ratio / before[1]) / math.log(size / before[0]):+.2f}" if before else ""
        rate = f"{gigaflop / products:.0f}"
        table.append([f"{size:,}", f"{1e3 * step:.1f}", f"{1e3 * products:.1f}", f"{gigaflop:.2f}", rate, f"{ratio:.2f}", power])
        before = (size, ratio)
    heading = [grown, "step ms", "products alone ms", "GFLOP", "GFLOP/s of products", "step / products", "power"]
    print_table(heading, table, left=0)
    (first, *_, last), grown_by = rows, math.log(sizes[-1] / sizes[0])
    powers = [math.log(last[at] / first[at]) / grown_by for at in (0, 1)]
    print(f"\nfrom first to last the step grows with the power {powers[0]:.2f} of {grown}, its products with {powers[1]:.2f}")


if __name__ == "__main__":
    main()
