//! Applies a trainable set to a model, and shows it as a table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use comfy_table::{CellAlignment, Table, presets};

use super::{Component, MapParameter, ParameterPlace, Stack, Stage, Stages, map_parameters};

/// Freezes every parameter of `module` whose dotted name is not in `trained`, and thaws the others.
pub fn freeze_all_but<M: Module>(module: M, trained: &BTreeSet<String>) -> M {
    map_parameters(module, &mut Freezer(trained))
}

struct Freezer<'a>(&'a BTreeSet<String>);

impl MapParameter for Freezer<'_> {
    fn map<const D: usize>(&mut self, name: &str, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        parameter.set_require_grad(self.0.contains(name))
    }
}

/// Numbers of trained and frozen parameters, by part of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrainableTable {
    rows: Vec<(String, Count)>,
    /// All parameters together.
    pub total: Count,
}

/// Parameters of a part of the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// All.
    pub parameters: usize,
    /// Those that are trained.
    pub trained: usize,
}

impl TrainableTable {
    /// Counts `parameters`, given by dotted name and size; the decoder's by stage, where it has stages.
    pub fn new(
        parameters: &[(String, usize)],
        trained: &BTreeSet<String>,
        stages: Option<&Stages>,
    ) -> Self {
        let mut parts: BTreeMap<(u8, String), Count> = BTreeMap::new();
        let mut total = Count::default();
        for (name, size) in parameters {
            let trained = if trained.contains(name) { *size } else { 0 };
            for count in [parts.entry(part_of(name, stages)).or_default(), &mut total] {
                count.parameters += size;
                count.trained += trained;
            }
        }
        let rows = parts.into_iter().map(|((_, part), count)| (part, count)).collect();
        Self { rows, total }
    }

    /// Returns the cells of the table: part, parameters, trained and frozen ones; the last row is that of all parts.
    pub(crate) fn text_rows(&self) -> Vec<Vec<String>> {
        let total = ("all".to_owned(), self.total);
        let row = |(part, count): &(String, Count)| {
            let frozen = count.parameters - count.trained;
            let numbers = [count.parameters, count.trained, frozen].map(grouped);
            [part.clone()].into_iter().chain(numbers).collect()
        };
        self.rows.iter().chain([&total]).map(row).collect()
    }
}

/// The part that a parameter is counted under, with its place in the order of rows.
fn part_of(name: &str, stages: Option<&Stages>) -> (u8, String) {
    let Some(place) = ParameterPlace::of(name) else {
        return (u8::MAX, name.to_owned());
    };
    match place {
        ParameterPlace::SharedEmbedding => (0, "word embedding".into()),
        ParameterPlace::Docids => (1, "docid rows".into()),
        ParameterPlace::Head => (2, "output matrix (words)".into()),
        ParameterPlace::FinalNorm(stack) | ParameterPlace::RelativeBias(stack) => {
            let order = if stack == Stack::Encoder { 5 } else { 40 };
            (order, format!("{stack} relative bias, final norm"))
        }
        ParameterPlace::Layer { stack: Stack::Decoder, layer, component, .. } => {
            let within = Component::ALL.iter().position(|&other| other == component);
            let within = within.unwrap_or(0) as u8;
            let component = component.name().replace('_', "-");
            let Some(stages) = stages else {
                return (10 + within, format!("decoder {component}"));
            };
            let mut all = Stage::ALL.into_iter().enumerate();
            let stage = all.find(|(_, stage)| stages.layers(*stage).contains(&layer));
            let (order, stage) = stage.unwrap_or((0, Stage::First));
            (10 + 10 * order as u8 + within, format!("decoder Stage {stage} {component}"))
        }
        ParameterPlace::Layer { stack: Stack::Encoder, component, .. } => {
            let order = if component == Component::Mlp { 4 } else { 3 };
            (order, format!("encoder {}", component.name().replace('_', "-")))
        }
    }
}

impl fmt::Display for TrainableTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["part", "parameters", "trained", "frozen"]);
        for row in self.text_rows() {
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        write!(f, "{table}")
    }
}

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
