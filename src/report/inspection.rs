//! Tables of an inspected query, for the terminal and the page.

use super::figures::layers::site_label;
use super::tables::{component_label, number, stage_name, titled};
use super::{TitledTable, word};
use crate::component::{Component, Stage};
use crate::probe::{
    AblatedCell, ChosenBecause, InspectedAblation, Inspection, LensReading, LensSite, Over,
    describe_candidates,
};

/// Tokens of the query that are listed for a layer.
const ATTENDED: usize = 4;
/// Letters of a document's text that are shown.
const EXCERPT: usize = 60;

/// Returns the tables of an inspected query: ranked documents, attention, logit lens, top tokens, mean ablation.
pub fn inspection_tables(found: &Inspection) -> Vec<TitledTable> {
    let mut tables = vec![documents(found), attended(found), lens(found), promoted(found)];
    tables.extend(found.ablation.as_ref().map(|ablation| ablated(found, ablation)));
    tables
}

/// Describes the docid that was inspected, in one line: `docid 7, the best ranked relevant one: rank 2 among docids, ...`.
pub(super) fn inspected_docid(found: &Inspection) -> String {
    let docid = &found.docid;
    let because = match docid.because {
        ChosenBecause::Relevant => "the best ranked relevant one",
        ChosenBecause::Top => "the one ranked first",
        ChosenBecause::Given => "as given",
    };
    format!(
        "docid {}, {because}: rank {} among {}, logit {}, probability {}",
        docid.docid,
        docid.rank,
        describe_candidates(found.vocabulary),
        number(docid.logit, 3),
        percent(docid.probability)
    )
}

/// Describes the model, the query and the docid, a line for each.
pub(crate) fn inspection_heading(found: &Inspection) -> Vec<String> {
    let query = &found.query;
    let of_corpus = match (&query.id, query.split) {
        (Some(id), Some(split)) => format!(" ({split} query {id})"),
        _ => String::new(),
    };
    let step = found.step.map(|step| format!(": step {step}")).unwrap_or_default();
    let tokens: Vec<String> = query.tokens.iter().map(|token| word(token)).collect();
    vec![
        format!("{}{step}", found.checkpoint),
        format!("query{of_corpus}: {}", query.text),
        format!("tokens: {}", tokens.join(" ")),
        inspected_docid(found),
    ]
}

/// A probability in percent, with three significant digits; those that round to 0.001% are `<0.001%`.
pub(super) fn percent(probability: f64) -> String {
    match 100.0 * probability {
        percent if percent > 0.0 && percent < 0.001 => "<0.001%".to_owned(),
        percent if percent < 0.1 => format!("{}%", number(percent, 3)),
        percent if percent < 10.0 => format!("{}%", number(percent, 2)),
        percent => format!("{}%", number(percent, 1)),
    }
}

fn stage_of(found: &Inspection, layer: usize) -> Option<Stage> {
    found.stages.as_ref().filter(|stages| layer < stages.depth()).map(|stages| stages.of(layer))
}

fn documents(found: &Inspection) -> TitledTable {
    let row = |document: &crate::probe::RankedDocument| {
        let text = document.text.as_deref().unwrap_or_default();
        let mut excerpt: String = text.chars().take(EXCERPT).collect();
        if excerpt.len() < text.len() {
            excerpt.push_str(" ...");
        }
        vec![
            document.rank.to_string(),
            if document.is_relevant { "relevant".to_owned() } else { String::new() },
            document.docid.clone(),
            number(document.logit, 3),
            percent(document.probability),
            excerpt.replace(['\n', '\r', '\t'], " "),
        ]
    };
    let among = describe_candidates(found.vocabulary);
    titled(
        &format!("Ranked documents (rank among docids; probability among {among})"),
        ["rank", "", "docid", "logit", "probability", "text"],
        found.documents.iter().map(row).collect(),
    )
}

/// The tokens with the highest weights, highest first: `Fe 0.61, symbol 0.20`.
fn highest(tokens: &[String], weights: &[f64]) -> String {
    let mut order: Vec<(usize, f64)> = weights.iter().copied().enumerate().collect();
    order.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
    let shown = order.into_iter().take(ATTENDED);
    let shown =
        shown.map(|(token, weight)| format!("{} {}", word(&tokens[token]), number(weight, 2)));
    shown.collect::<Vec<_>>().join(", ")
}

fn attended(found: &Inspection) -> TitledTable {
    let tokens = &found.query.tokens;
    let row = |layer: usize| {
        // The head with the highest weight of a single token.
        let strongest = found.attention[layer]
            .iter()
            .enumerate()
            .flat_map(|(head, weights)| weights.iter().enumerate().map(move |at| (head, at)))
            .max_by(|one, other| one.1.1.total_cmp(other.1.1).then(other.0.cmp(&one.0)));
        let strongest = strongest.map_or_else(String::new, |(head, (token, weight))| {
            format!("head {head}: {} {}", word(&tokens[token]), number(f64::from(*weight), 2))
        });
        let stage = stage_name(stage_of(found, layer));
        vec![layer.to_string(), stage, highest(tokens, &found.mean_over_heads(layer)), strongest]
    };
    titled(
        "Cross-attention: the tokens of the query with the highest weights",
        ["layer", "stage", "mean over heads", "highest single weight"],
        (0..found.depth()).map(row).collect(),
    )
}

/// A row for each layer, with a cell for each site.
fn by_site(
    found: &Inspection,
    title: &str,
    sites: &[LensSite],
    cell: impl Fn(&LensReading) -> String,
) -> TitledTable {
    let labels = sites.iter().map(|site| site_label(*site));
    let row = |layer: usize| {
        let cells = sites.iter().map(|site| {
            let mut readings = found.lens_at(*site);
            readings.find(|reading| reading.layer == layer).map(&cell).unwrap_or_default()
        });
        [layer.to_string(), stage_name(stage_of(found, layer))].into_iter().chain(cells).collect()
    };
    let header: Vec<&str> = ["layer", "stage"].into_iter().chain(labels).collect();
    titled(title, header, (0..found.depth()).map(row).collect())
}

fn lens(found: &Inspection) -> TitledTable {
    let (docid, among) = (&found.docid.docid, describe_candidates(found.vocabulary));
    let title = format!("Logit lens: rank and probability of docid {docid} among {among}");
    by_site(found, &title, LensSite::ALL, |reading| {
        format!("{} ({})", reading.rank, percent(reading.probability))
    })
}

fn promoted(found: &Inspection) -> TitledTable {
    let sites = [LensSite::CrossAttentionOut, LensSite::MlpOut, LensSite::ResidualPost];
    by_site(found, "Top tokens under the logit lens", &sites, |reading| {
        reading.tokens.iter().map(|token| word(token)).collect::<Vec<_>>().join("  ")
    })
}

/// Describes the queries that means are over: `40 correct of 60 validation queries`.
pub(super) fn means_over(ablation: &InspectedAblation) -> String {
    let InspectedAblation { queries, ranked, over, measured, .. } = ablation;
    match over {
        Over::Correct => format!("{measured} correct of {ranked} {queries} queries"),
        Over::All => format!("all {measured} {queries} queries"),
    }
}

fn ablated(found: &Inspection, ablation: &InspectedAblation) -> TitledTable {
    let cell = |stage: Option<Stage>, layer: Option<usize>, component: Component| {
        let of = (component, stage, layer);
        let cell = |cell: &&AblatedCell| (cell.component, cell.stage, cell.layer) == of;
        ablation.cells.iter().find(cell).map_or_else(String::new, |cell| {
            let sign = if cell.change > 0.0 { "+" } else { "" };
            format!("{sign}{} (rank {})", number(cell.change, 3), cell.rank)
        })
    };
    let row = |name: String, of: Option<Stage>, stage: Option<Stage>, layer: Option<usize>| {
        let cells = Component::ALL.map(|component| cell(stage, layer, component));
        [name, stage_name(of)].into_iter().chain(cells).collect::<Vec<String>>()
    };
    let stages = Stage::ALL.into_iter().filter(|_| found.stages.is_some());
    let stages = stages.map(|stage| row("all".to_owned(), Some(stage), Some(stage), None));
    let layers = (0..found.depth())
        .map(|layer| row(layer.to_string(), stage_of(found, layer), None, Some(layer)));
    let title = format!(
        "Mean ablation: change of the logit of docid {} (and its rank then, without ablation {}); means over {}",
        found.docid.docid,
        found.docid.rank,
        means_over(ablation)
    );
    let header = ["layer", "stage"].into_iter().chain(Component::ALL.map(component_label));
    titled(&title, header, stages.chain(layers).collect())
}
