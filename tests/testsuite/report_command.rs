//! `genir report`: one page of runs, whole without anything from outside of it, whatever the runs contain.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use genir::probe::Probe;
use tempfile::TempDir;

use crate::command::{assert_says, is_refused, succeeds, text};
use crate::interrupted_run::Home;
use crate::probe_records;

/// A trained run of the tiny corpus.
fn trained(home: &TempDir, name: &str, overrides: &[&str]) -> PathBuf {
    let of_run = Home::new(&home.path().join(name), overrides);
    of_run.train();
    of_run.run()
}

/// Two arms, with results of all probes at two steps.
fn two_arms(home: &TempDir) -> [PathBuf; 2] {
    let arms = [("full", "[\"full\"]"), ("restricted", "[\"restricted\", \"docids\"]")];
    arms.map(|(name, select)| {
        let evaluated = "evaluate.every_steps=10";
        let run = trained(home, name, &[&format!("trainable.select={select}"), evaluated]);
        write_probes(&run);
        // So short a training logs no throughput.
        let metrics = run.join("metrics.jsonl");
        let lines = fs::read_to_string(&metrics).unwrap();
        let line = r#"{"step":30,"epoch":1.0,"wall_time":1.0,"time/examples_per_second":500.0}"#;
        fs::write(&metrics, format!("{lines}{line}\n")).unwrap();
        run
    })
}

fn write_probes(run: &Path) {
    fs::create_dir_all(run.join("probes")).unwrap();
    for (index, probe) in Probe::ALL.iter().enumerate() {
        let lines = [10, 30].map(|step| {
            let record = &probe_records::records(3, step)[index];
            serde_json::to_string(record).unwrap() + "\n"
        });
        fs::write(run.join(format!("probes/{probe}.jsonl")), lines.concat()).unwrap();
    }
}

/// Runs the command; returns the page and what was said.
#[track_caller]
fn report(home: &TempDir, arguments: &[&str]) -> (String, String) {
    let output = text(home.path().join("report.html"));
    let done = succeeds(&[&["report", "--output", &output], arguments].concat());
    (fs::read_to_string(&output).unwrap(), done.stderr)
}

/// Returns the section with an id.
#[track_caller]
fn section<'a>(page: &'a str, id: &str) -> &'a str {
    let start =
        page.find(&format!("<section id=\"{id}\"")).unwrap_or_else(|| panic!("no section {id}"));
    let rest = &page[start..];
    let end = rest[1..].find("<section id=").map_or(rest.len(), |end| end + 1);
    &rest[..end]
}

#[test]
fn a_page_of_two_arms_has_the_answer_the_comparison_and_every_figure() {
    let home = TempDir::new().unwrap();
    let [full, restricted] = two_arms(&home).map(text);
    let figures = text(home.path().join("figures"));
    let (page, said) =
        report(&home, &[&full, &restricted, "--figures", &figures, "--figure-format", "svg,pdf"]);
    assert_eq!(said, "");
    assert!(page.len() < 3_000_000, "{} bytes", page.len());

    let answer = section(&page, "answer");
    let parts = ["Hits@1", "Training time", "Peak memory", "Trained parameters", "Optimizer state"];
    assert_says(answer, &parts);
    assert_says(section(&page, "comparison"), &["95% interval", "Holm", "wins", "ties", "losses"]);
    assert_says(section(&page, "setup"), &["trainable.select", "git revision", "processor"]);
    let named = |name: &str| page.matches(&format!("data-figure=\"{name}\"")).count();
    for name in ["training_over_steps", "training_over_seconds", "differences"] {
        assert_eq!(named(name), 1, "{name}");
    }
    assert_eq!(named("trained_components"), 2, "one for each arm");
    for probe in Probe::ALL {
        for name in [probe.name().to_owned(), format!("{probe}_history")] {
            assert_eq!(named(&name), 2, "{name}: one for each arm");
        }
    }
    let training = section(&page, "training");
    let curves = ["Training loss", "Hits@1 (", "Learning rate", "Throughput"];
    for curve in curves {
        assert_eq!(training.matches(&format!("panel-title\">{curve}")).count(), 2, "{curve}");
    }
    // The paper's Table 3 beside that of the runs.
    assert_says(
        section(&page, "probes"),
        &["92.9 / 7.8 / 96.7", "Table 4 of the paper", "Table 5"],
    );

    for name in ["differences.svg", "training_over_steps.svg", "full/logit_lens.svg"] {
        let svg = fs::read_to_string(home.path().join("figures").join(name)).unwrap();
        assert_says(&svg, &["width=\"504.00pt\"", "viewBox"]);
        let pdf = home.path().join("figures").join(name).with_extension("pdf");
        assert!(fs::read(pdf).unwrap().starts_with(b"%PDF-"));
    }
    // The page is no figure.
    let page = home.path().join("figures/differences.svg");
    fs::remove_file(&page).unwrap();
    let arguments =
        ["report", &full, &restricted, "--figures", &figures, "--output", &text(page.clone())];
    is_refused(&arguments, &["--output is the same file"]);
    assert!(!page.exists());
}

#[test]
fn the_time_to_a_level_is_that_of_the_first_arm_and_others_that_reach_it() {
    let home = TempDir::new().unwrap();
    let with_hits = |name: &str, select: &str, seed: u64, best: f64| {
        let select = format!("trainable.select=[\"{select}\", \"docids\"]");
        let seed = format!("run.seed={seed}");
        let run = trained(&home, name, &[&select, &seed, "evaluate.every_steps=10"]);
        let metrics = run.join("metrics.jsonl");
        let mut lines = String::new();
        for line in fs::read_to_string(&metrics).unwrap().lines() {
            let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
            let step = line["step"].as_f64().unwrap();
            if let Some(hits) = line.get_mut("validation/hits@1") {
                *hits = (best * step / 30.0).into();
            }
            lines += &format!("{line}\n");
        }
        fs::write(&metrics, lines).unwrap();
        text(run)
    };
    let first = with_hits("first", "full", 1, 0.6);
    let as_good = with_hits("as-good", "decoder", 1, 0.6);
    let worse = with_hits("worse", "restricted", 1, 0.2);
    let answer = |arguments: &[&str]| {
        let (page, _) = report(&home, arguments);
        section(&page, "answer").to_owned()
    };
    let of_all = answer(&[&first, &as_good]);
    assert_says(&of_all, &["Time to Hits@1 = 0.570"]);
    assert!(!of_all.contains("not reached"));
    // The level is one that two of them reach; of the other, the page says so. Another system is not trained.
    let system = home.path().join("system.run");
    fs::copy(Path::new(&first).join("retrieval/validation.run"), &system).unwrap();
    let of_some = answer(&[&first, &as_good, &worse, &format!("system={}", text(system))]);
    assert_says(&of_some, &["Time to Hits@1 = 0.570"]);
    assert_eq!(of_some.matches("not reached").count(), 1);
    // One seed of two.
    let again = with_hits("again", "decoder", 2, 0.6);
    let other = with_hits("other", "full", 2, 0.2);
    let seeds = [format!("seeds={first}"), format!("seeds={other}")];
    let of_seeds =
        answer(&[&format!("good={as_good}"), &format!("again={again}"), &seeds[0], &seeds[1]]);
    assert_says(&of_seeds, &["by 1 of 2 seeds"]);
    // No other arm reaches any of the levels.
    assert!(!answer(&[&first, &worse]).contains("Time to Hits@1"));
}

#[test]
fn the_map_shows_which_components_are_trained() {
    let home = TempDir::new().unwrap();
    let run = text(trained(&home, "one", &["trainable.select=[\"restricted\", \"docids\"]"]));
    let (page, _) = report(&home, &[&run]);
    let model = section(&page, "model");
    let cell = |row: &str, state: &str| {
        let (layer, component) = row.split_once(' ').unwrap();
        let tip = format!("data-tip=\"decoder layer {layer} \u{b7} {component} \u{b7} {state}\"");
        assert!(model.contains(&tip), "{tip}");
    };
    for (row, state) in [
        ("0 cross-attention", "frozen"),
        ("1 cross-attention", "trained"),
        ("2 cross-attention", "trained"),
        ("1 MLP", "frozen"),
        ("2 MLP", "trained"),
        ("2 self-attention", "frozen"),
    ] {
        cell(row, state);
    }
    assert_says(model, &["Stage", "trained: the docid rows; frozen:"]);
}

#[test]
fn the_same_runs_give_the_same_page() {
    let home = TempDir::new().unwrap();
    let [full, restricted] = two_arms(&home).map(text);
    let pages = [(); 2].map(|()| report(&home, &[&full, &restricted]).0);
    assert!(pages[0] == pages[1]);
}

#[test]
fn nothing_from_a_run_becomes_markup_and_nothing_is_loaded() {
    let home = TempDir::new().unwrap();
    let run = trained(&home, "one", &[]);
    write_probes(&run);
    let hostile = "</style></script><script>alert(1)</script>\u{202e}&\"'";
    let ranked = run.join("retrieval/validation.run");
    let lines = fs::read_to_string(&ranked).unwrap();
    fs::write(&ranked, lines.replace(" lima ", &format!(" {hostile} "))).unwrap();
    let recipe = run.join("recipe.toml");
    let lines = fs::read_to_string(&recipe).unwrap();
    fs::write(&recipe, format!("{lines}\n# </pre>{hostile}\n")).unwrap();
    let probes = run.join("probes/attention_writes.jsonl");
    let lines = fs::read_to_string(&probes).unwrap();
    fs::write(&probes, lines.replace("runs/a", "<img src=x onerror=alert(1)>")).unwrap();
    let arm = format!("<iframe srcdoc>={}", text(run));
    let (page, _) = report(&home, &[&arm]);
    assert_eq!(page.matches("<script>").count(), 1, "the page's own");
    assert_eq!(page.matches("<style>").count(), 1);
    assert!(!page.contains("<img"));
    assert!(!page.contains('\u{202e}'));
    assert_says(&page, &["&lt;script&gt;alert(1)&lt;/script&gt;\\u{202e}&amp;&quot;&#39;"]);
    assert_says(&page, &["&lt;iframe srcdoc&gt;"]);
    for loads in ["http://", "https://", "src=\"", "@import", "url("] {
        assert!(!page.contains(loads), "{loads}");
    }
    assert_says(&page, &["Content-Security-Policy", "default-src 'none'"]);
}

#[test]
fn an_unfinished_run_is_shown_and_said_to_be_unfinished() {
    let home = TempDir::new().unwrap();
    let run = trained(&home, "one", &["evaluate.every_steps=10"]);
    // As if it were still being trained, its last line written in part.
    fs::remove_file(run.join("summary.json")).unwrap();
    let metrics = run.join("metrics.jsonl");
    let lines = fs::read_to_string(&metrics).unwrap();
    fs::write(&metrics, format!("{lines}{{\"step\": 31, \"epo")).unwrap();
    let (page, said) = report(&home, &[&text(run.clone())]);
    assert_says(&page, &["Unfinished: run has not ended", "last entry is of step 30"]);
    assert_says(&said, &["run has not ended"]);
    assert!(!page.contains("could not be read"), "a line that is being written is no damage");

    // Before its first checkpoint and its first evaluation.
    fs::remove_dir_all(run.join("checkpoints")).unwrap();
    fs::remove_dir_all(run.join("retrieval")).unwrap();
    let (page, _) = report(&home, &[&text(run)]);
    assert_says(section(&page, "model"), &["made from a checkpoint"]);
    assert_says(section(&page, "queries"), &["No run has stored rankings"]);
}

#[test]
fn damaged_lines_are_named_and_the_rest_is_shown() {
    let home = TempDir::new().unwrap();
    let run = trained(&home, "one", &[]);
    write_probes(&run);
    let damage = |file: &str, line: usize| {
        let path = run.join(file);
        let text = fs::read_to_string(&path).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines[line - 1] = "{\"step\": ";
        fs::write(&path, lines.join("\n") + "\n").unwrap();
    };
    damage("metrics.jsonl", 5);
    damage("probes/logit_lens.jsonl", 1);
    fs::write(run.join("summary.json"), "[]").unwrap();
    let (page, said) = report(&home, &[&text(run.clone())]);
    for of in [&page, &said] {
        assert_says(of, &["metrics.jsonl, line 5: ", "logit_lens.jsonl, line 1: ", "summary.json"]);
    }
    assert_says(&page, &["data-figure=\"training_over_steps\"", "data-figure=\"logit_lens\""]);
}

#[test]
fn runs_that_cannot_be_compared_stand_beside_each_other_with_the_reason() {
    let home = TempDir::new().unwrap();
    let one = text(trained(&home, "one", &[]));
    let other = text(trained(&home, "other", &["evaluate.vocabulary=all", "train.steps=20"]));
    let (page, said) = report(&home, &[&one, &other]);
    let reason = "evaluate.vocabulary is";
    assert_says(section(&page, "comparison"), &["not compared", reason]);
    assert_says(&said, &[reason]);
    assert!(!page.contains("data-figure=\"differences\""));
    // Both are named `run`.
    assert_says(section(&page, "answer"), &[&one, &other]);
}

#[test]
fn seeds_of_an_arm_are_its_mean_with_a_band() {
    let home = TempDir::new().unwrap();
    let seeds = ["4", "5"].map(|seed| {
        let run = trained(&home, seed, &[&format!("run.seed={seed}")]);
        write_probes(&run);
        text(run)
    });
    let restricted = trained(&home, "arm", &["run.seed=4", "trainable.select=[\"decoder\"]"]);
    write_probes(&restricted);
    // The seeds of one arm alone are an arm, too.
    for (inputs, is_compared) in
        [(vec![&seeds[0], &seeds[1]], false), (vec![&seeds[0], &seeds[1], &text(restricted)], true)]
    {
        let inputs: Vec<&str> = inputs.into_iter().map(String::as_str).collect();
        let (page, _) = report(&home, &inputs);
        let training = section(&page, "training");
        assert_says(training, &["full (seeds 4, 5)", "full (seeds 4, 5)", "Means over 2 seeds"]);
        assert_says(training, &["class=\"spread\"", "<th scope=\"col\" class=\"n\">full</th>"]);
        assert!(!training.contains("class=\"n\">full, seed 4<"), "the seeds are one line");
        let probes = section(&page, "probes");
        let (_, lens) = probes.split_once("data-figure=\"logit_lens\"").unwrap();
        let (lens, _) = lens.split_once("</figure>").unwrap();
        assert_says(lens, &["full (seeds 4, 5)", "Means over 2 seeds", "class=\"error-bar\""]);
        let arms = if is_compared { 2 } else { 1 };
        assert_eq!(page.matches("data-figure=\"logit_lens\"").count(), arms, "one for each arm");
        assert_eq!(page.contains("<section id=\"comparison\""), is_compared);
    }
}

#[test]
fn missing_probes_are_named_with_the_command_and_read_from_a_file() {
    let home = TempDir::new().unwrap();
    let run = text(trained(&home, "one", &[]));
    let (page, _) = report(&home, &[&run]);
    let command = format!("genir probe {run} --probe residual_contribution,");
    assert_says(section(&page, "probes"), &["no probes", &command, "--save"]);

    let probes = text(home.path().join("probes.json"));
    let over = ["--over", "all", "--format", "json", "--output", &probes];
    succeeds(&[&["probe", &run, "--probe", "logit_lens"], &over[..]].concat());
    let (page, _) = report(&home, &[&run, "--probes", &probes]);
    assert_says(
        section(&page, "probes"),
        &["data-figure=\"logit_lens\"", "no residual_contribution"],
    );

    let other = text(trained(&home, "other", &[]));
    is_refused(
        &["report", &other, "--probes", &probes],
        &["probes.json", &run, "none of the runs"],
    );
}

/// Inspects a query of a run; returns the file.
fn inspected(home: &TempDir, run: &str, query: &str) -> String {
    let file = text(home.path().join(format!("{query}.json")));
    succeeds(&["inspect", run, "--query-id", query, "--json", &file]);
    file
}

#[test]
fn inspected_queries_show_the_attention_of_each_head_and_without_any_the_command_is_named() {
    let home = TempDir::new().unwrap();
    let run = text(trained(&home, "one", &[]));
    let (page, _) = report(&home, &[&run]);
    let query = "genir inspect ";
    assert_says(section(&page, "queries"), &[query, " --query-id val-", "--inspect query.json"]);

    let files = ["val-0", "test-3"].map(|query| inspected(&home, &run, query));
    let (page, _) = report(&home, &[&run, "--inspect", &files[0], "--inspect", &files[1]]);
    let queries = section(&page, "queries");
    assert_says(queries, &["tell me about Iron is a metal", "validation query val-0", "test-3"]);
    assert!(!queries.contains(query));
    for name in ["attention_over_layers", "attention_over_heads", "inspected_lens"] {
        assert_eq!(queries.matches(&format!("data-figure=\"{name}\"")).count(), 2, "{name}");
    }
    assert_eq!(queries.matches("panel-title\">Decoder layer ").count(), 2 * 3);

    let other = text(trained(&home, "other", &[]));
    let parts = ["val-0.json", &run, "none of the runs"];
    is_refused(&["report", &other, "--inspect", &files[0]], &parts);
    let whole = fs::read_to_string(&files[0]).unwrap();
    for (found, part) in [
        ("{}".to_owned(), "no `schema`"),
        (whole.replacen("\"schema\":1", "\"schema\":9", 1), "schema 9"),
        (whole.replacen("\"</s>\"", "\"</s>\",\"more\"", 1), "attention weights of a head for"),
        (whole.replacen("\"layer\":0", "\"layer\":999999", 1), "layer 999999"),
        (whole[..200].to_owned(), "EOF"),
    ] {
        fs::write(&files[0], found).unwrap();
        is_refused(
            &["report", &run, "--inspect", &files[0]],
            &["val-0.json", part, "expected what `genir inspect --json` writes"],
        );
    }
    let missing = ["report", &run, "--inspect", "gone.json"];
    is_refused(&missing, &["gone.json"]);
}

#[test]
fn inputs_that_are_no_runs_are_refused_together_and_nothing_is_written() {
    let home = TempDir::new().unwrap();
    let output = text(home.path().join("report.html"));
    let empty = text(home.path().to_path_buf());
    let file = home.path().join("file");
    fs::write(&file, "no run\n").unwrap();
    let inputs = [&empty, &text(file.clone()), "gone"];
    is_refused(
        &["report", "--output", &output, inputs[0], inputs[1], inputs[2]],
        &["environment.json is missing", "file", "gone"],
    );
    fs::write(&file, "q Q0 d 1 0.5 tag\n").unwrap();
    is_refused(&["report", "--output", &output, inputs[1]], &["none of the inputs is a run"]);
    assert!(!home.path().join("report.html").exists());
    let run = trained(&home, "one", &[]);
    let own = text(run.join("recipe.toml"));
    is_refused(&["report", &text(run), "--output", &own], &["choose another path"]);
}

/// The browser, if there is one.
fn chromium() -> Option<String> {
    let name = std::env::var("GENIR_CHROMIUM").unwrap_or("chromium".to_owned());
    let found = Command::new(&name).arg("--version").output();
    found.is_ok_and(|output| output.status.success()).then_some(name)
}

/// Reports errors of scripts from the first one on.
const WATCH: &str = "<head><script>window.found = []; \
    window.onerror = (message) => { found.push('error: ' + message); }; \
    console.error = (...all) => { found.push('console: ' + all.join(' ')); };</script>";

/// Opens everything, points at each figure, and writes what was found.
const CHECK: &str = "<script>(async () => { \
    for (const part of document.querySelectorAll('details')) part.open = true; \
    let shown = 0; \
    for (const chart of document.querySelectorAll('.chart')) { \
        chart.dispatchEvent(new KeyboardEvent('keydown', { key: 'ArrowRight' })); \
        const tip = document.getElementById('tip'); \
        if (!tip.hidden && tip.textContent) shown += 1; \
        else found.push('no value is shown: ' + chart.getAttribute('aria-label')); \
        chart.dispatchEvent(new Event('blur')); \
    } \
    if (document.documentElement.scrollWidth > window.innerWidth) found.push('the page is wider than its window'); \
    if (window.axe) for (const found_by of (await axe.run()).violations) \
        found.push('axe: ' + found_by.id + ': ' + found_by.nodes[0].html); \
    const result = document.createElement('pre'); \
    result.textContent = 'RESULT ' + shown + ' figures, problems: ' + JSON.stringify(found); \
    document.body.append(result); \
    })();</script></body>";

#[test]
fn a_browser_shows_the_page_without_errors_and_axe_finds_no_violation() {
    let Some(chromium) = chromium() else {
        eprintln!("skipped: no chromium (GENIR_CHROMIUM)");
        return;
    };
    let axe = match std::env::var("GENIR_AXE") {
        Ok(path) => format!("<script>{}</script>", fs::read_to_string(path).unwrap()),
        Err(_) => {
            eprintln!("skipped: axe-core (GENIR_AXE)");
            String::new()
        }
    };
    let home = TempDir::new().unwrap();
    let [full, restricted] = two_arms(&home).map(text);
    let query = inspected(&home, &full, "val-0");
    let (page, _) = report(&home, &[&full, &restricted, "--inspect", &query]);
    assert!(page.matches("class=\"chart\"").count() > 60);
    let alone = text(home.path().join("query.html"));
    succeeds(&["inspect", &full, "--query-id", "test-3", "--html", &alone]);
    for page in [page, fs::read_to_string(alone).unwrap()] {
        is_fine_in_a_browser(&chromium, &axe, home.path(), &page);
    }
}

/// Opens a page wide and light, then narrow and dark.
#[track_caller]
fn is_fine_in_a_browser(chromium: &str, axe: &str, home: &Path, page: &str) {
    let figures = page.matches("class=\"chart\"").count();
    assert!(figures > 5, "{figures}");
    for theme in ["light", "dark"] {
        let themed = format!("<html lang=\"en\" data-theme=\"{theme}\">");
        let page = page
            .replace("<html lang=\"en\">", &themed)
            .replacen("<head>", WATCH, 1)
            .replacen("</body>", &format!("{axe}{CHECK}"), 1);
        let copy = home.join(format!("{theme}.html"));
        fs::write(&copy, page).unwrap();
        let profile = format!("--user-data-dir={}", home.join("profile").display());
        let width = if theme == "light" { "1280" } else { "400" };
        let output = Command::new(chromium)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000"])
            .args([&profile, &format!("--window-size={width},2000"), "--dump-dom"])
            .arg(format!("file://{}", copy.display()))
            .output()
            .unwrap();
        let dom = String::from_utf8_lossy(&output.stdout);
        let expected = format!("RESULT {figures} figures, problems: []");
        let found = dom.rfind("<pre>RESULT ").map_or("no result", |place| &dom[place..]);
        assert!(found.contains(&expected), "{theme}: {found:.2000}");
    }
}
