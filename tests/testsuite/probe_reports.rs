//! Tables, CSV, TensorBoard points and figures of probe results, at any depth and with undefined numbers.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use genir::monitor::{Console, Line, Monitor, Verbosity};
use genir::probe::{Probe, ProbeResult, Record, SkipReason, Skipped, describe_candidates, files};
use genir::report::{Figure, figures, histograms, measured_on, points, tables, write_csv};
use genir::retrieval::CandidateSet;
use genir::run::{Environment, Overwrite, RunDirectory};
use serde_json::Value;

use crate::probe_records::records;

const DEPTHS: [usize; 3] = [3, 6, 24];

fn record_of(probe: Probe, depth: usize) -> Record {
    records(depth, 500).into_iter().find(|record| record.result.probe() == probe).unwrap()
}

/// Returns the record with all numbers undefined that may be, as it is read from a file.
fn undefined(record: &Record) -> Record {
    fn undefine(value: &mut Value) {
        match value {
            Value::Number(number) if number.is_f64() => *value = Value::Null,
            Value::Array(values) => values.iter_mut().for_each(undefine),
            Value::Object(fields) => fields.values_mut().for_each(undefine),
            _ => {}
        }
    }
    let mut json = serde_json::to_value(record).unwrap();
    undefine(&mut json["result"]);
    Record::parse(&json.to_string(), || "here".to_owned()).unwrap()
}

fn text(record: &Record) -> String {
    tables(record).iter().map(|table| format!("{table}\n\n")).collect()
}

/// Returns the remaining cells of the first row of all tables that starts with `begin`.
fn row(record: &Record, begin: &[&str]) -> Vec<String> {
    let text = text(record);
    let rows = text.lines().map(|line| {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    });
    let mut found = rows.filter(|row| row.len() > begin.len() && row[..begin.len()] == *begin);
    found.next().unwrap_or_else(|| panic!("no row {begin:?} in\n{text}"))[begin.len()..].to_vec()
}

#[test]
fn stage_patching_has_the_layout_of_the_papers_table() {
    let record = record_of(Probe::StagePatching, 6);
    let ProbeResult::StagePatching(result) = &record.result else { unreachable!() };
    for cells in result.cells.chunks_exact(3).take(9) {
        let begin = [cells[0].component.unwrap().name(), &cells[0].replacement.to_string()];
        let expected: Vec<String> =
            cells.iter().map(|cell| format!("{:.2}", cell.ranks.beyond_1)).collect();
        assert_eq!(row(&record, &begin), expected);
    }
    let asked = row(&record, &["decoder.cross_attention[0-1].head[2]", "mean"]);
    assert_eq!(asked.len(), 8);
}

#[test]
fn circuits_are_shown_absolute_and_relative_in_percent() {
    let mut record = record_of(Probe::Circuit, 6);
    let ProbeResult::Circuit(result) = &mut record.result else { unreachable!() };
    result.circuits[0].absolute.hits_1 = 0.38;
    result.circuits[0].relative.hits_1 = 0.94;
    assert_eq!(row(&record, &["paper circuit"])[..2], ["38.00", "94.00"]);
    assert_eq!(row(&record, &["unpatched"])[1], "-");
    assert_eq!(row(&record, &["user-defined"]).len(), 6);
}

#[test]
fn every_probe_has_tables_with_its_numbers() {
    let value = |probe, begin: &[&str]| row(&record_of(probe, 6), begin);
    assert_eq!(value(Probe::ResidualContribution, &["0", "I"])[0], "0.200");
    assert_eq!(value(Probe::LogitLens, &["5", "III"]).len(), 5);
    assert_eq!(value(Probe::DirectEffect, &["mlp"]).len(), 8);
    assert_eq!(value(Probe::EncoderSwap, &["base"])[0], "100");
    assert_eq!(value(Probe::NeuronReads, &["mlp", "III"])[0], "0.00");
    assert_eq!(value(Probe::AttentionReads, &["start embedding", ""]).len(), 3);
    assert_eq!(value(Probe::AttentionWrites, &["all", "II", "output"]).len(), 3);
    assert_eq!(value(Probe::AttentionWrites, &["q,1", "2", "7"]), ["`▁king` ` ` `@DOC_ID_3@`"]);
}

#[test]
fn undefined_numbers_are_dashes_in_tables() {
    for record in records(6, 500) {
        let text = text(&undefined(&record));
        assert!(text.contains(" - |") && !text.contains("NaN"), "{text}");
    }
}

/// Parses CSV (RFC 4180) to rows.
fn parse_csv(text: &str) -> Vec<Vec<String>> {
    let (mut rows, mut row, mut field, mut quoted) = (Vec::new(), Vec::new(), String::new(), false);
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(std::mem::take(&mut field)),
            '\n' if !quoted => {
                row.push(std::mem::take(&mut field));
                rows.push(std::mem::take(&mut row));
            }
            _ => field.push(character),
        }
    }
    assert!(row.is_empty() && field.is_empty(), "the last line does not end");
    rows
}

fn csv(records: &[Record]) -> Vec<HashMap<String, String>> {
    let mut bytes = Vec::new();
    write_csv(records, &mut bytes).unwrap();
    let mut rows = parse_csv(&String::from_utf8(bytes).unwrap()).into_iter();
    let header = rows.next().unwrap();
    let named = rows.map(|row| {
        assert_eq!(row.len(), header.len(), "{row:?}");
        header.iter().cloned().zip(row).collect()
    });
    named.collect()
}

#[test]
fn csv_holds_every_number_under_its_keys() {
    let all = records(6, 500);
    let rows = csv(&all);
    let probes: HashSet<&str> = rows.iter().map(|row| row["probe"].as_str()).collect();
    assert_eq!(probes.len(), 9);
    assert!(rows.iter().all(|row| row["checkpoint"] == "runs/a, \"b\"" && row["step"] == "500"));

    let value = |keys: &[(&str, &str)]| {
        let same = |row: &&HashMap<String, String>| keys.iter().all(|(key, of)| row[*key] == *of);
        let found: Vec<_> = rows.iter().filter(same).collect();
        assert_eq!(found.len(), 1, "{keys:?}: {found:?}");
        found[0]["value"].parse::<f64>().unwrap()
    };
    let ProbeResult::StagePatching(patching) = &all[3].result else { unreachable!() };
    let cell = [("probe", "stage_patching"), ("of", "mlp"), ("stage", "II"), ("setting", "mean")];
    // By replacement, component and stage: the second, third and second of three.
    let expected = patching.cells[9 + 6 + 1].ranks.beyond_1;
    assert_eq!(value(&[&cell[..], &[("metric", "beyond_1")]].concat()), expected);

    let ProbeResult::NeuronReads(reads) = &all[6].result else { unreachable!() };
    let keys =
        [("probe", "neuron_reads"), ("layer", "4"), ("source", "mlp"), ("source_layer", "3")];
    let share = reads.layers[4]
        .shares
        .iter()
        .find(|share| share.layer == Some(3) && share.source.to_string() == "mlp");
    assert_eq!(value(&keys), share.unwrap().share);
}

#[test]
fn keys_of_csv_are_unique_and_undefined_numbers_empty() {
    let all = records(24, 500);
    let rows = csv(&all);
    let keys: HashSet<Vec<(&String, &String)>> = rows
        .iter()
        .map(|row| {
            let mut keys: Vec<_> = row.iter().filter(|(name, _)| *name != "value").collect();
            keys.sort();
            keys
        })
        .collect();
    assert_eq!(keys.len(), rows.len());

    let none: Vec<Record> = all.iter().map(undefined).collect();
    let undefined = csv(&none);
    assert!(undefined.iter().filter(|row| row["metric"] == "share").all(|r| r["value"].is_empty()));
    assert!(undefined.iter().all(|row| row["value"] != "NaN"));
}

#[test]
fn charts_do_not_grow_with_depth_and_each_probe_is_one_section() {
    let charts = |depth| {
        let points = records(depth, 500).into_iter().flat_map(|record| points(&record));
        points.map(|point| point.chart).collect::<HashSet<String>>()
    };
    assert_eq!(charts(3), charts(24));
    assert!(charts(24).len() < 120, "{}", charts(24).len());
    for record in records(6, 500) {
        let section = format!("probe/{}/", record.result.probe());
        for point in points(&record) {
            assert!(point.chart.starts_with(&section), "{}", point.chart);
            assert_eq!(point.chart.matches('/').count(), 2, "{}", point.chart);
        }
    }
}

#[test]
fn points_hold_the_numbers_of_their_layer_or_stage_once() {
    for record in records(6, 500) {
        let points = points(&record);
        let places: HashSet<_> = points.iter().map(|point| (&point.chart, point.line)).collect();
        assert_eq!(places.len(), points.len(), "{}", record.result.probe());
    }
    let value = |probe, chart: &str, line| {
        let points = points(&record_of(probe, 6));
        let found = points.iter().find(|point| point.chart == chart && point.line == line);
        found.unwrap_or_else(|| panic!("no {chart} of {line:?} in {points:?}")).value
    };
    let record = record_of(Probe::LogitLens, 6);
    let ProbeResult::LogitLens(lens) = &record.result else { unreachable!() };
    let chart = "probe/logit_lens/residual_post_median_rank";
    let expected = lens.sites[5 * 4 + 2].ranks.median_rank;
    assert_eq!(value(Probe::LogitLens, chart, Line::Layer(4)), expected);
    let relative = "probe/circuit/paper_relative_hits@1";
    assert_eq!(value(Probe::Circuit, relative, Line::Model), 0.9);
    let chart =
        "probe/encoder_swap/runs_a-run-with-a-long-name_checkpoints_latest_held_out_swapped_mrr";
    assert_eq!(value(Probe::EncoderSwap, chart, Line::Model), 0.82);
}

#[test]
fn undefined_numbers_have_no_points() {
    for record in records(6, 500) {
        let points = points(&undefined(&record));
        assert!(points.iter().all(|point| point.value.is_finite()), "{points:?}");
    }
}

#[test]
fn histograms_count_the_queries() {
    let all: Vec<_> = records(24, 500).iter().flat_map(histograms).collect();
    assert_eq!(all.len(), 24 + 2 + 27);
    for histogram in all {
        let counted: u64 = histogram.buckets.iter().map(|bucket| bucket.1).sum();
        assert_eq!(counted, 100, "{}", histogram.chart);
    }
}

/// Checks that the text is well-formed XML: elements are nested, and names and attributes have no invalid characters.
fn assert_well_formed(svg: &str, name: &str) {
    let mut open: Vec<&str> = Vec::new();
    for part in svg.split('<').skip(1) {
        let (tag, _text) = part.split_once('>').unwrap_or_else(|| panic!("{name}: <{part}"));
        if let Some(ended) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(ended.trim()), "{name}");
        } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
            open.push(tag.split_whitespace().next().unwrap());
        }
        assert_eq!(tag.matches('"').count() % 2, 0, "{name}: <{tag}>");
    }
    assert!(open.is_empty() && svg.starts_with("<svg"), "{name}: {open:?}");
    let entities = ["&amp;", "&lt;", "&gt;", "&quot;", "&apos;"];
    for (place, _) in svg.match_indices('&') {
        assert!(entities.iter().any(|entity| svg[place..].starts_with(entity)), "{name}");
    }
    assert!(!svg.contains(|sign: char| sign.is_control() && sign != '\n'), "{name}");
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
}

fn draw(figures: &[Figure]) {
    for figure in figures {
        assert_well_formed(&figure.svg().unwrap(), figure.name());
        let image = figure.image().unwrap();
        assert_eq!(image.pixels.len(), 3 * (image.width * image.height) as usize);
        let colors: HashSet<&[u8]> = image.pixels.chunks(3).collect();
        assert!(colors.len() > 3, "{} is empty", figure.name());
    }
}

#[test]
fn every_probe_is_drawn_at_every_depth_with_and_without_a_history() {
    for depth in DEPTHS {
        let moments: Vec<Vec<Record>> = (0..5).map(|n| records(depth, 100 * n)).collect();
        for probe in 0..Probe::ALL.len() {
            let history: Vec<Record> = moments.iter().map(|moment| moment[probe].clone()).collect();
            let one = figures(&history[..1], &[]);
            let many = figures(&history, &[]);
            assert_eq!(one[0].name(), Probe::ALL[probe].to_string());
            assert_eq!(many.len(), one.len() + 1);
            assert!(many[one.len()].name().ends_with("_history"));
            draw(&many);
        }
    }
}

#[test]
fn figures_are_drawn_for_undefined_numbers_and_constant_histories() {
    for record in records(6, 0) {
        let none = undefined(&record);
        draw(&figures(std::slice::from_ref(&none), &[]));
        draw(&figures(&[none.clone(), record.clone(), none, record.clone()], &[]));
        draw(&figures(&[record.clone(), record], &[]));
    }
}

#[test]
fn figures_ignore_records_of_other_probes() {
    let all = records(3, 100);
    let names = |history: &[Record]| {
        figures(history, &[]).iter().map(|figure| figure.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&all), names(&all[8..]));
    assert!(figures(&[], &[]).is_empty());
}

#[test]
fn special_characters_in_names_do_not_break_figures() {
    let mut record = record_of(Probe::EncoderSwap, 3);
    record.measured_on.queries = "a<b>&\"c\"\u{1}".to_owned();
    let ProbeResult::EncoderSwap(result) = &mut record.result else { unreachable!() };
    result.swaps[0].encoder = "\u{7}<&>".repeat(30);
    draw(&figures(&[record.clone(), record], &[]));
}

#[test]
fn titles_of_ranks_name_the_candidate_set() {
    for vocabulary in [CandidateSet::All, CandidateSet::Docids] {
        let among = format!("among {}", describe_candidates(vocabulary));
        for mut record in records(6, 500) {
            record.measured_on.vocabulary = vocabulary;
            assert!(measured_on(&record).ends_with(&format!(", ranked {among}")));
            for table in &tables(&record) {
                let of_ranks = ["rank", "Rank", "on 1000 test queries", "Queries for documents"];
                if of_ranks.iter().any(|part| table.title.contains(part)) {
                    let in_all = table
                        .title
                        .starts_with("Logit lens: ranks of all docids and all text tokens");
                    assert!(in_all || table.title.contains(&among), "{}", table.title);
                }
            }
        }
        let mut record = record_of(Probe::DirectEffect, 6);
        record.measured_on.vocabulary = vocabulary;
        assert!(csv(&[record]).iter().all(|row| row["vocabulary"] == vocabulary.to_string()));
    }
}

#[test]
fn values_of_a_diverged_model_are_undefined_and_not_zero() {
    let mut record = record_of(Probe::AttentionReads, 6);
    let ProbeResult::AttentionReads(reads) = &mut record.result else { unreachable!() };
    reads.largest_deviation = Some(f64::NAN);
    // JSON has no NaN: the same is read as was written.
    let stored = serde_json::to_string(&record).unwrap();
    for record in [record, Record::parse(&stored, String::new).unwrap()] {
        assert!(text(&record).contains("; largest deviation -)"), "{}", text(&record));
        let rows = csv(&[record]);
        let row = rows.iter().find(|row| row["metric"] == "largest_deviation").unwrap();
        assert_eq!(row["value"], "");
    }
}

#[test]
fn skipped_steps_are_noted_on_the_history_figure() {
    let mut records: Vec<Record> =
        (1..4).map(|n| self::records(3, 100 * n).swap_remove(1)).collect();
    let skip = |step| Skipped::new(Probe::LogitLens, step, SkipReason::MaxShare, "slow".to_owned());
    let skipped: Vec<Skipped> = (5..15).map(|n| skip(10 * n)).collect();
    let others = [Skipped { probe: Probe::Circuit, ..skip(7) }];
    let note = "skipped at steps 50, 60, 70, 80, 90, 100, 110, 120 and 2 more (max_share)";
    let drawn = |records: &[Record], skipped: &[Skipped]| -> Vec<bool> {
        let figures = figures(records, skipped);
        // The note is wrapped: its lines are texts of their own.
        let words = |svg: &str| {
            let texts = svg.lines().filter(|line| !line.starts_with('<'));
            texts.collect::<Vec<_>>().join(" ").contains(note)
        };
        figures.iter().map(|figure| words(&figure.svg().unwrap())).collect()
    };
    assert_eq!(drawn(&records, &skipped), [false, true]);
    assert_eq!(drawn(&records, &others), [false, false]);
    records.truncate(1);
    assert_eq!(drawn(&records, &skipped), [true]);
}

#[test]
fn lines_of_skipped_probes_and_of_older_versions_are_read() {
    let home = tempfile::TempDir::new().unwrap();
    let file = home.path().join("logit_lens.jsonl");
    let record = record_of(Probe::LogitLens, 3);
    let measured = files::line(home.path(), &record).unwrap();
    let message = "none of 8 is correct".to_owned();
    let skipped = Skipped::new(Probe::LogitLens, 40, SkipReason::NoCorrectQuery, message);
    let not_measured = files::skipped_line(home.path(), &skipped).unwrap();
    assert_eq!((&measured.0, &not_measured.0), (&file, &file));
    std::fs::write(&file, [&*measured.1, &*not_measured.1, &*measured.1].concat()).unwrap();
    let stored = files::read_all(&file).unwrap();
    assert_eq!(stored.records, [record.clone(), record.clone()]);
    assert_eq!(stored.skipped, [skipped]);
    assert_eq!(files::read(&file).unwrap().len(), 2);
    assert_eq!(files::read_histories(home.path()).unwrap(), stored);
    let line: Value =
        serde_json::from_str(std::fs::read_to_string(&file).unwrap().lines().nth(1).unwrap())
            .unwrap();
    assert_eq!(line["probe"], "logit_lens");
    assert_eq!(line["skipped"]["step"], 40);
    assert_eq!(line["skipped"]["reason"], "no_correct_query");
    let refused = Record::parse(&line.to_string(), || "here".to_owned()).unwrap_err().to_string();
    assert!(refused.starts_with("here: a probe that was skipped at step 40"), "{refused}");

    // Files of older versions without the newer fields.
    for record in records(3, 100) {
        let mut old = serde_json::to_value(&record).unwrap();
        let result = old["result"].as_object_mut().unwrap();
        result.retain(|key, _| key != "average_first" && key != "encoder_norm");
        // Parsing may round the last digit of a number, in both alike.
        let new = serde_json::to_string(&record).unwrap();
        let read = |text: &str| Record::parse(text, String::new).unwrap();
        assert_eq!(read(&old.to_string()), read(&new));
    }
}

/// Not a test: writes all figures to the directory `FIGURES`, and a run with them for TensorBoard, for inspection.
#[test]
#[ignore = "writes figures for inspection"]
fn write_figures() {
    let directory = PathBuf::from(std::env::var_os("FIGURES").unwrap());
    for depth in DEPTHS {
        let moments: Vec<Vec<Record>> = (0..12).map(|n| records(depth, 100 * n + 50)).collect();
        let environment = Environment::capture("cpu");
        let run = directory.join(format!("run-{depth}"));
        let run = RunDirectory::create(&run, Overwrite::Replace, "", &environment).unwrap();
        let mut monitor = Monitor::open(&run, 1200, &Console::stderr(Verbosity::Quiet)).unwrap();
        for probe in 0..Probe::ALL.len() {
            let history: Vec<Record> = moments.iter().map(|moment| moment[probe].clone()).collect();
            for known in 1..=history.len() {
                let (newest, step) = (&history[known - 1], 100 * known as u64 - 50);
                monitor.points(step, 0.0, &points(newest));
                monitor.histograms(step, &histograms(newest));
                let figures = figures(&history[..known], &[]);
                let images: Vec<_> = figures.iter().map(|p| p.image().unwrap()).collect();
                monitor.images(step, &images);
            }
            for figure in figures(&history, &[]) {
                let path = directory.join(format!("{depth}-{}", figure.name()));
                std::fs::write(path.with_extension("svg"), figure.svg().unwrap()).unwrap();
            }
        }
        monitor.finish().unwrap();
    }
}
