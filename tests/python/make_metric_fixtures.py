"""Makes tests/fixtures/metrics/: TREC runs, their qrels and what ir_measures says of them.

    python tests/python/make_metric_fixtures.py

Needs ir_measures with pytrec_eval-terrier (trec_eval 9). The first run (run.trec) has several relevant
documents a query with grades 1 to 3, no tied scores, queries of which nothing relevant is retrieved,
one with a relevant document just beyond each cut-off, and documents judged as not relevant (grade 0).

The second (ties.trec) is what genir evaluates in tests/testsuite/ranking.rs: every query ranks all 60 documents by
one of 7 scores, so that most tie; ids are such that their order as strings, as bytes and as numbers differ.
RR with a cutoff is left out there: ir_measures computes it with code of its own (of MS MARCO), which
orders equal scores by rising ids, where trec_eval, which computes all the others, orders by falling ids.
"""

import json
import random
from pathlib import Path

import ir_measures
from ir_measures import AP, RR, P, R, Rprec, Success, nDCG

QUERIES = 40
DEPTH = 120
DIRECTORY = Path(__file__).parent.parent / "fixtures" / "metrics"
MEASURES = {
    "hits@1": Success @ 1,
    "hits@5": Success @ 5,
    "hits@10": Success @ 10,
    "hits@100": Success @ 100,
    "recall@5": R @ 5,
    "mrr@10": RR @ 10,
    "ndcg@10": nDCG @ 10,
}
# What `--metrics` takes: name -> measure.
CHOSEN = [
    Success @ 3,
    R @ 100,
    P @ 1,
    P @ 5,
    RR,
    RR @ 20,
    nDCG,
    nDCG @ 5,
    AP,
    AP @ 10,
    Rprec,
    P(rel=2) @ 5,
    Success(rel=3) @ 10,
    R(rel=2) @ 20,
    RR(rel=2),
    RR(rel=3) @ 10,
    AP(rel=2),
    Rprec(rel=3),
]
TIED_DOCUMENTS = 60
TIED_QUERIES = 30


def per_query(measures, qrels, run):
    """The value of each measure by query, in the order of their names."""
    found = {}
    for metric in ir_measures.iter_calc(measures, qrels, run):
        found.setdefault(metric.query_id, {})[str(metric.measure)] = metric.value
    return {query: found[query] for query in sorted(found)}


def tied():
    """Scores of all documents by query, with judgements, as lines and with what trec_eval makes of them."""
    ids = ["Z", "a", "é", "ﬀ", "𝔸", "~", "d_1", "d-1", "D1"]
    ids += [f"d{number}" for number in range(TIED_DOCUMENTS - len(ids))]
    run, qrels = [], []
    for index in range(TIED_QUERIES):
        query = f"q{index}"
        scores = {doc: random.choice([2.5, 1.0, 0.0, -0.0, -1.0, 1e-3, 3.0000002]) for doc in ids}
        if index < 3:  # a scorer that scores all alike
            scores = dict.fromkeys(ids, [1.0, 0.0, -2.0][index])
        run += [f"{query} Q0 {doc} 0 {score!r} fixture" for doc, score in scores.items()]
        judged = random.sample(ids, random.randint(1, 5))
        qrels += [f"{query} 0 {doc} {random.randint(1, 3)}" for doc in judged]
    (DIRECTORY / "ties.trec").write_text("\n".join(run) + "\n")
    (DIRECTORY / "ties.qrels").write_text("\n".join(qrels) + "\n")
    read_run = list(ir_measures.read_trec_run(str(DIRECTORY / "ties.trec")))
    read_qrels = list(ir_measures.read_trec_qrels(str(DIRECTORY / "ties.qrels")))
    measures = [m for m in [*MEASURES.values(), *CHOSEN] if not str(m).startswith(("RR@", "RR("))]
    expected = per_query([*measures, RR, RR(rel=2)], read_qrels, read_run)
    # The rank of every judged document alone, by trec_eval's reciprocal rank.
    ranks = {}
    for judgement in read_qrels:
        [alone] = ir_measures.iter_calc([RR], [judgement], read_run)
        ranks.setdefault(judgement.query_id, {})[judgement.doc_id] = round(1 / alone.value)
    (DIRECTORY / "ties.json").write_text(
        json.dumps({"ranks": ranks, "metrics": expected}, indent=1, ensure_ascii=False) + "\n"
    )


def main():
    random.seed(20250319)
    run, qrels = [], []
    for index in range(QUERIES):
        query = f"q{index}"
        retrieved = [f"d{number}" for number in random.sample(range(1000), DEPTH)]
        score = random.uniform(5.0, 10.0)
        for rank, document in enumerate(retrieved, start=1):
            score -= random.uniform(0.01, 0.2)
            run.append(f"{query} Q0 {document} {rank} {score:.4f} fixture")
        if index % 8 == 7:
            judged = [f"absent{number}" for number in range(random.randint(1, 4))]
        elif index in (1, 2, 3, 4):
            # Just beyond the cut-offs 1, 5, 10 and 100.
            judged = [retrieved[{1: 1, 2: 5, 3: 10, 4: 100}[index]]]
        else:
            near = random.sample(retrieved[:12], random.randint(1, 4))
            far = random.sample(retrieved[12:], random.randint(0, 8))
            judged = near + far + ["absent"] * random.randint(0, 1)
        qrels += [f"{query} 0 {document} {random.randint(1, 3)}" for document in judged]
        others = [document for document in retrieved if document not in judged]
        qrels += [f"{query} 0 {document} 0" for document in random.sample(others[:20], 2)]

    DIRECTORY.mkdir(parents=True, exist_ok=True)
    (DIRECTORY / "run.trec").write_text("\n".join(run) + "\n")
    (DIRECTORY / "qrels.trec").write_text("\n".join(qrels) + "\n")

    values = ir_measures.calc_aggregate(
        MEASURES.values(),
        ir_measures.read_trec_qrels(str(DIRECTORY / "qrels.trec")),
        ir_measures.read_trec_run(str(DIRECTORY / "run.trec")),
    )
    expected = {name: values[measure] for name, measure in MEASURES.items()}
    expected["queries"] = QUERIES
    (DIRECTORY / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")
    print(json.dumps(expected, indent=2))

    qrels = list(ir_measures.read_trec_qrels(str(DIRECTORY / "qrels.trec")))
    run = list(ir_measures.read_trec_run(str(DIRECTORY / "run.trec")))
    chosen = {
        "means": {str(m): v for m, v in ir_measures.calc_aggregate(CHOSEN, qrels, run).items()},
        "queries": per_query(CHOSEN, qrels, run),
    }
    (DIRECTORY / "chosen.json").write_text(json.dumps(chosen, indent=1) + "\n")
    tied()


if __name__ == "__main__":
    main()
