//! Every value of a stored result replaced by others: what is read is shown and drawn, whatever it says.

use std::panic;
use std::time::{Duration, Instant};

use genir::probe::Record;
use genir::report::{figures, histograms, points, tables, write_csv};
use serde_json::{Value, json};

use crate::probe_records::records;

/// The time in which a record is shown and drawn.
const LIMIT: Duration = Duration::from_secs(5);

/// The paths of all values, one for each place of a list's first element.
fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                paths(
                    value,
                    &format!("{path}/{}", key.replace('~', "~0").replace('/', "~1")),
                    found,
                );
            }
        }
        Value::Array(values) => {
            if let Some(first) = values.first() {
                paths(first, &format!("{path}/0"), found);
            }
        }
        _ => {}
    }
}

/// Other values of the type.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Number(_) => [json!(0), json!(u32::MAX), json!(1u64 << 60), json!(-1e300)].to_vec(),
        Value::String(_) => [json!(""), json!("\u{0}\u{1b}[2J<&>".repeat(50))].to_vec(),
        Value::Array(values) => {
            let first = values.iter().take(1).cloned().collect();
            [json!([]), Value::Array(first)].to_vec()
        }
        _ => [Value::Null].to_vec(),
    }
}

/// Shows and draws a record and the one before it.
fn show(before: &Record, record: &Record) {
    let both = [before.clone(), record.clone()];
    for table in tables(record) {
        assert!(!table.to_string().is_empty());
    }
    write_csv(&both, &mut Vec::new()).unwrap();
    drop((points(record), histograms(record)));
    for figure in figures(&both, &[]) {
        let svg = figure.svg().unwrap_or_else(|error| panic!("{}: {error}", figure.name()));
        assert!(svg.len() < 8 << 20, "{} has {} bytes", figure.name(), svg.len());
    }
}

#[test]
fn a_stored_result_with_any_other_value_is_refused_or_drawn() {
    let mut wrong = Vec::new();
    let mut tried = 0;
    for record in records(3, 20) {
        let value = serde_json::to_value(&record).unwrap();
        let mut all = Vec::new();
        paths(&value, "", &mut all);
        for path in all {
            for other in others(value.pointer(&path).unwrap()) {
                let mut changed = value.clone();
                *changed.pointer_mut(&path).unwrap() = other.clone();
                let begun = Instant::now();
                tried += 1;
                let read = Record::parse(&changed.to_string(), || "here".to_owned());
                let Ok(read) = read else { continue };
                let shown = panic::catch_unwind(|| show(&record, &read));
                if shown.is_err() || begun.elapsed() > LIMIT {
                    let probe = record.result.probe();
                    wrong.push(format!("{probe}{path} = {other}: {:?}", begun.elapsed()));
                }
            }
        }
    }
    assert!(tried > 300, "{tried}");
    assert!(wrong.is_empty(), "{} of {tried}:\n{}", wrong.len(), wrong.join("\n"));
}
