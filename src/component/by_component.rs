//! A value for each component.

use std::array;
use std::ops::{Index, IndexMut};

use serde::{Deserialize, Serialize};

use super::Component;

/// A value for each component.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ByComponent<T>([T; Component::ALL.len()]);

impl<T> ByComponent<T> {
    /// The values that `of` gives, in the order of [`Component::ALL`].
    pub fn new(of: impl FnMut(Component) -> T) -> Self {
        Self(Component::ALL.map(of))
    }

    /// The components with their values, in the order in which a decoder layer runs them.
    pub fn iter(&self) -> impl Iterator<Item = (Component, &T)> {
        Component::ALL.into_iter().zip(&self.0)
    }
}

impl<T> IntoIterator for ByComponent<T> {
    type Item = T;
    type IntoIter = array::IntoIter<T, { Component::ALL.len() }>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T> Index<Component> for ByComponent<T> {
    type Output = T;

    fn index(&self, component: Component) -> &T {
        let [self_attention, cross_attention, mlp] = &self.0;
        match component {
            Component::SelfAttention => self_attention,
            Component::CrossAttention => cross_attention,
            Component::Mlp => mlp,
        }
    }
}

impl<T> IndexMut<Component> for ByComponent<T> {
    fn index_mut(&mut self, component: Component) -> &mut T {
        let [self_attention, cross_attention, mlp] = &mut self.0;
        match component {
            Component::SelfAttention => self_attention,
            Component::CrossAttention => cross_attention,
            Component::Mlp => mlp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_component_has_its_own_value() {
        let mut names = ByComponent::new(Component::name);
        assert!(names.iter().all(|(component, name)| *name == component.name()));
        assert!(Component::ALL.into_iter().all(|component| names[component] == component.name()));
        names[Component::Mlp] = "feed-forward";
        assert!(names.into_iter().eq(["self_attention", "cross_attention", "feed-forward"]));
    }
}
