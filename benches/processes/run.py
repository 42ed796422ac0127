#!/usr/bin/env python3
"""Times the updates of one run with 1 and with several processes of one thread each, and compares their weights.

    cargo build --release --features mpi
    benches/processes/run.py [--genir target/release/genir] [--processes 2] [--steps 40] [--rounds 3]

One process has as many threads as there are processes in the other case: the same cores. The runs take turns; medians
over the rounds are printed as Markdown. The exit status is 1 if the weights differ in a bit. The corpus is the bundled one.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ARMS = {
    "full": ("quickstart-full", []),
    "restricted, cached": ("quickstart-restricted", []),
    "LoRA on restricted, cached": (
        "quickstart-restricted",
        ['trainable.select=["lora(restricted, rank=8, alpha=16)", "docids"]'],
    ),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genir", type=Path, default=Path("target/release/genir"))
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batches", type=int, default=4, help="of an update (train.accumulate)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print(f"{arguments.batches} batches of {arguments.batch_size} an update, {arguments.steps} updates, medians of {arguments.rounds} rounds\n")
    print(f"| trained | gradients | 1 process, ms an update | {arguments.processes} processes | time against 1 process | same weights |")
    print("| --- | --- | --- | --- | --- | --- |")
    all_same = True
    with tempfile.TemporaryDirectory() as home:
        for name, (recipe, more) in ARMS.items():
            times, weights = {1: [], arguments.processes: []}, set()
            for _ in range(arguments.rounds):
                for count, found in times.items():
                    seconds, trained, digest = train(arguments, Path(home), recipe, more, count)
                    found.append(1e3 * seconds / arguments.steps)
                    weights.add(digest)
            one, several = (statistics.median(found) for found in times.values())
            all_same &= len(weights) == 1
            print(f"| {name} | {4 * trained / 2**20:.1f} MiB | {one:.1f} | {several:.1f} | {several / one:.2f} | {'yes' if len(weights) == 1 else 'no'} |", flush=True)
    return 0 if all_same else 1


def train(arguments, home, recipe, more, count):
    """Seconds of the updates, trained parameters, and a hash of the weights at the end."""
    run = home / "run"
    command = [
        str(arguments.genir.resolve()), "train", recipe, f"run.directory={run}", "--overwrite",
        f"train.batch_size={arguments.batch_size}", f"train.accumulate={arguments.batches}", "~train.epochs",
        f"train.steps={arguments.steps}", "schedule.warmup_steps=1", "~evaluate.every_epochs",
        f"evaluate.every_steps={arguments.steps}", "evaluate.memorisation=0", "~probes", f"cache.directory={home}/cache", *more,
    ]
    threads = arguments.processes if count == 1 else 1
    if count > 1:
        # Containers run as root.
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", str(count), *command]
    done = subprocess.run(command, env={**os.environ, "RAYON_NUM_THREADS": str(threads)}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    summary = json.loads((run / "summary.json").read_text())
    weights = hashlib.sha256((run / "checkpoints/latest/model.safetensors").read_bytes()).hexdigest()
    return summary["seconds"]["steps"], summary["parameters"]["trained"], weights


if __name__ == "__main__":
    sys.exit(main())
