//! Numbers in JSON that are read bit for bit as they were written.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number that is stored as text, such as `"0.25"` or `"NaN"`.
///
/// JSON has no numbers that are not finite, and `serde_json` may read a number as one of its neighbours. The shortest
/// decimal text of Rust is read exactly.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Exact(pub f64);

/// Equal if the bits are equal: a NaN equals itself.
impl PartialEq for Exact {
    fn eq(&self, other: &Self) -> bool {
        self.0.to_bits() == other.0.to_bits()
    }
}

impl Serialize for Exact {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Exact {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let expected = "a number as text, such as \"0.25\" or \"NaN\"";
        let number = text.parse();
        number
            .map(Exact)
            .map_err(|_| de::Error::invalid_value(de::Unexpected::Str(&text), &expected))
    }
}

/// Converts metrics to their stored form.
pub(crate) fn to_exact(values: &BTreeMap<String, f64>) -> BTreeMap<String, Exact> {
    values.iter().map(|(name, &value)| (name.clone(), Exact(value))).collect()
}

/// Converts metrics from their stored form.
pub(crate) fn from_exact(values: BTreeMap<String, Exact>) -> BTreeMap<String, f64> {
    values.into_iter().map(|(name, Exact(value))| (name, value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_read_as_it_was_written() {
        let mut numbers =
            vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.0, f64::MIN_POSITIVE];
        // The 64 neighbours of numbers that decimal text divides badly.
        for start in [0.1, 1.0 / 3.0, 5e-324, 1.797e308, 123_456_789.123_456_79] {
            numbers.extend((0..64).map(|at| f64::from_bits(f64::to_bits(start) + at)));
        }
        for number in numbers {
            let text = serde_json::to_string(&Exact(number)).unwrap();
            assert_eq!(serde_json::from_str::<Exact>(&text).unwrap(), Exact(number), "{text}");
        }
        let error = serde_json::from_str::<Exact>("\"many\"").unwrap_err().to_string();
        assert!(error.contains("many") && error.contains("a number as text"), "{error}");
    }
}
