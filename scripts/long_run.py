#!/usr/bin/env python3
"""Trains a tiny model for many steps, undisturbed and killed again and again, and compares the two.

    python3 scripts/long_run.py OUTPUT [--steps 100000] [--kills 20] [--genir target/release/genir]

Reports the resident memory, the open files and the disk use over the run, and whether the last weights and moments of
both runs are the same bytes. The samples are in OUTPUT/samples.csv, the plot in OUTPUT/memory.svg (if matplotlib is
installed). Needs Linux (/proc).
"""

import argparse
import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="new directory")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1, help="of the moments of the kills")
    parser.add_argument("--genir", type=Path, default=ROOT / "target/release/genir")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True)

    samples = []
    undisturbed = command(arguments, "undisturbed")
    watch(undisturbed, arguments.output / "undisturbed", samples, "undisturbed", kill_at=None)
    killed = kill_often(arguments, samples)

    with open(arguments.output / "samples.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["run", "seconds", "step", "rss_mib", "files", "disk_mib"])
        writer.writeheader()
        writer.writerows(samples)
    plot(samples, arguments.output / "memory.svg")
    report(arguments, samples, killed)


def command(arguments, name):
    """The command that trains into OUTPUT/name: a restricted model of 3 decoder layers, saved and probed often."""
    run = arguments.output / name
    return [
        str(arguments.genir), "train", str(ROOT / "recipes/quickstart.toml"), "--quiet",
        f"run.directory={run}", f"train.steps={arguments.steps}", "~train.epochs", "train.batch_size=8",
        "model.config={d_model=16, d_ff=32, d_kv=8, num_heads=2, num_layers=1, num_decoder_layers=3}",
        "trainable.select=[\"restricted\"]", f"cache.directory={arguments.output / 'cache'}",
        "~evaluate.every_epochs", f"evaluate.every_steps={arguments.steps // 100}", "evaluate.queries=50", "evaluate.memorisation=0",
        f"save.every_steps={arguments.steps // 200}", "save.keep_last=2", "log.every_steps=100",
        "probes={run=[\"logit_lens\"], every_evaluations=10, queries=20, max_share=0}",
    ]  # fmt: skip


def watch(command, run, samples, name, kill_at):
    """Runs `command` to its end, or kills it after `kill_at` seconds of training; True if it was killed."""
    process = subprocess.Popen(command)
    begun = time.monotonic()
    while process.poll() is None:
        elapsed = time.monotonic() - begun
        if kill_at is not None and elapsed > kill_at:
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        sample = sample_of(process.pid, run)
        if sample:
            samples.append({"run": name, "seconds": round(time.time(), 2)} | sample)
        time.sleep(0.5)
    if process.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {process.returncode}")
    return False


def sample_of(pid, run):
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        rss = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
        files = len(os.listdir(f"/proc/{pid}/fd"))
        lines = (run / "metrics.jsonl").read_bytes().splitlines()
        step = json.loads(lines[-1])["step"]
        disk = sum(path.lstat().st_size for path in run.rglob("*") if not path.is_dir())
    except (OSError, StopIteration, IndexError, ValueError):
        return None  # It has just begun or ended, or is writing.
    if rss == 0:
        return None  # It has just been killed.
    return {"step": step, "rss_mib": rss / 1024, "files": files, "disk_mib": disk / 2**20}


def kill_often(arguments, samples):
    """Trains again with kills at random moments; the number of kills."""
    times = [sample["seconds"] for sample in samples]
    whole = times[-1] - times[0]
    moments = random.Random(arguments.seed)
    run = arguments.output / "killed"
    killed = 0
    while killed < arguments.kills:
        # On average the run is through two thirds of its steps after the last kill.
        kill_at = moments.uniform(0.3, 1.7) * whole / arguments.kills * 0.67 + 0.5
        if not watch(command(arguments, "killed"), run, samples, "killed", kill_at):
            break
        killed += 1
    else:
        watch(command(arguments, "killed"), run, samples, "killed", None)
    return killed


def plot(samples, path):
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 3))
    for name, marker in [("undisturbed", "-"), ("killed", ".")]:
        own = [sample for sample in samples if sample["run"] == name][::5]
        axes.plot([s["step"] for s in own], [s["rss_mib"] for s in own], marker, markersize=2, linewidth=1, label=name)
    axes.set(xlabel="step", ylabel="resident memory (MiB)", ylim=(0, None))
    axes.legend()
    figure.savefig(path, bbox_inches="tight")


def report(arguments, samples, killed):
    print(f"{arguments.steps} steps; {killed} kills")
    for name in ["undisturbed", "killed"]:
        own = [s for s in samples if s["run"] == name and s["step"] > arguments.steps / 10]
        for key in ["rss_mib", "files", "disk_mib"]:
            values = [s[key] for s in own]
            half = len(values) // 2
            print(f"{name}, {key} after the first tenth: {min(values):.1f} to {max(values):.1f}, "
                  f"mean of the halves {mean(values[:half]):.1f} and {mean(values[half:]):.1f}")  # fmt: skip
    last = f"checkpoints/step-{arguments.steps:06}"
    same = True
    for file in ["model.safetensors", "optimizer.safetensors"]:
        one, other = [(arguments.output / name / last / file).read_bytes() for name in ["undisturbed", "killed"]]
        print(f"{file}: {'the same bytes' if one == other else 'DIFFERENT'}")
        same &= one == other
    if not same:
        sys.exit(1)


def mean(values):
    return sum(values) / max(len(values), 1)


if __name__ == "__main__":
    main()
