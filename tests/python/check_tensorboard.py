"""Reads a run's events with TensorBoard's own reader and compares them with metrics.jsonl.

    python tests/python/check_tensorboard.py RUN_DIRECTORY

Needs tensorboard and numpy. Every scalar must be in both, with the same step, wall time and
(rounded to 32 bits) value; ends with 1 and says what differs otherwise.
"""

import json
import sys
from pathlib import Path

import numpy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

KEYS = ("step", "epoch", "wall_time")


def from_metrics(run):
    scalars = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        line = json.loads(line)
        for tag, value in line.items():
            if tag not in KEYS:
                # What is not finite is text, which `float` reads.
                with numpy.errstate(over="ignore"):
                    value = numpy.float32(float(value))
                entry = (line["step"], line["wall_time"], value)
                scalars.setdefault(tag, []).append(entry)
    return scalars


def from_tensorboard(run):
    # 0: keep every event, do not sample.
    accumulator = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {
        tag: [
            (event.step, event.wall_time, numpy.float32(event.value))
            for event in accumulator.Scalars(tag)
        ]
        for tag in accumulator.Tags()["scalars"]
    }


def same(left, right):
    return left[:2] == right[:2] and numpy.array_equal(left[2], right[2], equal_nan=True)


def main():
    run = Path(sys.argv[1])
    expected, found = from_metrics(run), from_tensorboard(run)
    differences = 0
    for tag in sorted(expected.keys() | found.keys()):
        left, right = expected.get(tag, []), found.get(tag, [])
        equal = len(left) == len(right) and all(map(same, left, right))
        print(f"{'same' if equal else 'DIFFERENT'}  {tag}: {len(left)} in metrics.jsonl, {len(right)} events")
        if not equal:
            differences += 1
            print(f"  metrics.jsonl {left}\n  tensorboard   {right}")
    if not expected:
        sys.exit("metrics.jsonl holds no scalars")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
