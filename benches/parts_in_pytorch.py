#!/usr/bin/env python3
"""Times in PyTorch what `cargo bench --bench parts` times in genir: the same parts, sizes and threads.

    python3 benches/parts_in_pytorch.py [--threads 2]

Needs a Python with tests/python/requirements.txt. Prints the median of each part in milliseconds.
"""

import argparse
import statistics
import time

import torch
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Stack

BATCH, WIDTH, WORDS, DOCUMENTS = 32, 512, 32_128, 1_000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    time_part("loss from the output, 32 x 33,128, with gradient", loss())
    time_part("AdamW, 32,128 x 512", adamw(fused=False))
    time_part("AdamW, 32,128 x 512, fused", adamw(fused=True))
    time_part("self-attention of 32 x 32 tokens, with gradients", self_attention())


def time_part(name, part, rounds=40):
    part()
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        part()
        seconds.append(time.perf_counter() - begun)
    print(f"{name:60} {1000 * statistics.median(seconds):8.2f} ms")


def loss():
    """From the decoder's output to the loss and the output's gradient; the rows are frozen."""
    output = torch.randn(BATCH, WIDTH, requires_grad=True)
    matrix = torch.randn(WORDS + DOCUMENTS, WIDTH) * 0.05
    targets = torch.arange(BATCH) + WORDS

    def part():
        output.grad = None
        torch.nn.functional.cross_entropy(output @ matrix.T, targets).backward()

    return part


def adamw(fused):
    parameter = torch.nn.Parameter(torch.randn(WORDS, WIDTH))
    parameter.grad = torch.randn(WORDS, WIDTH)
    return torch.optim.AdamW([parameter], lr=1e-3, fused=fused).step


def self_attention():
    """A T5 encoder of one layer with next to no MLP: attention and little else."""
    config = T5Config(
        vocab_size=100, d_model=WIDTH, d_kv=64, d_ff=8, num_heads=8, num_layers=1, dropout_rate=0.0, is_decoder=False,
        use_cache=False,
    )
    encoder = T5Stack(config)
    encoder.set_input_embeddings(torch.nn.Embedding(100, WIDTH))
    source = (torch.arange(BATCH * 32) * 7 % 100).reshape(BATCH, 32)

    def part():
        encoder.zero_grad()
        encoder(input_ids=source).last_hidden_state.sum().backward()

    return part


if __name__ == "__main__":
    main()
