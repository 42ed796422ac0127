"""Reads a run's events with TensorBoard's own reader and compares them with metrics.jsonl.

    python tests/python/check_tensorboard.py RUN_DIRECTORY

Needs tensorboard and numpy. Every scalar must be in both, with the same step, wall time and
(rounded to 32 bits) value; ends with 1 and says what differs otherwise. Then what only TensorBoard has is
read: scalars of layers and stages, histograms and images, whose sizes must be those of their pixels.
"""

import json
import struct
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


def read(directory):
    # 0: keep every event, do not sample.
    kinds = ("scalars", "histograms", "images")
    accumulator = EventAccumulator(str(directory), size_guidance=dict.fromkeys(kinds, 0))
    accumulator.Reload()
    return accumulator


def from_tensorboard(run):
    accumulator = read(run / "tensorboard")
    return {
        tag: [
            (event.step, event.wall_time, numpy.float32(event.value))
            for event in accumulator.Scalars(tag)
        ]
        for tag in accumulator.Tags()["scalars"]
    }


def same(left, right):
    return left[:2] == right[:2] and numpy.array_equal(left[2], right[2], equal_nan=True)


def show_the_rest(run):
    """Prints what is not in metrics.jsonl; the number of images and histograms that are wrong."""
    wrong = 0
    lines = sorted(path for path in (run / "tensorboard").iterdir() if path.is_dir())
    for directory in [run / "tensorboard", *lines]:
        events = read(directory)
        tags = events.Tags()
        name = directory.name
        if directory in lines:
            for tag in tags["scalars"]:
                values = [(event.step, event.value) for event in events.Scalars(tag)]
                print(f"{name}  {tag}: {len(values)} events, the last {values[-1]}")
        for tag in tags["histograms"]:
            for event in events.Histograms(tag):
                value = event.histogram_value
                good = sum(value.bucket) == value.num and value.min < value.max
                wrong += not good
                print(f"{name}  {tag} at {event.step}: {list(zip(value.bucket_limit, value.bucket))}{'' if good else ' WRONG'}")
        for tag in tags["images"]:
            for event in events.Images(tag):
                png = event.encoded_image_string
                good = png[:4] == b"\x89PNG" and struct.unpack(">II", png[16:24]) == (event.width, event.height)
                wrong += not good
                print(f"{name}  {tag} at {event.step}: {event.width} x {event.height}{'' if good else ' WRONG'}")
    return wrong


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
    differences += show_the_rest(run)
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
