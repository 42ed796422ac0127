#!/usr/bin/env python3
"""Checks that `transformers` loads a checkpoint written by genir and computes what genir computed.

    python tests/python/check_export.py CHECKPOINT_DIR LOGITS_FILE [--docids FILE] [--tolerance 1e-4]

CHECKPOINT_DIR holds the Hugging Face files and docids.json, an array of docids (strings) in the order of their rows.
LOGITS_FILE is JSON, written by genir for the same checkpoint:

    {
      "queries":      ["who wrote it", ...],    as given to the tokenizer: prefix and lower-casing already applied
      "max_tokens":   32,                       length to cut to, `</s>` included; left out: texts are not cut
      "input_ids":    [[113, 2832, 34, 1], ...],    genir's tokens, one row a query, without padding
      "docid_logits": [[-0.25, ...], ...],      [queries, docids] at the first decoder position, docids as in docids.json
      "logits":       [[1.5, ...], ...]         optional: [queries, rows of the embedding], words first
    }

At least one of `docid_logits` and `logits` must be there. Every line printed starts with OK or FAILED; the exit status
is 1 when a line says FAILED, 2 when the check could not be made at all.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, MT5ForConditionalGeneration, T5ForConditionalGeneration

SHOWN = 5
# Encoding a docid's text is slow next to looking it up; some from all over the list are enough.
ENCODED_DOCIDS = 200


class Report:
    """Prints one line a check and remembers whether any failed."""

    def __init__(self):
        self.failed = False

    def check(self, name: str, problems: list[str], success: str):
        if problems:
            self.failed = True
            more = f" (and {len(problems) - SHOWN} more)" if len(problems) > SHOWN else ""
            print(f"FAILED {name}: {'; '.join(problems[:SHOWN])}{more}")
        else:
            print(f"OK {name}: {success}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("logits", type=Path)
    parser.add_argument("--docids", type=Path, help="default: CHECKPOINT_DIR/docids.json")
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    docids = read_json(arguments.docids or arguments.checkpoint / "docids.json")
    given = read_json(arguments.logits)
    complain_about_format(docids, given)

    report = Report()
    try:
        model = load_model(arguments.checkpoint, report)
        tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    # Whatever transformers raises on a checkpoint it cannot read, the check has failed.
    except Exception as error:
        sys.exit(f"FAILED loading: {type(error).__name__}: {error}")
    check_rows(model, tokenizer, docids, report)
    check_docid_tokens(tokenizer, docids, report)
    check_query_tokens(tokenizer, given, report)
    check_logits(model, tokenizer, docids, given, arguments.tolerance, report)
    sys.exit(1 if report.failed else 0)


def read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        give_up(f"{path}: {error}")


def complain_about_format(docids, given):
    if not isinstance(docids, list) or not all(isinstance(docid, str) for docid in docids):
        give_up("the docids are not an array of strings")
    if not isinstance(given, dict):
        give_up("the logits file is not an object")
    for key in ("queries", "input_ids"):
        if not isinstance(given.get(key), list) or not given[key]:
            give_up(f"the logits file has no `{key}`")
    present = [key for key in ("docid_logits", "logits") if key in given]
    if not present:
        give_up("the logits file has neither `docid_logits` nor `logits`")
    for key in ("input_ids", *present):
        if len(given[key]) != len(given["queries"]):
            give_up(f"the logits file has {len(given['queries'])} queries and {len(given[key])} rows of `{key}`")


def give_up(message: str):
    print(message, file=sys.stderr)
    sys.exit(2)


def load_model(directory: Path, report: Report) -> torch.nn.Module:
    # Same weights, but T5's class would scale the decoder's output, which mT5 never does.
    mt5 = AutoConfig.from_pretrained(directory).model_type == "mt5"
    model_class = MT5ForConditionalGeneration if mt5 else T5ForConditionalGeneration
    model, loading = model_class.from_pretrained(directory, dtype=torch.float32, output_loading_info=True)
    problems = [f"{kind}: {sorted(names)[:SHOWN]}" for kind, names in loading.items() if names]
    head = "tied to the word embedding" if model.lm_head.weight is model.shared.weight else "of its own"
    parameters = sum(weight.numel() for weight in model.parameters())
    report.check("weights", problems, f"{model_class.__name__}, {parameters:,} parameters, head {head}, no missing or unexpected keys")
    return model.eval()


def check_rows(model, tokenizer, docids: list[str], report: Report):
    rows = model.get_input_embeddings().weight.shape[0]
    found = {
        "tokens in the tokenizer": len(tokenizer),
        "vocab_size in config.json": model.config.vocab_size,
        "rows of the head": model.lm_head.weight.shape[0],
    }
    problems = [f"{count} {what}, {rows} rows of the embedding" for what, count in found.items() if count != rows]
    report.check("rows", problems, f"{rows} = {rows - len(docids)} words and {len(docids)} docids")


def check_docid_tokens(tokenizer, docids: list[str], report: Report):
    first = len(tokenizer) - len(docids)
    vocabulary = tokenizer.get_vocab()
    problems = []
    for row, docid in enumerate(docids):
        found = vocabulary.get(f"@DOC_ID_{docid}@")
        if found != first + row:
            problems.append(f"docid {docid!r} (row {row}) has token id {found}, should have {first + row}")
    known = {f"@DOC_ID_{docid}@" for docid in docids}
    for token, number in vocabulary.items():
        if token.startswith("@DOC_ID_") and token.endswith("@") and token not in known:
            problems.append(f"token {token} ({number}) is not in the docids")
    report.check("docid tokens", problems, f"{len(docids)} with ids {first} to {len(tokenizer) - 1} in row order")

    problems = []
    sample = docids[:: max(1, len(docids) // ENCODED_DOCIDS)]
    for docid in sample:
        encoded = tokenizer(f"@DOC_ID_{docid}@", add_special_tokens=False).input_ids
        if encoded != [vocabulary.get(f"@DOC_ID_{docid}@")]:
            problems.append(f"the text @DOC_ID_{docid}@ is encoded as {encoded}")
    report.check("docid texts", problems, f"{len(sample)} encoded as one token each")


def encode(tokenizer, given: dict, **options):
    cut = {"truncation": True, "max_length": given["max_tokens"]} if "max_tokens" in given else {}
    return tokenizer(given["queries"], **cut, **options)


def check_query_tokens(tokenizer, given: dict, report: Report):
    problems = []
    for text, ours, theirs in zip(given["queries"], given["input_ids"], encode(tokenizer, given).input_ids):
        if ours != theirs:
            problems.append(f"{text!r} is {ours} in genir and {theirs} in transformers")
    report.check("query tokens", problems, f"{len(given['queries'])} queries encoded alike")


@torch.no_grad()
def check_logits(model, tokenizer, docids: list[str], given: dict, tolerance: float, report: Report):
    batch = encode(tokenizer, given, padding=True, return_tensors="pt")
    start = torch.full((len(given["queries"]), 1), model.config.decoder_start_token_id)
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, decoder_input_ids=start).logits[:, 0]
    rows = [tokenizer.convert_tokens_to_ids(f"@DOC_ID_{docid}@") for docid in docids]
    compare("logits", given, logits, tolerance, report)
    compare("docid_logits", given, logits[:, rows], tolerance, report)


def compare(key: str, given: dict, theirs: torch.Tensor, tolerance: float, report: Report):
    if key not in given:
        return
    lengths = sorted({len(row) for row in given[key]})
    if lengths != [theirs.shape[1]]:
        report.check(key, [f"rows of {lengths} numbers from genir, {theirs.shape[1]} from transformers"], "")
        return
    # JSON has no NaN: genir's writer puts null there.
    ours = torch.tensor([[float("nan") if number is None else number for number in row] for row in given[key]])
    distances = (ours - theirs).abs().amax(dim=1)
    problems = [
        f"query {query} differs by {distance:.2e}, allowed are {tolerance:.0e}"
        for query, distance in enumerate(distances.tolist())
        # Written so that NaN fails.
        if not distance <= tolerance
    ]
    report.check(key, problems, f"{list(ours.shape)} within {distances.max().item():.1e} (largest {theirs.abs().max().item():.1f})")


if __name__ == "__main__":
    main()
