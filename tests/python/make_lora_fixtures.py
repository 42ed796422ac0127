#!/usr/bin/env python3
"""Makes tests/fixtures/lora/: a small T5, an adapter as `peft` draws it, and what 20 updates with `peft` give.

    python tests/python/make_lora_fixtures.py [DIRECTORY]

The model has rows for docids after those of its words. LoRA adapts every matrix of attention and MLPs, the MLPs with another
rank and alpha, and the docid rows are trained in full. The target is one docid, as the first token of the decoder.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import T5Config, T5ForConditionalGeneration

WORDS, DOCUMENTS = 23, 7
BATCH, STEPS = 4, 20
OPTIMIZER = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}
ATTENTION = {"rank": 4, "alpha": 6}
MLP = {"rank": 2, "alpha": 8}


def main():
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fixtures/lora")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)

    sizes = {"d_model": 16, "d_kv": 6, "d_ff": 20, "num_heads": 4, "num_layers": 2, "num_decoder_layers": 3}
    config = T5Config(
        vocab_size=WORDS + DOCUMENTS, feed_forward_proj="gated-gelu", dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0,
        tie_word_embeddings=True, **sizes,
    )
    model = T5ForConditionalGeneration(config)
    model.save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)

    matrices = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"]
    in_mlp = [name for name in matrices if "DenseReluDense" in name]
    lora = LoraConfig(
        task_type="SEQ_2_SEQ_LM",
        r=ATTENTION["rank"],
        lora_alpha=ATTENTION["alpha"],
        lora_dropout=0.0,
        target_modules=matrices,
        rank_pattern=dict.fromkeys(in_mlp, MLP["rank"]),
        alpha_pattern=dict.fromkeys(in_mlp, MLP["alpha"]),
        trainable_token_indices={"shared": list(range(WORDS, WORDS + DOCUMENTS))},
    )
    adapted = get_peft_model(model, lora).train()
    initial = {name: weight.clone() for name, weight in get_peft_model_state_dict(adapted).items() if "lora_" in name}

    trained = [weight for weight in adapted.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, **OPTIMIZER)
    batches, losses = [], []
    for _ in range(STEPS):
        lengths = torch.randint(2, 7, (BATCH,))
        lengths[0] = 6
        source = torch.zeros(BATCH, 6, dtype=torch.long)
        for row, length in enumerate(lengths):
            source[row, :length] = torch.randint(2, WORDS, (int(length),))
        target = torch.randint(0, DOCUMENTS, (BATCH,))
        batches.append({"input_ids": source.tolist(), "lengths": lengths.tolist(), "targets": target.tolist()})
        logits = first_logits(adapted, source, lengths)
        loss = torch.nn.functional.cross_entropy(logits, target + WORDS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    last = batches[-1]
    adapted.eval()
    with torch.no_grad():
        logits = first_logits(adapted, torch.tensor(last["input_ids"]), torch.tensor(last["lengths"]))
    save_file({name: weight.contiguous() for name, weight in initial.items()}, directory / "initial.safetensors")
    expected = {
        "words": WORDS, "documents": DOCUMENTS, "attention": ATTENTION, "mlp": MLP, "learning_rate": OPTIMIZER["lr"],
        "weight_decay": OPTIMIZER["weight_decay"], "batches": batches, "losses": losses, "logits": logits.tolist(),
    }
    (directory / "expected.json").write_text(json.dumps(expected) + "\n", encoding="utf-8")


def first_logits(model, source: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Logits of the decoder's first position, [batch, words + documents]."""
    mask = (torch.arange(source.shape[1])[None] < lengths[:, None]).long()
    start = torch.zeros(source.shape[0], 1, dtype=torch.long)
    return model(input_ids=source, attention_mask=mask, decoder_input_ids=start).logits[:, 0]


if __name__ == "__main__":
    main()
