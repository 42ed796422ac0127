#!/usr/bin/env python3
"""PyTorch's side of the comparison: one training step of a T5 for each line `step` on standard input.

    python pytorch_peer.py MODE SHAPE [options]

MODE is `full`, `denoising` (full, with labels of several text tokens, without docids), `restricted` or `lora` (of the
restricted set's matrices with rank 8, by `peft`); SHAPE a name, or numbers: d_model,d_ff,heads,layers (heads of 64). run.py and
scripts/gpu_check.py start this; benches/README.md has the protocol.
"""

import argparse
import contextlib
import sys
import time

import torch
from transformers import T5Config, T5ForConditionalGeneration

LEARNING_RATE = 1e-4
SHAPES = {"t5-small": "512,2048,8,6", "t5-base": "768,3072,12,12", "t5-large": "1024,4096,16,24"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("full", "denoising", "restricted", "lora"))
    parser.add_argument("shape", help=f"{', '.join(SHAPES)} or d_model,d_ff,heads,layers")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, default=32, help="tokens of each source")
    parser.add_argument("--target", type=int, default=32, help="labels of each source, of denoising")
    parser.add_argument("--words", type=int, default=32128)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--threads", type=int, help="[default: PyTorch's own choice]")
    parser.add_argument("--warm-up", type=int, default=3, help="steps before READY, not timed")
    parser.add_argument("--fused", action="store_true", help="PyTorch's fused AdamW, which is not its default on CPU")
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.mode == "denoising":
        arguments.documents = 0

    model = build(arguments).to(arguments.device)
    if arguments.mode in ("restricted", "lora"):
        restrict(model)
    if arguments.mode == "lora":
        model = adapt(model)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=0.01, fused=arguments.fused or None)
    step = training_step(model, optimizer, arguments)
    serve(step, arguments.warm_up, sum(weight.numel() for weight in trained))


def build(arguments: argparse.Namespace) -> T5ForConditionalGeneration:
    sizes = [int(number) for number in SHAPES.get(arguments.shape, arguments.shape).split(",")]
    sizes = dict(zip(("d_model", "d_ff", "num_heads", "num_layers"), sizes, strict=True))
    vocabulary = arguments.words + arguments.documents
    config = T5Config(vocab_size=vocabulary, d_kv=64, dropout_rate=0.0, decoder_start_token_id=0, use_cache=False, **sizes)
    return T5ForConditionalGeneration(config).train()


def restrict(model: T5ForConditionalGeneration):
    """Leaves the cross-attention of Stages II and III and the MLPs of Stage III, each with its layer norm, to be trained."""
    layers = model.decoder.block
    # The paper's stages, 7, 11 and 6 of 24 layers, rounded to this depth as `Stages::scaled` does.
    first_end, second_end = ((len(layers) * end + 12) // 24 for end in (7, 18))
    first_end = min(max(first_end, 1), len(layers) - 2)
    second_end = min(max(second_end, first_end + 1), len(layers) - 1)
    model.requires_grad_(False)
    for number, layer in enumerate(layers):
        layer.layer[1].requires_grad_(number >= first_end)
        layer.layer[2].requires_grad_(number >= second_end)


def adapt(model: T5ForConditionalGeneration) -> torch.nn.Module:
    """LoRA of the matrices that are trained, in their place."""
    from peft import LoraConfig, get_peft_model

    is_trained = lambda module: isinstance(module, torch.nn.Linear) and module.weight.requires_grad
    matrices = [name for name, module in model.named_modules() if is_trained(module)]
    return get_peft_model(model, LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules=matrices))


def training_step(model: T5ForConditionalGeneration, optimizer: torch.optim.Optimizer, arguments: argparse.Namespace):
    """A function that trains one step on one fixed batch, each row whole, and returns the loss."""
    generator = torch.Generator().manual_seed(1)
    shape = (arguments.batch, arguments.length)
    source = torch.randint(2, arguments.words, shape, generator=generator).to(arguments.device)
    vocabulary = arguments.words + arguments.documents
    target = torch.randint(min(arguments.words, vocabulary - 1), vocabulary, (arguments.batch,), generator=generator).to(arguments.device)
    mask = torch.ones_like(source)
    start = torch.zeros(arguments.batch, 1, dtype=torch.long, device=arguments.device)
    on_gpu = arguments.device.startswith("cuda")
    precision = torch.autocast("cuda" if on_gpu else "cpu", torch.bfloat16) if arguments.bf16 else contextlib.nullcontext()
    called = torch.compile(model) if arguments.compile else model
    labels = None
    if arguments.mode == "denoising":
        labels = torch.randint(2, arguments.words, (arguments.batch, arguments.target), generator=generator).to(arguments.device)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with precision:
            if labels is not None:
                loss = called(input_ids=source, attention_mask=mask, labels=labels).loss
            else:
                logits = called(input_ids=source, attention_mask=mask, decoder_input_ids=start).logits[:, 0]
                loss = torch.nn.functional.cross_entropy(logits.float(), target)
        loss.backward()
        optimizer.step()
        value = loss.item()
        if on_gpu:
            torch.cuda.synchronize()
        return value

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
