#!/usr/bin/env python3
"""Times the updates of one run with several processes of one thread each against one process with as many threads, and
compares their weights.

    cargo build --release --features mpi
    benches/processes/run.py [--genir target/release/genir] [--processes 1 2 4 8] [--rows 1000 100000] [--arms REGEX]

The runs of an arm take turns; medians over the rounds are printed as Markdown, with the peak memory of each process (VmHWM,
evaluation and checkpoint of the first one included) and the bytes that each sends in an update, as `genir check` computes
them. A row with more processes than cores says so: its times are not those of a machine that has the cores. The exit status
is 1 if weights differ in a bit.

The corpus of the first arms is the bundled one. Those with docid rows train a model of width 128 on a corpus of made-up
words, written for them; `sharded` is docids.shard = true.
"""

import argparse
import hashlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ARMS = {
    "full": ("quickstart-full", []),
    "full, bfloat16": ("quickstart-full", ["train.gradient_dtype=bfloat16"]),
    "restricted, cached": ("quickstart-restricted", []),
    "LoRA on restricted, cached": (
        "quickstart-restricted",
        ['trainable.select=["lora(restricted, rank=8, alpha=16)", "docids"]'],
    ),
}
SHARDED = ", sharded"
MODEL = "model.config={ d_model = 128, d_ff = 256, d_kv = 32, num_heads = 4, num_layers = 2, num_decoder_layers = 3 }"
TRAINING_QUERIES, OTHER_QUERIES = 400, 32


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--genir", type=Path, default=Path("target/release/genir"))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--batches", type=int, default=8, help="of an update (train.accumulate)")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 100_000], help="numbers of documents, such as 4000000")
    parser.add_argument("--arms", type=re.compile, default="", help="a regular expression: those whose name has it")
    arguments = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    print(f"{arguments.batches} batches of {arguments.batch_size} an update, {arguments.steps} updates, medians of {arguments.rounds} rounds; {cores} cores\n")
    print("| trained | gradients in float32 | processes | each sends an update | ms an update | one process with as many threads | time against it | peak MiB of each process | same weights |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    weights = {}
    with tempfile.TemporaryDirectory() as home:
        for name, (recipe, more) in arms(arguments, Path(home)).items():
            # Those of the sharded rows must be those of the others, too.
            digests = weights.setdefault(name.removesuffix(SHARDED), set())
            command = [recipe, *overrides(arguments, Path(home)), *more]
            measured = measure(arguments, Path(home), command, digests)
            for count in arguments.processes:
                several, one = measured[count, 1], measured[1, count]
                sent = exchanged(arguments, Path(home), command, count)
                marked = f"{count} on {cores} cores" if count > cores else f"{count}"
                milliseconds, alone = (1e3 * statistics.median(case["seconds"]) / arguments.steps for case in (several, one))
                memory = ", ".join(f"{mebibytes:.0f}" for _, mebibytes in sorted(several["memory"].items()))
                same = "yes" if len(digests) == 1 else "no"
                print(f"| {name} | {4 * several['trained'] / 2**20:.1f} MiB | {marked} | {sent} | {milliseconds:.1f} | {alone:.1f} | {milliseconds / alone:.2f} | {memory} | {same} |", flush=True)
    return 0 if all(len(digests) == 1 for digests in weights.values()) else 1


def arms(arguments, home):
    """Recipe and overrides of each arm that was asked for, by name."""
    found = dict(ARMS)
    for rows in arguments.rows:
        overrides = [f"corpus.path={home}/rows-{rows}", MODEL]
        found[f"rows {rows}"] = ("quickstart", overrides)
        found[f"rows {rows}{SHARDED}"] = ("quickstart", [*overrides, "docids.shard=true"])
    found = {name: arm for name, arm in found.items() if re.search(arguments.arms, name)}
    for rows in arguments.rows:
        if f"rows {rows}" in found or f"rows {rows}{SHARDED}" in found:
            write_corpus(home / f"rows-{rows}", rows)
    return found


def write_corpus(directory, rows):
    """As many documents of made-up words, in the layout `dsi`; queries are some of a document's words."""
    directory.mkdir()
    made = random.Random(1)
    syllables = [first + vowel for first in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = ["".join(made.choices(syllables, k=3)) for _ in range(5000)]
    queries = {"train": TRAINING_QUERIES, "valid": OTHER_QUERIES}
    with open(directory / "documents.jsonl", "w") as documents:
        texts = []
        for row in range(rows):
            text = made.choices(words, k=8)
            documents.write(json.dumps({"text_id": row, "text": " ".join(text)}) + "\n")
            if row < max(queries.values()):
                texts.append(text)
    for split, count in queries.items():
        lines = [json.dumps({"text_id": row, "text": " ".join(made.sample(text, 3))}) + "\n" for row, text in enumerate(texts[:count])]
        (directory / f"{split}.jsonl").write_text("".join(lines))


def overrides(arguments, home):
    return [
        f"train.batch_size={arguments.batch_size}", f"train.accumulate={arguments.batches}", "~train.epochs",
        f"train.steps={arguments.steps}", "schedule.warmup_steps=1", "~evaluate.every_epochs",
        f"evaluate.every_steps={arguments.steps}", "evaluate.memorisation=0", "~probes", f"cache.directory={home}/cache",
    ]


def measure(arguments, home, command, digests):
    """What was measured of each case, which is a number of processes with a number of threads."""
    counts = arguments.processes
    cases = {case: {"seconds": [], "memory": {}} for count in counts for case in [(count, 1), (1, count)]}
    for _ in range(arguments.rounds):
        for (count, threads), case in cases.items():
            run = home / "run"
            for rank, peak in train([arguments.genir.resolve(), "train", *command, f"run.directory={run}", "--overwrite"], count, threads).items():
                case["memory"][rank] = max(peak, case["memory"].get(rank, 0))
            summary = json.loads((run / "summary.json").read_text())
            case["seconds"].append(summary["seconds"]["steps"])
            case["trained"] = summary["parameters"]["trained"]
            digests.add(hashlib.sha256((run / "checkpoints/latest/model.safetensors").read_bytes()).hexdigest())
    return cases


def train(command, count, threads):
    """Trains, and returns the peak memory of each process in MiB, by rank."""
    if count > 1:
        # Containers run as root.
        command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-np", count, *command]
    command, peaks = [str(word) for word in command], {}
    with tempfile.TemporaryFile("w+") as output:
        started = subprocess.Popen(command, env={**os.environ, "RAYON_NUM_THREADS": str(threads)}, stdout=output, stderr=output)
        while started.poll() is None:
            peaks.update(peak(process) for process in (children(started.pid) if count > 1 else [started.pid]))
            time.sleep(0.05)
        if started.returncode:
            output.seek(0)
            sys.exit(f"{' '.join(command)}\n{output.read()}")
    return {rank: mebibytes for rank, mebibytes in peaks.items() if rank is not None}


def children(process):
    try:
        return Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []


def peak(process):
    """Rank and peak memory in MiB of a process; (None, None) where it has none, or not yet, or has ended."""
    try:
        environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        kibibytes = re.search(r"VmHWM:\s*(\d+)", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return None, None
    rank = next((int(entry.split(b"=")[1]) for entry in environment if entry.startswith(b"OMPI_COMM_WORLD_RANK=")), 0)
    return (rank, int(kibibytes[1]) / 1024) if kibibytes else (None, None)


def exchanged(arguments, home, command, count):
    """What leaves each process in an update, in the words of `genir check`."""
    checked = [arguments.genir.resolve(), "check", *command, f"run.directory={home}/checked", f"--processes={count}"]
    done = subprocess.run(checked, capture_output=True, text=True)
    found = re.search(r"exchange +(.*?) leave", done.stdout)
    return found[1] if found else sys.exit(done.stderr)


if __name__ == "__main__":
    sys.exit(main())
