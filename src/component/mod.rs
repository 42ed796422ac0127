//! Components, stages and selectors: from a recipe's text to the exact list of trained parameters.
//!
//! # Selectors
//!
//! A recipe names parts of the model in `trainable.select`, and probes in patches and circuits:
//!
//! ```text
//! full | restricted | encoder | decoder | encoder.* | decoder.*
//! docids | words | head | norms
//! matched | random-matched(seed=1)
//! encoder.final_norm | decoder.final_norm | encoder.relative_bias | decoder.relative_bias
//! decoder.self_attention | decoder.cross_attention | decoder.mlp | decoder.layers
//! encoder.self_attention | encoder.mlp | encoder.layers
//! ```
//!
//! The last two lines may name their layers: `decoder.cross_attention[II,III]`, `decoder.mlp[18..24]`
//! (end exclusive), `encoder.layers[0-3,5]`. `layers` means all components of these layers. A leading
//! `-` or `!` excludes parameters again: `["full", "-words"]`.
//! `lora(SELECTOR, rank=8, alpha=16)` adapts the matrices of attention and MLPs that the selector names: they stay frozen,
//! and low-rank factors are trained beside them.
//! Patches of probes also name heads, `decoder.cross_attention[4].heads[0,2]`, and circuits a replacement,
//! `decoder.mlp[I]=mean`.

mod by_component;
mod controls;
mod lora;
mod naming;
mod place;
mod selector;
mod stages;
mod trainable;
mod walk;

pub use by_component::ByComponent;
pub use controls::{Control, TOLERANCE as CONTROL_TOLERANCE};
pub use lora::{LoraError, LowRank, Trainable, check_trainable};
pub use naming::selectors_of;
pub(crate) use place::factor_names;
pub use place::{Component, ParameterPlace, Stack, Weight};
pub use selector::{LayerSet, Selector, SelectorError, Target, trainable_set};
pub use stages::{Stage, Stages, StagesError, parse_layers};
pub(crate) use trainable::grouped;
pub use trainable::{Count, TrainableTable, freeze_all_but};
pub use walk::{MapParameter, VisitParameter, map_parameters, visit_parameters};
