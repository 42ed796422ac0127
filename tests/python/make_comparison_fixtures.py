"""Makes tests/fixtures/comparison/: TREC runs of three systems, their qrels, and what scipy and ir_measures say of them.

    python tests/python/make_comparison_fixtures.py

Needs scipy, numpy and ir_measures with pytrec_eval-terrier. The p-values are those of scipy.stats.permutation_test for
paired samples (`permutation_type="samples"`), from a million assignments of signs, or from all of them for the first ten
queries; the intervals are those of scipy.stats.bootstrap with the percentile method.
"""

import json
import random
from pathlib import Path

import ir_measures
import numpy as np
import scipy.stats
from ir_measures import RR, Success, nDCG

DIRECTORY = Path(__file__).parent.parent / "fixtures" / "comparison"
MEASURES = [Success @ 1, RR @ 10, nDCG @ 10]
QUERIES = 60
SKILLS = {"one": 0.35, "two": 0.5, "three": 0.9}  # probability of a high score for a relevant document


def make():
    random.seed(5)
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    relevant = {f"q{q}": {f"d{random.randrange(200)}": random.choice([1, 1, 2]) for _ in range(2)} for q in range(QUERIES)}
    with open(DIRECTORY / "qrels", "w") as file:
        for query, documents in relevant.items():
            file.writelines(f"{query} 0 {document} {grade}\n" for document, grade in documents.items())
    for system, skill in SKILLS.items():
        with open(DIRECTORY / f"{system}.run", "w") as file:
            for query, documents in relevant.items():
                scores = {f"d{document}": random.random() for document in random.sample(range(200), 30)}
                for document in documents:
                    if random.random() < skill:
                        scores[document] = 0.9 + random.random() / 5
                ranked = sorted(scores.items(), key=lambda item: -item[1])
                file.writelines(
                    f"{query} Q0 {document} {rank} {score:.6f} {system}\n"
                    for rank, (document, score) in enumerate(ranked, 1)
                )


def values(system, queries):
    qrels = list(ir_measures.read_trec_qrels(str(DIRECTORY / "qrels")))
    run = list(ir_measures.read_trec_run(str(DIRECTORY / f"{system}.run")))
    found = {str(measure): {} for measure in MEASURES}
    for metric in ir_measures.iter_calc(MEASURES, qrels, run):
        found[str(metric.measure)][metric.query_id] = metric.value
    return {name: np.array([of[query] for query in queries]) for name, of in found.items()}


def difference(first, second):
    def statistic(one, other, axis):
        return np.mean(other - one, axis=axis)

    test = lambda one, other, resamples: scipy.stats.permutation_test(
        (one, other), statistic, permutation_type="samples", n_resamples=resamples, rng=np.random.default_rng(1),
        batch=10_000,
    ).pvalue
    interval = scipy.stats.bootstrap(
        (second - first,), np.mean, method="percentile", n_resamples=200_000, rng=np.random.default_rng(2), batch=10_000
    ).confidence_interval
    return {
        "mean": float(np.mean(second - first)),
        "effect_size": float(np.mean(second - first) / np.std(second - first, ddof=1)),
        "interval": [float(interval.low), float(interval.high)],
        "p": float(test(first, second, 1_000_000)),
        "p_of_ten": float(test(first[:10], second[:10], np.inf)),
        "counts": [int(np.sum(second > first)), int(np.sum(second == first)), int(np.sum(second < first))],
    }


def holm(p_values):
    corrected, least = [0.0] * len(p_values), 0.0
    for done, index in enumerate(np.argsort(p_values)):
        least = max(least, min(1.0, p_values[index] * (len(p_values) - done)))
        corrected[index] = least
    return corrected


if __name__ == "__main__":
    make()
    queries = sorted(f"q{q}" for q in range(QUERIES))
    systems = {system: values(system, queries) for system in SKILLS}
    pairs = [("one", "two"), ("one", "three"), ("two", "three")]
    expected = {"means": {name: {m: float(v.mean()) for m, v in of.items()} for name, of in systems.items()}, "pairs": []}
    for measure in map(str, MEASURES):
        found = [difference(systems[a][measure], systems[b][measure]) for a, b in pairs]
        for (first, second), of_pair, p in zip(pairs, found, holm([of_pair["p"] for of_pair in found])):
            expected["pairs"].append({"first": first, "second": second, "measure": measure, **of_pair, "holm": p})
    (DIRECTORY / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")
