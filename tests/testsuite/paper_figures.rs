//! Figures for a paper: several runs in one figure, means over seeds, widths, legends, and how many queries a value is of.

use std::fs;
use std::path::{Path, PathBuf};

use genir::probe::{Probe, ProbeResult, Record};
use genir::report::figures;
use tempfile::TempDir;

use crate::command::{assert_says, genir_with_input, is_refused, succeeds, text};
use crate::interrupted_run::Home;
use crate::probe_records::records;

/// Returns the texts of a drawing in their order.
fn texts(svg: &str) -> Vec<String> {
    let parts = svg.split("<text").skip(1).filter_map(|part| part.split_once('>'));
    let inner = parts.filter_map(|(_, rest)| rest.split_once("</text>"));
    inner.map(|(text, _)| text.trim().replace("&quot;", "\"").replace("&gt;", ">")).collect()
}

/// Returns all texts of a drawing as one: titles and notes are wrapped.
fn words(svg: &str) -> String {
    texts(svg).join(" ")
}

#[track_caller]
fn place(all: &[String], text: &str) -> usize {
    all.iter().position(|other| other == text).unwrap_or_else(|| panic!("no {text:?} in {all:?}"))
}

fn attribute(part: &str, name: &str) -> f64 {
    let (_, rest) = part.split_once(&format!(" {name}=\"")).unwrap();
    rest.split_once('"').unwrap().0.trim_end_matches("pt").parse().unwrap()
}

/// Writes results of all probes as a file for `genir plot`; `change` may change them.
fn results(home: &TempDir, name: &str, steps: &[u64], change: impl Fn(&mut Record)) -> String {
    let path = home.path().join(format!("{name}.jsonl"));
    let mut lines = String::new();
    for mut record in steps.iter().flat_map(|&step| records(6, step)) {
        change(&mut record);
        lines += &(serde_json::to_string(&record).unwrap() + "\n");
    }
    fs::write(&path, lines).unwrap();
    text(path)
}

fn plot(home: &TempDir, arguments: &[&str]) -> (PathBuf, String) {
    let output = home.path().join("figures");
    let _ = fs::remove_dir_all(&output);
    let done = succeeds(&[&["plot", "--output", &text(output.clone())], arguments].concat());
    (output, done.stderr)
}

fn read(directory: &Path, name: &str) -> String {
    fs::read_to_string(directory.join(format!("{name}.svg"))).unwrap()
}

#[test]
fn several_runs_are_drawn_into_one_figure_at_the_last_step_that_all_have() {
    let home = TempDir::new().unwrap();
    let full = results(&home, "full", &[1010, 1030, 1050], |_| {});
    let restricted = results(&home, "restricted", &[1010, 1030], |_| {});
    let (figures, said) = plot(&home, &[&full, &restricted]);
    assert_eq!(said, "");
    assert!(fs::read_dir(&figures).unwrap().all(|entry| entry.unwrap().path().is_file()));

    // Few lines: one panel, each run with its dashes.
    let svg = read(&figures, "residual_contribution");
    assert_says(&words(&svg), &["full: step 1030, ", "restricted: step 1030, "]);
    assert!(!words(&svg).contains("step 1050"));
    let all = texts(&svg);
    for (name, count) in [("cross-attention", 3), ("full", 3), ("restricted", 3)] {
        assert_eq!(all.iter().filter(|text| *text == name).count(), count, "{name}: once a panel");
    }

    // Others stand beside each other, with the same axes: twice the panels of one run.
    for (name, title) in [
        ("logit_lens", "Median rank of the relevant docid"),
        ("stage_patching", "mean ablation"),
        ("direct_effect", "Distribution of ranks"),
        ("logit_lens_history", "Median rank (logarithmic colours)"),
    ] {
        let words = words(&read(&figures, name));
        assert_says(&words, &[&format!("full: {title}"), &format!("restricted: {title}")]);
    }
    let history = texts(&read(&figures, "logit_lens_history"));
    let steps = history.iter().filter(|text| ["1010", "1030", "1050"].contains(&text.as_str()));
    assert_eq!(steps.collect::<Vec<_>>(), ["1010", "1030", "1010", "1030"], "{history:?}");
}

#[test]
fn runs_without_a_common_step_or_with_other_settings_are_named() {
    let home = TempDir::new().unwrap();
    let full = results(&home, "full", &[10], |_| {});
    let later = results(&home, "later", &[20], |_| {});
    let (figures, said) = plot(&home, &[&full, &later]);
    assert_says(&said, &["logit_lens: full, later were not measured at the same step"]);
    assert_says(&words(&read(&figures, "logit_lens")), &["step 10", "step 20"]);

    let other = |record: &mut Record| {
        if record.result.probe() != Probe::Circuit {
            record.measured_on.queries = "test".to_owned();
        }
    };
    let other = results(&home, "other", &[10], other);
    let (figures, said) = plot(&home, &[&full, &other]);
    assert_says(
        &said,
        &["logit_lens of `full` and `other` are not drawn: queries is validation and test"],
    );
    assert!(!figures.join("logit_lens.svg").exists() && figures.join("circuit.svg").exists());

    let lens = |record: &Record| record.result.probe() == Probe::LogitLens;
    let lines: Vec<String> = records(6, 10)
        .iter()
        .filter(|record| lens(record))
        .map(|record| serde_json::to_string(record).unwrap() + "\n")
        .collect();
    let few = home.path().join("few.jsonl");
    fs::write(&few, lines.concat()).unwrap();
    let (_, said) = plot(&home, &[&full, &text(few.clone())]);
    assert_says(&said, &["`few` has no results of circuit"]);
    is_refused(
        &["plot", &text(few), "--figure", "circuit", "-o", &text(home.path().join("x"))],
        &["circuit"],
    );
}

#[test]
fn seeds_of_an_arm_are_drawn_as_their_mean_with_the_standard_deviation() {
    let home = TempDir::new().unwrap();
    let seed = |name: &str, value: f64| {
        results(&home, name, &[10], |record| {
            if let ProbeResult::DirectEffect(found) = &mut record.result {
                found.effects.iter_mut().for_each(|effect| effect.ranks.beyond_1 = value);
            }
        })
    };
    let [one, other] = [("one", 10.0), ("other", 17.0)].map(|(name, value)| seed(name, value));
    let arms = [format!("full={one}"), format!("full={other}")];
    let (figures, _) = plot(&home, &[&arms[0], &arms[1]]);
    let svg = read(&figures, "direct_effect");
    let all = texts(&svg);
    place(&all, "13.5");
    assert_says(&words(&svg), &["full (2 seeds)", "Means over 2 seeds", "one standard deviation"]);

    // The error bar: its ends are as far from the end of the bar as 4.95% are on the axis.
    let y = |text: &str| {
        let tick = svg.split("<text").find(|part| part.contains(&format!(">\n{text}\n")));
        attribute(tick.unwrap(), "y")
    };
    let pixels = (y("0") - y("100")).abs() / 100.0;
    let lines = svg.split("<polyline").skip(1).filter(|part| part.contains("stroke-width=\"2\""));
    let heights: Vec<f64> = lines
        .filter_map(|part| {
            let points = part.split_once("points=\"")?.1.split_once('"')?.0;
            let of = |point: &str| -> Option<(f64, f64)> {
                let (x, y) = point.split_once(',')?;
                Some((x.parse().ok()?, y.parse().ok()?))
            };
            let points: Vec<(f64, f64)> = points.split_whitespace().filter_map(of).collect();
            (points[0].0 == points[1].0).then(|| (points[0].1 - points[1].1).abs())
        })
        .collect();
    let expected = 2.0 * 24.5f64.sqrt() * pixels;
    assert!(
        heights.iter().any(|height| (height - expected).abs() <= 2.0),
        "{heights:?}, {expected}"
    );

    let (figures, _) = plot(&home, &[&one]);
    assert!(
        !read(&figures, "direct_effect").contains("stroke-width=\"2\""),
        "no error bar of one run"
    );
}

#[test]
fn a_history_says_over_how_many_queries_each_point_is() {
    let mut moments = [records(6, 10), records(6, 30)];
    for (moment, measured) in moments.iter_mut().zip([7, 93]) {
        moment.iter_mut().for_each(|record| record.measured_on.measured = measured);
    }
    for (index, probe) in Probe::ALL.iter().enumerate() {
        let history: Vec<Record> = moments.iter().map(|moment| moment[index].clone()).collect();
        let drawn = figures(&history, &[]);
        let svg = drawn.iter().find(|f| f.name().ends_with("_history")).unwrap().svg().unwrap();
        let all = texts(&svg);
        let counts = match &history[0].result {
            // A circuit is evaluated on test queries.
            ProbeResult::Circuit(found) => [found.test_queries; 2].map(|count| count.to_string()),
            _ => ["7", "93"].map(str::to_owned),
        };
        let row = place(&all, "n =");
        assert_eq!(all[row + 1..row + 3], counts, "{probe}");
    }
}

#[test]
fn legends_are_in_the_order_of_the_stack() {
    let order = |probe: usize, names: &[&str]| {
        let svg = figures(&records(6, 10)[probe..=probe], &[])[0].svg().unwrap();
        let all = texts(&svg);
        let places: Vec<usize> = names.iter().map(|name| place(&all, name)).collect();
        assert!(places.is_sorted(), "{names:?}: {places:?}");
    };
    order(0, &["self-attention", "cross-attention", "MLP"]);
    order(2, &["cross-attention only", "MLP only"]);
    let sources = [
        "start embedding",
        "self-attention I",
        "cross-attention I",
        "MLP I",
        "self-attention II",
        "cross-attention II",
        "MLP II",
        "self-attention III",
        "cross-attention III",
        "MLP III",
    ];
    order(6, &sources);
    order(7, &sources);
}

#[test]
fn figures_fit_a_column_or_a_page_with_type_of_seven_points() {
    let home = TempDir::new().unwrap();
    let [one, other] = ["one", "other"].map(|name| results(&home, name, &[10, 30], |_| {}));
    for (width, points) in [("column", 239.76), ("page", 504.0)] {
        let (figures, _) = plot(&home, &[&one, &other, "--width", width]);
        let files: Vec<PathBuf> =
            fs::read_dir(&figures).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() > 15, "{files:?}");
        for file in files {
            let svg = fs::read_to_string(&file).unwrap();
            let name = format!("{width}, {}", file.display());
            let (head, _) = svg.split_once('>').unwrap();
            assert_eq!(attribute(head, "width"), points, "{name}: {head}");
            let (_, view) = head.split_once("viewBox=\"0 0 ").unwrap();
            let pixels: f64 = view.split_once(' ').unwrap().0.parse().unwrap();
            for part in svg.split("<text").skip(1) {
                let (tag, rest) = part.split_once('>').unwrap();
                let size = attribute(tag, "font-size");
                assert!(size * points / pixels >= 7.0, "{name}: {size} of {pixels}");
                // Letters are wider than 0.4 of their size on average: a text that is not cut off ends within the figure.
                let (text, _) = rest.split_once("</text>").unwrap();
                if tag.contains("\"start\"") {
                    let end = attribute(tag, "x") + 0.4 * size * text.trim().chars().count() as f64;
                    assert!(end <= pixels, "{name}: {text:?} ends at {end} of {pixels}");
                }
            }
        }
    }
    let wrong = genir_with_input(&["plot", &one, "-o", "x", "--width", "wide"], "");
    assert_eq!(wrong.code, 2);
    assert_says(&wrong.stderr, &["\"column\", \"page\""]);
}

/// The size of a PDF's page in points.
fn page_size(pdf: &str) -> [f64; 2] {
    let (_, rest) = pdf.split_once("/MediaBox [0 0 ").unwrap();
    let numbers = rest.split_once(']').unwrap().0.split(' ').map(|number| number.parse().unwrap());
    numbers.collect::<Vec<f64>>().try_into().unwrap()
}

#[test]
fn pdf_figures_have_the_size_of_the_svg_and_embed_their_font() {
    let home = TempDir::new().unwrap();
    let run = results(&home, "one", &[10, 30], |_| {});
    let (figures, said) = plot(&home, &[&run, "--width", "column", "--format", "svg,pdf"]);
    assert_eq!(said, "");
    let files: Vec<PathBuf> =
        fs::read_dir(&figures).unwrap().map(|entry| entry.unwrap().path()).collect();
    let (drawings, pages): (Vec<&PathBuf>, Vec<&PathBuf>) =
        files.iter().partition(|file| file.extension().unwrap() == "svg");
    assert!(drawings.len() > 15 && drawings.len() == pages.len(), "{files:?}");
    for page in pages {
        let pdf = String::from_utf8_lossy(&fs::read(page).unwrap()).into_owned();
        assert!(pdf.starts_with("%PDF-"), "{}", page.display());
        let svg = fs::read_to_string(page.with_extension("svg")).unwrap();
        let (head, _) = svg.split_once('>').unwrap();
        let [width, height] = page_size(&pdf);
        assert!((width - attribute(head, "width")).abs() < 0.01, "{width}: {head}");
        assert!((height - attribute(head, "height")).abs() < 0.01, "{height}: {head}");
        // The glyphs as a part of the file, and which letters they are.
        assert_says(&pdf, &["/FontFile2", "+DejaVuSans", "/ToUnicode"]);
    }
    let (figures, _) = plot(&home, &[&run, "--format", "pdf,pdf"]);
    assert!(fs::read_dir(&figures).unwrap().count() > 15);
    // Nothing is written if a figure cannot be.
    let other = text(home.path().join("other"));
    let named = format!("\u{6f22}={run}");
    is_refused(&["plot", &named, "-o", &other, "--format", "svg,pdf"], &["`\u{6f22}` (U+6F22)"]);
    assert!(!Path::new(&other).exists());
    // Characters that XML does not allow, and the separator of paragraphs, are spaces.
    let named = format!("a\u{1}b\u{2029}c={run}");
    let (figures, _) = plot(&home, &[&named, "--format", "svg,pdf"]);
    assert!(words(&read(&figures, "logit_lens")).contains("a b c"));
    let wrong = genir_with_input(&["plot", &run, "-o", "x", "--format", "png"], "");
    assert_eq!(wrong.code, 2);
    assert_says(&wrong.stderr, &["\"svg\", \"pdf\""]);
}

/// A run of the tiny corpus with results of probes.
fn trained(home: &TempDir, name: &str, overrides: &[&str]) -> String {
    let of_run = Home::new(&home.path().join(name), overrides);
    of_run.train();
    let probes = of_run.run().join("probes");
    fs::create_dir_all(&probes).unwrap();
    let line = serde_json::to_string(&records(3, 30)[1]).unwrap() + "\n";
    fs::write(probes.join("logit_lens.jsonl"), line).unwrap();
    text(of_run.run())
}

#[test]
fn figures_of_runs_name_run_model_and_collection_and_show_their_training() {
    let home = TempDir::new().unwrap();
    let evaluated = "evaluate.every_steps=10";
    let [one, seed] =
        ["4", "5"].map(|seed| trained(&home, seed, &[evaluated, &format!("run.seed={seed}")]));
    let arm = trained(&home, "arm", &[evaluated, "run.seed=4", "trainable.select=[\"decoder\"]"]);
    let (figures, _) = plot(&home, &[&one]);
    let words_of = |figures: &Path, name: &str| words(&read(figures, name));
    for name in ["logit_lens", "training_over_steps", "training_over_seconds", "training_costs"] {
        let words = words_of(&figures, name);
        assert_says(&words, &["run \u{b7} ", " (from scratch) \u{b7} corpus"]);
    }
    // The results of a file are those of the run that it lies in.
    let file = format!("{one}/probes/logit_lens.jsonl");
    let (figures, _) = plot(&home, &[&file]);
    assert_says(&words_of(&figures, "logit_lens"), &[" (from scratch) \u{b7} corpus"]);
    assert!(!figures.join("training_over_steps.svg").exists());

    // Two seeds of one arm, and another arm.
    let training = ["--figure", "training", "--width", "page"];
    let (figures, said) =
        plot(&home, &[&[&one[..], &seed, &format!("other={arm}")], &training[..]].concat());
    assert_eq!(said, "");
    assert!(!figures.join("logit_lens.svg").exists());
    let curves = read(&figures, "training_over_steps");
    assert_says(&words(&curves), &["full (seeds 4, 5)", "full (seeds 4, 5)", "Means over 2 seeds"]);
    assert!(curves.contains("<polygon opacity=\"0.2\""), "no band");
    let all = texts(&curves);
    for panel in ["Training loss", "Learning rate", "Peak memory (resident set size)"] {
        place(&all, panel);
    }
    assert_eq!(
        all.iter().filter(|text| *text == "other").count(),
        all.iter().filter(|text| *text == "full").count()
    );
    let costs = words_of(&figures, "training_costs");
    assert_says(
        &costs,
        &["Training time (s)", "Peak memory (MiB)", "Trained parameters (millions)"],
    );

    let output = text(home.path().join("x"));
    is_refused(&["plot", &one, &one, "-o", &output], &["one arm with the same seed"]);
    is_refused(&["plot", &one, &arm, "-o", &output], &["two inputs are named `run`"]);
    let wrong = genir_with_input(&["plot", &one, "-o", &output, "--figure", "trainings"], "");
    assert_eq!(wrong.code, 2);
    assert_says(&wrong.stderr, &["\"logit_lens\"", "\"training\""]);
}
