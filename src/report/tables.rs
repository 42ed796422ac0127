//! Tables of a probe's result, in the paper's layout if it has one.

use std::fmt;

use comfy_table::{Cell, CellAlignment, Table, presets};

use crate::component::{Component, Stage};
use crate::probe::{
    AttentionWrites, Circuit, Contribution, DirectEffect, DocidShare, EncoderNorm, EncoderSwap,
    InputAttribution, LensSite, LogitLens, PatchedCell, PopulationRanks, ProbeResult, RankShift,
    Record, Replacement, ResidualContribution, Scores, Source, StagePatching, StageSource,
    TokenGroup, Variant, describe_candidates,
};

/// A table with its title.
#[derive(Debug, Clone)]
pub struct TitledTable {
    /// The quantity, with its unit.
    pub title: String,
    /// The table.
    pub table: Table,
}

impl fmt::Display for TitledTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n\n{}", self.title, self.table)
    }
}

/// Returns the tables of one result; undefined numbers are `-`.
pub fn tables(record: &Record) -> Vec<TitledTable> {
    let among = describe_candidates(record.measured_on.vocabulary);
    match &record.result {
        ProbeResult::ResidualContribution(result) => residual_contribution(result),
        ProbeResult::LogitLens(result) => logit_lens(result, among),
        ProbeResult::DirectEffect(result) => direct_effect(result, among),
        ProbeResult::StagePatching(result) => stage_patching(result, among),
        ProbeResult::Circuit(result) => circuit(result, among),
        ProbeResult::EncoderSwap(result) => encoder_swap(result, among),
        ProbeResult::NeuronReads(result) => reads(result, "MLP neurons", "active neurons"),
        ProbeResult::AttentionReads(result) => reads(result, "cross-attention heads", "heads"),
        ProbeResult::AttentionWrites(result) => attention_writes(result),
    }
}

fn residual_contribution(result: &ResidualContribution) -> Vec<TitledTable> {
    type Value = fn(&Contribution) -> f64;
    let views: [(&str, Value); 3] = [
        ("Ratio of each output's norm to the norm of the layer's residual update", |c| c.ratio),
        ("Cosine of each output with the residual stream after the layer", |c| c.cosine_post),
        ("Cosine of each output with the residual stream before the layer", |c| c.cosine_pre),
    ];
    let mut tables: Vec<TitledTable> = views
        .into_iter()
        .map(|(title, value)| {
            let header = ["layer", "stage"].into_iter().chain(Component::ALL.map(Component::name));
            let mut rows = KeyedRows::default();
            for entry in &result.contributions {
                let key = vec![entry.layer.to_string(), stage_name(entry.stage)];
                rows.add(key, number(value(entry), 3));
            }
            titled(title, header, rows.into_vec())
        })
        .collect();
    if !result.priming.is_empty() {
        let mut header = vec!["layer".to_owned(), "component".to_owned()];
        let mut rows = KeyedRows::default();
        for entry in &result.priming {
            let column = format!("MLP {}", entry.mlp_layer);
            if !header.contains(&column) {
                header.push(column);
            }
            let key = vec![entry.layer.to_string(), entry.component.name().to_owned()];
            rows.add(key, number(entry.cosine, 3));
        }
        let title = "Cosine of Stage III outputs with Stage I MLP outputs";
        tables.push(titled(title, header, rows.into_vec()));
    }
    tables
}

fn logit_lens(result: &LogitLens, among: &str) -> Vec<TitledTable> {
    type Value = fn(&RankShift) -> f64;
    let views: [(&str, Value); 2] =
        [("median rank", |ranks| ranks.median_rank), ("mean rank", |ranks| ranks.mean_rank)];
    let mut tables: Vec<TitledTable> = views
        .into_iter()
        .map(|(figure, value)| {
            let title = format!("Logit lens: {figure} of the relevant docid among {among}");
            let header = strings(["layer", "stage"])
                .chain(LensSite::ALL.iter().map(|site| site.to_string()));
            let mut rows = KeyedRows::default();
            for site in &result.sites {
                let key = vec![site.layer.to_string(), stage_name(site.stage)];
                rows.add(key, number(value(&site.ranks), 1));
            }
            titled(&title, header, rows.into_vec())
        })
        .collect();
    let figures = ["mean", "median", "best", "worst"];
    let header = strings(["layer", "stage"]).chain(
        TokenGroup::ALL
            .iter()
            .flat_map(|group| figures.map(|figure| format!("{} {figure}", group_label(*group)))),
    );
    let mut rows = KeyedRows::default();
    for PopulationRanks { layer, stage, mean, median, best, worst, .. } in &result.populations {
        for value in [mean, median, best, worst] {
            rows.add(vec![layer.to_string(), stage_name(*stage)], number(*value, 1));
        }
    }
    let title = "Logit lens: ranks of all docids and all text tokens after each layer, among text tokens and docids";
    tables.push(titled(title, header, rows.into_vec()));
    tables
}

fn direct_effect(result: &DirectEffect, among: &str) -> Vec<TitledTable> {
    let rows = result.effects.iter().map(|effect| {
        let mut row = vec![effect.component.name().to_owned()];
        row.extend(rank_cells(&effect.ranks));
        row
    });
    let title = format!(
        "Direct logit attribution by component type: rank of the relevant docid among {among}"
    );
    vec![titled(&title, strings(["component"]).chain(rank_header()), rows.collect())]
}

fn stage_patching(result: &StagePatching, among: &str) -> Vec<TitledTable> {
    let head = ["component", "replacement"];
    let stages = Stage::ALL.map(|stage| stage.to_string());
    let mut tables = Vec::new();
    let beyond_1 = paper_cells(result, |ranks| [ranks.beyond_1]);
    if !beyond_1.is_empty() {
        let title = format!(
            "% of queries whose relevant docid is no longer at rank 1 among {among}, by patched stage"
        );
        tables.push(titled(&title, strings(head).chain(stages.clone()), beyond_1));
        let beyond =
            paper_cells(result, |ranks| [ranks.beyond_5, ranks.beyond_10, ranks.beyond_100]);
        let thresholds = stages
            .iter()
            .flat_map(|stage| ["5", "10", "100"].map(|rank| format!("{stage} > {rank}")));
        let title = format!(
            "% of queries whose relevant docid is beyond rank 5, 10 and 100 among {among}, by patched stage"
        );
        tables.push(titled(&title, strings(head).chain(thresholds), beyond));
    }
    let user_defined = |cell: &&PatchedCell| cell.component.is_none() || cell.stage.is_none();
    let user_defined = result.cells.iter().filter(user_defined).map(|cell| {
        let mut row = vec![cell.selector.clone(), cell.replacement.to_string()];
        row.extend(rank_cells(&cell.ranks));
        row
    });
    let user_defined: Vec<Vec<String>> = user_defined.collect();
    if !user_defined.is_empty() {
        let header = strings(["selector", "replacement"]).chain(rank_header());
        let title = format!("User-defined patches: rank of the relevant docid among {among}");
        tables.push(titled(&title, header, user_defined));
    }
    tables
}

/// Returns the rows of the paper's table: `values` of each stage in columns.
fn paper_cells<const N: usize>(
    result: &StagePatching,
    values: fn(&RankShift) -> [f64; N],
) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for replacement in Replacement::ALL {
        for component in Component::ALL {
            let cells = Stage::ALL.map(|stage| {
                let of = (Some(component), Some(stage), *replacement);
                result.cells.iter().find(|c| (c.component, c.stage, c.replacement) == of)
            });
            if cells.iter().any(Option::is_some) {
                let mut row = vec![component.name().to_owned(), replacement.to_string()];
                for cell in cells {
                    let found = cell.map_or([f64::NAN; N], |cell| values(&cell.ranks));
                    row.extend(found.map(percent));
                }
                rows.push(row);
            }
        }
    }
    rows
}

fn circuit(result: &Circuit, among: &str) -> Vec<TitledTable> {
    let values = |scores: &Scores| [scores.hits_1, scores.recall_5, scores.hits_10];
    let row = |name: &str, absolute: &Scores, relative: Option<&Scores>| {
        let mut row = vec![name.to_owned()];
        let relative = relative.map_or([f64::NAN; 3], values);
        for (absolute, relative) in values(absolute).into_iter().zip(relative) {
            row.extend([percent(100.0 * absolute), percent(100.0 * relative)]);
        }
        row
    };
    let mut rows = vec![row("unpatched", &result.unpatched, None)];
    let circuits = result.circuits.iter();
    rows.extend(circuits.map(|c| row(circuit_label(&c.name), &c.absolute, Some(&c.relative))));
    let header = strings(["circuit"]).chain(
        ["Hits@1", "R@5", "Hits@10"]
            .into_iter()
            .flat_map(|name| [format!("{name} abs"), format!("{name} rel")]),
    );
    let title = format!(
        "Effectiveness (%) of circuits on {} {} queries, ranked among {among}; rel: relative to the unpatched \
         model (%)",
        result.test_queries, result.test_set
    );
    let patches = result.circuits.iter().flat_map(|circuit| {
        let name = circuit_label(&circuit.name);
        circuit.patches.iter().map(move |patch| vec![name.to_owned(), patch.clone()])
    });
    vec![
        titled(&title, header, rows),
        titled("Patches of each circuit", strings(["circuit", "patch"]), patches.collect()),
    ]
}

fn encoder_swap(result: &EncoderSwap, among: &str) -> Vec<TitledTable> {
    let rows = result.swaps.iter().map(|swap| {
        let mut row = vec![swap.encoder.clone()];
        row.extend(rank_cells(&swap.ranks));
        row
    });
    let norm = norm_of(result.encoder_norm);
    let title = format!("Encoder swap: rank of the relevant docid among {among}, {norm}");
    let header = strings(["encoder", "queries"]).chain(rank_header());
    let rows = rows.zip(&result.swaps).map(|(mut row, swap)| {
        row.insert(1, swap.ranks.queries.to_string());
        row
    });
    let mut tables = vec![titled(&title, header, rows.collect())];
    let held_out: Vec<Vec<String>> = result
        .swaps
        .iter()
        .filter_map(|swap| Some((swap, swap.held_out.as_ref()?)))
        .flat_map(|(swap, held)| {
            [(swap.encoder.as_str(), &held.swapped), ("own", &held.own)].map(|(encoder, score)| {
                vec![
                    swap.encoder.clone(),
                    encoder.to_owned(),
                    held.documents.to_string(),
                    held.queries.to_string(),
                    number(score.mrr, 3),
                    percent(100.0 * score.hits_1),
                    score.first.to_string(),
                ]
            })
        })
        .collect();
    if !held_out.is_empty() {
        let header =
            ["excluded by", "encoder", "documents", "queries", "MRR", "Hits@1 %", "at rank 1"];
        let title = format!(
            "Queries for documents excluded from the training of the other encoder's model, ranked among \
             {among}, {norm}"
        );
        tables.push(titled(&title, strings(header), held_out));
    }
    tables
}

/// Returns the stage of a layer; `-` if the decoder has no stages.
pub(super) fn stage_name(stage: Option<Stage>) -> String {
    stage.map_or("-".to_owned(), |stage| stage.to_string())
}

/// Describes which final RMSNorm is applied.
fn norm_of(norm: EncoderNorm) -> &'static str {
    match norm {
        EncoderNorm::Other => "with that encoder's own final RMSNorm",
        EncoderNorm::Own => "with the final RMSNorm of the probed model",
    }
}

fn reads(result: &InputAttribution, readers: &str, counted: &str) -> Vec<TitledTable> {
    let mut sources: Vec<StageSource> = Vec::new();
    for share in result.stages.iter().flat_map(|stage| &stage.shares) {
        if !sources.contains(&share.source) {
            sources.push(share.source);
        }
    }
    let rows = sources.iter().map(|source| {
        let stage = source.stage.map(|stage| stage.to_string()).unwrap_or_default();
        let mut row = vec![source_label(source.source).to_owned(), stage];
        row.extend(Stage::ALL.map(|stage| {
            let reader = result.stages.iter().find(|reads| reads.stage == stage);
            let share = reader.and_then(|r| r.shares.iter().find(|s| s.source == *source));
            percent(share.map_or(f64::NAN, |share| 100.0 * share.share))
        }));
        row
    });
    let (variant, first) = (result.variant, result.average_first);
    // Only the exact variant adds up to the model's activations; `-` means that they are not finite.
    let deviation = match result.variant {
        Variant::Paper => String::new(),
        Variant::Exact => {
            let largest = result.largest_deviation.filter(|deviation| deviation.is_finite());
            let largest = largest.map_or("-".to_owned(), |deviation| format!("{deviation:.1e}"));
            format!("; largest deviation {largest}")
        }
    };
    let how = format!("{variant} variant, averaged over {first} first{deviation}");
    let title = format!(
        "Input attribution of {readers} ({how}): share of positive attribution (%) by source and destination stage"
    );
    let header =
        strings(["source", "source stage"]).chain(Stage::ALL.map(|stage| stage.to_string()));
    let by_stage = titled(&title, header, rows.collect());

    let rows = result.layers.iter().map(|reads| {
        let mut row =
            vec![reads.layer.to_string(), stage_name(reads.stage), number(reads.readers, 1)];
        row.extend(Source::ALL.iter().map(|source| {
            let of_source = reads.shares.iter().filter(|share| share.source == *source);
            percent(of_source.map(|share| 100.0 * share.share).sum())
        }));
        row
    });
    let header = strings(["layer", "stage", counted])
        .chain(Source::ALL.iter().map(|source| source_label(*source).to_owned()));
    let title = format!(
        "Input attribution of {readers} ({how}): share of positive attribution (%) by source and destination layer"
    );
    let by_layer = titled(&title, header, rows.collect());
    // A decoder of one or two layers has no stages.
    if result.stages.is_empty() { vec![by_layer] } else { vec![by_stage, by_layer] }
}

fn attention_writes(result: &AttentionWrites) -> Vec<TitledTable> {
    let header = strings(["layer", "stage", "of", "top 10", "top 100", "top 1000"]);
    let rows = |all: &[DocidShare], of: fn(&str) -> bool| {
        all.iter()
            .filter(|share| of(&share.of))
            .map(|share| {
                let layer = share.layer.map_or("all".to_owned(), |layer| layer.to_string());
                let mut row = vec![layer, stage_name(share.stage), share.of.clone()];
                row.extend([share.top_10, share.top_100, share.top_1000].map(percent));
                row
            })
            .collect::<Vec<_>>()
    };
    let chance = percent(result.chance);
    let title = |by: &str| {
        format!("% of docids among the top tokens of cross-attention, by {by} (chance: {chance})")
    };
    let mut tables = Vec::new();
    if !result.stages.is_empty() {
        tables.push(titled(&title("stage"), header.clone(), rows(&result.stages, |_| true)));
    }
    tables.push(titled(&title("layer"), header, rows(&result.layers, |of| of == "output")));
    if !result.samples.is_empty() {
        let rows = result.samples.iter().map(|sample| {
            let tokens: Vec<String> =
                sample.tokens.iter().map(|token| format!("`{token}`")).collect();
            let place = [sample.layer, sample.head].map(|number| number.to_string());
            let [layer, head] = place;
            vec![sample.query.clone(), layer, head, tokens.join(" ")]
        });
        let header = strings(["query", "layer", "head", "top tokens"]);
        tables.push(titled("Top tokens of heads for sample queries", header, rows.collect()));
    }
    tables
}

/// Rows that are built value by value; each starts with its key.
#[derive(Default)]
struct KeyedRows {
    rows: Vec<(Vec<String>, Vec<String>)>,
}

impl KeyedRows {
    /// Appends a value to the row of `key`; the values of one row must be added consecutively.
    fn add(&mut self, key: Vec<String>, value: String) {
        match self.rows.last_mut() {
            Some((last, values)) if *last == key => values.push(value),
            _ => self.rows.push((key, vec![value])),
        }
    }

    fn into_vec(self) -> Vec<Vec<String>> {
        let row = |(key, values): (Vec<String>, Vec<String>)| [key, values].concat();
        self.rows.into_iter().map(row).collect()
    }
}

fn strings<const N: usize>(strings: [&str; N]) -> impl Iterator<Item = String> + Clone + use<N> {
    strings.map(str::to_owned).into_iter()
}

fn rank_header() -> impl Iterator<Item = String> {
    strings(["> 1 %", "> 5 %", "> 10 %", "> 100 %", "mean", "median", "best", "worst"])
}

fn rank_cells(ranks: &RankShift) -> Vec<String> {
    let beyond = [ranks.beyond_1, ranks.beyond_5, ranks.beyond_10, ranks.beyond_100];
    let mut cells = beyond.map(percent).to_vec();
    cells.extend([ranks.mean_rank, ranks.median_rank].map(|rank| number(rank, 1)));
    cells.extend([ranks.best_rank, ranks.worst_rank].map(|rank| rank.to_string()));
    cells
}

/// The label of a source component in tables and figures.
pub(super) fn source_label(source: Source) -> &'static str {
    match source {
        Source::Start => "start embedding",
        _ => source.name(),
    }
}

/// The label of a component in figures and in the report.
pub(super) fn component_label(component: Component) -> &'static str {
    match component {
        Component::SelfAttention => "self-attention",
        Component::CrossAttention => "cross-attention",
        Component::Mlp => "MLP",
    }
}

/// The label of a group of tokens in tables and figures.
pub(super) fn group_label(group: TokenGroup) -> &'static str {
    match group {
        TokenGroup::Docids => "docids",
        TokenGroup::Words => "text tokens",
    }
}

/// The label of a circuit in tables and figures.
pub(super) fn circuit_label(name: &str) -> &str {
    match name {
        "paper" => "paper circuit",
        "paper with base" => "paper, base model",
        "given" => "user-defined",
        other => other,
    }
}

fn percent(value: f64) -> String {
    number(value, 2)
}

/// Formats a number: `-` if it is undefined, and no sign before a zero.
pub(super) fn number(value: f64, digits: usize) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let text = format!("{value:.digits$}");
    match text.strip_prefix('-') {
        Some(zero) if zero.chars().all(|digit| matches!(digit, '0' | '.')) => zero.to_owned(),
        _ => text,
    }
}

/// Builds a table; numeric (or undefined) cells are right-aligned.
pub(super) fn titled<T: Into<String>>(
    title: &str,
    header: impl IntoIterator<Item = T>,
    rows: Vec<Vec<String>>,
) -> TitledTable {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header.into_iter().map(Into::<String>::into));
    for row in rows {
        table.add_row(row.into_iter().map(|text| {
            let numeric = text == "-" || text.parse::<f64>().is_ok();
            let cell = Cell::new(text);
            if numeric { cell.set_alignment(CellAlignment::Right) } else { cell }
        }));
    }
    TitledTable { title: title.to_owned(), table }
}
