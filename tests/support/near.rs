//! Compares JSON values that were computed in different precision.

use serde_json::Value;

/// Numbers may differ by this part of themselves, and near 0 by [`ABSOLUTE`].
const RELATIVE: f64 = 1e-4;
const ABSOLUTE: f64 = 1e-7;
/// Means of whole numbers differ by nothing but the rounding of their digits.
const OF_RANKS: f64 = 1e-9;

/// Keys of values that follow from ranks and counts alone.
const FROM_RANKS: [&str; 19] = [
    "beyond_1",
    "beyond_5",
    "beyond_10",
    "beyond_100",
    "mean_rank",
    "median_rank",
    "mean",
    "median",
    "best",
    "worst",
    "mrr",
    "hits@1",
    "recall@5",
    "hits@10",
    "top_10",
    "top_100",
    "top_1000",
    "chance",
    "readers",
];

/// Where `found` differs from `expected`, a line each: fractions by more than precision allows, all else at all.
pub fn differences(expected: &Value, found: &Value) -> Vec<String> {
    let mut differences = Vec::new();
    compare(expected, found, "", RELATIVE, &mut differences);
    differences
}

fn compare(
    expected: &Value,
    found: &Value,
    path: &str,
    relative: f64,
    differences: &mut Vec<String>,
) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (key, value) in expected {
                let path = format!("{path}.{key}");
                let relative = if FROM_RANKS.contains(&key.as_str()) { OF_RANKS } else { relative };
                match found.get(key) {
                    Some(found) => compare(value, found, &path, relative, differences),
                    None => differences.push(format!("{path}: missing")),
                }
            }
            let more = found.keys().filter(|key| !expected.contains_key(*key));
            differences.extend(more.map(|key| format!("{path}.{key}: not expected")));
        }
        (Value::Array(expected), Value::Array(found)) => {
            if expected.len() != found.len() {
                let (count, right) = (found.len(), expected.len());
                differences.push(format!("{path}: {count} elements, expected {right}"));
            }
            for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
                compare(expected, found, &format!("{path}[{index}]"), relative, differences);
            }
        }
        (Value::Number(right), Value::Number(number)) if right.is_f64() => {
            let near = right.as_f64().zip(number.as_f64()).is_some_and(|(right, number)| {
                (number - right).abs() <= right.abs() * relative + ABSOLUTE.min(relative)
            });
            if !near {
                differences.push(format!("{path}: {number}, expected {right}"));
            }
        }
        _ if expected != found => differences.push(format!("{path}: {found}, expected {expected}")),
        _ => {}
    }
}
