//! Sample queries with their ranked documents, and the words that cross-attention promoted for them.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::html::{Html, Table};
use super::run::ReportedRun;
use super::{Arms, inspection, measure_label};
use crate::component::Stage;
use crate::corpus::{self, Corpus, Split};
use crate::docid::DocidVocabulary;
use crate::probe::{AttentionWrites, HeadTokens, Probe, ProbeResult};
use crate::report::word;
use crate::retrieval::run_files::{read_qrels, read_run};

/// Number of queries that are shown.
const SHOWN: usize = 8;
/// Number of documents that are shown for each query and arm.
const DOCUMENTS: usize = 5;
/// Letters of a text that are shown.
const LETTERS: usize = 140;

/// What a run has stored about queries.
struct Ranked<'a> {
    run: &'a ReportedRun,
    /// Documents with scores, best first, of the shown queries.
    documents: HashMap<String, Vec<(String, f64)>>,
}

/// Appends the section.
pub fn section(html: &mut Html, arms: &Arms, split: Split) {
    let shown: Vec<&ReportedRun> = arms.arms.iter().filter_map(|arm| arm.runs().next()).collect();
    let mut problems = Vec::new();
    let relevant = relevant(&shown, split, &mut problems);
    let chosen = chosen(arms, &shown, &relevant);
    let wanted: HashSet<&str> = chosen.iter().map(|(query, _)| query.as_str()).collect();
    let mut ranked = Vec::new();
    for run in &shown {
        let file = run.directory.retrieval().join(format!("{split}.run"));
        if !file.exists() {
            continue;
        }
        match read_run(&file) {
            Ok(lines) => {
                let mut documents: HashMap<String, Vec<(String, f64)>> = HashMap::new();
                for line in lines.into_iter().filter(|line| wanted.contains(line.query.as_str())) {
                    documents.entry(line.query).or_default().push((line.document, line.score));
                }
                for found in documents.values_mut() {
                    found.sort_by(|one, other| {
                        other.1.total_cmp(&one.1).then_with(|| other.0.cmp(&one.0))
                    });
                }
                ranked.push(Ranked { run, documents });
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    if chosen.is_empty() || ranked.is_empty() {
        html.paragraph("note", format!("No run has stored rankings of the {split} queries."));
    }
    let texts = Texts::of(&shown, split, &mut problems);
    for (index, (query, why)) in chosen.iter().enumerate() {
        let mut inner = Html::default();
        for of in &ranked {
            ranking(&mut inner, of, query, &relevant, &texts);
        }
        for run in &shown {
            promoted(&mut inner, run, query);
        }
        let text = texts.queries.get(query).map_or(query.as_str(), String::as_str);
        let open: &[(&str, &str)] = if index == 0 { &[("open", "")] } else { &[] };
        let attributes: Vec<_> =
            [("class", "query")].into_iter().chain(open.iter().copied()).collect();
        html.open("details", &attributes).raw("<summary>");
        html.element("span", &[("class", "query-text")], text);
        html.raw(" ").element("span", &[("class", "why")], why);
        html.raw("</summary>").add(&inner).raw("</details>");
    }
    inspected(html, &chosen, arms, &shown);
    for problem in problems {
        html.paragraph("note", problem);
    }
}

/// Appends the inspected queries, or how to inspect the first of those that are shown.
fn inspected(html: &mut Html, chosen: &[(String, String)], arms: &Arms, shown: &[&ReportedRun]) {
    let title = "Attention over the tokens of a query";
    let all: Vec<_> =
        arms.runs().flat_map(|run| run.inspections.iter().map(move |found| (run, found))).collect();
    if !all.is_empty() {
        html.element("h3", &[], title);
        for (run, found) in all {
            inspection::part(html, &run.name, found);
        }
    } else if let (Some((query, _)), Some(run)) = (chosen.first(), shown.first()) {
        let text = "What each head of cross-attention reads is not stored in a run. These commands compute it for a \
                    query and add it here:";
        html.element("h3", &[], title).paragraph("note", text);
        let path = quoted_for_shell(&run.path.display().to_string());
        let query = quoted_for_shell(query);
        let commands = format!(
            "genir inspect {path} --query-id {query} --json query.json\n\
             genir report {path} --inspect query.json"
        );
        html.raw("<pre tabindex=\"0\">").text(commands).raw("</pre>");
    }
}

/// A word for a shell, in quotes if it needs them.
fn quoted_for_shell(word: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "-_./:=".contains(letter);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Returns the relevant documents of the queries, by the first run that has judgements.
fn relevant(
    runs: &[&ReportedRun],
    split: Split,
    problems: &mut Vec<String>,
) -> BTreeMap<String, HashSet<String>> {
    let files = runs.iter().map(|run| run.directory.retrieval().join(format!("{split}.qrels")));
    let Some(file) = files.into_iter().find(|file| file.exists()) else { return BTreeMap::new() };
    let mut relevant: BTreeMap<String, HashSet<String>> = BTreeMap::new();
    match read_qrels(&file) {
        Ok(lines) => {
            for line in lines.into_iter().filter(|line| line.grade > 0) {
                relevant.entry(line.query).or_default().insert(line.document);
            }
        }
        Err(error) => problems.push(error.to_string()),
    }
    relevant
}

/// Returns the queries to show, each with the reason: those that the probes sampled, then those in which the first two
/// arms differ most, then the first ones.
fn chosen(
    arms: &Arms,
    runs: &[&ReportedRun],
    relevant: &BTreeMap<String, HashSet<String>>,
) -> Vec<(String, String)> {
    let mut chosen: Vec<(String, String)> = Vec::new();
    let mut add = |query: &str, why: String, most: usize| {
        if chosen.len() < most && chosen.iter().all(|(other, _)| other != query) {
            chosen.push((query.to_owned(), why));
        }
    };
    let samples = runs.iter().filter_map(|run| samples(run)).flatten();
    for sample in samples {
        add(&sample.query, "sampled by the probe attention_writes".to_owned(), 3);
    }
    if let Ok(found) = &arms.comparison
        && let [first, second, ..] = found.arms.as_slice()
        && let (Some(one), Some(other)) = (first.runs.first(), second.runs.first())
        && let (Some(one), Some(other)) = (one.values.last(), other.values.last())
    {
        let mut by_difference: Vec<(f64, &String)> =
            other.iter().zip(one).map(|(b, a)| b - a).zip(&found.query_ids).collect();
        by_difference.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(b.1)));
        let measure = found.measures.last().map(|name| measure_label(name)).unwrap_or_default();
        let better = |name: &str, by: f64| format!("{name} is better by {:.2} {measure}", by.abs());
        for place in 0..2 {
            if let Some((by, query)) = by_difference.get(place).filter(|found| found.0 < 0.0) {
                add(query, better(&first.name, *by), SHOWN);
            }
            let place = by_difference.len().checked_sub(place + 1);
            let found = place.and_then(|place| by_difference.get(place));
            if let Some((by, query)) = found.filter(|found| found.0 > 0.0) {
                add(query, better(&second.name, *by), SHOWN);
            }
        }
    }
    let every = (relevant.len() / SHOWN).max(1);
    for query in relevant.keys().step_by(every) {
        add(query, String::new(), SHOWN);
    }
    chosen
}

fn samples(run: &ReportedRun) -> Option<&[HeadTokens]> {
    match &run.newest(Probe::AttentionWrites)?.result {
        ProbeResult::AttentionWrites(AttentionWrites { samples, .. }) => Some(samples),
        _ => None,
    }
}

fn ranking(
    html: &mut Html,
    of: &Ranked,
    query: &str,
    relevant: &BTreeMap<String, HashSet<String>>,
    texts: &Texts,
) {
    let none = HashSet::new();
    let relevant = relevant.get(query).unwrap_or(&none);
    let Some(documents) = of.documents.get(query) else { return };
    let header = ["rank", "relevant", "document", "score", "text"];
    let mut table = Table::new(format!("{}: ranked documents", of.run.name), &header);
    let row = |(place, (document, score)): (usize, &(String, f64))| {
        let is_relevant = if relevant.contains(document) { "\u{2713} relevant" } else { "" };
        let text = texts.documents.get(document).cloned().unwrap_or_default();
        vec![
            (place + 1).to_string(),
            is_relevant.to_owned(),
            document.clone(),
            format!("{score:.3}"),
            text,
        ]
    };
    table.rows.extend(documents.iter().enumerate().take(DOCUMENTS).map(row));
    let later = documents.iter().enumerate().skip(DOCUMENTS);
    if table.rows.iter().all(|row| row[1].is_empty()) {
        let found = later.filter(|(_, (document, _))| relevant.contains(document)).map(row).next();
        match found {
            Some(row) => table.rows.push(row),
            None => table.rows.extend(relevant.iter().min().map(|document| {
                let text = texts.documents.get(document).cloned().unwrap_or_default();
                let rank = format!("> {}", documents.len());
                vec![rank, "\u{2713} relevant".to_owned(), document.clone(), "-".to_owned(), text]
            })),
        }
    }
    html.table(&table);
}

/// Appends the words that heads of cross-attention promoted most for a sampled query.
fn promoted(html: &mut Html, run: &ReportedRun, query: &str) {
    let of_query: Vec<&HeadTokens> =
        samples(run).unwrap_or_default().iter().filter(|sample| sample.query == query).collect();
    if of_query.is_empty() {
        return;
    }
    let stages =
        run.newest(Probe::AttentionWrites).and_then(|record| record.measured_on.stages.as_ref());
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let in_stage = |sample: &&&HeadTokens| {
        stages.is_none_or(|stages| stages.of(sample.layer) == Stage::Second)
    };
    for token in of_query.iter().filter(in_stage).flat_map(|sample| &sample.tokens) {
        if DocidVocabulary::parse_token(token).is_none() {
            *counts.entry(token).or_default() += 1;
        }
    }
    let mut counts: Vec<(&str, usize)> = counts.into_iter().collect();
    counts.sort_by_key(|&(token, count)| (std::cmp::Reverse(count), token));
    let where_ = if stages.is_some() { "Stage II" } else { "all layers" };
    html.raw("<p class=\"promoted\">");
    html.text(format!("{}: words that cross-attention of {where_} promoted most: ", run.name));
    for (token, count) in counts.iter().take(12) {
        html.element("span", &[("class", "chip")], format!("{} \u{d7}{count}", word(token)))
            .raw(" ");
    }
    html.raw("</p>");
    let mut table = Table::new(
        format!("{}: top tokens of each head", run.name),
        &["layer, head", "top tokens"],
    );
    for sample in of_query {
        let tokens: Vec<String> = sample.tokens.iter().map(|token| word(token)).collect();
        table.rows.push(vec![format!("{}, {}", sample.layer, sample.head), tokens.join("  ")]);
    }
    let mut inner = Html::default();
    inner.table(&table);
    html.details(format!("{}: top tokens of each head", run.name), &inner);
}

/// The texts of queries and documents by id, where the corpus can be read; they are not stored in a run.
#[derive(Default)]
struct Texts {
    queries: HashMap<String, String>,
    documents: HashMap<String, String>,
}

impl Texts {
    fn of(runs: &[&ReportedRun], split: Split, problems: &mut Vec<String>) -> Self {
        let Some(recipe) = runs.iter().find_map(|run| run.recipe.as_ref()) else {
            return Self::default();
        };
        match corpus::load(&recipe.corpus.options()) {
            Ok(loaded) => Self::from_corpus(&loaded.corpus, split),
            Err(errors) => {
                let errors = errors.to_string();
                let first = errors.lines().next().unwrap_or_default();
                problems.push(format!(
                    "Texts of queries and documents are not shown: the corpus cannot be read ({first})."
                ));
                Self::default()
            }
        }
    }

    fn from_corpus(corpus: &Corpus, split: Split) -> Self {
        let queries = corpus.split(split).iter();
        Self {
            queries: queries.map(|query| (query.id.clone(), shortened(&query.text))).collect(),
            documents: corpus
                .documents
                .iter()
                .map(|document| (document.id.clone(), shortened(document.text())))
                .collect(),
        }
    }
}

/// The first letters of a text.
pub fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(LETTERS).collect();
    if text.chars().nth(LETTERS).is_some() {
        short.push('\u{2026}');
    }
    short
}
