//! `genir compare`: values and tests agree with ir_measures and scipy, seeds are averaged and never pooled, and runs that
//! cannot be compared are refused.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use genir::compare::{CompareOptions, Comparison, Difference, Pairs, compare, table};
use genir::corpus::Split;
use serde_json::Value;
use tempfile::TempDir;

use crate::interrupted_run::Home;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/comparison").join(name)
}

/// The comparison of the three systems of the fixtures.
fn of_fixtures(pairs: Pairs) -> Comparison {
    let inputs = ["one", "two", "three"].map(|name| (fixture(&format!("{name}.run")), None));
    let names = ["Success@1", "RR@10", "nDCG@10"];
    let options = CompareOptions {
        split: Split::Test,
        measures: names.map(|name| name.parse().unwrap()).to_vec(),
        qrels: Some(fixture("qrels")),
        levels: None,
        pairs,
    };
    compare(&inputs, &options).unwrap()
}

#[track_caller]
fn close(found: f64, expected: &Value, within: f64, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!((found - expected).abs() <= within, "{what}: {found}, not {expected}");
}

#[test]
fn pairs_with_the_first_arm_are_tested_alone_and_corrected_for_their_number() {
    let (all, first) = (of_fixtures(Pairs::All), of_fixtures(Pairs::First));
    let names = |found: &Comparison| -> Vec<(usize, usize)> {
        found.pairs.iter().map(|pair| (pair.first, pair.second)).collect()
    };
    assert_eq!(names(&all), [(0, 1), (0, 2), (1, 2)]);
    assert_eq!(names(&first), [(0, 1), (0, 2)]);
    for measure in 0..first.measures.len() {
        let p = [0, 1].map(|pair| first.pairs[pair].seeds[0].differences[measure].p);
        let corrected = [0, 1].map(|pair| first.pairs[pair].seeds[0].corrected[measure]);
        // Holm's method for two: the smaller p is doubled, and the larger one is no smaller than that.
        let least = (2.0 * p[0].min(p[1])).min(1.0);
        assert_eq!(corrected, p.map(|own| own.max(least)));
        assert_eq!(all.pairs[1].seeds[0].differences[measure].p, p[1], "the test is the same");
    }
}

#[test]
fn the_mean_of_a_run_has_the_interval_of_its_difference_from_zero() {
    let found = of_fixtures(Pairs::All);
    for run in found.arms.iter().map(|arm| &arm.runs[0]) {
        for (measure, values) in run.values.iter().enumerate() {
            let difference = Difference::of(&vec![0.0; values.len()], values);
            assert_eq!(run.intervals[measure], difference.interval);
            let [low, high] = run.intervals[measure];
            assert!(low < run.means[measure] && run.means[measure] < high);
        }
    }
    let [low, high] = found.arms[0].runs[0].intervals[0];
    let shown = format!("{:.4} [{low:.4}, {high:.4}]", found.arms[0].means[0]);
    assert!(table(&found).contains(&shown), "{shown}");
}

#[test]
fn values_intervals_and_p_values_are_those_of_ir_measures_and_scipy() {
    let text = fs::read_to_string(fixture("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let found = of_fixtures(Pairs::All);
    assert_eq!(found.queries, 60);
    for arm in &found.arms {
        for (measure, mean) in found.measures.iter().zip(&arm.means) {
            close(
                *mean,
                &expected["means"][&arm.name][measure],
                1e-12,
                &format!("{} {measure}", arm.name),
            );
        }
    }
    let mut compared = 0;
    for expected in expected["pairs"].as_array().unwrap() {
        let arm = |key: &str| {
            let name = expected[key].as_str().unwrap();
            found.arms.iter().position(|arm| arm.name == name).unwrap()
        };
        let (first, second) = (arm("first"), arm("second"));
        let measure = expected["measure"].as_str().unwrap();
        let measure = found.measures.iter().position(|name| name == measure).unwrap();
        let pair = found.pairs.iter().find(|pair| (pair.first, pair.second) == (first, second));
        let of_seed = &pair.unwrap().seeds[0];
        let difference = &of_seed.differences[measure];
        let what = expected.to_string();
        close(difference.mean, &expected["mean"], 1e-12, &what);
        close(difference.effect_size.unwrap(), &expected["effect_size"], 1e-12, &what);
        // Of 10,000 and 200,000 samples, and of 100,000 and a million assignments.
        close(difference.interval[0], &expected["interval"][0], 0.01, &what);
        close(difference.interval[1], &expected["interval"][1], 0.01, &what);
        close(difference.p, &expected["p"], 0.006, &what);
        close(of_seed.corrected[measure], &expected["holm"], 0.018, &what);
        let counts = [difference.wins, difference.ties, difference.losses];
        assert_eq!(serde_json::json!(counts), expected["counts"], "{what}");
        // Few enough for an exact test.
        let values = |arm: usize| &found.arms[arm].runs[0].values[measure][..10];
        let of_ten = Difference::of(values(first), values(second));
        close(of_ten.p, &expected["p_of_ten"], 1e-12, &what);
        compared += 1;
    }
    assert_eq!(compared, 9);
    assert_eq!(found, of_fixtures(Pairs::All), "the same inputs give the same numbers");
}

fn genir(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_genir")).args(arguments).output().unwrap()
}

#[track_caller]
fn succeeds(arguments: &[&str]) -> String {
    let output = genir(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(arguments: &[&str], parts: &[&str]) {
    let output = genir(arguments);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

/// Trains two arms with two seeds each; returns their paths.
fn four_runs(home: &TempDir) -> BTreeMap<&'static str, String> {
    let arms = [("full", "[\"full\"]"), ("restricted", "[\"restricted\"]")];
    let mut runs = BTreeMap::new();
    for (arm, select) in arms {
        for seed in [1, 2] {
            let name: &'static str = format!("{arm}-{seed}").leak();
            let path = home.path().join(name);
            let overrides = [format!("trainable.select={select}"), format!("run.seed={seed}")];
            Home::new(&path, &overrides.each_ref().map(String::as_str)).train();
            runs.insert(name, path.join("run").display().to_string());
        }
    }
    runs
}

/// The highest Hits@1 of a run's evaluations.
fn best_hits(run: &str) -> f64 {
    let text = fs::read_to_string(Path::new(run).join("metrics.jsonl")).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.filter_map(|line| line["validation/hits@1"].as_f64()).fold(0.0, f64::max)
}

#[test]
fn seeds_of_an_arm_are_averaged_and_compared_seed_by_seed() {
    let home = TempDir::new().unwrap();
    let runs = four_runs(&home);
    let paths: Vec<&str> = runs.values().map(String::as_str).collect();
    let json = succeeds(&[&["compare", "--format", "json"], &paths[..]].concat());
    let found: Value = serde_json::from_str(&json).unwrap();
    let arms = found["arms"].as_array().unwrap();
    assert_eq!([&arms[0]["name"], &arms[1]["name"]], ["full", "restricted"]);
    for (arm, name) in arms.iter().zip(["full", "restricted"]) {
        let mut sum = 0.0;
        for (run, seed) in arm["runs"].as_array().unwrap().iter().zip(["1", "2"]) {
            assert_eq!(run["seed"], seed);
            // The first measure is hits@1 of the last evaluation.
            let summary = Path::new(&runs[format!("{name}-{seed}").as_str()]).join("summary.json");
            let summary: Value =
                serde_json::from_str(&fs::read_to_string(summary).unwrap()).unwrap();
            let hits = summary["last"]["metrics"]["validation/hits@1"].as_f64().unwrap();
            assert_eq!(run["means"][0], hits, "{name} {seed}");
            assert_eq!(run["cost"]["trained_parameters"], summary["parameters"]["trained"]);
            sum += hits;
        }
        assert_eq!(arm["means"][0], sum / 2.0);
        assert!(arm["deviations"][0].is_number());
    }
    let seeds = found["pairs"][0]["seeds"].as_array().unwrap();
    let of_seeds: Vec<&Value> = seeds.iter().map(|seed| &seed["seed"]).collect();
    assert_eq!(of_seeds, ["1", "2"], "one test for each seed, and none over both");
    let keys: Vec<&String> = found["differing_keys"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["trainable.select"]);
    // Levels are shares of what the first arm reaches, over its seeds.
    let best = ["full-1", "full-2"].map(|name| best_hits(&runs[name]));
    for run in arms.iter().flat_map(|arm| arm["runs"].as_array().unwrap()) {
        for (level, share) in [0.5, 0.8, 0.9, 0.95].into_iter().enumerate() {
            let found = run["to_levels"][level]["level"].as_f64().unwrap();
            assert!((found - share * (best[0] + best[1]) / 2.0).abs() < 1e-12, "{best:?} {run}");
        }
    }

    // A TREC run is compared with each seed.
    let system = format!("other={}/retrieval/validation.run", runs["full-1"]);
    let json = succeeds(&[&["compare", "--format", "json"], &paths[..], &[&system]].concat());
    let found: Value = serde_json::from_str(&json).unwrap();
    let pairs = found["pairs"].as_array().unwrap();
    let counts: Vec<usize> =
        pairs.iter().map(|pair| pair["seeds"].as_array().unwrap().len()).collect();
    assert_eq!(counts, [2, 2, 2]);
    assert_eq!(pairs[1]["seeds"][0]["differences"][0]["mean"], 0.0, "the same ranking");
}

#[test]
fn energy_and_gpu_memory_are_shown_where_the_machine_has_measured_them() {
    let home = TempDir::new().unwrap();
    let runs = four_runs(&home);
    let paths: Vec<&str> = runs.values().map(String::as_str).collect();
    // What the machine of this test tells is replaced, and that of a GPU added.
    let measured = |processors: Value, gpu: Value, memory: Value| {
        for path in &paths {
            let file = Path::new(path).join("summary.json");
            let mut summary: Value =
                serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            summary["processor_joules"] = processors.clone();
            summary["gpu_joules"] = gpu.clone();
            summary["peak_gpu_memory_bytes"] = memory.clone();
            fs::write(&file, summary.to_string()).unwrap();
        }
        succeeds(&[&["compare"], &paths[..]].concat())
    };
    let (processors, gpu) = ("energy of the processors", "energy of the GPU");
    let both = measured(31_234.4.into(), 56_789.3.into(), (123_u64 << 20).into());
    let parts = ["peak GPU memory", processors, gpu, "123.0 MiB", "31234 J", "56789 J"];
    let places = parts.map(|part| both.find(part).unwrap());
    assert!(places.is_sorted(), "{both}");
    let one = measured(Value::Null, 56_789.3.into(), Value::Null);
    assert!(one.contains(gpu) && one.contains("56789 J") && !one.contains(processors), "{one}");
    let none = measured(Value::Null, Value::Null, Value::Null);
    assert!(!none.contains("energy") && !none.contains("GPU"), "{none}");
}

#[test]
fn a_comparison_is_printed_as_tables_csv_and_latex() {
    let home = TempDir::new().unwrap();
    let runs =
        ["one", "two", "three"].map(|name| fixture(&format!("{name}.run")).display().to_string());
    let qrels = fixture("qrels").display().to_string();
    let queries = home.path().join("queries.csv").display().to_string();
    let common = [
        "compare",
        &runs[0],
        &runs[1],
        &runs[2],
        "--qrels",
        &qrels,
        "--metrics",
        "Success@1 nDCG@10",
    ];
    let with = |more: &[&str]| succeeds(&[&common[..], more].concat());
    let table = with(&["--per-query", &queries]);
    for part in ["60 queries", "| one ", "95% interval", "Differences in nDCG@10", "Holm"] {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    let queries = fs::read_to_string(&queries).unwrap();
    assert_eq!(queries.lines().count(), 1 + 60 * 3);
    assert!(queries.starts_with("query,arm,seed,Success@1,nDCG@10\n"), "{queries:.60}");
    let csv = with(&["--format", "csv"]);
    assert_eq!(csv.lines().count(), 1 + 3 * 2);
    let latex = with(&["--format", "latex"]);
    // The third system is better than the first (a) and the second (b).
    let third = latex.lines().find(|line| line.starts_with("c & three")).unwrap();
    assert!(third.contains("$^{ab}$"), "{latex}");
    assert!(
        !latex.lines().any(|line| line.starts_with("b & two") && line.contains("$^")),
        "{latex}"
    );
}

#[test]
fn what_cannot_be_compared_is_refused_with_the_difference() {
    let home = TempDir::new().unwrap();
    let runs = four_runs(&home);
    let (full, restricted) = (runs["full-1"].as_str(), runs["restricted-1"].as_str());
    refused(&["compare", full, runs["full-2"].as_str()], &["nothing to compare", "seed"]);
    refused(&["compare", full, full, restricted], &["same recipe with the same seed"]);
    refused(
        &["compare", full, restricted, "--split", "test"],
        &["no rankings of the test queries", "genir eval", "--split test"],
    );
    refused(&["compare", full, "gone"], &["gone"]);
    let one = fixture("one.run").display().to_string();
    let two = fixture("two.run").display().to_string();
    refused(&["compare", &one, &two], &["--qrels FILE"]);
    refused(&["compare", full, &one], &["ranks none of the 8 judged queries"]);
    refused(
        &["compare", full, restricted, "--levels", "0.5,2"],
        &["--levels: 2 is not between 0 and 1"],
    );

    // Other queries, another candidate set.
    let changed = Path::new(restricted).join("retrieval/validation.qrels");
    let text = fs::read_to_string(&changed).unwrap();
    fs::write(&changed, text.lines().skip(1).collect::<Vec<_>>().join("\n")).unwrap();
    refused(
        &["compare", full, restricted],
        &["cannot be compared", "of 8 and 7 judged queries, 1"],
    );
    fs::write(&changed, text).unwrap();
    let recipe = Path::new(restricted).join("recipe.toml");
    let text = fs::read_to_string(&recipe).unwrap();
    fs::write(&recipe, text.replace("vocabulary = \"docids\"", "vocabulary = \"all\"")).unwrap();
    refused(
        &["compare", full, restricted],
        &["cannot be compared: evaluate.vocabulary is \"docids\" and \"all\""],
    );
    let twice = home.path().join("twice.run");
    fs::write(&twice, "q1 Q0 d1 1 0.5 x\nq1 Q0 d1 2 0.4 x\n").unwrap();
    let twice = twice.display().to_string();
    refused(&["compare", full, &twice], &["query `q1` has the document `d1` twice"]);
}

/// Trains an arm with probes; returns the run.
fn probed(home: &Path, name: &str, select: &str, more: &[&str]) -> PathBuf {
    let path = home.join(name);
    let select = format!("trainable.select=[\"{select}\"]");
    let probes = [
        "probes.run=[\"stage_patching\",\"residual_contribution\"]",
        "probes.over=all",
        "probes.vocabulary=docids",
        "probes.per_query=true",
        "probes.every_steps=15",
        "probes.split=train",
        // Some of the few queries are then correct in both runs.
        "optimizer.learning_rate=1e-2",
    ];
    let run = Home::new(&path, &[&[select.as_str()], &probes[..], more].concat());
    run.train();
    run.run()
}

/// The rank of each query in the last result of stage patching: without intervention, and with Stage III MLPs zeroed.
fn ranks(run: &Path) -> (Vec<f64>, Vec<f64>) {
    let text = fs::read_to_string(run.join("probes/stage_patching.jsonl")).unwrap();
    let record: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    let ranks = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{record}"));
    let queries = record["measured_on"]["measured_queries"].as_array().unwrap();
    let unpatched = queries.iter().map(|query| ranks(&query["ranks"][0])).collect();
    let cells = record["result"]["cells"].as_array().unwrap();
    let is_the_one = |cell: &&Value| {
        cell["component"] == "mlp" && cell["stage"] == "III" && cell["replacement"] == "zero"
    };
    let cell = cells.iter().find(is_the_one).unwrap();
    (unpatched, cell["ranks"].as_array().unwrap().iter().map(ranks).collect())
}

#[test]
fn probes_are_compared_at_the_same_step_and_over_the_same_queries() {
    let home = TempDir::new().unwrap();
    let full = probed(home.path(), "full", "full", &[]);
    // It ends later, so that the last step that both were measured at is not its last one.
    let restricted = probed(home.path(), "restricted", "restricted", &["train.steps=45"]);
    let arms = [
        format!("full={}", full.display()),
        format!("restricted={}", restricted.display()),
        format!("other={}", full.join("retrieval/validation.run").display()),
    ];
    let json = succeeds(&["compare", &arms[0], &arms[1], &arms[2], "--format", "json"]);
    let found: Value = serde_json::from_str(&json).unwrap();
    let names: Vec<&Value> =
        found["probes"].as_array().unwrap().iter().map(|probe| &probe["probe"]).collect();
    assert_eq!(names, ["residual_contribution", "stage_patching"]);
    let probe = &found["probes"][1];
    assert_eq!(probe["arms"], serde_json::json!([0, 1]), "another system has no probes");
    assert_eq!(probe["steps"], serde_json::json!([[30], [30]]));

    // The numbers are those that the runs have logged.
    let logged = fs::read_to_string(full.join("metrics.jsonl")).unwrap();
    let tag = "mlp_zero_beyond_1/stage_III";
    let value = logged.lines().rev().find_map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line[format!("probe/stage_patching/{tag}")].as_f64()
    });
    let quantities = probe["quantities"].as_array().unwrap();
    let quantity = quantities.iter().find(|quantity| quantity["name"] == tag).unwrap();
    assert_eq!(quantity["means"][0].as_f64(), Some(value.unwrap()));

    // Query by query, from the stored ranks. Those of the longer run end with step 45.
    let history = restricted.join("probes/stage_patching.jsonl");
    let text = fs::read_to_string(&history).unwrap();
    assert_eq!(text.lines().count(), 3, "measured at steps 15, 30 and 45");
    fs::write(&history, text.lines().take(2).map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    let ((one, one_patched), (other, other_patched)) = (ranks(&full), ranks(&restricted));
    let beyond = |ranks: &[f64], of: &[usize]| {
        of.iter().filter(|&&query| ranks[query] > 1.0).count() as f64 / of.len() as f64
    };
    let all: Vec<usize> = (0..one.len()).collect();
    let correct: Vec<usize> =
        all.iter().copied().filter(|&query| one[query] == 1.0 && other[query] == 1.0).collect();
    assert!(!correct.is_empty() && correct.len() < all.len(), "{one:?} {other:?}");
    let pairs = probe["pairs"].as_array().unwrap();
    let pair = pairs.iter().find(|pair| pair["of"] == "mlp III zero").unwrap();
    assert_eq!(pair["seed"], "3");
    for (name, queries) in [("all", &all), ("correct_in_both", &correct)] {
        let expected = beyond(&other_patched, queries) - beyond(&one_patched, queries);
        close(pair[name]["mean"].as_f64().unwrap(), &expected.into(), 1e-12, name);
        let counts = ["wins", "ties", "losses"].map(|count| pair[name][count].as_u64().unwrap());
        assert_eq!(counts.iter().sum::<u64>(), queries.len() as u64, "{name}");
    }
    let csv = home.path().join("probes.csv").display().to_string();
    let table = succeeds(&["compare", &arms[0], &arms[1], "--probes", &csv]);
    for part in [
        "Probe stage_patching (full: step 30",
        "correct in both",
        "mlp III zero",
        "equal in all arms",
    ] {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    let csv = fs::read_to_string(csv).unwrap();
    assert!(csv.starts_with("probe,quantity,arm,mean,standard_deviation\n"), "{csv:.80}");
    assert!(csv.contains(&format!("stage_patching,{tag},full,")));
}

#[test]
fn probes_that_are_missing_or_were_measured_in_another_way_are_said() {
    let home = TempDir::new().unwrap();
    let full = probed(home.path(), "full", "full", &["run.seed=1"]);
    let other = probed(home.path(), "other", "decoder", &["probes.vocabulary=all"]);
    fs::remove_file(other.join("probes/residual_contribution.jsonl")).unwrap();
    let [full, other] = [full, other].map(|run| run.display().to_string());
    let table = succeeds(&["compare", &full, &other]);
    for part in [
        "the results of stage_patching of `full` and `decoder` are not compared: vocabulary is docids and all",
        "`decoder` has no results of residual_contribution: `genir probe",
    ] {
        assert!(table.contains(part), "{part}:\n{table}");
    }
    // The command that the message names gives them.
    let probe = ["--probe", "residual_contribution", "--save", "--over", "all"];
    let probe = [&["probe", other.as_str()], &probe[..]].concat();
    succeeds(&probe);
    let table = succeeds(&["compare", &full, &other]);
    assert!(!table.contains("has no results of residual_contribution"), "{table}");
    let alone = home.path().join("alone").display().to_string();
    succeeds(&["export", &other, &alone]);
    refused(&["probe", &alone, "--save"], &["--save", "alone is not in a run"]);
    // Again, after a line that a killed run has not written to its end.
    let history = Path::new(&other).join("probes/residual_contribution.jsonl");
    let first = fs::read_to_string(&history).unwrap();
    fs::write(&history, format!("{first}{{\"schema\"")).unwrap();
    succeeds(&probe);
    let both = fs::read_to_string(&history).unwrap();
    assert!(both.starts_with(&first) && both.lines().count() == 2, "{both}");
    assert!(both.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{both}");
    fs::write(&history, &first).unwrap();

    let history = Path::new(&full).join("probes/stage_patching.jsonl");
    fs::write(&history, "{}\n").unwrap();
    refused(&["compare", &full, &other], &["stage_patching.jsonl, line 1"]);
}
