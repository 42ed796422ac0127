#!/usr/bin/env python3
"""PyTorch's side of the comparison: one training step of a T5 for each line `step` on standard input.

    python pytorch_peer.py MODE SHAPE [options]

MODE is `full` or `restricted`, SHAPE `t5-small` or `t5-base`. run.py starts this; benches/README.md has the protocol.
"""

import argparse
import sys
import time

import torch
from transformers import T5Config, T5ForConditionalGeneration

WORDS = 32128
DOCIDS = 1000
BATCH = 32
SOURCE_LENGTH = 32
LEARNING_RATE = 1e-4
SHAPES = {
    "t5-small": dict(d_model=512, d_ff=2048, d_kv=64, num_heads=8, num_layers=6),
    "t5-base": dict(d_model=768, d_ff=3072, d_kv=64, num_heads=12, num_layers=12),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("full", "restricted"))
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=3, help="steps before READY, not timed")
    parser.add_argument("--fused", action="store_true", help="PyTorch's fused AdamW, which is not its default on CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    model = build(arguments.shape)
    if arguments.mode == "restricted":
        restrict(model)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01, fused=arguments.fused or None)
    serve(training_step(model, optimizer), arguments.warm_up, sum(weight.numel() for weight in trained))


def build(shape: str) -> T5ForConditionalGeneration:
    config = T5Config(vocab_size=WORDS + DOCIDS, dropout_rate=0.0, decoder_start_token_id=0, use_cache=False, **SHAPES[shape])
    return T5ForConditionalGeneration(config).train()


def restrict(model: T5ForConditionalGeneration):
    """Leaves the cross-attention of Stages II and III and the MLPs of Stage III, each with its layer norm, to be trained."""
    layers = model.decoder.block
    # The paper's stages, 7, 11 and 6 of 24 layers, rounded to this depth as `Stages::scaled` does.
    first_end, second_end = ((len(layers) * end + 12) // 24 for end in (7, 18))
    model.requires_grad_(False)
    for number, layer in enumerate(layers):
        layer.layer[1].requires_grad_(number >= first_end)
        layer.layer[2].requires_grad_(number >= second_end)


def training_step(model: T5ForConditionalGeneration, optimizer: torch.optim.Optimizer):
    """A function that trains one step on one fixed batch, each row whole, and returns the loss."""
    generator = torch.Generator().manual_seed(1)
    source = torch.randint(2, WORDS, (BATCH, SOURCE_LENGTH), generator=generator)
    target = torch.randint(WORDS, WORDS + DOCIDS, (BATCH,), generator=generator)
    mask = torch.ones_like(source)
    start = torch.zeros(BATCH, 1, dtype=torch.long)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        logits = model(input_ids=source, attention_mask=mask, decoder_input_ids=start).logits[:, 0]
        loss = torch.nn.functional.cross_entropy(logits, target)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def serve(step, warm_up: int, trained: int):
    for _ in range(warm_up):
        step()
    print(f"READY {trained}", flush=True)
    for line in sys.stdin:
        if line.strip() != "step":
            break
        start = time.perf_counter()
        loss = step()
        print(f"T {time.perf_counter() - start:.6f} {loss:.6f}", flush=True)
    print(f"HWM {peak_memory()}", flush=True)


def peak_memory() -> int:
    """The most memory this process has held, in MiB."""
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status if ":" in line)
    return int(fields["VmHWM"].split()[0]) // 1024


if __name__ == "__main__":
    main()
