"""Makes checkpoints/atlas-base: the tokenizer and the configuration of the small T5 that the quickstart trains.

There are no weights in it: the quickstart starts from scratch. The tokenizer is learned from the documents
and the training questions of `bundled:atlas` only. The result is committed; run this again after a change
of the bundled corpus:

    cargo run --release --example dump_corpus -- DIRECTORY
    pip install tokenizers==0.23.3
    python checkpoints/make_atlas_base.py DIRECTORY
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

VOCABULARY = 5000
SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}  # ids 0, 1, 2, as in T5
BASE = Path(__file__).parent / "atlas-base"


def train(texts):
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIAL["unk_token"]))
    # Without accents, so that a question typed as "Bogota" is the same as "Bogotá".
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
    )
    # A word is the same token at the start of a text, after a space and after a bracket.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=list(SPECIAL.values()),
            # Every printable ASCII character has a token, whether or not the corpus has it.
            initial_alphabet=[chr(code) for code in range(33, 127)],
            show_progress=False,
        ),
    )
    end = SPECIAL["eos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
    )
    return tokenizer


def join_merges(file):
    """Writes merges as "a b": tokenizers before 0.20 (transformers before 4.45) cannot read pairs."""
    tokenizer = json.loads(file.read_text(encoding="utf-8"))
    tokenizer["model"]["merges"] = [" ".join(pair) for pair in tokenizer["model"]["merges"]]
    file.write_text(json.dumps(tokenizer, indent=2, ensure_ascii=False), encoding="utf-8")


def write(name, value):
    (BASE / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def main(directory):
    documents = json.loads((directory / "documents.json").read_text(encoding="utf-8"))
    questions = json.loads((directory / "train_queries.json").read_text(encoding="utf-8"))
    tokenizer = train([row["text"] for row in documents] + [row["query"] for row in questions])
    BASE.mkdir(exist_ok=True)
    tokenizer.save(str(BASE / "tokenizer.json"))
    join_merges(BASE / "tokenizer.json")
    write(
        "tokenizer_config.json",
        {
            "clean_up_tokenization_spaces": False,
            **SPECIAL,
            "model_max_length": 512,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )
    write("special_tokens_map.json", SPECIAL)
    write(
        "config.json",
        {
            "architectures": ["T5ForConditionalGeneration"],
            "model_type": "t5",
            "d_model": 192,
            "d_kv": 32,
            "num_heads": 6,
            "d_ff": 768,
            "num_layers": 2,
            "num_decoder_layers": 3,
            "feed_forward_proj": "relu",
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "dropout_rate": 0.1,
            "layer_norm_epsilon": 1e-6,
            "initializer_factor": 1.0,
            "tie_word_embeddings": True,
            "is_encoder_decoder": True,
            "use_cache": True,
            "vocab_size": tokenizer.get_vocab_size(),
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
        },
    )
    write("generation_config.json", {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0})
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
