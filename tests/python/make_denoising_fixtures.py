#!/usr/bin/env python3
"""Makes tests/fixtures/denoising/: loss and gradients of `T5ForConditionalGeneration(..., labels=...)`.

    python tests/python/make_denoising_fixtures.py [DIRECTORY]

The models are those of tests/fixtures/parity, as `from_pretrained` loads them. Labels have padding (-100), and
transformers shifts them right itself. tests/fixtures/README.md says what each tensor is.
"""

import re
import sys
from pathlib import Path

import torch
import transformers
from make_parity_fixtures import BATCH, generator, source_batch
from safetensors.torch import save_file
from transformers import T5ForConditionalGeneration

PARITY = Path(__file__).parents[1] / "fixtures" / "parity"
# ReLU and gated GELU, each with a tied and an untied head.
MODELS = ("v1_0_tied", "v1_0_untied", "v1_1_tied", "v1_1_untied")
SOURCE_LENGTH, TARGET_LENGTH = 9, 6
IGNORED = -100
WITH_GRADIENT = re.compile(
    r"shared\.weight|lm_head\.weight|(encoder|decoder)\.final_layer_norm\.weight"
    r"|(encoder|decoder)\.block\.0\..*relative_attention_bias\.weight|encoder\.block\.0\..*\.q\.weight|decoder\.block\.1\..*"
)


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else PARITY.parent / "denoising"
    directory.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for seed, name in enumerate(MODELS):
        network = T5ForConditionalGeneration.from_pretrained(PARITY / name, dtype=torch.float32, attn_implementation="eager").eval()
        save_file(expected(network, seed), directory / f"{name}.safetensors")
    size = sum(file.stat().st_size for file in directory.iterdir())
    print(f"{directory}: {len(MODELS)} models, {size / 1e6:.2f} MB")


def expected(network: T5ForConditionalGeneration, seed: int) -> dict[str, torch.Tensor]:
    vocabulary = network.config.vocab_size
    source, mask = source_batch(vocabulary, SOURCE_LENGTH, 100 + seed)
    labels = torch.randint(2, vocabulary, (BATCH, TARGET_LENGTH), generator=generator(200 + seed))
    for row, kept in enumerate((TARGET_LENGTH, TARGET_LENGTH - 1, 2)):
        labels[row, kept - 1] = 1
        labels[row, kept:] = IGNORED
    output = network(input_ids=source, attention_mask=mask, labels=labels, use_cache=False)
    output.loss.backward()
    gradients = {
        f"grad.{name}": weight.grad.contiguous()
        for name, weight in network.named_parameters()
        if WITH_GRADIENT.fullmatch(name)
    }
    return {"input_ids": source, "attention_mask": mask, "labels": labels, "loss": output.loss.detach().reshape(1)} | gradients


if __name__ == "__main__":
    main()
