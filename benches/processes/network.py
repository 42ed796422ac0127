#!/usr/bin/env python3
"""Models the time of an update on several machines. It measures nothing.

    benches/processes/network.py [--efficiency 0.8] [--latency 10e-6] [--processes 2 8 64]

Time of an update = batches of a process * measured time of a step + exchange, one after the other:
    exchange = bytes sent / (efficiency * bandwidth) + copies through the host's memory + messages * latency

Printed as Markdown: the share of the time in which the GPU computes with one batch of each process in an update, and how
many batches of each process (train.accumulate / R, a power of two) it takes for 90%.
"""

import argparse
import math
import re
from pathlib import Path

GPU = Path(__file__).resolve().parents[2] / "docs/gpu.md"

# Trained parameters as `step_server MODE SHAPE` prints them, and the row of docs/gpu.md with the time of a step. That of
# LoRA was not measured on a GPU: the restricted one stands in for it.
ARMS = {
    "full": ("genir, full", {"t5-small": 61_018_624, "t5-base": 223_671_552, "t5-large": 738_692_096}),
    "restricted, cached": ("genir, cached", {"t5-small": 6_294_016, "t5-base": 33_038_592, "t5-large": 121_658_368}),
    "LoRA on restricted, cached": ("genir, cached", {"t5-small": 172_032, "t5-base": 577_536, "t5-large": 1_605_632}),
}

# Nominal bytes a second each way; whether gradients go through the host's memory; the most GPUs that it joins.
NETWORKS = {
    "10 GbE": (1.25e9, True, math.inf),
    "100 GbE": (12.5e9, True, math.inf),
    "NVLink 4": (450e9, False, 8),
}
# Nominal, each way: PCI Express 5 with 16 lanes.
HOST = 64e9
AIM = 0.9


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--efficiency", type=float, default=0.8, help="the share of nominal bandwidths that is reached")
    parser.add_argument("--latency", type=float, default=10e-6, help="seconds of a message")
    parser.add_argument("--processes", type=int, nargs="+", default=[2, 8, 64])
    arguments = parser.parse_args()
    print(f"| shape | trained | ms a step | gradients | processes | {' | '.join(NETWORKS)} |")
    print("| --- | --- | --- | --- | --- |" + " --- |" * len(NETWORKS))
    for name, (row, parameters) in ARMS.items():
        for shape, trained in parameters.items():
            step, gradients = measured_step(shape, row), 4 * trained
            for count in arguments.processes:
                cells = [cell(step, exchange(gradients, count, arguments, *network)) for network in NETWORKS.values()]
                print(f"| {shape} | {name} | {1e3 * step:.2f} | {gradients / 1e6:,.1f} MB | {count} | {' | '.join(cells)} |")


def measured_step(shape, row):
    """Seconds of a step of one batch, from the table of docs/gpu.md."""
    return float(re.search(rf"^\| {shape} \| {row} \| ([\d.]+) \|", GPU.read_text(), re.MULTILINE)[1]) / 1e3


def exchange(gradients, count, arguments, bandwidth, through_host, most):
    """Seconds; None where the network does not join as many GPUs."""
    if count > most:
        return None
    sent = 2 * (count - 1) / count * gradients
    # To the host, and the sum back.
    copies = 2 * gradients / HOST if through_host else 0
    # All gradients go to all others in two rounds (src/train/exchange.rs). Three small values do in rounds that double.
    messages = 2 * (count - 1) + 3 * math.ceil(math.log2(count))
    return sent / bandwidth / arguments.efficiency + copies / arguments.efficiency + messages * arguments.latency


def cell(step, exchanging):
    if exchanging is None:
        return "-"
    batches = 2 ** max(0, math.ceil(math.log2(exchanging / step * AIM / (1 - AIM))))
    return f"{step / (step + exchanging):.0%}, {batches}"


if __name__ == "__main__":
    main()
