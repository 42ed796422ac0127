#!/usr/bin/env python3
"""Writes a collection without validation queries anew: every fourth training query becomes a validation query.

    python3 docs/experiments/hold_out.py COLLECTION OUTPUT

COLLECTION has documents.json and train_queries.json, or both with .gz, as docs/corpus-formats.md describes. OUTPUT must not exist.
"""

import json
import sys
from pathlib import Path

from text import read


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    collection, output = map(Path, sys.argv[1:])
    if output.exists():
        sys.exit(f"{output} exists already")
    documents, queries = read(collection, "documents.json"), read(collection, "train_queries.json")
    output.mkdir(parents=True)
    for name, contents in [
        ("documents.json", documents),
        ("train_queries.json", [query for number, query in enumerate(queries) if number % 4]),
        ("val_queries.json", queries[::4]),
    ]:
        (output / name).write_text(json.dumps(contents), encoding="utf-8")


if __name__ == "__main__":
    main()
