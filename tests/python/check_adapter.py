#!/usr/bin/env python3
"""Checks that `peft` loads the adapter of a checkpoint, and that it gives the logits of the checkpoint's merged model.

    python tests/python/check_adapter.py CHECKPOINT_DIR BASE_DIR [--tolerance 1e-4]

The base model is cut to its words first, as one that has never seen a docid. Every line printed starts with OK or FAILED;
the exit status is 1 when a line says FAILED.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers
from peft import PeftModel
from transformers import T5ForConditionalGeneration


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("base", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    arguments = parser.parse_args()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()

    merged, loading = T5ForConditionalGeneration.from_pretrained(arguments.checkpoint, output_loading_info=True)
    problems = [f"{kind}: {sorted(names)[:5]}" for kind, names in loading.items() if names]
    report("merged model", problems, "no missing or unexpected keys")

    rows = merged.get_input_embeddings().weight.shape[0]
    documents = len(json.loads((arguments.checkpoint / "docids.json").read_text(encoding="utf-8")))
    base = T5ForConditionalGeneration.from_pretrained(arguments.base)
    base.resize_token_embeddings(rows - documents, mean_resizing=False)
    base.resize_token_embeddings(rows, mean_resizing=False)
    adapted = PeftModel.from_pretrained(base, arguments.checkpoint / "adapter").eval()
    merged.eval()

    generator = torch.Generator().manual_seed(0)
    source = torch.randint(2, rows - documents, (8, 12), generator=generator)
    start = torch.zeros(8, 1, dtype=torch.long)
    with torch.no_grad():
        expected = merged(input_ids=source, decoder_input_ids=start).logits
        found = adapted(input_ids=source, decoder_input_ids=start).logits
        with adapted.disable_adapter():
            without = adapted(input_ids=source, decoder_input_ids=start).logits
    distance = (found - expected).abs().max().item()
    # Written so that NaN fails.
    problems = [] if distance <= arguments.tolerance else [f"logits differ by {distance:.2e}"]
    report("logits", problems, f"{list(found.shape)} within {distance:.1e}")
    changed = (found - without).abs().max().item()
    report("adapter", [] if changed > 10 * arguments.tolerance else ["it changes nothing"], f"changes logits by {changed:.1e}")


def report(name: str, problems: list[str], success: str):
    if problems:
        print(f"FAILED {name}: {'; '.join(problems)}")
        sys.exit(1)
    print(f"OK {name}: {success}")


if __name__ == "__main__":
    main()
