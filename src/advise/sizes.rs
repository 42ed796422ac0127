//! The numbers of parameters of a model's components.

use std::collections::{BTreeMap, BTreeSet};

use crate::component::{ParameterPlace, Stack};
use crate::probe::Place;
use crate::t5::GenirModel;

/// The parameters of a model.
pub(super) struct Sizes {
    /// Dotted names and dimensions of all parameters.
    pub shapes: Vec<(String, Vec<usize>)>,
    /// Number of parameters of each component of the decoder.
    by_place: BTreeMap<Place, usize>,
    /// Number of parameters of the decoder, and of the docid rows.
    pub decoder: usize,
    pub docids: usize,
}

impl Sizes {
    pub fn of(model: &GenirModel) -> Self {
        let is_tied = model.t5.lm_head.is_none();
        let shapes = GenirModel::parameter_shapes(model.t5.config(), is_tied, model.documents());
        let mut sizes = Self { shapes, by_place: BTreeMap::new(), decoder: 0, docids: 0 };
        for (name, shape) in &sizes.shapes {
            let size: usize = shape.iter().product();
            let Some(place) = ParameterPlace::of(name) else { continue };
            if place.stack() == Some(Stack::Decoder) {
                sizes.decoder += size;
            }
            match place {
                ParameterPlace::Layer { stack: Stack::Decoder, layer, component, .. } => {
                    *sizes.by_place.entry((layer, component)).or_default() += size;
                }
                ParameterPlace::Docids => sizes.docids += size,
                _ => {}
            }
        }
        sizes
    }

    pub fn all(&self) -> BTreeSet<Place> {
        self.by_place.keys().copied().collect()
    }

    pub fn of_places(&self, places: &BTreeSet<Place>) -> usize {
        places.iter().filter_map(|place| self.by_place.get(place)).sum()
    }
}
