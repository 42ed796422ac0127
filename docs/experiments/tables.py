#!/usr/bin/env python3
"""Prints the tables of docs/experiments/restricted.md from the directory of a sweep that has ended.

    python3 docs/experiments/tables.py SWEEP MEASURE [FIRST SECOND ...]

MEASURE is one of the comparison (Success@1, Success@10, RR@10 or nDCG@10); it is shown over the updates, and as the difference of each pair of arms FIRST and
SECOND: of the second arm minus the first one.
"""

import json
import sys
from pathlib import Path
from statistics import fmean as mean

MEBIBYTE = 2**20
# The names of measures in metrics.jsonl.
SCALARS = {"Success@1": "hits@1", "Success@10": "hits@10", "RR@10": "mrr@10", "nDCG@10": "ndcg@10"}


def row(cells):
    print("| " + " | ".join(cells) + " |")


def header(cells):
    row(cells)
    row(["---"] * len(cells))


def result(comparison):
    header(["arm", "trained", *comparison["measures"], "processor time of training", "peak memory", "optimizer state"])
    for arm in comparison["arms"]:
        costs = [run["cost"] for run in arm["runs"] if run["cost"]]
        deviations = arm["deviations"] or [None] * len(arm["means"])
        values = [f"{value:.3f}" + (f" ± {deviation:.3f}" if costs and deviation is not None else "")
                  for value, deviation in zip(arm["means"], deviations)]
        of = lambda key: mean([cost[key] for cost in costs])
        costs = [f"{of('processor_seconds'):.0f} s", f"{of('peak_memory_bytes') / MEBIBYTE:.0f} MiB",
                 f"{of('optimizer_state_bytes') / MEBIBYTE:.1f} MiB"] if costs else [""] * 3
        trained = [run["cost"]["trained_parameters"] for run in arm["runs"] if run["cost"]]
        row([f"`{arm['name']}`", f"{trained[0]:,}" if trained else "", *values, *costs])


def curve(run, metric):
    lines = (json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return {line["step"]: line[metric] for line in lines if metric in line}


def curves(comparison, measure):
    metric = f"{comparison['split']}/{SCALARS[measure]}"
    arms = [arm for arm in comparison["arms"] if arm["runs"][0]["cost"]]
    header(["updates", *(f"`{arm['name']}`" for arm in arms)])
    found = [[curve(run["path"], metric) for run in arm["runs"]] for arm in arms]
    for step in sorted(found[0][0]):
        row([str(step), *(f"{mean([run[step] for run in runs]):.3f}" for runs in found)])


def parts(comparison, measure):
    """Questions whose documents are in training questions and those of others, and what is remembered of training."""
    name = SCALARS[measure]
    keys = [f"{comparison['split']}/seen/{name}", f"{comparison['split']}/unseen/{name}",
            "memorisation/indexing/hits@1", "memorisation/retrieval/hits@1"]
    arms = [arm for arm in comparison["arms"] if arm["runs"][0]["cost"]]
    header(["", *(f"`{arm['name']}`" for arm in arms)])
    summaries = [[json.loads((Path(run["path"]) / "summary.json").read_text(encoding="utf-8"))["last"]["metrics"]
                  for run in arm["runs"]] for arm in arms]
    for key in keys:
        if key in summaries[0][0]:
            row([key, *(f"{mean([summary[key] for summary in runs]):.3f}" for runs in summaries)])


def p_value(p):
    return "1" if p > 0.995 else f"{p:.3f}" if p < 0.01 else f"{p:.2f}"


def differences(comparison, measure, names):
    index = comparison["measures"].index(measure)
    arms = [arm["name"] for arm in comparison["arms"]]
    header(["", *(f"seed {seed['seed']}" for seed in comparison["pairs"][0]["seeds"])])
    for first, second in zip(names[::2], names[1::2]):
        pairs = (pair for pair in comparison["pairs"] if {arms[pair["first"]], arms[pair["second"]]} == {first, second})
        pair = next(pairs, None)
        if pair is None:
            sys.exit(f"the comparison has no pair {first}, {second}; its arms: {', '.join(arms)}")
        sign = 1 if arms[pair["first"]] == first else -1
        cells = []
        for seed in pair["seeds"]:
            difference = seed["differences"][index]
            low, high = sorted(sign * end for end in difference["interval"])
            cells.append(f"{sign * difference['mean']:+.3f} [{low:+.3f}, {high:+.3f}], p = {p_value(seed['corrected'][index])}")
        row([f"`{second}` - `{first}`", *cells])


def main():
    if len(sys.argv) < 3 or len(sys.argv) % 2 == 0:
        sys.exit(__doc__)
    if sys.argv[2] not in SCALARS:
        sys.exit(f"MEASURE: expected one of {', '.join(SCALARS)}, found {sys.argv[2]}")
    comparison = json.loads((Path(sys.argv[1]) / "comparison.json").read_text(encoding="utf-8"))
    result(comparison)
    print()
    curves(comparison, sys.argv[2])
    print()
    parts(comparison, sys.argv[2])
    if sys.argv[3:]:
        print()
        differences(comparison, sys.argv[2], sys.argv[3:])


if __name__ == "__main__":
    main()
