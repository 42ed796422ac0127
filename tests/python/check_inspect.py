#!/usr/bin/env python3
"""Checks that `genir inspect` reports what transformers computes: activations, attention, logit lens, mean ablation.

    python tests/python/check_inspect.py CHECKPOINT QUERIES.json QUERY.json ACTIVATIONS.safetensors

QUERIES.json are the validation queries of the corpus in the paper's layout. The other two files are those of `genir
inspect CHECKPOINT QUERY --over all --json QUERY.json --activations ACTIVATIONS.safetensors`. The model runs in double
precision with the hooks of `reference_model.py`. Every line printed starts with OK or FAILED; the exit status is 1 when
a line says FAILED.
"""

import json
import sys
from pathlib import Path

import torch
from reference_model import COMPONENTS, Genir, patchable, stages
from safetensors import safe_open

TOLERANCE = 1e-4
RESIDUALS = {"residual_mid": "mid", "residual_mid_cross": "mid_cross", "residual_post": "post"}
SITES = {
    "residual_mid": lambda seen, layer: seen.mid[layer],
    "residual_mid_cross": lambda seen, layer: seen.mid_cross[layer],
    "residual_post": lambda seen, layer: seen.post[layer],
    "cross_attention_out": lambda seen, layer: seen.out[layer, "cross_attention"],
    "mlp_out": lambda seen, layer: seen.out[layer, "mlp"],
}


class Report:
    def __init__(self):
        self.failed = False

    def check(self, name: str, found, expected):
        """Compares tensors or lists of numbers: by their size, except for ranks, which must be equal."""
        found, expected = (torch.as_tensor(values, dtype=torch.float64) for values in (found, expected))
        if found.shape != expected.shape:
            return self.say(False, f"{name}: {list(found.shape)} numbers, transformers has {list(expected.shape)}")
        allowed = 0.0 if "rank" in name.split() else TOLERANCE * max(1.0, expected.abs().max().item())
        distance = (found - expected).abs().max().item()
        self.say(distance <= allowed, f"{name}: {list(found.shape)} within {distance:.1e}")

    def say(self, fine: bool, text: str):
        self.failed |= not fine
        print("OK" if fine else "FAILED", text)


@torch.no_grad()
def main():
    checkpoint, queries, inspected, activations = map(Path, sys.argv[1:])
    model, report = Genir(checkpoint), Report()
    found = json.loads(inspected.read_text())
    tokens = model.encode_text(found["query"]["text"])
    report.check("token ids", found["query"]["token_ids"], tokens)
    states = model.encode(tokens)
    seen = model.decode(states)
    target = model.docid_token(found["docid"]["docid"])

    with safe_open(activations, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        about = file.metadata()
    report.say(json.loads(about["tokens"]) == found["query"]["tokens"], "the tokens are in the metadata")
    layers = range(model.depth)
    report.check("encoder.last_hidden_state", tensors.pop("encoder.last_hidden_state"), states[0])
    report.check("decoder.embedding", tensors.pop("decoder.embedding"), seen.start[None])
    last = model.network.decoder.final_layer_norm(seen.post[model.depth - 1])
    report.check("decoder.last_hidden_state", tensors.pop("decoder.last_hidden_state"), last[None])
    for name, of in RESIDUALS.items():
        expected = torch.stack([getattr(seen, of)[layer] for layer in layers])
        report.check(f"decoder.{name}", tensors.pop(f"decoder.{name}"), expected)
    for component in COMPONENTS:
        expected = torch.stack([seen.out[layer, component] for layer in layers])
        report.check(f"decoder.{component}_out", tensors.pop(f"decoder.{component}_out"), expected)
    start = torch.tensor([[model.config.decoder_start_token_id]])
    model.patches = {}
    passed = model.network.decoder(
        input_ids=start, encoder_hidden_states=states, output_attentions=True, use_cache=False
    )
    weights = torch.stack([of_layer[0, :, 0] for of_layer in passed.cross_attentions])
    report.check("decoder.cross_attention_weights", tensors.pop("decoder.cross_attention_weights"), weights)
    report.check("attention", found["attention"], weights)
    report.say(not tensors, f"no other tensors: {sorted(tensors)}")

    def rank(logits):
        return 1 + int((logits > logits[target]).sum())

    logits = model.logits(seen)
    unpatched = logits[target].item()
    report.check("rank of the docid", [found["docid"]["rank"]], [rank(logits)])
    report.check("logit of the docid", [found["docid"]["logit"]], [unpatched])
    report.check("probability of the docid", [found["docid"]["probability"]], [logits.softmax(0)[target]])
    for document in found["documents"]:
        token = model.docid_token(document["docid"])
        report.check(f"logit of document {document['docid']}", [document["logit"]], [logits[token]])
        report.check(f"probability of document {document['docid']}", [document["probability"]], [logits.softmax(0)[token]])

    read = [model.lens(SITES[reading["site"]](seen, reading["layer"])) for reading in found["lens"]]
    report.check("lens rank", [reading["rank"] for reading in found["lens"]], [rank(logits) for logits in read])
    report.check("lens logit", [reading["logit"] for reading in found["lens"]], [logits[target] for logits in read])
    probabilities = [logits.softmax(0)[target] for logits in read]
    report.check("lens probability", [reading["probability"] for reading in found["lens"]], probabilities)

    sums: dict = {}
    others = json.loads(queries.read_text())
    for query in others:
        for place, value in patchable(model.decode(model.encode(model.encode_text(query["query"])))):
            sums[place] = sums.get(place, 0.0) + value
    of_stage = stages(model.depth)
    ranks, patched_logits = [], []
    cells = found["ablation"]["cells"]
    for cell in cells:
        replaced = of_stage[cell["stage"]] if cell["stage"] else [cell["layer"]]
        patches = {(layer, cell["component"]): sums[layer, cell["component"]] / len(others) for layer in replaced}
        logits = model.logits(model.decode(states, patches))
        ranks.append(rank(logits))
        patched_logits.append(logits[target].item())
    report.check("ablation rank", [cell["rank"] for cell in cells], ranks)
    report.check("ablation logit", [cell["logit"] for cell in cells], patched_logits)
    report.check("ablation change", [cell["change"] for cell in cells], [logit - unpatched for logit in patched_logits])
    sys.exit(1 if report.failed else 0)


if __name__ == "__main__":
    main()
