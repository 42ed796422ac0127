//! Advice as text.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};

use super::{Advice, Coverage, Effect, Estimate, recipe_section};
use crate::component::{Component, Stage, Stages, grouped};
use crate::probe::{Over, describe_candidates};

impl Advice {
    /// The lines of a recipe that train the advised set: also the stages, if selectors name some that are not the default.
    pub fn recipe_lines(&self) -> String {
        let select: Vec<String> = self.select.iter().map(|text| format!("\"{text}\"")).collect();
        let select = format!("[trainable]\nselect = [{}]\n", select.join(", "));
        let default = self.stages.as_ref().and_then(|it| Stages::scaled(it.depth()).ok());
        let names_stages = self.select.iter().any(|text| text.contains('I'));
        match &self.stages {
            Some(stages) if names_stages && self.stages != default => {
                format!("{select}\n{}", recipe_section(stages))
            }
            _ => select,
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let step = self.step.map_or(String::new(), |step| format!("step {step}, "));
        writeln!(
            f,
            "{}: {step}{} correct of {} {} queries, ranked among {}",
            self.checkpoint,
            self.correct,
            self.ranked,
            self.coverage.set,
            describe_candidates(self.vocabulary)
        )?;
        let stages = self.stages.as_ref().map_or("none".to_owned(), Stages::to_string);
        writeln!(f, "stages {stages}")?;
        let hits = |effect: &Effect| points(effect.hits);
        let nats = |effect: &Effect| nats(effect.log_probability);
        let queries = match self.over {
            Over::Correct => format!("correct {} queries", self.coverage.set),
            Over::All => format!("{} queries", self.coverage.set),
        };
        let of = format!("over {} {queries}", self.coverage.queries);
        writeln!(
            f,
            "\nFall of Hits@1 under mean ablation (P3), percentage points {of}, with 95% bootstrap intervals; * is in the \
             advised set\n{}",
            self.by_layer(hits)
        )?;
        if !self.by_stage.is_empty() {
            writeln!(f, "\nThe same for all layers of a stage\n{}", self.of_stages(hits))?;
        }
        writeln!(
            f,
            "\nFall of the log probability of the relevant docid among docids, in nats, which decides the order in which \
             components are removed\n{}",
            self.by_layer(nats)
        )?;
        if !self.by_stage.is_empty() {
            writeln!(f, "\nThe same for all layers of a stage\n{}", self.of_stages(nats))?;
        }
        writeln!(
            f,
            "\nAdvised set for {:.0}% of the causal effect, in a recipe:\n\n{}",
            100.0 * self.share,
            indented(&self.recipe_lines())
        )?;
        writeln!(
            f,
            "parameters    {}, {:.1}% of the decoder's {}; and {} of docid rows",
            grouped(self.parameters),
            100.0 * self.parameters as f64 / self.decoder_parameters.max(1) as f64,
            grouped(self.decoder_parameters),
            grouped(self.docid_parameters)
        )?;
        writeln!(f, "coverage      {}", self.coverage)?;
        if let Some(checked) = &self.checked {
            writeln!(f, "other queries {checked}")?;
        }
        if let Some(reference) = &self.restricted {
            writeln!(
                f,
                "restricted    {} parameters, {:.1}% of the decoder's; coverage {}",
                grouped(reference.parameters),
                100.0 * reference.parameters as f64 / self.decoder_parameters.max(1) as f64,
                reference.coverage
            )?;
        }
        write!(f, "measured      {} ablations", self.ablations)?;
        if !self.weaknesses.is_empty() {
            write!(f, "\n\nThe evidence is weak:")?;
        }
        self.weaknesses.iter().try_for_each(|weakness| write!(f, "\n  - {weakness}"))
    }
}

/// `91.2% (88.9 to 93.4) of the effect on 776 validation queries: Hits@1 0.912 with all else ablated, ...`
impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Estimate { mean, interval: [low, high] } = self.share;
        write!(
            f,
            "{:.1}% (95% interval {:.1} to {:.1}) on {} {} queries: Hits@1 {:.3} with all else ablated, {:.3} intact, {:.3} \
             with everything ablated",
            100.0 * mean,
            100.0 * low,
            100.0 * high,
            self.queries,
            self.set,
            self.kept,
            self.intact,
            self.ablated
        )
    }
}

impl Advice {
    fn by_layer(&self, cell: impl Fn(&Effect) -> String) -> Table {
        let mut table = empty(&["layer", "stage"], &Component::ALL.map(Component::name));
        for layer in self.components.chunks(Component::ALL.len()) {
            let Some(first) = layer.first() else { continue };
            let number = first.layer.map_or(String::new(), |layer| layer.to_string());
            let stage = first.stage.map_or("-".to_owned(), |stage| stage.to_string());
            table.add_row(
                [number, stage].into_iter().chain(layer.iter().map(|it| marked(it, &cell))),
            );
        }
        table
    }

    fn of_stages(&self, cell: impl Fn(&Effect) -> String) -> Table {
        let mut table = empty(&["stage"], &Component::ALL.map(Component::name));
        for (stage, effects) in Stage::ALL.iter().zip(self.by_stage.chunks(Component::ALL.len())) {
            let cells = effects.iter().map(|it| marked(it, &cell));
            table.add_row([stage.to_string()].into_iter().chain(cells));
        }
        table
    }
}

fn marked(effect: &Effect, cell: impl Fn(&Effect) -> String) -> String {
    format!("{}{}", cell(effect), if effect.is_advised { " *" } else { "  " })
}

fn empty(keys: &[&str], columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(keys.iter().chain(columns));
    for column in table.column_iter_mut().skip(keys.len()) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Percentage points with their interval.
fn points(estimate: Estimate) -> String {
    with_interval(estimate, 100.0, 1)
}

fn nats(estimate: Estimate) -> String {
    with_interval(estimate, 1.0, 3)
}

/// `1.8 (0.9 to 2.8)`
fn with_interval(estimate: Estimate, unit: f64, digits: usize) -> String {
    let text = |value: f64| {
        let text = format!("{:.digits$}", unit * value);
        // Rounded to zero from below.
        let is_zero = text.strip_prefix('-').is_some_and(|it| it.chars().all(|c| "0.".contains(c)));
        if is_zero { text[1..].to_owned() } else { text }
    };
    let [low, high] = estimate.interval.map(text);
    format!("{} ({low} to {high})", text(estimate.mean))
}

fn indented(text: &str) -> String {
    let line = |line: &str| if line.is_empty() { "\n".to_owned() } else { format!("    {line}\n") };
    text.lines().map(line).collect()
}
