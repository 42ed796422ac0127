//! The search for the smallest set of components that keeps a share of the effect.

use std::collections::BTreeSet;

use crate::probe::Place;

/// Components that are removed together: those of a stage, or a single one.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub places: BTreeSet<Place>,
    /// Number of parameters.
    pub parameters: usize,
    /// The cost of ablating this group alone, in any unit.
    pub cost: f64,
}

/// Returns the components that are kept of `all`, after removing as many parameters as greedy elimination can.
///
/// The groups of each level are tried in the order of their cost per parameter, the cheapest first (of equal ones the
/// largest). A group is removed for good if `suffices` for all that is then removed. A level is repeated until none of
/// its groups can be removed, then the next one begins. If the last level consists of single components, no component
/// that is kept can be removed alone.
///
/// # Errors
/// The first error of `suffices`.
pub(super) fn eliminate<E>(
    all: &BTreeSet<Place>,
    levels: &[Vec<Group>],
    mut suffices: impl FnMut(&BTreeSet<Place>) -> Result<bool, E>,
) -> Result<BTreeSet<Place>, E> {
    let mut removed = BTreeSet::new();
    for level in levels {
        let mut order: Vec<&Group> = level.iter().collect();
        let per_parameter = |group: &Group| group.cost / group.parameters.max(1) as f64;
        order.sort_by(|one, other| {
            let by_cost = per_parameter(one).total_cmp(&per_parameter(other));
            by_cost.then(other.parameters.cmp(&one.parameters)).then(one.places.cmp(&other.places))
        });
        loop {
            let before = removed.len();
            for group in &order {
                if group.places.is_subset(&removed) {
                    continue;
                }
                let tried: BTreeSet<Place> = removed.union(&group.places).copied().collect();
                if suffices(&tried)? {
                    removed = tried;
                }
            }
            if removed.len() == before {
                break;
            }
        }
    }
    Ok(all.difference(&removed).copied().collect())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::component::Component;

    fn all() -> BTreeSet<Place> {
        (0..4).flat_map(|layer| Component::ALL.map(|component| (layer, component))).collect()
    }

    fn single(place: Place, parameters: usize, cost: f64) -> Group {
        Group { places: BTreeSet::from([place]), parameters, cost }
    }

    fn kept(levels: &[Vec<Group>], suffices: impl Fn(&BTreeSet<Place>) -> bool) -> BTreeSet<Place> {
        let found = eliminate(&all(), levels, |removed| Ok::<_, Infallible>(suffices(removed)));
        found.unwrap()
    }

    #[test]
    fn nothing_that_is_kept_can_be_removed_alone() {
        use Component::{CrossAttention, Mlp};
        // One of the MLPs of layers 1 and 2 is needed, and the cross-attention of layer 3 while that of layer 0 is there.
        let suffices = |removed: &BTreeSet<Place>| {
            let is = |layer, component| removed.contains(&(layer, component));
            !(is(1, Mlp) && is(2, Mlp)) && (!is(3, CrossAttention) || is(0, CrossAttention))
        };
        let singles: Vec<Group> =
            all().into_iter().map(|place| single(place, 10, f64::from(place.0 as u32))).collect();
        let kept = kept(&[singles], suffices);
        // The cheapest go first: MLP 1. Cross-attention of layer 3 can go once that of layer 0 has gone.
        assert_eq!(kept, BTreeSet::from([(2, Mlp)]));
        for &place in &kept {
            let mut removed: BTreeSet<Place> = all().difference(&kept).copied().collect();
            removed.insert(place);
            assert!(!suffices(&removed));
        }
    }

    #[test]
    fn a_level_is_repeated_since_one_removal_can_make_another_possible() {
        use Component::{CrossAttention, Mlp};
        let needs = |removed: &BTreeSet<Place>| {
            !removed.contains(&(0, Mlp)) || removed.contains(&(3, CrossAttention))
        };
        // MLP 0 is tried first, and only the second time it can be removed.
        let singles: Vec<Group> = all()
            .into_iter()
            .map(|place| single(place, 1, if place == (0, Mlp) { 0.0 } else { 1.0 }))
            .collect();
        assert!(kept(&[singles], needs).is_empty());
    }

    #[test]
    fn cheap_and_large_groups_are_tried_first_and_stages_before_components() {
        use std::cell::RefCell;
        let tried = RefCell::new(Vec::new());
        let log = |removed: &BTreeSet<Place>| {
            tried.borrow_mut().push(removed.clone());
            false
        };
        let [a, b, c] = [(0, Component::Mlp), (1, Component::Mlp), (2, Component::Mlp)];
        let stage = Group { places: BTreeSet::from([a, b]), parameters: 2, cost: 9.0 };
        let levels =
            vec![vec![stage], vec![single(a, 1, 0.5), single(b, 1, 0.0), single(c, 10, 0.0)]];
        kept(&levels, log);
        let expected: Vec<BTreeSet<Place>> =
            [vec![a, b], vec![c], vec![b], vec![a]].map(BTreeSet::from_iter).into();
        assert_eq!(tried.into_inner(), expected);
    }
}
