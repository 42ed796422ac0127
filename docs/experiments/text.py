#!/usr/bin/env python3
"""Writes the documents of several collections, each text once, as a corpus without queries and as lines of text.

    python3 docs/experiments/text.py OUTPUT COLLECTION ...

A COLLECTION is a directory with documents.json or documents.json.gz, as docs/corpus-formats.md describes. OUTPUT must not exist; it
gets documents.json, for `genir train`, and text.txt, for `genir tokenizer train`.
"""

import gzip
import json
import sys
from pathlib import Path


def documents(collection):
    for name, open_file in [("documents.json", open), ("documents.json.gz", gzip.open)]:
        if (collection / name).exists():
            with open_file(collection / name, "rt", encoding="utf-8") as file:
                return json.load(file)
    sys.exit(f"{collection}: there is no documents.json and no documents.json.gz")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    output, collections = Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]]
    if output.exists():
        sys.exit(f"{output} exists already")
    texts = {}
    for collection in collections:
        before = len(texts)
        for document in documents(collection):
            texts.setdefault(" ".join(document["text"].split()))
        print(f"{collection}: {len(texts) - before} documents that no earlier collection has")
    output.mkdir(parents=True)
    numbered = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    (output / "documents.json").write_text(json.dumps(numbered), encoding="utf-8")
    (output / "text.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


if __name__ == "__main__":
    main()
