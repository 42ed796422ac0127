//! `genir report`: what runs have stored, as one HTML page without anything from outside of it.
//!
//! The figures are those of `genir plot` and more, described by the same [`FigureSpec`]: on the page they are drawn as
//! inline SVG whose colours follow light and dark, and whose values can be pointed at; as files they are drawn by
//! plotters.

mod answer;
mod comparison;
pub(super) mod curves;
mod document;
mod html;
mod inspection;
mod map;
mod paper;
mod probes;
mod queries;
mod run;
mod setup;
mod svg;
mod values;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::figures::spec::FigureSpec;
use super::figures::{FigureError, FigureWidth, svg_of};
use super::plot::DrawnFigure;
use crate::compare::{CompareError, CompareOptions, Comparison, Pairs, compare};
use crate::corpus::Split;
use crate::probe::files::{StoredError, read_all};
use crate::probe::{Inspection, InspectionError};
use crate::retrieval::NamedMeasure;
use crate::retrieval::run_files::{RunFileError, read_run};
use crate::run::RunError;
use document::{PageKind, document};
use html::Html;
pub use inspection::inspection_page;
pub(super) use run::{ReportedRun, name_of, subject};

/// Errors of making a report.
#[derive(Debug, Error)]
pub enum ReportError {
    /// Inputs cannot be read.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Inputs(Vec<InputError>),
    /// No input is a run.
    #[error("none of the inputs is a run directory: a report needs at least one")]
    NoRun,
    /// The results of a probe, or an inspected query, are of none of the runs.
    #[error(
        "{}: measured on {checkpoint}, which belongs to none of the runs: give the run, or leave the file out",
        file.display()
    )]
    OtherRun {
        /// The file of results.
        file: PathBuf,
        /// The checkpoint that was measured.
        checkpoint: String,
    },
    /// A figure cannot be drawn.
    #[error(transparent)]
    Figure(#[from] FigureError),
}

/// An input cannot be read.
#[derive(Debug, Error)]
pub enum InputError {
    /// The directory is not a run.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The file is not a TREC run.
    #[error("{0} (a file is read as the TREC run of another system)")]
    RunFile(#[from] RunFileError),
    /// The file has no results of probes.
    #[error(transparent)]
    Probes(#[from] StoredError),
    /// The file has no inspected query.
    #[error(transparent)]
    Inspection(#[from] InspectionError),
}

/// Options of a report.
pub struct ReportOptions {
    /// The queries; `None`: those of the first of validation, test and train that a run has rankings of.
    pub split: Option<Split>,
    /// The measures of the comparison; the first one is that of the answer.
    pub measures: Vec<NamedMeasure>,
    /// Files of results of `genir probe --format json`, besides those in the runs.
    pub probes: Vec<PathBuf>,
    /// Files of `genir inspect --json`: queries to show with the attention over their tokens.
    pub inspections: Vec<PathBuf>,
    /// The pairs of arms that are tested.
    pub pairs: Pairs,
    /// The comparison of the same inputs, if it was made already, with the same split, measures and pairs.
    pub comparison: Option<Comparison>,
}

/// A report.
pub struct Report {
    /// The page.
    pub html: String,
    /// What could not be read, and which runs are unfinished.
    pub warnings: Vec<String>,
    figures: Vec<(Option<String>, FigureSpec)>,
}

/// The arms of a report, with their comparison.
struct Arms {
    arms: Vec<ReportedArm>,
    /// The comparison, whose arms are these; or the reason why there is none.
    comparison: Result<Comparison, String>,
}

/// Runs that differ in their seed only, or another system, which has no runs.
pub(super) struct ReportedArm {
    pub name: String,
    pub runs: Vec<ReportedRun>,
}

impl Arms {
    fn runs(&self) -> impl Iterator<Item = &ReportedRun> {
        self.arms.iter().flat_map(|arm| &arm.runs)
    }
}

impl ReportedArm {
    fn runs(&self) -> impl Iterator<Item = &ReportedRun> {
        self.runs.iter()
    }
}

/// Makes a report of runs, and of TREC runs of other systems, given as `(path, name)`; runs of one name, or that differ
/// in their seed only, are the seeds of one arm.
///
/// Nothing is computed but the comparison, and no model is loaded: all is read from what the runs have stored. Texts of
/// queries and documents are read from the corpus that the recipe names, if it is there.
///
/// # Errors
/// [`ReportError`]: inputs that are not what they should be, all at once; no run among them. Damaged lines of a run are
/// no error: they are named on the page.
pub fn report(
    inputs: &[(PathBuf, Option<String>)],
    options: &ReportOptions,
) -> Result<Report, ReportError> {
    let mut runs = read(inputs)?;
    for file in &options.probes {
        add_probes(&mut runs, file)?;
    }
    for file in &options.inspections {
        add_inspection(&mut runs, file)?;
    }
    let split = options.split.unwrap_or_else(|| ranked_split(runs.iter()));
    let arms = arms(inputs, runs, split, options);
    let figures = figures(&arms, split);
    Ok(Report { html: page(&arms, split), warnings: warnings(&arms), figures })
}

impl Report {
    /// Draws the figures for files, 7 inches wide, as the text of a page is. Those of each run are in a subdirectory if there
    /// are several.
    ///
    /// # Errors
    /// [`FigureError`]: the drawing library refuses.
    pub fn figures(&self) -> Result<Vec<DrawnFigure>, FigureError> {
        let draw = |(run, spec): &(Option<String>, FigureSpec)| {
            let directory = run.as_ref().map_or(String::new(), |run| format!("{run}/"));
            let svg = svg_of(spec, Some(FigureWidth::Page))?;
            Ok(DrawnFigure { name: format!("{directory}{}", spec.name), svg })
        };
        self.figures.iter().map(draw).collect()
    }
}

fn read(inputs: &[(PathBuf, Option<String>)]) -> Result<Vec<ReportedRun>, ReportError> {
    let (mut runs, mut errors) = (Vec::new(), Vec::new());
    for (path, _) in inputs {
        if path.is_file() {
            errors.extend(read_run(path).err().map(InputError::from));
            continue;
        }
        match ReportedRun::read(path) {
            Ok(run) => runs.push(run),
            Err(error) => errors.push(error.into()),
        }
    }
    match (errors.is_empty(), runs.is_empty()) {
        (false, _) => Err(ReportError::Inputs(errors)),
        (true, true) => Err(ReportError::NoRun),
        (true, false) => Ok(runs),
    }
}

/// Adds results of `genir probe --format json` to the runs whose checkpoints they were measured on.
fn add_probes(runs: &mut [ReportedRun], file: &Path) -> Result<(), ReportError> {
    let stored = read_all(file).map_err(|error| ReportError::Inputs(vec![error.into()]))?;
    for record in stored.records {
        run_of(runs, &record.measured_on.checkpoint, file)?.records.push(record);
    }
    Ok(())
}

/// Adds a query of `genir inspect --json` to the run whose checkpoint was inspected.
fn add_inspection(runs: &mut [ReportedRun], file: &Path) -> Result<(), ReportError> {
    let found = Inspection::read(file).map_err(|error| ReportError::Inputs(vec![error.into()]))?;
    run_of(runs, &found.checkpoint, file)?.inspections.push(found);
    Ok(())
}

/// Returns the run that `checkpoint` is in, which was measured for the results in `file`.
fn run_of<'a>(
    runs: &'a mut [ReportedRun],
    checkpoint: &str,
    file: &Path,
) -> Result<&'a mut ReportedRun, ReportError> {
    let full = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let measured = full(Path::new(checkpoint));
    let (file, checkpoint) = (file.to_path_buf(), checkpoint.to_owned());
    let found = runs.iter_mut().find(|run| measured.starts_with(full(&run.path)));
    found.ok_or(ReportError::OtherRun { file, checkpoint })
}

/// Returns the first of validation, test and train that a run has rankings of.
pub(super) fn ranked_split<'a>(runs: impl Iterator<Item = &'a ReportedRun> + Clone) -> Split {
    let splits = [Split::Validation, Split::Test, Split::Train];
    let has = |split: &Split| {
        runs.clone().any(|run| run.directory.retrieval().join(format!("{split}.qrels")).exists())
    };
    splits.into_iter().find(has).unwrap_or(Split::Validation)
}

fn arms(
    inputs: &[(PathBuf, Option<String>)],
    runs: Vec<ReportedRun>,
    split: Split,
    options: &ReportOptions,
) -> Arms {
    let found = match &options.comparison {
        Some(found) => Ok(found.clone()),
        None => {
            let (measures, pairs) = (options.measures.clone(), options.pairs);
            compare(inputs, &CompareOptions { split, measures, qrels: None, levels: None, pairs })
        }
    };
    let mut by_path: BTreeMap<PathBuf, ReportedRun> =
        runs.into_iter().map(|run| (run.path.clone(), run)).collect();
    let mut arms: Vec<ReportedArm> = Vec::new();
    match &found {
        Ok(found) => {
            for arm in &found.arms {
                let paths = arm.runs.iter().map(|run| &run.path);
                let runs: Vec<ReportedRun> =
                    paths.filter_map(|path| by_path.remove(path)).collect();
                arms.push(ReportedArm { name: arm.name.clone(), runs });
            }
        }
        // All of them are seeds of one arm.
        Err(CompareError::OneArm) if inputs.len() > 1 => {
            let mut runs: Vec<ReportedRun> = by_path.into_values().collect();
            runs.sort_by_key(|run| (run.key("run.seed").len(), run.key("run.seed")));
            let name = inputs.iter().find_map(|(_, name)| name.clone());
            let select =
                || runs[0].key("trainable.select").trim_matches(['[', ']']).replace('"', "");
            arms.push(ReportedArm { name: name.unwrap_or_else(select), runs });
        }
        Err(_) => {
            let names: Vec<String> = inputs.iter().map(|(path, _)| name_of(path)).collect();
            for (path, given) in inputs {
                let Some(run) = by_path.remove(path) else { continue };
                let short = name_of(path);
                let is_unique = names.iter().filter(|name| **name == short).count() == 1;
                let name = match given {
                    Some(name) => name.clone(),
                    None if is_unique => short,
                    None => path.display().to_string(),
                };
                arms.push(ReportedArm { name, runs: vec![run] });
            }
        }
    }
    for arm in &mut arms {
        let several = arm.runs.len() > 1;
        for run in &mut arm.runs {
            run.name = match several {
                true => format!("{}, seed {}", arm.name, run.key("run.seed")),
                false => arm.name.clone(),
            };
        }
    }
    Arms { arms, comparison: found.map_err(|error| error.to_string()) }
}

/// All figures for files: those of an arm with its name, for a directory of its own.
fn figures(arms: &Arms, split: Split) -> Vec<(Option<String>, FigureSpec)> {
    let mut all: Vec<(Option<String>, FigureSpec)> = Vec::new();
    if let Ok(found) = &arms.comparison {
        all.extend(comparison::figures(found).into_iter().map(|figure| (None, figure)));
    }
    let curves = curves::figures(&arms.arms, split.name());
    all.extend(curves.into_iter().map(|figure| (None, figure)));
    let several = arms.arms.iter().filter(|arm| !arm.runs.is_empty()).count() > 1;
    let mut used: Vec<String> = Vec::new();
    for arm in arms.arms.iter().filter(|arm| !arm.runs.is_empty()) {
        let name = file_name(&arm.name);
        let name = match used.iter().filter(|other| **other == name).count() {
            0 => name,
            before => format!("{name}-{}", before + 1),
        };
        used.push(file_name(&arm.name));
        let directory = several.then_some(name);
        let of_probes = probes::figures_of(arm).into_iter().map(|figure| figure.spec);
        let of_arm = arm.runs().next().and_then(map::figure).into_iter().chain(of_probes);
        all.extend(of_arm.map(|figure| (directory.clone(), figure)));
    }
    all.retain(|(_, figure)| !figure.panels.is_empty());
    all
}

/// A name with nothing that would lead out of a directory.
fn file_name(name: &str) -> String {
    let safe = |letter: char| match letter {
        '.' | '-' | '_' => letter,
        letter if letter.is_alphanumeric() => letter,
        _ => '-',
    };
    let name: String = name.chars().map(safe).collect();
    let name = name.replace("--", "-");
    match name.trim_matches('.').is_empty() {
        true => "run".to_owned(),
        false => name.trim_matches('.').to_owned(),
    }
}

fn warnings(arms: &Arms) -> Vec<String> {
    let unfinished =
        arms.runs().filter_map(|run| Some(format!("{} {}", run.name, run.unfinished()?)));
    let problems = arms.runs().flat_map(|run| run.problems.clone());
    let not_compared = arms.comparison.as_ref().err().filter(|_| arms.arms.len() > 1);
    unfinished.chain(problems).chain(not_compared.cloned()).collect()
}

/// The name of a measure as papers write it.
fn measure_label(name: &str) -> String {
    let labels = [("hits@", "Hits@"), ("recall@", "Recall@"), ("mrr@", "MRR@"), ("ndcg@", "nDCG@")];
    let found = labels
        .iter()
        .find_map(|(start, label)| name.strip_prefix(start).map(|rest| format!("{label}{rest}")));
    found.unwrap_or_else(|| name.to_owned())
}

/// Appends a section with its heading, and its entry in the table of contents.
fn section(
    (body, contents): (&mut Html, &mut Html),
    (id, title, lead): (&'static str, &'static str, &str),
    content: impl FnOnce(&mut Html),
) {
    let target = format!("#{id}");
    contents.raw("<li>").element("a", &[("href", &target)], title).raw("</li>");
    body.open("section", &[("id", id), ("class", "part")]).element("h2", &[], title);
    if !lead.is_empty() {
        body.paragraph("lead", lead);
    }
    content(body);
    body.close("section");
}

fn page(arms: &Arms, split: Split) -> String {
    let (mut body, mut contents) = (Html::default(), Html::default());
    let several = arms.arms.len() > 1;
    let title = match several {
        true => "What do I lose and what do I save?",
        false => "The result",
    };
    section((&mut body, &mut contents), ("answer", title, ""), |html| {
        answer::section(html, arms, split.name());
    });
    if several {
        section((&mut body, &mut contents), ("comparison", "Comparison", ""), |html| {
            comparison::section(html, arms);
        });
    }
    let lead = "Which components of the model are trained, and which ones its answers depend on.";
    section((&mut body, &mut contents), ("model", "Trained components", lead), |html| {
        trained_components(html, arms);
    });
    let lead = "Each line is an arm, with its colour, its marker and its dashes: its run, or the mean over its seeds with a \
                band of one standard deviation in both directions.";
    section((&mut body, &mut contents), ("training", "Training", lead), |html| {
        for figure in curves::figures(&arms.arms, split.name()) {
            svg::figure(html, &figure);
        }
    });
    let lead = "What the components do, measured on queries as in the paper, whose numbers stand beside those of the runs. \
                Its models are T5-large, pre-trained.";
    section((&mut body, &mut contents), ("probes", "Probes", lead), |html| {
        probes::section(html, arms);
    });
    let lead = format!(
        "Rankings of {split} queries as the runs have stored them. Texts are those of the corpus as it is now."
    );
    section((&mut body, &mut contents), ("queries", "Queries", &lead), |html| {
        queries::section(html, arms, split);
    });
    section((&mut body, &mut contents), ("setup", "Recipe and environment", ""), |html| {
        setup::section(html, arms);
    });
    whole(arms, &body, &contents)
}

fn trained_components(html: &mut Html, arms: &Arms) {
    for run in arms.arms.iter().filter_map(|arm| arm.runs().next()) {
        let (Some(figure), Some(model)) = (map::figure(run), &run.model) else {
            let text = format!(
                "{}: the picture is made from a checkpoint, and the run has none that can be read.",
                run.name
            );
            html.paragraph("note", text);
            continue;
        };
        let titled = FigureSpec { title: format!("{}: {}", run.name, figure.title), ..figure };
        svg::figure(html, &titled);
        html.paragraph("note", map::outside_of_layers(model));
        let caption = format!("{}: parameters by part of the model", run.name);
        let mut table = html::Table::new(&caption, &["part", "parameters", "trained", "frozen"]);
        table.rows.extend(model.table.text_rows());
        let mut inner = Html::default();
        inner.table(&table);
        html.details(caption, &inner);
    }
}

/// The page of runs around its sections.
fn whole(arms: &Arms, sections: &Html, contents: &Html) -> String {
    let names: Vec<&str> = arms.arms.iter().map(|arm| arm.name.as_str()).collect();
    let title = match names.as_slice() {
        [first, others @ ..] if others.len() > 3 => {
            format!("{first} beside {} other arms", others.len())
        }
        names => names.join(" beside "),
    };
    let mut header = Html::default();
    header.element("h1", &[], &title);
    let about: Vec<String> = arms.runs().map(ReportedRun::collection).collect();
    let bases: Vec<String> = arms.runs().map(ReportedRun::base).collect();
    let runs = arms.runs().count();
    header.paragraph(
        "about",
        format!(
            "{runs} {} on {}, from {}",
            if runs == 1 { "run" } else { "runs" },
            distinct(about).join(", "),
            distinct(bases).join(", ")
        ),
    );
    let mut body = Html::default();
    notices(&mut body, arms);
    body.add(sections);
    document(&title, PageKind::Runs, (&header, contents), &body)
}

fn distinct(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    names
}

/// Unfinished runs and damaged lines come before all that depends on them.
fn notices(html: &mut Html, arms: &Arms) {
    for run in arms.runs() {
        if let Some(how) = run.unfinished() {
            html.raw("<div class=\"notice unfinished\">");
            html.element(
                "p",
                &[],
                format!("Unfinished: {} {how}. Numbers are those so far.", run.name),
            );
            html.raw("</div>");
        }
    }
    let problems: Vec<&String> = arms.runs().flat_map(|run| &run.problems).collect();
    if !problems.is_empty() {
        html.raw("<div class=\"notice\"><p>These could not be read, and are left out:</p><ul>");
        for problem in problems {
            html.element("li", &[], problem);
        }
        html.raw("</ul></div>");
    }
}
