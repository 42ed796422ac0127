"""Reads a run's events with TensorBoard itself and compares them with metrics.jsonl.

    python tests/python/check_tensorboard.py RUN_DIRECTORY

Needs tensorboard and numpy. Every scalar must be in both, with the same step, wall time and (rounded to 32 bits) value.
Then what only TensorBoard has is read: histograms and images, whose sizes must be those of their pixels, and, from a
TensorBoard that is started on the run's directory: that the run is one entry, the charts of *Custom Scalars* with the tags
that each of them draws, and the table of *HParams*. Ends with 1 and says what differs otherwise.
"""

import json
import struct
import sys
import time
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import numpy
from tensorboard import program
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
    kinds = ("scalars", "histograms", "images", "tensors")
    accumulator = EventAccumulator(str(directory), size_guidance=dict.fromkeys(kinds, 0))
    accumulator.Reload()
    return accumulator


def scalars_of(events):
    return {
        tag: [
            (event.step, event.wall_time, numpy.float32(event.value))
            for event in events.Scalars(tag)
        ]
        for tag in events.Tags()["scalars"]
    }


def same(left, right):
    return left[:2] == right[:2] and numpy.array_equal(left[2], right[2], equal_nan=True)


def show_histograms_and_images(events):
    """Prints them; the number of those that are wrong."""
    wrong = 0
    for tag in events.Tags()["histograms"]:
        for event in events.Histograms(tag):
            value = event.histogram_value
            good = sum(value.bucket) == value.num and value.min < value.max
            wrong += not good
            print(f"{tag} at {event.step}: {list(zip(value.bucket_limit, value.bucket))}{'' if good else ' WRONG'}")
    for tag in events.Tags()["images"]:
        for event in events.Images(tag):
            png = event.encoded_image_string
            good = png[:4] == b"\x89PNG" and struct.unpack(">II", png[16:24]) == (event.width, event.height)
            wrong += not good
            print(f"{tag} at {event.step}: {event.width} x {event.height}{'' if good else ' WRONG'}")
    return wrong


class Server:
    """A TensorBoard on a directory."""

    def __init__(self, directory):
        board = program.TensorBoard()
        board.configure(argv=[None, "--logdir", str(directory), "--port", "0"])
        self.url = board.launch()
        # It reads in the background.
        for _ in range(100):
            if self.get("runs"):
                break
            time.sleep(0.2)

    def get(self, path, **query):
        with urlopen(f"{self.url}data/{path}?{urlencode(query)}") as answer:
            return json.load(answer)

    def post(self, path, body):
        request = Request(f"{self.url}data/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urlopen(request) as answer:
            return json.load(answer)


def show_plugins(run, tags):
    """Prints what TensorBoard makes of the run; the number of things that are wrong."""
    wrong = 0
    server = Server(run)
    runs = server.get("runs")
    print(f"entries: {runs}")
    wrong += len(runs) != 1
    drawn = set()
    for category in server.get("plugin/custom_scalars/layout")["category"]:
        for chart in category["chart"]:
            found = set()
            for pattern in chart["multiline"]["tag"]:
                found |= server.get("plugin/custom_scalars/scalars", run=runs[0], tag=pattern)["tag_to_events"].keys()
            drawn |= found
            print(f"chart  {category['title']}: {chart['title']}: {sorted(found)}")
            if category["title"] != "overview" and not found:
                print("  WRONG: no tag")
                wrong += 1
    for tag in sorted(tags):
        if tag.rpartition("/")[2].startswith(("layer_", "stage_")) and tag not in drawn:
            print(f"{tag} is in no chart: WRONG")
            wrong += 1
    experiment = server.post("plugin/hparams/experiment", {})
    if experiment.get("hparamInfos"):
        columns = [{"hparam": info["name"]} for info in experiment["hparamInfos"]]
        columns += [{"metric": info["name"]} for info in experiment["metricInfos"]]
        every = ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"]
        asked = {"allowedStatuses": every, "colParams": columns, "startIndex": 0, "sliceSize": 10}
        groups = server.post("plugin/hparams/session_groups", asked)["sessionGroups"]
        wrong += len(groups) != 1
        for group in groups:
            print(f"hparams {group['hparams']}")
            print(f"status {[session['status'] for session in group['sessions']]}")
            for metric in group["metricValues"]:
                print(f"final  {metric['name']['tag']} {metric['value']} at {metric['trainingStep']}")
    return wrong


def main():
    run = Path(sys.argv[1])
    events = read(run / "tensorboard")
    expected, found = from_metrics(run), scalars_of(events)
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
    differences += show_histograms_and_images(events)
    differences += show_plugins(run, found.keys())
    print(f"{differences} differences")
    sys.exit(1 if differences else 0)


if __name__ == "__main__":
    main()
