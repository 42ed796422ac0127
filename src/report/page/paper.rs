//! Tables 2 to 5 of the paper beside the same numbers of the reported runs.
//!
//! The numbers are those of A. Reusch, Y. Belinkov, "Reverse-Engineering the Retrieval Process in GenIR Models", SIGIR
//! 2025 (arXiv 2503.19715): T5-large, 24 decoder layers, pre-trained, on Natural Questions and Trivia-QA.

use super::html::Table;
use super::run::ReportedRun;
use crate::component::{Component, Stage};
use crate::probe::{Probe, ProbeResult, RankShift, Replacement, Scores};
use crate::report::tables::{component_label, number};

/// Table 3: % of queries no longer ranked first by replacement and component; Stage I, II and III of NQ10k, NQ320k and
/// Trivia-QA.
const STAGE_PATCHING: [(Replacement, Component, [[f64; 3]; 3]); 9] = {
    use Component::{CrossAttention, Mlp, SelfAttention};
    use Replacement::{Base, Mean, Zero};
    [
        (Zero, SelfAttention, [[1.52, 2.27, 6.57], [2.67, 4.46, 11.23], [12.58, 14.78, 19.97]]),
        (Zero, Mlp, [[92.86, 7.83, 96.72], [34.40, 30.30, 99.28], [29.89, 16.94, 97.51]]),
        (
            Zero,
            CrossAttention,
            [[4.29, 21.72, 39.65], [15.86, 50.62, 41.89], [15.29, 64.20, 60.02]],
        ),
        (Mean, SelfAttention, [[0.00, 2.02, 6.06], [1.78, 5.35, 11.76], [14.62, 16.62, 20.93]]),
        (Mean, Mlp, [[0.76, 5.56, 48.23], [3.39, 17.47, 71.48], [14.70, 17.58, 61.67]]),
        (
            Mean,
            CrossAttention,
            [[4.55, 20.45, 42.93], [16.04, 53.30, 50.80], [18.14, 54.44, 71.43]],
        ),
        (Base, SelfAttention, [[5.30, 5.56, 7.32], [10.16, 11.05, 13.37], [5.54, 6.65, 9.78]]),
        (Base, Mlp, [[5.30, 7.07, 74.49], [14.62, 14.62, 92.69], [11.94, 8.01, 81.45]]),
        (Base, CrossAttention, [[7.58, 17.93, 34.09], [13.19, 24.96, 33.16], [8.91, 21.31, 41.38]]),
    ]
};

/// The collections of [`STAGE_PATCHING`].
const PATCHED: [&str; 3] = ["NQ10k", "NQ320k", "Trivia-QA"];

/// Table 4: Hits@1, R@5 and Hits@10 of the circuit, absolute and relative to the whole model, in %.
const CIRCUIT: [(&str, [(f64, f64); 3]); 5] = [
    ("NQ10k", [(38.0, 94.0), (56.90, 98.0), (62.0, 97.0)]),
    ("NQ100k", [(17.60, 78.0), (35.10, 82.0), (41.20, 82.0)]),
    ("NQ320k", [(16.40, 82.0), (33.60, 84.0), (42.01, 88.0)]),
    ("Trivia-QA", [(49.67, 82.0), (55.26, 86.0), (74.95, 91.0)]),
    ("Trivia-QA QG", [(38.94, 78.0), (41.60, 80.0), (57.97, 87.0)]),
];

/// Table 5: % of docids among the top 10, 100 and 1,000 tokens of cross-attention, mean over Stage II.
const WRITES: [(&str, [f64; 3]); 5] = [
    ("NQ10k", [0.00, 0.10, 2.30]),
    ("NQ100k", [0.00, 0.01, 0.50]),
    ("NQ320k", [0.00, 0.04, 0.57]),
    ("Trivia-QA", [0.00, 0.08, 8.58]),
    ("Trivia-QA QG", [0.02, 0.16, 2.68]),
];

/// Returns the tables of a probe's newest results, the paper's numbers in the last columns or rows.
pub fn tables(probe: Probe, runs: &[&ReportedRun]) -> Vec<Table> {
    let measured: Vec<(&str, &ProbeResult)> = runs
        .iter()
        .filter_map(|run| Some((run.name.as_str(), &run.newest(probe)?.result)))
        .collect();
    if measured.is_empty() {
        return Vec::new();
    }
    match probe {
        Probe::DirectEffect => vec![direct_effect(&measured)],
        Probe::StagePatching => vec![stage_patching(&measured)],
        Probe::Circuit => vec![circuit(&measured)],
        Probe::EncoderSwap => vec![encoder_swap(&measured)],
        Probe::AttentionWrites => vec![attention_writes(&measured)],
        _ => Vec::new(),
    }
}

fn stage_patching(runs: &[(&str, &ProbeResult)]) -> Table {
    let mut table = Table::new(
        "Table 3 of the paper: % of queries whose relevant docid is no longer at rank 1 when a component of a stage (I / \
         II / III) is replaced",
        &["component, replaced by"],
    );
    table.header.extend(runs.iter().map(|(name, _)| (*name).to_owned()));
    table.header.extend(PATCHED.map(|name| format!("paper, {name}")));
    let three = |values: [f64; 3]| values.map(|value| number(value, 1)).join(" / ");
    for (replacement, component, paper) in STAGE_PATCHING {
        let how = match replacement {
            Replacement::Zero => "zero",
            Replacement::Mean => "mean",
            Replacement::Base => "base model",
        };
        let mut row = vec![format!("{}, {how}", component_label(component))];
        row.extend(runs.iter().map(|(_, result)| match result {
            ProbeResult::StagePatching(found) => three(Stage::ALL.map(|stage| {
                let of = (Some(component), Some(stage), replacement);
                let cell = found.cells.iter().find(|c| (c.component, c.stage, c.replacement) == of);
                cell.map_or(f64::NAN, |cell| cell.ranks.beyond_1)
            })),
            _ => "-".to_owned(),
        }));
        row.extend(paper.map(three));
        table.rows.push(row);
    }
    table
}

fn circuit(runs: &[(&str, &ProbeResult)]) -> Table {
    let mut table = Table::new(
        "Table 4 of the paper: effectiveness of the circuit alone in %, and relative to the whole model",
        &["model", "Hits@1", "R@5", "Hits@10"],
    );
    let scores = |of: &Scores| [of.hits_1, of.recall_5, of.hits_10].map(|value| 100.0 * value);
    for (name, result) in runs {
        let ProbeResult::Circuit(found) = result else { continue };
        let whole = scores(&found.unpatched).map(|value| number(value, 1));
        table.rows.push([format!("{name}, whole model")].into_iter().chain(whole).collect());
        for of in &found.circuits {
            let values = scores(&of.absolute).into_iter().zip(scores(&of.relative));
            let values =
                values.map(|(one, other)| format!("{} ({}%)", number(one, 1), number(other, 0)));
            let label = crate::report::tables::circuit_label(&of.name);
            table.rows.push([format!("{name}, {label}")].into_iter().chain(values).collect());
        }
    }
    for (name, values) in CIRCUIT {
        let values = values.map(|(one, other)| format!("{one:.1} ({other:.0}%)"));
        table.rows.push([format!("paper, {name}")].into_iter().chain(values).collect());
    }
    table
}

fn attention_writes(runs: &[(&str, &ProbeResult)]) -> Table {
    let mut table = Table::new(
        "Table 5 of the paper: % of docids among the top tokens of cross-attention, mean over the heads of Stage II",
        &["model", "top 10", "top 100", "top 1,000", "chance"],
    );
    for (name, result) in runs {
        let ProbeResult::AttentionWrites(found) = result else { continue };
        let of = |share: &&crate::probe::DocidShare| {
            share.stage == Some(Stage::Second) && share.of == "heads"
        };
        let share = found.stages.iter().find(of);
        let values =
            share.map_or([f64::NAN; 3], |share| [share.top_10, share.top_100, share.top_1000]);
        let values = values.into_iter().chain([found.chance]).map(|value| number(value, 2));
        table.rows.push([(*name).to_owned()].into_iter().chain(values).collect());
    }
    for (name, values) in WRITES {
        let values = values.map(|value| number(value, 2)).into_iter().chain([String::new()]);
        table.rows.push([format!("paper, {name}")].into_iter().chain(values).collect());
    }
    table
}

fn ranks_table(caption: &str, rows: Vec<(String, &RankShift)>, paper: Vec<[&str; 7]>) -> Table {
    let header = ["model", "> 1 %", "> 5 %", "> 10 %", "> 100 %", "mean rank", "median rank"];
    let mut table = Table::new(caption, &header);
    for (name, ranks) in rows {
        let values = [
            number(ranks.beyond_1, 1),
            number(ranks.beyond_5, 1),
            number(ranks.beyond_10, 1),
            number(ranks.beyond_100, 1),
            number(ranks.mean_rank, 1),
            number(ranks.median_rank, 1),
        ];
        table.rows.push([name].into_iter().chain(values).collect());
    }
    table.rows.extend(paper.into_iter().map(|row| row.map(str::to_owned).to_vec()));
    table
}

fn direct_effect(runs: &[(&str, &ProbeResult)]) -> Table {
    let mut rows = Vec::new();
    for (name, result) in runs {
        let ProbeResult::DirectEffect(found) = result else { continue };
        let named = |effect: &'_ crate::probe::ComponentEffect| {
            format!("{name}, {} only", component_label(effect.component))
        };
        rows.extend(found.effects.iter().map(|effect| (named(effect), &effect.ranks)));
    }
    let paper = vec![
        ["paper, NQ10k, MLP only", "33", "", "0", "", "", ""],
        ["paper, NQ10k, cross-attention only", "100", "100", "100", "100", "", ""],
    ];
    ranks_table("Rank of the relevant docid from one type of component alone", rows, paper)
}

fn encoder_swap(runs: &[(&str, &ProbeResult)]) -> Table {
    let mut rows = Vec::new();
    for (name, result) in runs {
        let ProbeResult::EncoderSwap(found) = result else { continue };
        rows.extend(
            found.swaps.iter().map(|s| (format!("{name}, encoder of {}", s.encoder), &s.ranks)),
        );
    }
    let paper = vec![["paper, encoder of the pre-trained T5", "", "", "", "", "21.7", ""]];
    ranks_table("Table 2 of the paper: the decoder with another model's encoder", rows, paper)
}
