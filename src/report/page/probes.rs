//! The probes of the runs: figures, tables beside the paper's, results over training.

use super::html::{Html, Table};
use super::run::ReportedRun;
use super::{Arms, ReportedArm, paper, svg};
use crate::probe::Probe;
use crate::report;
use crate::report::arm_figures::{ArmFigures, History, together};
use crate::report::figures::spec::FigureSpec;

/// The name of a probe, its place in the paper, and what to look for.
fn about(probe: Probe) -> (&'static str, &'static str) {
    match probe {
        Probe::ResidualContribution => (
            "Contribution to the residual stream (Figure 3)",
            "How much of each layer's update comes from which component. In the paper the MLP is largest in Stage I, \
             cross-attention in Stage II, the MLP again in Stage III, where all cosines are negative.",
        ),
        Probe::LogitLens => (
            "Logit lens (Figure 4)",
            "The rank of the relevant docid if the model stopped after a layer. In the paper it improves gradually, and \
             the output of cross-attention alone shows no such trend.",
        ),
        Probe::DirectEffect => (
            "One type of component alone",
            "The rank of the relevant docid from the outputs of all MLPs, or of all cross-attention, alone.",
        ),
        Probe::StagePatching => (
            "Which components are needed (Table 3)",
            "How many queries are lost if a component of a stage is replaced by zero, by its mean, or by the output of \
             the base model. What can be replaced by its mean carries no information about the query.",
        ),
        Probe::Circuit => (
            "The circuit alone (Table 4)",
            "Effectiveness with everything else replaced: near that of the whole model, the circuit is sufficient.",
        ),
        Probe::EncoderSwap => (
            "Another encoder (Table 2)",
            "The decoder on the states of another encoder. In the paper most queries stay at rank 1 even with the \
             pre-trained one: the encoder needs no training.",
        ),
        Probe::NeuronReads => (
            "What MLP neurons read (Figure 5, right)",
            "The share of each source in what activates the neurons.",
        ),
        Probe::AttentionReads => (
            "What cross-attention reads (Figure 5, left)",
            "The share of each source in the query of cross-attention, at the position with the highest score.",
        ),
        Probe::AttentionWrites => (
            "What cross-attention writes (Tables 5 and 6)",
            "The share of docids among the tokens that cross-attention promotes. In the paper Stage II promotes words, \
             and hardly any docid.",
        ),
    }
}

/// A figure of an arm, drawn from the stored results of its runs.
pub struct ProbeFigure {
    pub probe: Probe,
    pub spec: FigureSpec,
}

/// Returns the figures of an arm's probes: means over its runs that have results.
pub fn figures_of(arm: &ReportedArm) -> Vec<ProbeFigure> {
    let mut all = Vec::new();
    for &probe in Probe::ALL {
        let runs: Vec<History> = arm
            .runs()
            .map(|run| History {
                keys: &run.keys,
                records: run.history(probe),
                skipped: &run.skipped,
            })
            .filter(|history| !history.records.is_empty())
            .collect();
        let of_arm: Vec<ArmFigures> = ArmFigures::of(&arm.name, runs).into_iter().collect();
        all.extend(together(&of_arm).into_iter().map(|spec| ProbeFigure { probe, spec }));
    }
    all
}

/// Appends the section: a part for each probe. Figures are of all runs of an arm, tables of its first one with results.
pub fn section(html: &mut Html, arms: &Arms) {
    let shown: Vec<&ReportedRun> = arms
        .arms
        .iter()
        .filter_map(|arm| {
            let with_results = arm.runs().find(|run| !run.records.is_empty());
            with_results.or(arm.runs().next())
        })
        .collect();
    let figures: Vec<(&ReportedArm, Vec<ProbeFigure>)> =
        arms.arms.iter().map(|arm| (arm, figures_of(arm))).collect();
    let mut missing: Vec<(&ReportedRun, Vec<&str>)> = Vec::new();
    for run in &shown {
        let not_there = Probe::ALL.iter().filter(|probe| run.newest(**probe).is_none());
        let names: Vec<&str> = not_there.map(|probe| probe.name()).collect();
        if !names.is_empty() {
            missing.push((run, names));
        }
    }
    for (run, names) in &missing {
        html.raw("<div class=\"notice\">");
        let which = match names.len() == Probe::ALL.len() {
            true => "no probes".to_owned(),
            false => format!("no {}", names.join(", ")),
        };
        let path = run.path.display();
        html.element(
            "p",
            &[],
            format!(
                "{} has {which}. This command measures them, and `genir report` shows them:",
                run.name
            ),
        );
        let commands = format!("genir probe {path} --probe {} --save", names.join(","));
        html.raw("<pre tabindex=\"0\">").text(commands).raw("</pre></div>");
    }
    for &probe in Probe::ALL {
        let of_probe: Vec<(&ReportedArm, &FigureSpec)> = figures
            .iter()
            .flat_map(|(arm, all)| {
                all.iter().filter(|f| f.probe == probe).map(move |f| (*arm, &f.spec))
            })
            .collect();
        if of_probe.is_empty() {
            continue;
        }
        let (title, text) = about(probe);
        html.open("section", &[("class", "probe"), ("data-probe", probe.name())]);
        html.element("h3", &[], title).paragraph("lead", text);
        let (over_training, newest): (Vec<_>, Vec<_>) =
            of_probe.into_iter().partition(|(_, spec)| spec.name.ends_with("_history"));
        for (arm, spec) in newest {
            svg::figure(html, &named(arm, spec));
        }
        for table in paper::tables(probe, &shown) {
            html.table(&table);
        }
        if !over_training.is_empty() {
            let mut inner = Html::default();
            for (arm, spec) in over_training {
                svg::figure(&mut inner, &named(arm, spec));
            }
            html.details("Over training", &inner);
        }
        let mut tables = Html::default();
        for run in &shown {
            for titled in run.newest(probe).into_iter().flat_map(report::tables) {
                let table = of_text(&titled);
                let caption = format!("{}: {}", run.name, table.caption);
                tables.table(&Table { caption, ..table });
            }
        }
        html.details("All numbers", &tables).raw("</section>");
    }
}

fn named(arm: &ReportedArm, spec: &FigureSpec) -> FigureSpec {
    FigureSpec { title: format!("{}: {}", arm.name, spec.title), ..spec.clone() }
}

/// A table for the terminal as one of the page.
pub fn of_text(titled: &report::TitledTable) -> Table {
    let cells = |row: &comfy_table::Row| row.cell_iter().map(|cell| cell.content()).collect();
    Table {
        caption: titled.title.clone(),
        header: titled.table.header().map(cells).unwrap_or_default(),
        rows: titled.table.row_iter().map(cells).collect(),
    }
}
