//! The keys of a resolved recipe.

use std::collections::BTreeMap;

/// The keys of a TOML document with their values as text. An array of tables counts as one value.
pub(crate) fn flat_keys(toml: &str) -> BTreeMap<String, String> {
    fn add(flat: &mut BTreeMap<String, String>, prefix: &str, table: &toml::Table) {
        for (key, value) in table {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                toml::Value::Table(inner) => add(flat, &name, inner),
                value => {
                    flat.insert(name, value.to_string());
                }
            }
        }
    }
    let mut keys = BTreeMap::new();
    add(&mut keys, "", &toml.parse().unwrap_or_default());
    keys
}
