//! The trained and the frozen parts of a model as a picture: layers by components.

use std::collections::BTreeSet;

use plotters::style::RGBColor;

use super::run::{ReportedModel, ReportedRun};
use crate::component::{Component, ParameterPlace, Stack, Stage};
use crate::probe::{Probe, ProbeResult, Replacement};
use crate::report::figures::axis::Axis;
use crate::report::figures::color;
use crate::report::figures::spec::{Band, Block, FigureSpec, Labels, Legend, PERCENT, Panel};
use crate::report::tables::{component_label, number};

/// The state of a component in training.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Training {
    Trained,
    /// Its matrices are frozen, with trained low-rank factors beside them.
    Adapted,
    Frozen,
}

impl Training {
    const ALL: [Self; 3] = [Self::Trained, Self::Adapted, Self::Frozen];

    fn name(self) -> &'static str {
        match self {
            Self::Trained => "trained",
            Self::Adapted => "LoRA factors trained",
            Self::Frozen => "frozen",
        }
    }

    fn color(self) -> RGBColor {
        match self {
            Self::Trained => color::series(0),
            Self::Adapted => color::series(4),
            Self::Frozen => color::FAINT,
        }
    }
}

/// Returns the picture of a run's model, or `None` without a checkpoint.
pub fn figure(run: &ReportedRun) -> Option<FigureSpec> {
    let model = run.model.as_ref()?;
    let mut panels = vec![decoder(model)];
    panels.extend(causal_effect(run, model));
    panels.push(encoder(model));
    Some(FigureSpec {
        name: "trained_components".to_owned(),
        title: "Trained and frozen components".to_owned(),
        note: run.subject(),
        columns: 1,
        panel: (860, 190),
        panels,
    })
}

fn state(model: &ReportedModel, of: (Stack, usize, Component)) -> Training {
    let is_of = |name: &&String| match ParameterPlace::of(name) {
        Some(ParameterPlace::Layer { stack, layer, component, .. }) => {
            (stack, layer, component) == of
        }
        _ => false,
    };
    if model.trainable.lora.keys().any(|name| is_of(&name)) {
        Training::Adapted
    } else if model.names.iter().filter(is_of).any(|name| model.trainable.trained.contains(name)) {
        Training::Trained
    } else {
        Training::Frozen
    }
}

fn stack(
    model: &ReportedModel,
    (stack, depth): (Stack, usize),
    components: &[Component],
    title: &str,
) -> Panel {
    let mut blocks = Vec::new();
    let mut used = Vec::new();
    for layer in 0..depth {
        for (row, component) in components.iter().enumerate() {
            let state = state(model, (stack, layer, *component));
            used.push(state);
            blocks.push(Block {
                x: (layer as f64, layer as f64 + 1.0),
                y: (row as f64, row as f64 + 1.0),
                color: state.color(),
                value: f64::NAN,
                spread: None,
                label: String::new(),
            });
        }
    }
    let labels: Vec<String> = (0..depth).map(|layer| layer.to_string()).collect();
    let rows: Vec<String> = components.iter().map(|c| component_label(*c).to_owned()).collect();
    let names = Training::ALL.into_iter().filter(|state| used.contains(state));
    let x = Axis::categorical(&format!("{stack} layer"), &labels);
    Panel {
        bands: if stack == Stack::Decoder { bands(model) } else { Vec::new() },
        blocks,
        labels: Labels::InAll,
        legend: Legend::Names(
            names.map(|state| (state.name().to_owned(), state.color())).collect(),
        ),
        ..Panel::empty(title, x, Axis::categorical_from_top("", &rows))
    }
}

fn bands(model: &ReportedModel) -> Vec<Band> {
    let Some(stages) = &model.stages else { return Vec::new() };
    let band = |stage: Stage| {
        let layers = stages.layers(stage);
        let (from, to) = (layers.start as f64, layers.end as f64);
        Band { from, to, name: stage.to_string(), shaded: false }
    };
    Stage::ALL.map(band).to_vec()
}

fn decoder(model: &ReportedModel) -> Panel {
    let depth = model.config.num_decoder_layers;
    stack(model, (Stack::Decoder, depth), &Component::ALL, "Decoder: what is trained")
}

fn encoder(model: &ReportedModel) -> Panel {
    let components = [Component::SelfAttention, Component::Mlp];
    stack(model, (Stack::Encoder, model.config.num_layers), &components, "Encoder: what is trained")
}

/// The effect of mean ablation of each component of a stage, over the layers of the stage.
fn causal_effect(run: &ReportedRun, model: &ReportedModel) -> Option<Panel> {
    let record = run.newest(Probe::StagePatching)?;
    let (ProbeResult::StagePatching(result), Some(stages)) =
        (&record.result, &record.measured_on.stages)
    else {
        return None;
    };
    let mut panel = decoder(model);
    panel.title =
        "Decoder: causal effect, % of queries no longer ranked first (mean ablation)".to_owned();
    panel.blocks.clear();
    for (row, component) in Component::ALL.into_iter().enumerate() {
        for stage in Stage::ALL {
            let of = (Some(component), Some(stage), Replacement::Mean);
            let cell = result.cells.iter().find(|c| (c.component, c.stage, c.replacement) == of)?;
            let (layers, effect) = (stages.layers(stage), cell.ranks.beyond_1);
            panel.blocks.push(Block {
                x: (layers.start as f64, layers.end as f64),
                y: (row as f64, row as f64 + 1.0),
                color: PERCENT.color(effect),
                value: effect,
                spread: None,
                label: number(effect, 1),
            });
        }
    }
    panel.legend = Legend::Scale(PERCENT);
    Some(panel)
}

/// Returns in words which parameters outside of layers are trained.
pub fn outside_of_layers(model: &ReportedModel) -> String {
    let mut trained = BTreeSet::new();
    let mut frozen = BTreeSet::new();
    for name in &model.names {
        let what = match ParameterPlace::of(name) {
            Some(ParameterPlace::Docids) => "the docid rows",
            Some(ParameterPlace::SharedEmbedding) => "the word embedding",
            Some(ParameterPlace::Head) => "the output matrix of words",
            Some(ParameterPlace::FinalNorm(_)) => "the final norms",
            Some(ParameterPlace::RelativeBias(_)) => "the relative position biases",
            _ => continue,
        };
        match model.trainable.trained.contains(name) {
            true => trained.insert(what),
            false => frozen.insert(what),
        };
    }
    let list = |of: BTreeSet<&str>| match of.is_empty() {
        true => "none".to_owned(),
        false => of.into_iter().collect::<Vec<_>>().join(", "),
    };
    format!("Outside of the layers, trained: {}; frozen: {}.", list(trained), list(frozen))
}
