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


def read(collection, name):
    """Returns the contents of a JSON file of a collection, or of the same file with .gz."""
    for path, open_file in [(collection / name, open), (collection / f"{name}.gz", gzip.open)]:
        if path.exists():
            with open_file(path, "rt", encoding="utf-8") as file:
                return json.load(file)
    sys.exit(f"{collection}: there is no {name} and no {name}.gz")


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    output, collections = Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]]
    if output.exists():
        sys.exit(f"{output} exists already")
    texts = {}
    for collection in collections:
        before = len(texts)
        for document in read(collection, "documents.json"):
            texts.setdefault(" ".join(document["text"].split()))
        print(f"{collection}: {len(texts) - before} documents that no earlier collection has")
    output.mkdir(parents=True)
    numbered = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    (output / "documents.json").write_text(json.dumps(numbered), encoding="utf-8")
    (output / "text.txt").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


if __name__ == "__main__":
    main()
