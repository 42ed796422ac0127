#!/usr/bin/env python3
"""Times genir's whole probe suite against the same probes one query at a time in PyTorch.

    python3 benches/probes/run.py [--queries 1000] [--documents 10000] [--reference-queries 20] [--directory DIR]

The model has the shape of t5-small and random weights; every query is measured. The slow side is
tests/python/probe_reference.py, the reference that genir's tests are held against, in the faster of its two types
(f32): it is timed on a few of the queries and its time extrapolated. The results of both on these few are compared
before any time is printed. Needs a Python with tests/python/requirements.txt, and `cargo build --release` before.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
GENIR = REPOSITORY / "target" / "release" / "genir"
REFERENCE = REPOSITORY / "tests" / "python" / "probe_reference.py"
WORDS = 32_100
# Largest difference between the two sides' P1 ratios and P6 shares, relative. Ranks in a vocabulary of tens of
# thousands may differ by a place or two between types, so that they are not compared here.
TOLERANCE = 1e-3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--reference-queries", type=int, default=20)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of the reference")
    parser.add_argument("--directory", type=Path, help="where the model is made [default: a temporary one]")
    arguments = parser.parse_args()
    if not GENIR.exists():
        sys.exit(f"{GENIR} is not there: cargo build --release")
    with tempfile.TemporaryDirectory() as temporary:
        directory = arguments.directory or Path(temporary)
        if not (directory / "model" / "config.json").exists():
            make_model(directory, arguments.documents)
        few, many = directory / "few", directory / "many"
        make_corpus(few, arguments.documents, arguments.reference_queries)
        make_corpus(many, arguments.documents, arguments.queries)

        _, reference_seconds, expected = reference(directory, few, arguments.dtype)
        ours_few, _ = ours(directory, few)
        compare(ours_few, expected)
        records, seconds = ours(directory, many)
    show(records, seconds, reference_seconds, arguments)


def make_model(directory: Path, documents: int):
    """A GenIR checkpoint in the released form of the paper, and its base, both with random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2} | {f"word{i}": i for i in range(3, WORDS)}
    for name, seed, docids in (("base", 1, 0), ("model", 2, documents)):
        tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
        tokenizer.add_tokens([f"@DOC_ID_{i}@" for i in range(docids)])
        special = dict(pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(directory / name)
        torch.manual_seed(seed)
        config = T5Config(
            vocab_size=WORDS + docids, d_model=512, d_kv=64, d_ff=2048, num_layers=6, num_heads=8, decoder_start_token_id=0
        )
        T5ForConditionalGeneration(config).save_pretrained(directory / name)


def make_corpus(directory: Path, documents: int, queries: int):
    """Queries of 4 to 18 words, as test and as validation split, in the layout of the paper's code."""
    directory.mkdir(parents=True, exist_ok=True)
    chance = random.Random(1)
    made = [
        {
            "id": f"q{i}",
            "query": " ".join(f"word{chance.randrange(3, WORDS)}" for _ in range(chance.randint(4, 18))),
            "relevant_docs": [i % documents],
        }
        for i in range(queries)
    ]
    write = lambda name, value: (directory / name).write_text(json.dumps(value))
    write("documents.json", [{"id": i, "text": f"word{3 + i % (WORDS - 3)}"} for i in range(documents)])
    for name in ("train", "val", "test"):
        write(f"{name}_queries.json", made)


def reference(directory: Path, corpus: Path, dtype: str):
    """The reference's own table, seconds a query summed over all probes, and its results."""
    out = directory / "reference.json"
    command = [sys.executable, REFERENCE, directory / "model", corpus, "--base", directory / "base"]
    command += ["--over", "all", "--dtype", dtype, "--json", out]
    table = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    print(table)
    # Both variants of the reads are in the table; genir computes one.
    lines = [line.rsplit(maxsplit=3) for line in table.splitlines()[1:]]
    seconds = sum(float(a_query) for name, _, _, a_query in lines if "(exact)" not in name)
    return table, seconds, json.loads(out.read_text())["records"]


def ours(directory: Path, corpus: Path):
    """genir's records, and seconds of the whole command: loading, encoding and writing are in it."""
    out = directory / "genir.json"
    command = [GENIR, "--quiet", "probe", directory / "model", "--corpus", corpus, "--base", directory / "base"]
    command += ["--over", "all", "--variant", "paper", "--format", "json", "--output", out, "--device", "cpu"]
    start = time.perf_counter()
    subprocess.run(command, check=True)
    return json.loads(out.read_text()), time.perf_counter() - start


def compare(ours: list, expected: list):
    values = {record["probe"]: record["result"] for record in ours}
    worst = 0.0
    for record in expected:
        name, result = record["probe"], record["result"]
        if name == "residual_contribution":
            pairs = zip(result["contributions"], values[name]["contributions"], strict=True)
            pairs = [(one["ratio"], other["ratio"]) for one, other in pairs]
        elif name in ("neuron_reads", "attention_reads") and result["variant"] == "paper":
            layers = zip(result["layers"], values[name]["layers"], strict=True)
            pairs = [
                (one["share"], other["share"])
                for theirs, own in layers
                for one, other in zip(theirs["shares"], own["shares"], strict=True)
            ]
        else:
            continue
        worst = max(worst, *(abs(one - other) / max(abs(one), 1e-3) for one, other in pairs))
    print(f"largest relative difference of ratios and shares: {worst:.1e}")
    if worst > TOLERANCE:
        sys.exit("the two sides measure different things: no times")


def show(records: list, seconds: float, reference_seconds: float, arguments):
    for record in records:
        print(f"{record['probe']:32} {record['seconds']:10.2f} s")
    slow = reference_seconds * arguments.queries
    print(f"genir, {arguments.queries} queries, the whole command: {seconds:.1f} s")
    print(
        f"reference ({arguments.dtype}), {arguments.reference_queries} queries measured, extrapolated to "
        f"{arguments.queries}: {slow:.0f} s"
    )
    print(f"genir is {slow / seconds:.1f} times as fast")


if __name__ == "__main__":
    main()
