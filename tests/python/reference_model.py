"""What the reference probes look at: a GenIR model with hooks on its decoder, its queries, and what one pass shows."""

import json
import types
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from transformers import AutoConfig, AutoTokenizer, MT5ForConditionalGeneration, T5ForConditionalGeneration

COMPONENTS = ("self_attention", "cross_attention", "mlp")
DOCID_TOKEN = "@DOC_ID_{}@"


@dataclass
class Query:
    """A query; `model.read` fills in what the model makes of it."""

    id: str
    tokens: list[int]
    documents: list[str]
    relevant: list[int]
    """The docid tokens of `documents`."""
    target: int = -1
    """The relevant docid at rank 1, or else the best-ranked one."""
    rank: int = 0
    """The rank of the target."""
    states: torch.Tensor | None = None
    """The encoder's output."""
    seen: "Seen | None" = None
    """The unpatched pass."""
    base: "Seen | None" = None
    """The base model's pass on the same tokens."""
    closest: float = float("inf")
    """The smallest gap that any rank, order or sign found for this query hinges on, relative to the size of what is
    compared. Fixtures hold no query where this is of the size of rounding errors."""

    def hinges_on(self, gap: torch.Tensor, size: torch.Tensor):
        if gap.numel():
            self.closest = min(self.closest, (gap.min() / size).item())


@dataclass
class Seen:
    """The activations of one decoder pass on the start token: vectors of size d_model where nothing else is said."""

    start: torch.Tensor | None = None
    """The start token's embedding."""
    pre: dict = field(default_factory=dict)
    """By layer: the residual stream before the layer; then after self-attention, cross-attention and the layer."""
    mid: dict = field(default_factory=dict)
    mid_cross: dict = field(default_factory=dict)
    post: dict = field(default_factory=dict)
    out: dict = field(default_factory=dict)
    """By layer and component: what is added to the residual stream."""
    heads: dict = field(default_factory=dict)
    """By layer and attention: [head, d_model], each head's share of the output."""
    query: dict = field(default_factory=dict)
    """By layer: cross-attention's [head, d_kv]."""
    keys: dict = field(default_factory=dict)
    """By layer: cross-attention's [head, position, d_kv]."""
    activation: dict = field(default_factory=dict)
    """By layer: [d_ff], what goes into the ReLU, or into the GELU of the gate."""


class Genir:
    """A checkpoint. Every pass goes through the hooks, which keep activations and put patches in."""

    def __init__(self, directory: Path, dtype=torch.float64):
        config = AutoConfig.from_pretrained(directory)
        kind = MT5ForConditionalGeneration if config.model_type == "mt5" else T5ForConditionalGeneration
        self.network = kind.from_pretrained(directory, attn_implementation="eager").to(dtype).eval()
        self.config = self.network.config
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        manifest = directory / "genir.json"
        self.encoding = json.loads(manifest.read_text())["encoding"] if manifest.exists() else {}

        ids = self.tokenizer.get_vocab()
        self.docids = {token: number for token, number in ids.items() if token.startswith("@DOC_ID_")}
        self.vocabulary = max(ids.values()) + 1
        self.words = min(self.docids.values(), default=self.vocabulary)
        # Rows behind the last token belong to no token.
        self.unembedding = self.network.lm_head.weight[: self.vocabulary]
        scaled = getattr(self.config, "scale_decoder_outputs", False) and config.model_type != "mt5"
        self.scale = self.config.d_model**-0.5 if scaled else 1.0
        self.depth = self.config.num_decoder_layers

        for module in self.network.modules():
            if hasattr(module, "variance_epsilon"):
                module.forward = types.MethodType(rms_norm, module)
        self.seen = Seen()
        self.patches: dict = {}
        for layer, block in enumerate(self.network.decoder.block):
            self.hook(layer, block)

    # Texts and tokens.

    def encode_text(self, text: str) -> list[int]:
        text = text.lower() if self.encoding.get("lowercase") else text
        text = self.encoding.get("retrieval_prefix", "") + text
        return self.tokenizer(text, truncation=True, max_length=self.encoding.get("query_tokens", 32)).input_ids

    def docid_token(self, document: str) -> int:
        return self.docids[DOCID_TOKEN.format(document)]

    # One pass.

    def hook(self, layer: int, block):
        """Hooks on one layer. Hooks on a component return what is to be added to the residual stream instead."""
        parts = dict(zip(COMPONENTS, block.layer))
        modules = {
            "self_attention": parts["self_attention"].SelfAttention,
            "cross_attention": parts["cross_attention"].EncDecAttention,
            "mlp": parts["mlp"].DenseReluDense,
        }
        block.register_forward_pre_hook(lambda _, inputs: keep(self.seen.pre, layer, inputs[0]))
        for part, name in zip(block.layer, ("mid", "mid_cross", "post")):
            part.register_forward_hook(lambda _, __, out, name=name: keep(getattr(self.seen, name), layer, out))

        for component in ("self_attention", "cross_attention"):
            modules[component].o.register_forward_pre_hook(
                lambda module, inputs, component=component: self.keep_heads((layer, component), module, inputs[0][0, 0])
            )
        cross = modules["cross_attention"]
        cross.q.register_forward_hook(lambda _, __, out: self.keep_split(self.seen.query, layer, out[0, 0]))
        cross.k.register_forward_hook(lambda _, __, out: self.keep_split(self.seen.keys, layer, out[0]))
        mlp = modules["mlp"]
        read_in = mlp.wi_0 if self.config.is_gated_act else mlp.wi
        read_in.register_forward_hook(lambda _, __, out: keep(self.seen.activation, layer, out))

        for component, module in modules.items():
            module.register_forward_hook(
                lambda _, __, out, component=component: self.patched(layer, component, out)
            )

    def keep_heads(self, place, output_matrix, mixed: torch.Tensor):
        """`mixed`: the heads' results one after the other; each is multiplied with its columns of W_O."""
        heads, width = self.config.num_heads, self.config.d_kv
        columns = output_matrix.weight.view(-1, heads, width)
        self.seen.heads[place] = torch.einsum("dhk,hk->hd", columns, mixed.view(heads, width))

    def keep_split(self, into: dict, layer: int, values: torch.Tensor):
        """`[.., head * d_kv]` as `[head, .., d_kv]`."""
        into[layer] = values.unflatten(-1, (self.config.num_heads, self.config.d_kv)).movedim(-2, 0)

    def patched(self, layer: int, component: str, out):
        value = (out[0] if isinstance(out, tuple) else out)[0, 0]
        if (layer, component) in self.patches:
            value = self.patches[layer, component]
        for head in range(self.config.num_heads):
            if (layer, component, head) in self.patches:
                value = value - self.seen.heads[layer, component][head] + self.patches[layer, component, head]
        self.seen.out[layer, component] = value
        replaced = value[None, None]
        return (replaced, *out[1:]) if isinstance(out, tuple) else replaced

    def encode(self, tokens: list[int], final_norm=None) -> torch.Tensor:
        """The encoder's states; behind `final_norm` in place of its own, if one is given."""
        source = torch.tensor([tokens])
        before = []
        own = self.network.encoder.final_layer_norm
        hook = own.register_forward_pre_hook(lambda _, inputs: before.append(inputs[0]))
        states = self.network.encoder(input_ids=source, attention_mask=torch.ones_like(source)).last_hidden_state
        hook.remove()
        return final_norm(before[0]) if final_norm is not None else states

    def decode(self, states: torch.Tensor, patches: dict | None = None) -> Seen:
        """The decoder on the start token. Patches: `(layer, component)` or `(layer, component, head)` to a vector."""
        self.seen, self.patches = Seen(), patches or {}
        start = torch.tensor([[self.config.decoder_start_token_id]])
        self.seen.start = self.network.decoder.embed_tokens(start)[0, 0]
        mask = torch.ones(states.shape[:2], dtype=torch.long)
        self.network.decoder(input_ids=start, encoder_hidden_states=states, encoder_attention_mask=mask, use_cache=False)
        return self.seen

    def lens(self, vectors: torch.Tensor) -> torch.Tensor:
        """[.., d_model] read off as logits [.., vocabulary]."""
        return (self.network.decoder.final_layer_norm(vectors) * self.scale) @ self.unembedding.T

    def logits(self, seen: Seen) -> torch.Tensor:
        return self.lens(seen.post[self.depth - 1])

    def read(self, query: Query):
        """An unpatched pass, and the relevant docid that counts."""
        query.states = self.encode(query.tokens)
        query.seen = self.decode(query.states)
        logits = self.logits(query.seen)
        ranks = [rank(query, logits, token) for token in query.relevant]
        query.rank = min(ranks)
        query.target = query.relevant[ranks.index(query.rank)]

    # What outputs are made of.

    def attention(self, layer: int):
        part = self.network.decoder.block[layer].layer[1]
        return part.layer_norm, part.EncDecAttention.q.weight

    def mlp(self, layer: int):
        part = self.network.decoder.block[layer].layer[2]
        dense = part.DenseReluDense
        return part.layer_norm, (dense.wi_0 if self.config.is_gated_act else dense.wi).weight


def keep(into: dict, layer: int, value):
    into[layer] = (value[0] if isinstance(value, tuple) else value)[0, 0]


def root_mean_square(vectors: torch.Tensor, epsilon: float) -> torch.Tensor:
    return (vectors.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()


def rms_norm(module, vectors: torch.Tensor) -> torch.Tensor:
    """T5's RMSNorm; transformers' own takes the mean square in float32 whatever the model's precision."""
    return module.weight * vectors / root_mean_square(vectors, module.variance_epsilon)


def rank(query: Query, logits: torch.Tensor, token: int) -> int:
    """1 + the number of tokens with a strictly greater logit."""
    distances = (logits - logits[token]).abs()
    distances[token] = float("inf")
    query.hinges_on(distances, logits.abs().max())
    return 1 + int((logits > logits[token]).sum())


class Measurement:
    """A model, its base, all queries and those that means are over, after one pass of each."""

    def __init__(self, model: Genir, base: Genir, queries: list[Query], measured: list[Query]):
        self.model, self.base, self.queries, self.measured = model, base, queries, measured
        self.stages = stages(model.depth)

    def stage_of(self, layer: int) -> str | None:
        return next((name for name, layers in self.stages.items() if layer in layers), None)

    def order(self, queries: list[Query]) -> list[int]:
        """The order in which genir looks at queries that fit one batch, and lists their ranks: short ones first."""
        return sorted(range(len(queries)), key=lambda index: len(queries[index].tokens))

    def run_base(self):
        for query in self.measured:
            query.base = self.base.decode(self.base.encode(query.tokens))

    @cached_property
    def means(self) -> dict:
        """The mean over the measured queries of each component's output, and of each head's share."""
        sums: dict = defaultdict(float)
        for query in self.measured:
            for place, value in patchable(query.seen):
                sums[place] = sums[place] + value
        return {place: value / len(self.measured) for place, value in sums.items()}


def patchable(seen: Seen):
    """All that can be patched: `((layer, component), vector)` and `((layer, component, head), vector)`."""
    yield from seen.out.items()
    for place, heads in seen.heads.items():
        for head, share in enumerate(heads):
            yield (*place, head), share


def stages(depth: int) -> dict[str, range]:
    """The paper's 7, 11 and 6 layers of 24, scaled; each has at least one. None of fewer than three layers."""
    if depth < 3:
        return {}
    first = min(max((depth * 7 + 12) // 24, 1), depth - 2)
    second = min(max((depth * 18 + 12) // 24, first + 1), depth - 1)
    return {"I": range(first), "II": range(first, second), "III": range(second, depth)}
