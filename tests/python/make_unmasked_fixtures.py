"""Writes `unmasked.json` beside the models in tests/fixtures/probes/: how transformers ranks their queries when it is
asked as the paper's released eval.py asks.

    .venv/bin/python tests/python/make_unmasked_fixtures.py

Queries are cut and padded to 128 tokens by the tokenizer (`padding="max_length"`), and the model gets no attention mask,
so that it attends to the padding. A docid competes with words and docids; the correct queries are those that have a
relevant docid at rank 1, as [docid token, query id]. tests/testsuite/eval_command.rs holds `genir eval --unmasked-padding 128
--vocabulary all` against them. No rank hinges on a gap below 1e-5, so that f32 decides as the f64 here does.
"""

import json
from pathlib import Path

import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration

FIXTURES = Path(__file__).parent.parent / "fixtures" / "probes"
PADDING = 128


def ranked(directory, queries):
    """Ranks of the relevant documents by query, and the pairs of the correct ones."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = T5ForConditionalGeneration.from_pretrained(directory).double().eval()
    ranks, correct, changed = {}, [], 0
    for query in queries:
        encoded = tokenizer(
            query["query"], max_length=PADDING, truncation=True, padding="max_length", return_tensors="pt"
        )
        start = torch.zeros(1, 1, dtype=torch.long)
        logits = model(input_ids=encoded.input_ids, decoder_input_ids=start).logits[0, 0, : len(tokenizer)]
        masked = model(**encoded, decoder_input_ids=start).logits[0, 0, : len(tokenizer)]
        found = {}
        for document in map(str, query["relevant_docs"]):
            token = f"@DOC_ID_{document}@"
            own = logits[tokenizer.convert_tokens_to_ids(token)]
            found[document] = 1 + int((logits > own).sum())
            gap = (logits - own).abs().sort().values[1]
            assert gap > 1e-5, (query["id"], document, gap)
            changed += found[document] != 1 + int((masked > masked[tokenizer.convert_tokens_to_ids(token)]).sum())
            if found[document] == 1:
                correct.append([token, str(query["id"])])
        if found:
            ranks[str(query["id"])] = found
    assert changed > len(ranks) // 4, "the mask makes no difference: a test of nothing"
    return {"ranks": ranks, "correct": correct}


def main():
    torch.set_grad_enabled(False)
    for model in ("shallow", "deep"):
        directory = FIXTURES / model
        queries = json.loads((directory / "corpus" / "val_queries.json").read_text())
        result = ranked(directory / "checkpoint", queries)
        (directory / "unmasked.json").write_text(json.dumps(result, indent=0) + "\n")
        print(model, len(result["ranks"]), "queries,", len(result["correct"]), "correct")


if __name__ == "__main__":
    main()
