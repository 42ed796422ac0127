"""The loss of a unigram model on denoising of bundled:almanac, to compare `denoising/loss` with.

    cargo run --release --example dump_corpus -- DIRECTORY almanac
    python checkpoints/tiny/unigram_loss.py DIRECTORY

The labels are T5's: sentinels, the tokens that they replace, and </s>. The model is the frequencies of these labels in
all documents, held-out ones included: the lowest loss that any unigram model can have.
"""

import collections
import json
import math
import random
import sys
from pathlib import Path

from tokenizers import Tokenizer

PIECE, DENSITY, MEAN_SPAN = 141, 0.15, 3.0


def segments(total, parts):
    """Random lengths of at least 1 that sum to `total`."""
    cuts = sorted(random.sample(range(1, total), parts - 1))
    return [end - start for start, end in zip([0, *cuts], [*cuts, total])]


def labels(tokens, sentinels, end):
    noise = min(max(round(len(tokens) * DENSITY), 1), len(tokens) - 1)
    spans = max(round(noise / MEAN_SPAN), 1)
    noisy, kept = segments(noise, spans), segments(len(tokens) - noise, spans)
    found, place = [], 0
    for sentinel, keep, take in zip(sentinels, kept, noisy):
        place += keep
        found += [sentinel, *tokens[place : place + take]]
        place += take
    return [*found, sentinels[spans], end]


if __name__ == "__main__":
    random.seed(1)
    tokenizer = Tokenizer.from_file(str(Path(__file__).parent / "tokenizer.json"))
    documents = json.loads((Path(sys.argv[1]) / "documents.json").read_text())
    sentinels = [tokenizer.token_to_id(f"<extra_id_{index}>") for index in range(100)]
    counts = collections.Counter()
    for document in documents:
        tokens = tokenizer.encode(document["text"], add_special_tokens=False).ids
        for start in range(0, len(tokens), PIECE):
            piece = tokens[start : start + PIECE]
            if len(piece) > 1:
                counts.update(labels(piece, sentinels, tokenizer.token_to_id("</s>")))
    total = sum(counts.values())
    print(f"{-sum(count / total * math.log(count / total) for count in counts.values()):.3f} nats a label")
