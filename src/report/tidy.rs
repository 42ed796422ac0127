//! Results as CSV in long (tidy) format: one number per row, with the same columns for every probe, to group and pivot
//! in pandas and R.

use std::io::{self, Write};

use crate::component::Stage;
use crate::probe::{
    AverageFirst, ComponentEffect, Contribution, DocidShare, EncoderNorm, InputAttribution,
    PatchedCell, PopulationRanks, PrimingCosine, ProbeResult, QueryRanks, RankShift, Record,
    Scores, SiteRank, StageSource, Swap, Variant,
};

/// The columns of [`write_csv`]; columns that do not apply to a number are empty.
const COLUMNS: [&str; 15] = [
    "checkpoint",
    "step",
    "queries",
    "over",
    "vocabulary",
    "probe",
    "layer",
    "stage",
    "of",
    "setting",
    "source",
    "source_layer",
    "source_stage",
    "metric",
    "value",
];

/// One number of a result with its keys.
#[derive(Debug, Clone, Default)]
pub(super) struct Entry {
    pub layer: Option<usize>,
    pub stage: Option<Stage>,
    /// Component, site, group of tokens, head or selector.
    pub of: String,
    /// The intervention or variant: replacement, circuit, encoder, attribution variant.
    pub setting: String,
    /// The source component of an attribution, or the other output of a cosine.
    pub source: String,
    pub source_layer: Option<usize>,
    pub source_stage: Option<Stage>,
    pub metric: String,
    /// NaN if undefined.
    pub value: f64,
}

/// Writes the numbers of all records as CSV (RFC 4180, but lines end with `\n`): a header, then one number per row.
/// Undefined numbers are empty fields. The top tokens of `attention_writes` are in JSON and tables only.
///
/// # Errors
/// Those of writing to `out`.
pub fn write_csv(records: &[Record], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", COLUMNS.join(","))?;
    for record in records {
        let about = about(record);
        for entry in entries(&record.result) {
            let fields = [
                optional(entry.layer),
                optional(entry.stage),
                entry.of,
                entry.setting,
                entry.source,
                optional(entry.source_layer),
                optional(entry.source_stage),
                entry.metric,
                optional(entry.value.is_finite().then_some(entry.value)),
            ];
            write_row(&about, &fields, out)?;
        }
    }
    Ok(())
}

/// The columns of [`write_query_ranks`].
const QUERY_COLUMNS: [&str; 13] = [
    "checkpoint",
    "step",
    "queries",
    "over",
    "vocabulary",
    "probe",
    "layer",
    "stage",
    "of",
    "setting",
    "query",
    "docid",
    "rank",
];

/// Writes the ranks of every query that the records contain (option `per_query`) as CSV in the form of [`write_csv`]:
/// one rank per row. Ranks without intervention have the `setting` `unpatched`.
///
/// # Errors
/// Those of writing to `out`.
pub fn write_query_ranks(records: &[Record], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}", QUERY_COLUMNS.join(","))?;
    for record in records {
        let about = about(record);
        for (place, found, rank) in query_ranks(record) {
            let fields = [
                optional(place.layer),
                optional(place.stage),
                place.of,
                place.setting,
                found.query.clone(),
                found.docid.clone(),
                rank.to_string(),
            ];
            write_row(&about, &fields, out)?;
        }
    }
    Ok(())
}

/// Returns the first fields of every row: what a record was measured on, and its probe.
fn about(record: &Record) -> [String; 6] {
    let on = &record.measured_on;
    [
        on.checkpoint.clone(),
        optional(on.step),
        on.queries.clone(),
        over(record),
        on.vocabulary.to_string(),
        record.result.probe().to_string(),
    ]
}

fn write_row(about: &[String], fields: &[String], out: &mut dyn Write) -> io::Result<()> {
    let row: Vec<String> = about.iter().chain(fields).map(|text| quoted(text)).collect();
    writeln!(out, "{}", row.join(","))
}

/// The place of the ranks without intervention in [`ranks_by_place`].
pub(crate) const UNPATCHED: &str = "unpatched";

/// Returns every rank of a record with its query and its place: the intervention or the site, such as `mlp III zero`.
pub(crate) fn ranks_by_place(record: &Record) -> Vec<(String, &QueryRanks, u32)> {
    let place = |entry: Entry| {
        let layer = entry.layer.map(|layer| format!("layer {layer}")).unwrap_or_default();
        let parts = [layer, entry.of, optional(entry.stage), entry.setting];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
    };
    query_ranks(record)
        .into_iter()
        .map(|(entry, found, rank)| (place(entry), found, rank))
        .collect()
}

/// Returns every rank of a record with its keys (an entry without a number) and its query.
fn query_ranks(record: &Record) -> Vec<(Entry, &QueryRanks, u32)> {
    let measured = &record.measured_on.measured_queries;
    let unpatched = Entry { setting: UNPATCHED.to_owned(), ..Entry::default() };
    let mut rows: Vec<(Entry, &QueryRanks, u32)> = Vec::new();
    for found in measured {
        rows.extend(found.ranks.iter().map(|rank| (unpatched.clone(), found, *rank)));
    }
    let of_measured = |place: Entry, shift: &RankShift| {
        let ranks = measured.iter().zip(shift.ranks.clone());
        ranks.map(move |(found, rank)| (place.clone(), found, rank)).collect::<Vec<_>>()
    };
    match &record.result {
        ProbeResult::LogitLens(result) => {
            let of = |s: &SiteRank| of_measured(at(s.layer, s.stage, s.site), &s.ranks);
            rows.extend(result.sites.iter().flat_map(of));
        }
        ProbeResult::DirectEffect(result) => {
            let of = |e: &ComponentEffect| of_measured(of_component(e), &e.ranks);
            rows.extend(result.effects.iter().flat_map(of));
        }
        ProbeResult::StagePatching(result) => {
            let of = |cell: &PatchedCell| of_measured(of_cell(cell), &cell.ranks);
            rows.extend(result.cells.iter().flat_map(of));
        }
        ProbeResult::EncoderSwap(result) => {
            for swap in &result.swaps {
                let place = Entry { setting: swap.encoder.clone(), ..Entry::default() };
                rows.extend(of_measured(place.clone(), &swap.ranks));
                let held_out = swap.held_out.iter().flat_map(|held_out| &held_out.per_query);
                for found in held_out {
                    for (of, rank) in ["held_out_swapped", "held_out_own"].iter().zip(&found.ranks)
                    {
                        let place = Entry { of: (*of).to_owned(), ..place.clone() };
                        rows.push((place, found, *rank));
                    }
                }
            }
        }
        ProbeResult::Circuit(result) => {
            let names = result.circuits.iter().map(|circuit| circuit.name.as_str());
            let names: Vec<&str> = [UNPATCHED].into_iter().chain(names).collect();
            for found in &result.per_query {
                rows.extend(names.iter().zip(&found.ranks).map(|(name, rank)| {
                    let (of, setting) = (result.test_set.clone(), (*name).to_owned());
                    (Entry { of, setting, ..Entry::default() }, found, *rank)
                }));
            }
        }
        ProbeResult::ResidualContribution(_)
        | ProbeResult::NeuronReads(_)
        | ProbeResult::AttentionReads(_)
        | ProbeResult::AttentionWrites(_) => {}
    }
    rows
}

/// Returns the queries that means are over; `named` if they were listed in a file.
fn over(record: &Record) -> String {
    match record.measured_on.named {
        Some(_) => "named".to_owned(),
        None => record.measured_on.over.to_string(),
    }
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// Quotes a field of a CSV file if needed (RFC 4180).
pub(crate) fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

/// Returns all numbers of a result, in its order.
pub(super) fn entries(result: &ProbeResult) -> Vec<Entry> {
    match result {
        ProbeResult::ResidualContribution(result) => {
            let contributions = result.contributions.iter().flat_map(contribution);
            contributions.chain(result.priming.iter().map(priming)).collect()
        }
        ProbeResult::LogitLens(result) => {
            let populations = result.populations.iter().flat_map(population);
            result.sites.iter().flat_map(site).chain(populations).collect()
        }
        ProbeResult::DirectEffect(result) => {
            result.effects.iter().flat_map(|e| ranks(&of_component(e), &e.ranks)).collect()
        }
        ProbeResult::StagePatching(result) => {
            result.cells.iter().flat_map(|cell| ranks(&of_cell(cell), &cell.ranks)).collect()
        }
        ProbeResult::Circuit(result) => {
            let mut entries = scores(UNPATCHED, "", &result.unpatched);
            for circuit in &result.circuits {
                entries.extend(scores(&circuit.name, "", &circuit.absolute));
                entries.extend(scores(&circuit.name, "relative_", &circuit.relative));
            }
            entries
        }
        ProbeResult::EncoderSwap(result) => {
            let of = match result.encoder_norm {
                EncoderNorm::Other => "",
                EncoderNorm::Own => "own norm",
            };
            result.swaps.iter().flat_map(|one| swap(one, of)).collect()
        }
        ProbeResult::NeuronReads(result) | ProbeResult::AttentionReads(result) => reads(result),
        ProbeResult::AttentionWrites(result) => {
            let chance = Entry::default().number("chance", result.chance);
            let shares = result.layers.iter().chain(&result.stages).flat_map(docid_share);
            [chance].into_iter().chain(shares).collect()
        }
    }
}

impl Entry {
    /// Returns the entry with the same keys and this number.
    fn number(&self, metric: &str, value: f64) -> Entry {
        Entry { metric: metric.to_owned(), value, ..self.clone() }
    }

    fn numbers<const N: usize>(&self, numbers: [(&str, f64); N]) -> Vec<Entry> {
        numbers.map(|(metric, value)| self.number(metric, value)).to_vec()
    }
}

fn of_component(effect: &ComponentEffect) -> Entry {
    Entry { of: effect.component.name().to_owned(), ..Entry::default() }
}

fn of_cell(cell: &PatchedCell) -> Entry {
    let of = match (cell.component, cell.stage) {
        (Some(component), Some(_)) => component.name().to_owned(),
        _ => cell.selector.clone(),
    };
    let setting = cell.replacement.to_string();
    Entry { stage: cell.stage, of, setting, ..Entry::default() }
}

fn at(layer: usize, stage: Option<Stage>, of: impl ToString) -> Entry {
    Entry { layer: Some(layer), stage, of: of.to_string(), ..Entry::default() }
}

fn contribution(found: &Contribution) -> Vec<Entry> {
    at(found.layer, found.stage, found.component.name()).numbers([
        ("ratio", found.ratio),
        ("cosine_post", found.cosine_post),
        ("cosine_pre", found.cosine_pre),
    ])
}

fn priming(found: &PrimingCosine) -> Entry {
    let key = Entry {
        source: "mlp".to_owned(),
        source_layer: Some(found.mlp_layer),
        source_stage: Some(Stage::First),
        ..at(found.layer, Some(Stage::Third), found.component.name())
    };
    key.number("cosine", found.cosine)
}

fn site(found: &SiteRank) -> Vec<Entry> {
    ranks(&at(found.layer, found.stage, found.site), &found.ranks)
}

fn population(found: &PopulationRanks) -> Vec<Entry> {
    at(found.layer, found.stage, found.group).numbers([
        ("mean_rank", found.mean),
        ("median_rank", found.median),
        ("best_rank", found.best),
        ("worst_rank", found.worst),
    ])
}

fn scores(circuit: &str, prefix: &str, scores: &Scores) -> Vec<Entry> {
    let key = Entry { setting: circuit.to_owned(), ..Entry::default() };
    [("hits@1", scores.hits_1), ("recall@5", scores.recall_5), ("hits@10", scores.hits_10)]
        .map(|(metric, value)| key.number(&format!("{prefix}{metric}"), value))
        .to_vec()
}

fn swap(swap: &Swap, of: &str) -> Vec<Entry> {
    let key = Entry { of: of.to_owned(), setting: swap.encoder.clone(), ..Entry::default() };
    let mut entries = ranks(&key, &swap.ranks);
    if let Some(held_out) = &swap.held_out {
        entries.extend(key.numbers([
            ("held_out_documents", held_out.documents as f64),
            ("held_out_queries", held_out.queries as f64),
        ]));
        for (encoder, score) in [("swapped", &held_out.swapped), ("own", &held_out.own)] {
            let metrics =
                [("mrr", score.mrr), ("hits@1", score.hits_1), ("first", score.first as f64)];
            let name = |metric| format!("held_out_{encoder}_{metric}");
            entries.extend(metrics.map(|(metric, value)| key.number(&name(metric), value)));
        }
    }
    entries
}

fn reads(reads: &InputAttribution) -> Vec<Entry> {
    let setting = match reads.average_first {
        AverageFirst::Readers => reads.variant.to_string(),
        AverageFirst::Queries => format!("{}, queries first", reads.variant),
    };
    let mut entries = Vec::new();
    for layer in &reads.layers {
        let key = Entry { setting: setting.clone(), ..at(layer.layer, layer.stage, "") };
        entries.push(key.number("readers", layer.readers));
        entries.extend(layer.shares.iter().map(|share| {
            let source = share.source.to_string();
            Entry { source, source_layer: share.layer, ..key.number("share", share.share) }
        }));
    }
    for stage in &reads.stages {
        entries.extend(stage.shares.iter().map(|share| {
            let StageSource { source, stage: source_stage } = share.source;
            Entry {
                stage: Some(stage.stage),
                setting: setting.clone(),
                source: source.to_string(),
                source_stage,
                ..Entry::default().number("share", share.share)
            }
        }));
    }
    if reads.variant == Variant::Exact {
        let key = Entry { setting, ..Entry::default() };
        // In JSON an undefined value and an absent one are both null.
        let deviation = reads.largest_deviation.unwrap_or(f64::NAN);
        entries.push(key.number("largest_deviation", deviation));
    }
    entries
}

fn docid_share(found: &DocidShare) -> Vec<Entry> {
    let (layer, stage, of) = (found.layer, found.stage, found.of.clone());
    Entry { layer, stage, of, ..Entry::default() }.numbers([
        ("top_10", found.top_10),
        ("top_100", found.top_100),
        ("top_1000", found.top_1000),
    ])
}

fn ranks(key: &Entry, ranks: &RankShift) -> Vec<Entry> {
    // 0 means that there was no query.
    let rank = |rank: u32| if rank == 0 { f64::NAN } else { f64::from(rank) };
    let mut entries = key.numbers([
        ("queries", ranks.queries as f64),
        ("beyond_1", ranks.beyond_1),
        ("beyond_5", ranks.beyond_5),
        ("beyond_10", ranks.beyond_10),
        ("beyond_100", ranks.beyond_100),
        ("mean_rank", ranks.mean_rank),
        ("median_rank", ranks.median_rank),
        ("best_rank", rank(ranks.best_rank)),
        ("worst_rank", rank(ranks.worst_rank)),
    ]);
    entries.extend(ranks.octaves.iter().enumerate().map(|(octave, count)| {
        let first = 2f64.powi(octave as i32);
        key.number(&format!("queries_of_rank_{first}_to_{}", 2.0 * first - 1.0), *count as f64)
    }));
    entries
}
