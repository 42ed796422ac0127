//! The inverse of selectors: the selectors that name given components of the decoder.

use std::collections::BTreeSet;

use super::place::Component;
use super::stages::{Stage, Stages, layers_text};

/// Returns selectors that name these components (layer and component) of a decoder of `depth` layers, and no others: one
/// for each kind of component. Stages that are complete are named as such, other layers by number.
pub fn selectors_of(
    places: &BTreeSet<(usize, Component)>,
    stages: Option<&Stages>,
    depth: usize,
) -> Vec<String> {
    let of = |component: Component| -> Option<String> {
        let named = |layer: &usize| places.contains(&(*layer, component));
        let layers: Vec<usize> = (0..depth).filter(named).collect();
        let name = component.name();
        if layers.is_empty() {
            return None;
        }
        if layers.len() == depth {
            return Some(format!("decoder.{name}"));
        }
        let is_whole = |stage: &Stage| {
            stages.is_some_and(|stages| stages.layers(*stage).clone().all(|layer| named(&layer)))
        };
        let whole: Vec<Stage> = Stage::ALL.into_iter().filter(is_whole).collect();
        let in_whole = |layer: usize| stages.is_some_and(|it| whole.contains(&it.of(layer)));
        let mut words: Vec<String> = whole.iter().map(Stage::to_string).collect();
        let mut rest: Vec<std::ops::Range<usize>> = Vec::new();
        for layer in layers.into_iter().filter(|layer| !in_whole(*layer)) {
            match rest.last_mut() {
                Some(range) if range.end == layer => range.end += 1,
                _ => rest.push(layer..layer + 1),
            }
        }
        words.extend(rest.iter().map(layers_text));
        Some(format!("decoder.{name}[{}]", words.join(",")))
    };
    Component::ALL.into_iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::super::{Selector, Stack};
    use super::*;

    #[test]
    fn selectors_name_whole_stages_and_otherwise_layers_and_match_exactly_these() {
        use Component::{CrossAttention as Cross, Mlp, SelfAttention as Itself};
        let stages = Stages::scaled(8).unwrap(); // I 0-1, II 2-5, III 6-7
        let mut places: BTreeSet<(usize, Component)> = (2..8).map(|layer| (layer, Cross)).collect();
        places.extend([(6, Mlp), (7, Mlp), (0, Mlp), (3, Mlp), (4, Mlp)]);
        places.extend((0..8).map(|layer| (layer, Itself)));
        let selectors = selectors_of(&places, Some(&stages), 8);
        assert_eq!(
            selectors,
            ["decoder.self_attention", "decoder.cross_attention[II,III]", "decoder.mlp[III,0,3-4]"]
        );
        assert_eq!(
            selectors_of(&places, None, 8)[1..],
            ["decoder.cross_attention[2-7]", "decoder.mlp[0,3-4,6-7]"]
        );
        assert!(selectors_of(&BTreeSet::new(), Some(&stages), 8).is_empty());

        for stages in [Some(&stages), None] {
            let parsed: Vec<Selector> =
                selectors_of(&places, stages, 8).iter().map(|text| text.parse().unwrap()).collect();
            for place @ (layer, component) in
                (0..8).flat_map(|layer| Component::ALL.map(|component| (layer, component)))
            {
                let named = parsed.iter().any(|selector| {
                    selector.matches_component(Stack::Decoder, layer, component, stages)
                });
                assert_eq!(named, places.contains(&place), "{place:?}");
            }
        }
    }
}
