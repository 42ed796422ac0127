#!/usr/bin/env python3
"""Checks that an old `tokenizers` reads a checkpoint's tokenizer.json and encodes as genir does.

    python tests/python/check_old_tokenizers.py CHECKPOINT_DIR LOGITS_FILE

CHECKPOINT_DIR and LOGITS_FILE are those of check_export.py; of the latter only `queries`, `max_tokens` and `input_ids` are
read. Version 0.19.1 is the last before byte-pair merges were written as pairs, and transformers 4.44 has it. The exit
status is 1 when something differs.
"""

import json
import sys
from pathlib import Path

import tokenizers


def main(checkpoint: Path, logits: Path):
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    # The library raises no narrower class.
    except Exception as error:
        sys.exit(f"FAILED tokenizers {tokenizers.__version__}: {error}")
    given = json.loads(logits.read_text(encoding="utf-8"))
    tokenizer.enable_truncation(given["max_tokens"])
    for text, ours in zip(given["queries"], given["input_ids"]):
        theirs = tokenizer.encode(text).ids
        if theirs != ours:
            sys.exit(f"FAILED {text!r} is {ours} in genir and {theirs} in tokenizers {tokenizers.__version__}")
    docids = json.loads((checkpoint / "docids.json").read_text(encoding="utf-8"))
    first = tokenizer.get_vocab_size() - len(docids)
    for row, docid in enumerate(docids):
        found = tokenizer.encode(f"@DOC_ID_{docid}@", add_special_tokens=False).ids
        if found != [first + row]:
            sys.exit(f"FAILED docid {docid!r} (row {row}) is encoded as {found}, should be {[first + row]}")
    print(f"OK tokenizers {tokenizers.__version__}: {len(given['queries'])} queries and {len(docids)} docids")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
