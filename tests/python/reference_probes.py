"""The reference probes, P1 to P8 of the paper: each takes a `Measurement` and returns genir's JSON form of its result."""

import math
import re
from collections import defaultdict
from statistics import fmean, median

import torch

from reference_model import COMPONENTS, DOCID_TOKEN, Genir, Measurement, Query, patchable, rank, root_mean_square

SITES = ("residual_mid", "residual_mid_cross", "residual_post", "cross_attention_out", "mlp_out")
REPLACEMENTS = ("zero", "mean", "base")
# Stage I gets nothing from the query, Stage II passes on what cross-attention brings, Stage III acts on it.
PAPER_CIRCUIT = [
    ("decoder.self_attention[I]", "zero"),
    ("decoder.cross_attention[I]", "zero"),
    ("decoder.mlp[I]", "mean"),
    ("decoder.self_attention[II]", "zero"),
    ("decoder.mlp[II]", "mean"),
    ("decoder.self_attention[III]", "zero"),
]
SAMPLES = 3
SHOWN_TOKENS = 5


def mean(values) -> float:
    values = list(values)
    return fmean(values) if values else math.nan


def rank_shift(on: Measurement, ranks: list[int]) -> dict:
    """Where relevant docids stand, over the measured queries; last the ranks themselves, as genir lists them."""
    count = len(ranks)

    def beyond(most: int) -> float:
        return 100 * sum(rank > most for rank in ranks) / count if count else math.nan

    octaves = [0] * max((rank.bit_length() for rank in ranks), default=0)
    for one in ranks:
        octaves[one.bit_length() - 1] += 1
    return {
        "queries": count,
        **{f"beyond_{most}": beyond(most) for most in (1, 5, 10, 100)},
        "mean_rank": mean(ranks),
        "median_rank": float(median(ranks)) if ranks else math.nan,
        "best_rank": min(ranks, default=0),
        "worst_rank": max(ranks, default=0),
        "octaves": octaves,
        "ranks": [ranks[index] for index in on.order(on.measured)],
    }


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return (one @ other / (one.norm() * other.norm())).item()


# P1


def residual_contribution(on: Measurement) -> dict:
    contributions = []
    for layer in range(on.model.depth):
        for component in COMPONENTS:
            ratios, post, pre = [], [], []
            for seen in (query.seen for query in on.measured):
                added = seen.out[layer, component]
                ratios.append((added.norm() / (seen.post[layer] - seen.pre[layer]).norm()).item())
                post.append(cosine(added, seen.post[layer]))
                pre.append(cosine(added, seen.pre[layer]))
            contributions.append(
                {
                    "layer": layer,
                    "stage": on.stage_of(layer),
                    "component": component,
                    "ratio": mean(ratios),
                    "cosine_post": mean(post),
                    "cosine_pre": mean(pre),
                }
            )
    priming = [
        {
            "layer": layer,
            "component": component,
            "mlp_layer": early,
            "cosine": mean(cosine(query.seen.out[layer, component], query.seen.out[early, "mlp"]) for query in on.measured),
        }
        for layer in on.stages.get("III", ())
        for component in COMPONENTS
        for early in on.stages.get("I", ())
    ]
    return {"contributions": contributions, "priming": priming}


# P2


def logit_lens(on: Measurement) -> dict:
    layers = range(on.model.depth)
    ranks: dict = {(layer, site): [] for layer in layers for site in SITES}
    groups = {"docids": slice(on.model.words, None), "words": slice(0, on.model.words)}
    population: dict = {(layer, group): [] for layer in layers for group in groups}
    for query in on.measured:
        seen = query.seen
        for layer in layers:
            vectors = [
                seen.mid[layer],
                seen.mid_cross[layer],
                seen.post[layer],
                seen.out[layer, "cross_attention"],
                seen.out[layer, "mlp"],
            ]
            logits = dict(zip(SITES, on.model.lens(torch.stack(vectors))))
            for site in SITES:
                ranks[layer, site].append(rank(query, logits[site], query.target))
            all_ranks = ranks_of_all(query, logits["residual_post"], on.model.words)
            for group, tokens in groups.items():
                of_group = all_ranks[tokens].tolist()
                population[layer, group].append((mean(of_group), median(of_group), min(of_group), max(of_group)))
    return {
        "sites": [
            {"layer": layer, "stage": on.stage_of(layer), "site": site, **rank_shift(on, ranks[layer, site])}
            for layer in layers
            for site in SITES
        ],
        "populations": [
            {"layer": layer, "stage": on.stage_of(layer), "group": group}
            | dict(zip(("mean", "median", "best", "worst"), map(mean, zip(*population[layer, group]))))
            for layer in layers
            for group in groups
        ],
    }


def ranks_of_all(query: Query, logits: torch.Tensor, words: int) -> torch.Tensor:
    """The rank of every token."""
    ascending, order = logits.sort()
    is_docid = order >= words
    # Two neighbours of one kind may change places, and the kind has the same ranks.
    query.hinges_on(ascending.diff()[is_docid[1:] != is_docid[:-1]], logits.abs().max())
    return 1 + len(logits) - torch.searchsorted(ascending, logits, right=True)


# P2b


def direct_effect(on: Measurement) -> dict:
    effects = []
    for component in ("mlp", "cross_attention"):
        ranks = []
        for query in on.measured:
            summed = sum(query.seen.out[layer, component] for layer in range(on.model.depth))
            ranks.append(rank(query, on.model.lens(summed), query.target))
        effects.append({"component": component, **rank_shift(on, ranks)})
    return {"effects": effects}


# P3


def stage_patching(on: Measurement, selectors: list[str]) -> dict:
    table = [
        (f"decoder.{component}[{stage}]", component, stage, replacement)
        for replacement in REPLACEMENTS
        for component in COMPONENTS
        for stage in on.stages
    ]
    table += [(selector, None, None, replacement) for selector in selectors for replacement in REPLACEMENTS]
    cells = []
    for selector, component, stage, replacement in table:
        places = selected(on, selector)
        ranks = []
        for query in on.measured:
            patches = patches_for(on, query.seen, query.base, [(places, replacement)])
            logits = on.model.logits(on.model.decode(query.states, patches))
            ranks.append(rank(query, logits, query.target))
        cell = {"selector": selector, "component": component, "stage": stage, "replacement": replacement}
        cells.append(cell | rank_shift(on, ranks))
    return {"cells": cells}


def selected(on: Measurement, selector: str) -> list[tuple]:
    """Places of `decoder.mlp[II]`, `decoder.layers[1,3-5]`, `decoder.cross_attention[2].heads[1]`."""
    form = r"decoder\.(self_attention|cross_attention|mlp|layers)(?:\[([^]]*)\])?(?:\.heads\[([^]]*)\])?"
    component, layers, heads = re.fullmatch(form, selector).groups()
    chosen = sum((numbers(on, part) for part in layers.split(",")), []) if layers else list(range(on.model.depth))
    places = [(layer, one) for layer in chosen for one in (COMPONENTS if component == "layers" else [component])]
    if heads:
        return [(*place, head) for place in places for head in sum((numbers(on, part) for part in heads.split(",")), [])]
    return places


def numbers(on: Measurement, text: str) -> list[int]:
    text = text.strip()
    if text in on.stages:
        return list(on.stages[text])
    if ".." in text:
        first, end = text.split("..")
        return list(range(int(first), int(end)))
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def patches_for(on: Measurement, seen, base, replaced: list[tuple]) -> dict:
    """What stands in for what, from `[(places, replacement)]`, for the query with these unpatched passes.

    A whole output and its heads are not patched together: later ones take the place of earlier ones, head by head.
    """
    patches = {}
    of_base = dict(patchable(base)) if base else {}
    for places, replacement in by_head(on, replaced):
        for place in places:
            if replacement == "zero":
                patches[place] = torch.zeros_like(seen.start)
            else:
                patches[place] = (on.means if replacement == "mean" else of_base)[place]
    return patches


def by_head(on: Measurement, replaced: list[tuple]) -> list[tuple]:
    """The same with whole attentions as all of their heads wherever the list names heads of them, too."""
    divided = {place[:2] for places, _ in replaced for place in places if len(place) == 3}
    heads = range(on.model.config.num_heads)
    return [
        (
            sum(([(*place, head) for head in heads] if place in divided else [place] for place in places), []),
            replacement,
        )
        for places, replacement in replaced
    ]


# P4


def circuit(on: Measurement, name: str, queries: list[Query], given: list[tuple], applied: list[str]) -> dict:
    """`given`: one more circuit, `[(selector, replacement)]`; `applied`: what of it is to be recorded."""
    circuits = {"paper": PAPER_CIRCUIT, "paper with base": [(selector, "base") for selector, _ in PAPER_CIRCUIT]}
    # It is made of stages.
    circuits = circuits if on.stages else {}
    if given:
        circuits["given"] = given
    recorded = {name: [f"{selector}={what}" for selector, what in patches] for name, patches in circuits.items()}
    recorded |= {"given": applied} if given else {}
    places = {name: [(selected(on, selector), what) for selector, what in patches] for name, patches in circuits.items()}
    unpatched, of_circuit, per_query = [], {name: [] for name in circuits}, []
    for query in queries:
        on.model.read(query)
        base = on.base.decode(on.base.encode(query.tokens))
        unpatched.append(query_scores(on.model, query, query.seen))
        ranks = [relevant_ranks(on.model, query, query.seen)]
        for circuit_name, replaced in places.items():
            seen = on.model.decode(query.states, patches_for(on, query.seen, base, replaced))
            of_circuit[circuit_name].append(query_scores(on.model, query, seen))
            ranks.append(relevant_ranks(on.model, query, seen))
        per_query.append([of_query(query, place, list(column)) for place, column in enumerate(zip(*ranks))])
    whole = mean_scores(unpatched)
    return {
        "test_set": name,
        "test_queries": len(queries),
        "unpatched": whole,
        "circuits": [
            {
                "name": circuit_name,
                "patches": recorded[circuit_name],
                "absolute": (absolute := mean_scores(scores)),
                "relative": {key: absolute[key] / whole[key] if whole[key] else math.nan for key in whole},
            }
            for circuit_name, scores in of_circuit.items()
        ],
        "per_query": sum((per_query[index] for index in on.order(queries)), []),
    }


def of_query(query: Query, place: int, ranks: list[int]) -> dict:
    """Ranks of the query's relevant document at `place`."""
    return {"query": query.id, "docid": DOCID_TOKEN.format(query.documents[place]), "ranks": ranks}


def relevant_ranks(model: Genir, query: Query, seen) -> list[int]:
    logits = model.logits(seen)
    return [rank(query, logits, token) for token in query.relevant]


def query_scores(model: Genir, query: Query, seen) -> dict:
    places = []
    for one in sorted(relevant_ranks(model, query, seen)):
        # Documents of equal score share a rank, but each takes a place of the list.
        places.append(max(one, places[-1] + 1 if places else 1))
    return {
        "hits@1": float(places[0] <= 1),
        "recall@5": mean(place <= 5 for place in places),
        "hits@10": float(places[0] <= 10),
    }


def mean_scores(scores: list[dict]) -> dict:
    return {key: mean(one[key] for one in scores) for key in ("hits@1", "recall@5", "hits@10")}


# P5


def encoder_swap(on: Measurement, other: tuple[str, Genir] | None, left_out: list[str], norm: str) -> dict:
    """`norm`: whose final RMSNorm is behind the swapped encoder, that of the `other` model or the model's `own`."""
    swaps = []
    for name, encoder in [("base", on.base), *([other] if other else [])]:
        ranks = [swapped_rank(on.model, encoder, norm, query, query.target) for query in on.measured]
        held_out = held_out_documents(on, encoder, norm, left_out) if encoder is not on.base and left_out else None
        swaps.append({"encoder": name, "ranks": rank_shift(on, ranks), "held_out": held_out})
    return {"encoder_norm": norm, "swaps": swaps}


def swapped_rank(model: Genir, encoder: Genir, norm: str, query: Query, token: int) -> int:
    states = encoder.encode(query.tokens, final_norm=model.network.encoder.final_layer_norm if norm == "own" else None)
    return rank(query, model.logits(model.decode(states)), token)


def held_out_documents(on: Measurement, encoder: Genir, norm: str, left_out: list[str]) -> dict:
    asked = []
    for query in on.queries:
        places = [place for place, document in enumerate(query.documents) if document in left_out]
        if places:
            asked.append((query, places))
    swapped, own = [], []
    for query, places in asked:
        token = query.relevant[places[0]]
        swapped.append(swapped_rank(on.model, encoder, norm, query, token))
        own.append(rank(query, on.model.logits(query.seen), token))

    def score(ranks: list[int]) -> dict:
        first = sum(one == 1 for one in ranks)
        return {"mrr": mean(1 / one for one in ranks), "hits@1": mean(one == 1 for one in ranks), "first": first}

    documents = {query.documents[place] for query, places in asked for place in places}
    per_query = [of_query(query, places[0], ranks) for (query, places), *ranks in zip(asked, swapped, own)]
    return {
        "documents": len(documents),
        "queries": len(asked),
        "swapped": score(swapped),
        "own": score(own),
        "per_query": [per_query[index] for index in on.order([query for query, _ in asked])],
    }


# P6 and P7


def sources_before(seen, layer: int, component: str) -> list[tuple]:
    """`((source, layer), vector)` of all that is in the residual stream when `component` of `layer` reads it."""
    sources = [(("start", None), seen.start)]
    for earlier in range(layer + 1):
        for one in COMPONENTS:
            if (earlier, one) == (layer, component):
                return sources
            sources.append(((one, earlier), seen.out[earlier, one]))
    raise ValueError(component)


def normed(sources: torch.Tensor, norm, variant: str) -> torch.Tensor:
    """What reaches the weights: in the exact variant with the RMSNorm's weight and scale folded in."""
    if variant == "paper":
        return sources
    return sources * norm.weight / root_mean_square(sources.sum(0), norm.variance_epsilon)


def shares(query: Query, contributions: torch.Tensor, active: torch.Tensor) -> dict[int, torch.Tensor]:
    """By reader that is active and has a positive contribution: the shares of the sources in those, `[source]`."""
    positive = contributions.clamp(min=0)
    if active.any():
        of_active = contributions[:, active]
        query.hinges_on(of_active.amax(0).abs(), of_active.abs().max())
    reads = active & (positive.sum(0) > 0)
    return {reader: positive[:, reader] / positive[:, reader].sum() for reader in reads.nonzero()[:, 0].tolist()}


def neuron_reads(on: Measurement, variant: str, first: str) -> dict:
    def readers(query: Query, layer: int):
        norm, weight = on.model.mlp(layer)
        activation = query.seen.activation[layer]
        query.hinges_on(activation.abs(), activation.abs().max())
        names, vectors = zip(*sources_before(query.seen, layer, "mlp"))
        contributions = normed(torch.stack(vectors), norm, variant) @ weight.T  # [source, d_ff]
        if variant == "exact":
            assert_equal(contributions.sum(0), activation)
        return names, shares(query, contributions, activation > 0)

    return reads(on, variant, first, readers)


def attention_reads(on: Measurement, variant: str, first: str) -> dict:
    def readers(query: Query, layer: int):
        norm, weight = on.model.attention(layer)
        scores = torch.einsum("hk,hpk->hp", query.seen.query[layer], query.seen.keys[layer])
        best = scores.argmax(1)
        query.hinges_on(-scores.topk(min(2, scores.shape[1])).values.diff(), scores.abs().max())
        names, vectors = zip(*sources_before(query.seen, layer, "cross_attention"))
        parts = normed(torch.stack(vectors), norm, variant) @ weight.T
        parts = parts.unflatten(1, (on.model.config.num_heads, on.model.config.d_kv))  # [source, head, d_kv]
        keys = torch.stack([keys[position] for keys, position in zip(query.seen.keys[layer], best)])  # [head, d_kv]
        contributions = torch.einsum("shk,hk->sh", parts, keys)
        if variant == "exact":
            assert_equal(contributions.sum(0), scores.amax(1))
        return names, shares(query, contributions, torch.ones(contributions.shape[1], dtype=torch.bool))

    return reads(on, variant, first, readers)


def assert_equal(summed: torch.Tensor, whole: torch.Tensor):
    tolerance = 1e-9 if whole.dtype == torch.float64 else 1e-3
    if (summed - whole).abs().max() > tolerance * whole.abs().max():
        raise AssertionError(f"contributions sum to {summed}, the model computed {whole}")


def reads(on: Measurement, variant: str, first: str, readers) -> dict:
    """`first`: shares are averaged over the `readers` of a query and then over queries, or over the `queries` of a reader
    and then over readers."""
    layers = []
    for layer in range(on.model.depth):
        counts, groups = [], defaultdict(list)
        for query in on.measured:
            names, of_readers = readers(query, layer)
            counts.append(len(of_readers))
            for reader, share in of_readers.items():
                groups[query.id if first == "readers" else reader].append(share)
        means = [torch.stack(group).mean(0) for group in groups.values()]
        average = torch.stack(means).mean(0).tolist() if means else [math.nan] * len(names)
        layers.append(
            {
                "layer": layer,
                "stage": on.stage_of(layer),
                "readers": mean(counts),
                "shares": [
                    {"source": source, "layer": at, "share": share} for (source, at), share in zip(names, average)
                ],
            }
        )
    by_stage = [
        {"stage": stage, "shares": stage_shares(on, layers[of_stage.start : of_stage.stop])}
        for stage, of_stage in on.stages.items()
    ]
    return {"variant": variant, "average_first": first, "layers": layers, "stages": by_stage, "largest_deviation": None}


def stage_shares(on: Measurement, layers: list[dict]) -> list[dict]:
    """Means over reading layers; a source that one of them does not have before it gives that one nothing."""
    kinds = [("start", None)] + [(component, stage) for stage in on.stages for component in COMPONENTS]
    summed = {}
    for reading in layers:
        for share in reading["shares"]:
            kind = (share["source"], None if share["layer"] is None else on.stage_of(share["layer"]))
            summed[kind] = summed.get(kind, 0) + share["share"]
    return [
        {"source": kind[0], "source_stage": kind[1], "share": summed[kind] / len(layers)} for kind in kinds if kind in summed
    ]


# P8


def attention_writes(on: Measurement) -> dict:
    model, heads = on.model, range(on.model.config.num_heads)
    names = ["output", *(f"head {head}" for head in heads)]
    docids = {(layer, name): [] for layer in range(model.depth) for name in names}
    samples = []
    for index, query in enumerate(on.measured):
        for layer in range(model.depth):
            place = (layer, "cross_attention")
            vectors = torch.cat([query.seen.out[place][None], query.seen.heads[place]])
            # The sort is stable: of equals the lower token is first.
            best, order = model.lens(vectors).sort(descending=True, stable=True)
            for row, name in enumerate(names):
                is_docid = order[row] >= model.words
                docids[layer, name].append([docids_among_top(query, best[row], is_docid, most) for most in (10, 100, 1000)])
                if index < SAMPLES and name != "output":
                    query.hinges_on(-best[row, : SHOWN_TOKENS + 1].diff(), best[row].abs().max())
                    tokens = model.tokenizer.convert_ids_to_tokens(order[row, :SHOWN_TOKENS].tolist())
                    samples.append({"query": query.id, "layer": layer, "head": row - 1, "tokens": tokens})
    means = {place: [mean(column) for column in zip(*values)] for place, values in docids.items()}

    def share(stage: str, layer: int | None, name: str, values: list[float]) -> dict:
        return {"stage": stage, "layer": layer, "of": name} | dict(zip(("top_10", "top_100", "top_1000"), values))

    stages = []
    for stage, layers in on.stages.items():
        for name, parts in (("output", names[:1]), ("heads", names[1:])):
            columns = zip(*(means[layer, part] for layer in layers for part in parts))
            stages.append(share(stage, None, name, [mean(column) for column in columns]))
    return {
        "chance": 100 * (model.vocabulary - model.words) / model.vocabulary,
        "layers": [share(on.stage_of(layer), layer, name, values) for (layer, name), values in means.items()],
        "stages": stages,
        "samples": samples,
    }


def docids_among_top(query: Query, best: torch.Tensor, is_docid: torch.Tensor, most: int) -> float:
    """% of docids among the `most` tokens with the highest logits, which are `best` in descending order."""
    if most < len(best) and is_docid[most - 1] != is_docid[most]:
        query.hinges_on(best[most - 1] - best[most], best.abs().max())
    return 100 * is_docid[:most].double().mean().item()
