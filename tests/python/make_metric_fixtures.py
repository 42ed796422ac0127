"""Makes tests/fixtures/metrics/: a TREC run, its qrels and what ir_measures says of them.

    python tests/python/make_metric_fixtures.py

Needs ir_measures. The run has several relevant documents a query with grades 1 to 3, no tied
scores, queries of which nothing relevant is retrieved, one with a relevant document just beyond
each cut-off, and documents judged as not relevant (grade 0).
"""

import json
import random
from pathlib import Path

import ir_measures
from ir_measures import RR, R, Success, nDCG

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


if __name__ == "__main__":
    main()
