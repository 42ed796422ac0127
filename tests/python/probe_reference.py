#!/usr/bin/env python3
"""The probes once more, as plainly as can be: PyTorch hooks on transformers' T5, double precision, one query at a time.

    python tests/python/probe_reference.py CHECKPOINT CORPUS --base DIR [--encoder-from DIR --left-out-ids 3,7]
        [--patch 'decoder.layers[1]'] [--circuit 'decoder.mlp[I]=mean'] [--queries N] [--over all] [--json OUT]

Written from the definitions in A. Reusch, Y. Belinkov, "Reverse-Engineering the Retrieval Process in GenIR Models"
(arXiv 2503.19715), not from genir's code. CORPUS is a directory in the layout of the paper's code. Results have the
form of genir's; tests/testsuite/probes_against_reference.rs holds genir against those in tests/fixtures/probes. The seconds per
query of each probe are printed: this is also the slow side of a comparison of speed.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import torch

import reference_probes as probes
from reference_model import Genir, Measurement, Query

SPLITS = {"train": "train_queries.json", "validation": "val_queries.json", "test": "test_queries.json"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--base", type=Path, required=True, help="the model before it was trained to retrieve")
    parser.add_argument("--encoder-from", type=Path, help="another GenIR checkpoint, for the encoder swap")
    parser.add_argument("--left-out-ids", default="", help="documents that its training left out, with commas")
    parser.add_argument("--patch", action="append", default=[], help="one more selector for stage patching")
    parser.add_argument("--circuit", action="append", default=[], help="one more patch of a circuit beside the paper's")
    parser.add_argument("--split", choices=SPLITS, default="validation")
    parser.add_argument("--test-split", choices=SPLITS, default="test", help="what circuits are judged on")
    parser.add_argument("--queries", type=int, help="the first so many of each split only")
    parser.add_argument("--over", choices=("correct", "all"), default="correct", help="queries that means are over")
    parser.add_argument("--dtype", choices=("float64", "float32"), default="float64")
    parser.add_argument("--json", type=Path, help="where the results go")
    arguments = parser.parse_args()
    torch.set_grad_enabled(False)

    dtype = getattr(torch, arguments.dtype)
    model = Genir(arguments.checkpoint, dtype)
    base = Genir(arguments.base, dtype)
    other = Genir(arguments.encoder_from, dtype) if arguments.encoder_from else None
    result, seconds = measure(
        model,
        base,
        read_queries(model, arguments.corpus, arguments.split, arguments.queries),
        read_queries(model, arguments.corpus, arguments.test_split, arguments.queries),
        split=(arguments.split, arguments.test_split),
        other=(str(arguments.encoder_from), other) if other else None,
        left_out=[identifier for identifier in arguments.left_out_ids.split(",") if identifier],
        selectors=arguments.patch,
        circuit=arguments.circuit,
        over=arguments.over,
    )
    print(f"{'probe':32} {'seconds':>10} {'queries':>8} {'a query':>12}")
    for name, spent, queries in seconds:
        print(f"{name:32} {spent:10.3f} {queries:8} {spent / max(queries, 1):12.6f}")
    if arguments.json:
        write(arguments.json, result)


def read_queries(model: Genir, corpus: Path, split: str, most: int | None = None) -> list[Query]:
    """The queries of a split that have relevant documents, as tokens."""
    file = corpus / SPLITS[split]
    text = file.read_bytes() if file.exists() else gzip.decompress(file.with_name(f"{file.name}.gz").read_bytes())
    queries = []
    for element in json.loads(text)[:most]:
        relevant = [str(identifier) for identifier in element["relevant_docs"]]
        if relevant:
            tokens = model.encode_text(element["query"])
            queries.append(Query(str(element["id"]), tokens, relevant, [model.docid_token(one) for one in relevant]))
    return queries


def measure(model, base, queries, test_queries, split, other, left_out, selectors, circuit=(), applied=(), over="correct"):
    """All probes: `(results, [(name, seconds, queries)])`. `applied`: what of `circuit` is recorded, if not all of it."""
    seconds = []

    def timed(name, count, compute):
        start = time.perf_counter()
        result = compute()
        seconds.append((name, time.perf_counter() - start, count))
        return result

    def first_pass():
        for query in queries:
            model.read(query)
        measured = [query for query in queries if over == "all" or query.rank == 1]
        if not measured:
            raise SystemExit(f"none of {len(queries)} queries is correct; --over all measures them all")
        return Measurement(model, base, queries, measured)

    on = timed("shared: one unpatched pass", len(queries), first_pass)
    count = len(on.measured)
    timed("shared: one pass of the base", count, on.run_base)
    records = []

    def probe(name, count, compute, variant=None):
        label = f"{name} ({variant})" if variant else name
        records.append({"probe": name, "result": timed(label, count, compute)})

    probe("residual_contribution", count, lambda: probes.residual_contribution(on))
    probe("logit_lens", count, lambda: probes.logit_lens(on))
    probe("direct_effect", count, lambda: probes.direct_effect(on))
    probe("stage_patching", count, lambda: probes.stage_patching(on, selectors))
    given = [tuple(patch.rsplit("=", 1)) for patch in circuit]
    probe("circuit", len(test_queries), lambda: probes.circuit(on, split[1], test_queries, given, list(applied or circuit)))
    for norm in ("other", "own"):
        probe("encoder_swap", len(queries), lambda: probes.encoder_swap(on, other, left_out, norm), norm)
    for variant in ("paper", "exact"):
        for first in ("readers", "queries"):
            label = f"{variant}, {first} first"
            probe("neuron_reads", count, lambda: probes.neuron_reads(on, variant, first), label)
            probe("attention_reads", count, lambda: probes.attention_reads(on, variant, first), label)
    probe("attention_writes", count, lambda: probes.attention_writes(on))

    correct = sum(query.rank == 1 for query in queries)
    measured_on = {"queries": split[0], "ranked": len(queries), "correct": correct, "over": over, "measured": count}
    stages = {name: f"{one[0]}..{one[-1] + 1}" for name, one in on.stages.items()}
    measured_on |= {"vocabulary": "all", "stages": stages or None}
    listed = [on.measured[index] for index in on.order(on.measured)]
    measured_queries = [probes.of_query(query, query.relevant.index(query.target), [query.rank]) for query in listed]
    return {"measured_on": measured_on, "measured_queries": measured_queries, "records": records}, seconds


def write(file: Path, result: dict):
    """JSON with one line a probe; numbers with 12 digits, undefined ones as null."""

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(one) for one in value]
        if isinstance(value, float):
            return float(f"{value:.12g}") if value == value else None
        return value

    def line(value):
        return json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"))

    fields = [f"{line(key)}:{line(value)}" for key, value in result.items() if key != "records"]
    records = ",\n".join(line(record) for record in result["records"])
    file.write_text("{" + ",\n".join([*fields, f'"records":[\n{records}\n]']) + "}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
