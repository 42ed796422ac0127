#!/usr/bin/env python3
"""Makes tests/fixtures/parity/: small T5 checkpoints and what `transformers` computes with them.

    python tests/python/make_parity_fixtures.py [DIRECTORY]

Two runs with the versions in requirements.txt write the same bytes. `manifest.json` lists the models, their cases
and the weights whose gradients are given; tests/fixtures/README.md says what each tensor is.
Every expected value comes from the checkpoint as `from_pretrained` loads it back, never from the model in memory,
because `save_pretrained` may tie or drop what was set by hand.
"""

import json
import re
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import MT5Config, MT5ForConditionalGeneration, T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention

PAD, END = 0, 1
BATCH = 3
SIZE_LIMIT = 3_000_000
# A whole layer of each stack and all that is not in a layer: one weight of each kind.
WITH_GRADIENT = re.compile(
    r"shared\.weight|lm_head\.weight|(encoder|decoder)\.final_layer_norm\.weight"
    r"|(encoder|decoder)\.block\.0\..*relative_attention_bias\.weight|(encoder|decoder)\.block\.1\..*"
)
RELATIVE_BIAS = re.compile(r".*relative_attention_bias\.weight")
# Keys that `transformers` writes and configurations of checkpoints from before version 5 do not have.
NEW_KEYS = ("scale_decoder_outputs", "tie_word_embeddings", "dtype", "is_decoder")


@dataclass
class Case:
    """One batch: `gradients` matches the names whose gradients are stored, None for a case with logits and loss only."""

    source_length: int
    target_length: int
    gradients: re.Pattern | None = None
    encoder_states: bool = True

    @property
    def name(self) -> str:
        return f"len{self.source_length}_dec{self.target_length}"


SHORT = [Case(1, 1), Case(5, 1, WITH_GRADIENT), Case(5, 4, WITH_GRADIENT)]
ALL = [*SHORT, Case(1, 4), Case(32, 1), Case(32, 4), Case(200, 1, RELATIVE_BIAS, False), Case(200, 4, RELATIVE_BIAS, False)]


@dataclass
class Model:
    """A checkpoint to make. `old_config` holds what a configuration from before `transformers` 5 has in place of the
    new keys (None: the new form); `dtype` is the type of the weights in the file, the arithmetic is always f32."""

    name: str
    about: str
    options: dict
    cases: list[Case]
    untied: bool = False
    old_config: dict | None = None
    leave_out: tuple[str, ...] = ()
    mt5: bool = False
    dtype: torch.dtype = torch.float32
    shard_size: str = "1GB"
    seed: int = field(default=0)

    @property
    def classes(self):
        return (MT5Config, MT5ForConditionalGeneration) if self.mt5 else (T5Config, T5ForConditionalGeneration)


LARGE = dict(d_model=32, d_kv=8, num_heads=4, d_ff=64, num_layers=2, num_decoder_layers=3, vocab_size=100)
MIDDLE = dict(LARGE, d_model=24, d_ff=40, vocab_size=90)
SMALL = dict(LARGE, d_model=16, d_kv=6, num_heads=3, d_ff=24, vocab_size=60)

MODELS = [
    Model("v1_0_tied", "ReLU, head tied to the word embedding, decoder output scaled", LARGE, ALL),
    Model(
        "v1_1_untied",
        "gated GELU, a head of its own, decoder output not scaled; d_kv * num_heads (32) is not d_model (24)",
        dict(MIDDLE, feed_forward_proj="gated-gelu", tie_word_embeddings=False),
        ALL,
        untied=True,
        seed=1,
    ),
    Model(
        "v1_0_untied",
        "ReLU with a head of its own, configuration in the form before transformers 5 (tie_word_embeddings false)",
        dict(SMALL, tie_word_embeddings=False),
        SHORT,
        untied=True,
        old_config={"tie_word_embeddings": False},
        seed=2,
    ),
    Model(
        "v1_1_tied",
        "gated GELU tied and scaled, old configuration without tie_word_embeddings and num_decoder_layers; "
        "16 buckets up to distance 20",
        dict(
            SMALL,
            feed_forward_proj="gated-gelu",
            num_decoder_layers=2,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=20,
        ),
        [*SHORT, Case(32, 1), Case(32, 4)],
        old_config={},
        leave_out=("num_decoder_layers",),
        seed=3,
    ),
    Model(
        "scaled_untied",
        "a head of its own under a configuration that scales the decoder output: the two are independent",
        SMALL,
        SHORT,
        untied=True,
        seed=4,
    ),
    Model(
        "mt5",
        "model_type mt5, a head of its own: transformers never scales mT5's decoder output, "
        "although tie_word_embeddings is true in the configuration",
        SMALL,
        SHORT,
        untied=True,
        mt5=True,
        seed=5,
    ),
    Model("sharded", "ReLU tied, in several files with an index", SMALL, SHORT[2:], shard_size="30KB", seed=6),
    Model("f16", "ReLU tied, weights stored as f16", SMALL, SHORT[2:], dtype=torch.float16, seed=6),
    Model("bf16", "ReLU tied, weights stored as bf16", SMALL, SHORT[2:], dtype=torch.bfloat16, seed=6),
]


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "fixtures" / "parity"
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)

    manifest = {"torch": torch.__version__, "transformers": transformers.__version__, "models": []}
    for model in MODELS:
        write_checkpoint(model, directory / model.name)
        manifest["models"].append(write_expected(model, directory / model.name))
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    (directory / "position_buckets.json").write_text(json.dumps(position_buckets()) + "\n")

    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    print(f"{directory}: {len(MODELS)} models, {size / 1e6:.2f} MB")
    if size > SIZE_LIMIT:
        sys.exit(f"the fixtures hold {size} bytes, more than {SIZE_LIMIT}")


def write_checkpoint(model: Model, directory: Path):
    """A randomly initialised model, in the layout of the Hugging Face hub."""
    config_class, model_class = model.classes
    torch.manual_seed(model.seed)
    config = config_class(decoder_start_token_id=PAD, dropout_rate=0.0, **model.options)
    network = model_class(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            # Untouched, every layer norm is 1 and a reader that forgets one is not found out.
            if "layer_norm" in name:
                weight.copy_(1 + 0.2 * torch.randn_like(weight))
        if model.untied:
            head = torch.randn_like(network.lm_head.weight) * config.d_model**-0.5
            network.lm_head.weight = torch.nn.Parameter(head)
    network.to(model.dtype).save_pretrained(directory, max_shard_size=model.shard_size)
    (directory / "generation_config.json").unlink()

    if model.old_config is not None:
        path = directory / "config.json"
        written = json.loads(path.read_text())
        kept = {key: value for key, value in written.items() if key not in (*NEW_KEYS, *model.leave_out)}
        path.write_text(json.dumps(kept | model.old_config | {"torch_dtype": written["dtype"]}, indent=2, sort_keys=True) + "\n")
    check_files(model, directory, network)


def check_files(model: Model, directory: Path, network: torch.nn.Module):
    """Stops where the files are not what the fixture is meant to be."""
    files = sorted(directory.glob("*.safetensors"))
    index = directory / "model.safetensors.index.json"
    sharded = model.shard_size != "1GB"
    if index.exists() != sharded or (len(files) > 1) != sharded:
        sys.exit(f"{directory}: {len(files)} weight files, index {index.exists()}")
    tensors = {name: tensor for file in files for name, tensor in load_file(file).items()}
    if ("lm_head.weight" in tensors) != model.untied:
        sys.exit(f"{directory}: lm_head.weight should be {'present' if model.untied else 'absent'}")
    for name, tensor in tensors.items():
        if tensor.dtype != model.dtype or not torch.equal(tensor, network.state_dict()[name]):
            sys.exit(f"{directory}: {name} was not saved as it was")


def load(model: Model, directory: Path) -> torch.nn.Module:
    network, loading = model.classes[1].from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if any(loading.values()):
        sys.exit(f"{directory}: {loading}")
    if (network.lm_head.weight is network.shared.weight) == model.untied:
        sys.exit(f"{directory}: loaded with the wrong tying of the head")
    return network.eval()


def write_expected(model: Model, directory: Path) -> dict:
    """Runs the cases, writes expected.safetensors, returns the model's entry of the manifest."""
    network = load(model, directory)
    tensors, cases = {}, []
    for position, case in enumerate(model.cases):
        results, gradients = run_case(network, case, seed=1000 * model.seed + position)
        tensors |= {f"{case.name}.{key}": value.detach().contiguous() for key, value in results.items()}
        cases.append(
            {
                "name": case.name,
                "batch": BATCH,
                "source_length": case.source_length,
                "target_length": case.target_length,
                "encoder_last_hidden_state": case.encoder_states,
                "gradients": gradients,
            }
        )
    save_file(tensors, directory / "expected.safetensors")
    return {"name": model.name, "about": model.about, "cases": cases}


def run_case(network: torch.nn.Module, case: Case, seed: int) -> tuple[dict, list[str]]:
    source, mask = source_batch(network.config.vocab_size, case.source_length, seed)
    labels = torch.randint(2, network.config.vocab_size, (BATCH, case.target_length), generator=generator(seed + 500))
    started = network._shift_right(labels)
    network.zero_grad(set_to_none=True)
    output = network(input_ids=source, attention_mask=mask, decoder_input_ids=started, use_cache=False)
    loss = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
    loss.backward()

    results = {
        "input_ids": source,
        "attention_mask": mask,
        "decoder_input_ids": started,
        "labels": labels,
        "logits": output.logits,
        "loss": loss.reshape(1),
    }
    if case.encoder_states:
        results["encoder_last_hidden_state"] = output.encoder_last_hidden_state
    gradients = []
    for name, weight in network.named_parameters():
        if case.gradients and case.gradients.fullmatch(name):
            results[f"grad.{name}"] = weight.grad
            gradients.append(name)
    return results, gradients


def source_batch(vocabulary: int, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows of random tokens: whole, with two thirds and with a fifth of the length; longer than 1 they end with `</s>`."""
    source = torch.randint(2, vocabulary, (BATCH, length), generator=generator(seed))
    mask = torch.zeros_like(source)
    for row, kept in enumerate((length, (2 * length + 2) // 3, (length + 4) // 5)):
        mask[row, :kept] = 1
        if kept > 1:
            source[row, kept - 1] = END
        source[row, kept:] = PAD
    return source, mask


def position_buckets() -> dict:
    """The bucket of each distance (key position minus query position) from -300 to 300."""
    distances = torch.arange(-300, 301)
    buckets = {
        kind: T5Attention._relative_position_bucket(distances, bidirectional, 32, 128).tolist()
        for kind, bidirectional in (("bidirectional", True), ("causal", False))
    }
    return {"num_buckets": 32, "max_distance": 128, "first_distance": -300} | buckets


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


if __name__ == "__main__":
    main()
