#!/usr/bin/env python3
"""Makes tests/fixtures/probes/: small trained GenIR models, a corpus for each, and what the reference probes measure.

    python tests/python/make_probe_fixtures.py [DIRECTORY]
    python tests/python/make_probe_fixtures.py --measure [DIRECTORY]
    python tests/python/make_probe_fixtures.py --cut [DIRECTORY]

With --measure the models and the corpora stay as they are, and only what is expected of them is made again; queries that
what was added makes unsafe go. With --cut only what is expected of models whose decoder is cut to one and two layers is
made again: they have no stages, and the tests cut them in the same way.

Two runs with the versions in requirements.txt write the same bytes on one machine. Each model is pre-trained on its own
made-up texts (`base`: say which word is missing), then trained to retrieve twice: on all documents (`checkpoint`) and with
some left out (`other`). Results are compared between f32 and f64: queries are kept only where no rank, order or sign
hinges on a gap near rounding errors, and the script stops where a mean could be lost in them.
"""

import json
import random
import shutil
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration

import probe_reference
from reference_model import DOCID_TOKEN, Genir

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
MAX_TOKENS = 32
BATCH = 64
SIZE_LIMIT = 1_500_000
# Relative to the largest of what is compared; f32 is off by less than a tenth of it in models of this size.
CLOSEST_GAP = 1e-5
# A mean of cosines below this could be off by more than 1e-4 of itself.
SMALLEST_COSINE = 1e-3
WORDS, DOCUMENTS, CANDIDATES, KEPT = 81, 40, 72, 24


@dataclass
class Model:
    """What is made. `shuffled`: docid tokens in another order than the documents, as the paper's preprocessing has them."""

    name: str
    seed: int
    options: dict
    untied: bool
    shuffled: bool
    left_out: list[int]
    patches: list[str]
    circuit: list[str]
    applied: list[str]
    """What of `circuit` is left where later patches take the place of earlier ones."""
    base_steps: int
    steps: int


MODELS = [
    Model(
        "shallow",
        seed=4,
        options=dict(d_model=16, d_kv=5, num_heads=4, d_ff=32, num_layers=2, num_decoder_layers=3),
        untied=False,
        shuffled=False,
        left_out=[2, 11, 17, 23, 29, 38],
        patches=["decoder.layers[1]", "decoder.cross_attention[2].heads[1]"],
        circuit=[
            "decoder.self_attention=zero",
            "decoder.cross_attention[1].heads[0]=zero",
            "decoder.cross_attention[1].heads[1]=mean",
            "decoder.cross_attention[0].heads[2]=zero",
            "decoder.cross_attention[0]=base",
        ],
        applied=[
            "decoder.self_attention=zero",
            "decoder.cross_attention[1].heads[0]=zero",
            "decoder.cross_attention[1].heads[1]=mean",
            "decoder.cross_attention[0]=base",
        ],
        base_steps=300,
        steps=800,
    ),
    Model(
        "deep",
        seed=5,
        options=dict(
            d_model=20, d_kv=6, num_heads=4, d_ff=32, num_layers=2, num_decoder_layers=8,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False,
        ),
        untied=True,
        shuffled=True,
        left_out=[0, 7, 13, 21, 30, 39],
        patches=["decoder.mlp[3-5]", "decoder.self_attention[II].heads[0,3]"],
        circuit=[
            "decoder.cross_attention[2,3]=mean",
            "decoder.cross_attention[3].heads[1,2]=zero",
            "decoder.mlp[1-3]=mean",
            "decoder.mlp[2]=base",
            "decoder.self_attention[4].heads[0,1]=zero",
            "decoder.self_attention[4].heads[1,3]=base",
        ],
        applied=[
            "decoder.cross_attention[2]=mean",
            "decoder.cross_attention[3].heads[0,3]=mean",
            "decoder.cross_attention[3].heads[1,2]=zero",
            "decoder.mlp[1,3]=mean",
            "decoder.mlp[2]=base",
            "decoder.self_attention[4].heads[0]=zero",
            "decoder.self_attention[4].heads[1,3]=base",
        ],
        base_steps=300,
        steps=800,
    ),
]  # fmt: skip


def main():
    paths = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    directory = Path(paths[0]) if paths else Path(__file__).parents[1] / "fixtures" / "probes"
    only_measure, only_cut = "--measure" in sys.argv, "--cut" in sys.argv
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if not only_measure and not only_cut:
        shutil.rmtree(directory, ignore_errors=True)
    for model in [] if only_cut else MODELS:
        with torch.no_grad() if only_measure else nullcontext():
            (measure_again if only_measure else make)(model, directory / model.name)
    for layers in CUTS:
        with torch.no_grad():
            measure_cut(MODELS[0], directory / MODELS[0].name, layers)
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    print(f"{directory}: {len(MODELS)} models, {size / 1e6:.2f} MB")
    if size > SIZE_LIMIT:
        sys.exit(f"the fixtures hold {size} bytes, more than {SIZE_LIMIT}")


def make(model: Model, directory: Path):
    corpus = Corpus(random.Random(model.seed))
    order = list(corpus.documents)
    if model.shuffled:
        random.Random(model.seed).shuffle(order)
    plain, with_docids = tokenizer(corpus.words, []), tokenizer(corpus.words, order)

    base = new_network(model, len(plain))
    pretrain(base, plain, corpus, model)
    save(base, plain, directory / "base", model)
    for name, left_out in (("checkpoint", []), ("other", model.left_out)):
        network = with_docid_rows(base, model, len(with_docids))
        train(network, with_docids, corpus, left_out, model)
        save(network, with_docids, directory / name, model)
    corpus.write(directory / "corpus")
    with torch.no_grad():
        measure(model, {"validation": corpus.validation, "test": corpus.test}, directory)


def measure_again(model: Model, directory: Path):
    """With the models and the queries that are there."""
    files = {split: directory / "corpus" / name for split, name in probe_reference.SPLITS.items()}
    kept = {split: json.loads(files[split].read_text()) for split in ("validation", "test")}
    measure(model, kept, directory)


# Decoders too shallow for stages

# By layers left: what is patched, and a circuit with what of it is left where later patches take the place of earlier ones.
CUTS = {
    1: (
        ["decoder.mlp[0]", "decoder.cross_attention[0].heads[1]"],
        ["decoder.self_attention=zero", "decoder.mlp[0]=mean"],
    ),
    2: (
        ["decoder.layers[1]", "decoder.cross_attention[1].heads[1]"],
        ["decoder.self_attention=zero", "decoder.cross_attention[0]=base", "decoder.mlp[1]=mean"],
    ),
}


def measure_cut(model: Model, directory: Path, layers: int):
    """Writes expected_cut_to_<layers>.json. The queries that are safe from rounding are named in it; all are measured."""
    patches, circuit = CUTS[layers]
    left_out = [str(number) for number in model.left_out]
    with tempfile.TemporaryDirectory() as cut:
        genir, base, other = (Genir(cut_to(directory / name, Path(cut) / name, layers)) for name in ("checkpoint", "base", "other"))
    queries = {name: probe_reference.read_queries(genir, directory / "corpus", name) for name in ("validation", "test")}
    while True:
        result, _ = probe_reference.measure(
            genir, base, queries["validation"], queries["test"], ("validation", "test"), ("other", other), left_out,
            patches, circuit, over="all",
        )  # fmt: skip
        kept = {name: [query for query in of_one if query.closest >= CLOSEST_GAP] for name, of_one in queries.items()}
        if kept == queries:
            break
        queries = kept
    names = {name: [query.id for query in of_one] for name, of_one in queries.items()}
    print(f"{model.name} cut to {layers}: {result['measured_on']}, {[len(of_one) for of_one in names.values()]} queries")
    if min(map(len, names.values())) < 10:
        sys.exit("too few queries; choose another seed")
    options = {"over": "all", "left_out": left_out, "patches": patches, "circuit": circuit, "queries": names}
    made = {"seed": model.seed, "torch": torch.__version__, "transformers": transformers.__version__}
    probe_reference.write(directory / f"expected_cut_to_{layers}.json", {"made": made, "options": options} | result)


def cut_to(checkpoint: Path, target: Path, layers: int) -> Path:
    """The checkpoint with the first `layers` layers of its decoder."""
    shutil.copytree(checkpoint, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config | {"num_decoder_layers": layers}))
    tensors = load_file(target / "model.safetensors")
    gone = [name for name in tensors if name.startswith("decoder.block.") and int(name.split(".")[2]) >= layers]
    save_file({name: value for name, value in tensors.items() if name not in gone}, target / "model.safetensors", {"format": "pt"})
    return target


# Texts


class Corpus:
    """Documents of made-up words, and queries that are a few words of theirs among others."""

    def __init__(self, chance: random.Random):
        syllables = [first + second for first in "bdfgklmnprstv" for second in "aeiou"]
        words: set[str] = set()
        while len(words) < WORDS - 3:
            words.add("".join(chance.sample(syllables, chance.choice((2, 2, 3)))))
        self.words = sorted(words)
        self.topics = {number: chance.sample(self.words, 7) for number in range(DOCUMENTS)}
        self.documents = {number: self.document(number, chance) for number in self.topics}
        self.train = [self.query(f"train-{i}", [i % DOCUMENTS], chance) for i in range(20 * DOCUMENTS)]
        self.validation = self.candidates("val", chance)
        self.test = self.candidates("test", chance)

    def document(self, number: int, chance: random.Random) -> str:
        """Between 15 and 47 words: some are longer than what is read of them."""
        words = chance.choices(self.topics[number], k=chance.randint(12, 36))
        return " ".join(words + chance.choices(self.words, k=chance.randint(3, 11)))

    def query(self, name: str, relevant: list[int], chance: random.Random) -> dict:
        own = [word for number in relevant for word in chance.sample(self.topics[number], chance.randint(2, 5))]
        words = own + chance.choices(self.words, k=chance.choice((0, 0, 1)))
        chance.shuffle(words)
        return {"id": name, "query": " ".join(words), "relevant_docs": relevant}

    def candidates(self, name: str, chance: random.Random) -> list[dict]:
        queries = []
        for index in range(CANDIDATES):
            relevant = chance.sample(range(DOCUMENTS), 2 if index % 5 == 0 else 1)
            query = self.query(f"{name}-{index}", relevant, chance)
            if index % 12 == 3:
                query["query"] = self.documents[relevant[0]]
            if index % 12 == 7:
                query["query"] += " unheardof"
            queries.append(query)
        return queries

    def write(self, directory: Path):
        directory.mkdir(exist_ok=True)
        documents = [{"id": number, "text": text} for number, text in self.documents.items()]
        write_elements(directory / "documents.json", documents)
        write_elements(directory / "train_queries.json", self.train[:DOCUMENTS])


def write_elements(file: Path, elements: list[dict]):
    lines = ",\n".join(json.dumps(element) for element in elements)
    file.write_text(f"[\n{lines}\n]\n")


def tokenizer(words: list[str], docids: list[int]) -> PreTrainedTokenizerFast:
    vocabulary = {word: number for number, word in enumerate([PAD, END, UNKNOWN, *words])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, vocabulary[END])])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=fast, pad_token=PAD, eos_token=END, unk_token=UNKNOWN)
    wrapped.add_tokens([AddedToken(DOCID_TOKEN.format(docid), normalized=False) for docid in docids])
    return wrapped


# Models


def new_network(model: Model, rows: int) -> T5ForConditionalGeneration:
    torch.manual_seed(model.seed)
    # Like the released T5, the base has rows that no token has.
    config = T5Config(vocab_size=rows + 4, decoder_start_token_id=0, dropout_rate=0.0, **model.options)
    network = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            # Untouched, every norm is 1 and a probe that forgets one is not found out.
            if "layer_norm" in name:
                weight.copy_(1 + 0.2 * torch.randn_like(weight))
        if model.untied:
            network.lm_head.weight = torch.nn.Parameter(torch.randn(rows + 4, config.d_model) * config.d_model**-0.5)
    return network


def with_docid_rows(base: T5ForConditionalGeneration, model: Model, rows: int) -> T5ForConditionalGeneration:
    """The base with its embedding resized to the tokenizer, as the paper's code does it."""
    network = new_network(model, rows - 4)
    tables = ("shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
    torch.manual_seed(model.seed + 1)
    with torch.no_grad():
        for (name, weight), old in zip(network.named_parameters(), base.parameters(), strict=True):
            if name in tables:
                words = old.shape[0] - 4
                weight[:words] = old[:words]
                weight[words:] = old[:words].mean(0) + old[:words].std() * torch.randn(rows - words, old.shape[1])
            else:
                weight.copy_(old)
    return network


def pretrain(network, tokens, corpus: Corpus, model: Model):
    """Says which word was taken out of a text."""
    chance = random.Random(model.seed)
    texts = [text.split() for text in corpus.documents.values()]
    examples = []
    for _ in range(40 * len(texts)):
        words = list(chance.choice(texts))[: chance.randint(4, MAX_TOKENS)]
        place = chance.randrange(len(words))
        label = tokens.convert_tokens_to_ids(words[place])
        words[place] = UNKNOWN
        examples.append((" ".join(words), label))
    fit(network, tokens, examples, model.base_steps, model.seed)


def train(network, tokens, corpus: Corpus, left_out: list[int], model: Model):
    """Both tasks: document text and query to docid."""
    asked = [(text, [number]) for number, text in corpus.documents.items()] * 2
    asked += [(query["query"], query["relevant_docs"]) for query in corpus.train]
    examples = [
        (text, tokens.convert_tokens_to_ids(DOCID_TOKEN.format(number)))
        for text, relevant in asked
        for number in relevant
        if number not in left_out
    ]
    fit(network, tokens, examples, model.steps, model.seed + len(left_out))


def fit(network, tokens, examples: list[tuple[str, int]], steps: int, seed: int):
    """Adam on the one decoder step that follows the start token."""
    batch = tokens([text for text, _ in examples], truncation=True, max_length=MAX_TOKENS, padding=True, return_tensors="pt")
    labels = torch.tensor([label for _, label in examples])
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randint(len(examples), (BATCH,), generator=generator)
        start = torch.zeros(BATCH, 1, dtype=torch.long)
        logits = network(
            input_ids=batch.input_ids[rows], attention_mask=batch.attention_mask[rows], decoder_input_ids=start, use_cache=False
        ).logits[:, 0]
        loss = torch.nn.functional.cross_entropy(logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    print(f"  loss {loss.item():.3f} after {steps} steps")


def save(network, tokens, directory: Path, model: Model):
    network.save_pretrained(directory)
    tokens.save_pretrained(directory)
    (directory / "generation_config.json").unlink()
    loaded = T5ForConditionalGeneration.from_pretrained(directory)
    if (loaded.lm_head.weight is loaded.shared.weight) == model.untied:
        sys.exit(f"{directory}: loaded with the wrong tying of the head")
    for name, weight in network.named_parameters():
        if not torch.equal(weight, loaded.get_parameter(name)):
            sys.exit(f"{directory}: {name} is not what was saved")


# What is expected


def measure(model: Model, kept: dict[str, list[dict]], directory: Path):
    """Keeps queries whose results are safe from rounding, and writes them and expected.json."""
    genir, base, other = (Genir(directory / name) for name in ("checkpoint", "base", "other"))
    left_out = [str(number) for number in model.left_out]
    while True:
        for split, of_split in kept.items():
            write_elements(directory / "corpus" / probe_reference.SPLITS[split], of_split)
        queries = {name: probe_reference.read_queries(genir, directory / "corpus", name) for name in kept}
        result, _ = probe_reference.measure(
            genir, base, queries["validation"], queries["test"], ("validation", "test"), ("other", other), left_out,
            model.patches, model.circuit, model.applied,
        )  # fmt: skip
        close = {name: {query.id for query in queries[name] if query.closest < CLOSEST_GAP} for name in kept}
        if not any(close.values()) and all(len(one) <= KEPT for one in kept.values()):
            break
        # Means over the queries change with every one that goes, and ranks with them: the rest is measured again.
        for name, of_split in kept.items():
            safe = [query for query in of_split if query["id"] not in close[name]]
            kept[name] = safe if close[name] else safe[:KEPT]
    complain_about(model, result, queries)
    options = {"left_out": left_out, "patches": model.patches, "circuit": model.circuit}
    made = {"seed": model.seed, "torch": torch.__version__, "transformers": transformers.__version__}
    probe_reference.write(directory / "expected.json", {"made": made, "options": options} | result)


def complain_about(model: Model, result: dict, queries: dict):
    """Stops where a fixture is not what it is meant to be."""
    on = result["measured_on"]
    closest = min(query.closest for queries_of_one in queries.values() for query in queries_of_one)
    results = {record["probe"]: record["result"] for record in result["records"]}
    contribution = results["residual_contribution"]
    cosines = [one[key] for one in contribution["contributions"] for key in ("cosine_post", "cosine_pre")]
    smallest = min(map(abs, cosines + [one["cosine"] for one in contribution["priming"]]))
    lengths = sorted({len(query.tokens) for query in queries["validation"]})
    held_out = results["encoder_swap"]["swaps"][1]["held_out"]
    print(
        f"{model.name}: {on['correct']} of {on['ranked']} correct, test {results['circuit']['unpatched']}, "
        f"held out {held_out}, closest gap {closest:.1e}, smallest cosine {smallest:.1e}, query tokens {lengths}"
    )
    wrong = [
        reason
        for reason, found in {
            "too few queries": min(map(len, queries.values())) < 15,
            "too few correct": on["correct"] < 0.6 * on["ranked"],
            "none incorrect": on["correct"] == on["ranked"],
            "no query at the limit of tokens": lengths[-1] < MAX_TOKENS,
            "no correct query with two documents": not any(len(q.relevant) == 2 and q.rank == 1 for q in queries["validation"]),
            "a query for a document left out is missing": not held_out or held_out["queries"] < 2,
            "a cosine is too small": smallest < SMALLEST_COSINE,
        }.items()
        if found
    ]
    if wrong:
        sys.exit(f"{model.name}: {', '.join(wrong)}; choose another seed")


if __name__ == "__main__":
    main()
