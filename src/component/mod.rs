//! Components, stages and selectors: from a recipe's text to the exact list of trained parameters.

mod by_component;
mod place;
mod selector;
mod stages;
mod trainable;
mod walk;

pub use by_component::ByComponent;
pub use place::{Component, ParameterPlace, Stack, Weight};
pub use selector::{LayerSet, Selector, SelectorError, Target, trainable_set};
pub use stages::{Stage, Stages, StagesError, parse_layers};
pub(crate) use trainable::grouped;
pub use trainable::{Count, TrainableTable, freeze_all_but};
pub use walk::{MapParameter, VisitParameter, map_parameters, visit_parameters};
