//! Stored results of probes, and files of queries.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Case, accepted, refused, warned};
use crate::home::{Home, path};

const LENS: &str = "run/probes/logit_lens.jsonl";

/// `genir plot` of the run whose history of one probe is changed.
fn plotted(home: &Home, change: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
    home.run();
    let mut bytes = fs::read(home.at(LENS)).unwrap();
    // Two measurements.
    bytes = [bytes.clone(), bytes].concat();
    change(&mut bytes);
    home.write(LENS, bytes);
    plot(home, LENS)
}

fn plot(home: &Home, from: &str) -> Vec<String> {
    let (from, to) = (path(&home.at(from)), path(&home.at("figures")));
    ["plot", &from, "--output", &to].map(str::to_owned).to_vec()
}

/// `genir plot` of a changed record.
fn with_record(home: &Home, change: impl FnOnce(&mut Value)) -> Vec<String> {
    home.run();
    let text = fs::read_to_string(home.at(LENS)).unwrap();
    let mut record: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    change(&mut record);
    home.write(LENS, record.to_string() + "\n");
    plot(home, LENS)
}

/// `genir probe` over the queries of a file.
fn probed(home: &Home, queries: &str) -> Vec<String> {
    let run = home.run();
    let file = home.write("correct.json", queries);
    ["probe", &run, "--probe", "logit_lens", "--correct", &path(&file)].map(str::to_owned).to_vec()
}

pub const CASES: &[Case] = &[
    accepted("results as they were written", |home| plotted(home, |_| {}), &["logit_lens"]),
    refused(
        "a broken line among the results",
        |home| plotted(home, |bytes| bytes[5] = b'\n'),
        &["logit_lens.jsonl, line 1: ", "expected a probe's result of schema 1"],
    ),
    warned(
        "a last line that is cut",
        |home| plotted(home, |bytes| bytes.truncate(bytes.len() - 30)),
        &["passed over, not written to its end: ", "logit_lens.jsonl, line 2: "],
    ),
    refused(
        "no results",
        |home| plotted(home, Vec::clear),
        &["logit_lens.jsonl: no probe results found"],
    ),
    refused(
        "results of zeros",
        |home| plotted(home, |bytes| bytes.fill(0)),
        &["logit_lens.jsonl, line 1: ", "expected a probe's result"],
    ),
    refused(
        "results that are not UTF-8",
        |home| {
            plotted(home, |bytes| {
                let end = bytes.len() - 5;
                bytes[end] = 0xff;
            })
        },
        &["logit_lens.jsonl", "line 2 is not valid UTF-8"],
    ),
    refused(
        "results of 1 TiB",
        |home| {
            home.sparse("results.jsonl", 1 << 40);
            plot(home, "results.jsonl")
        },
        &["results.jsonl", "1048576 MiB"],
    ),
    refused(
        "a device in place of results",
        |home| {
            home.link("results.jsonl", "/dev/zero");
            plot(home, "results.jsonl")
        },
        &["results.jsonl", "it is a device; expected a regular file"],
    ),
    refused(
        "a pipe in place of results, in a run",
        |home| {
            home.run();
            home.fifo(LENS);
            plot(home, "run")
        },
        &["logit_lens.jsonl", "it is a named pipe; expected a regular file"],
    ),
    refused(
        "a result of a later schema",
        |home| with_record(home, |record| record["schema"] = json!(99)),
        &["logit_lens.jsonl, line 1: schema 99; expected a probe's result of schema 1"],
    ),
    refused(
        "a result of an unknown probe",
        |home| with_record(home, |record| record["probe"] = json!("crystal_ball")),
        &["logit_lens.jsonl, line 1: ", "unknown variant `crystal_ball`"],
    ),
    refused(
        "a result without its numbers",
        |home| with_record(home, |record| drop(record.as_object_mut().unwrap().remove("result"))),
        &["logit_lens.jsonl, line 1: ", "missing field `result`"],
    ),
    refused(
        "a result of a layer that no decoder has",
        |home| {
            with_record(home, |record| record["result"]["sites"][0]["layer"] = json!(1u64 << 60))
        },
        &["logit_lens.jsonl, line 1: ", "layer 1152921504606846976"],
    ),
    refused(
        "a number that is too large",
        |home| {
            with_record(home, |_| {});
            let text = fs::read_to_string(home.at(LENS)).unwrap();
            home.write(LENS, text.replacen("\"seconds\":", "\"seconds\":1e999,\"x\":", 1));
            plot(home, LENS)
        },
        &["logit_lens.jsonl, line 1: number out of range"],
    ),
    refused(
        "100,000 nested brackets in a result",
        |home| {
            plotted(home, |bytes| {
                *bytes =
                    [&b"{\"schema\": 1, \"x\": "[..], "[".repeat(100_000).as_bytes(), b"\n{}\n"]
                        .concat()
            })
        },
        &["logit_lens.jsonl, line 1: "],
    ),
    refused("a file of queries that is not JSON", |home| probed(home, "[["), &["correct.json"]),
    refused(
        "a file of queries with a docid that the checkpoint does not have",
        |home| probed(home, r#"[["@DOC_ID_unknown@", "val-0"]]"#),
        &["correct.json", "@DOC_ID_unknown@"],
    ),
    refused(
        "a device in place of queries on standard input",
        |home| {
            home.base();
            let base = path(&home.at("base"));
            ["search", &base, "</dev/zero"].map(str::to_owned).to_vec()
        },
        &["standard input, line 1: longer than 1 MiB; expected one query per line"],
    ),
];
