//! A comparison as tables for the terminal, CSV and LaTeX.

use std::fmt::Write;

use comfy_table::{Table, presets};

use super::significance::{SIGNIFICANT, mean_of, p_value};
use super::{Arm, Comparison, Difference, ProbeComparison, Quantity, SystemRun};
use crate::report::quoted;

const MIB: f64 = (1 << 20) as f64;

fn markdown(header: Vec<String>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(header);
    table
}

/// The tables of a comparison, in Markdown.
pub fn table(comparison: &Comparison) -> String {
    let mut text = format!(
        "{} queries of {}\n\n{}\n",
        comparison.queries,
        comparison.split,
        effectiveness(comparison)
    );
    if comparison.arms.iter().any(|arm| arm.runs.len() > 1) {
        text += "±: standard deviation over the seeds.\n";
    }
    if comparison.arms.iter().any(|arm| arm.runs.len() == 1) {
        text += "[]: 95% interval of a single run's mean, bootstrap over the queries.\n";
    }
    for (measure, name) in comparison.measures.iter().enumerate() {
        let _ = write!(
            text,
            "\nDifferences in {name} (second minus first)\n\n{}\n",
            differences(comparison, measure)
        );
    }
    text += "95% interval: bootstrap over the queries. d: mean difference in standard deviations of the differences.\n\
             p: paired randomisation test over the queries, two-sided; Holm: corrected for the number of comparisons.\n";
    if let Some(cost) = cost(comparison) {
        let _ = write!(text, "\nCost (means over the runs)\n\n{cost}\n");
    }
    if let Some(levels) = levels(comparison) {
        let _ = write!(
            text,
            "\nCost to reach a level of {}/hits@1, interpolated between evaluations\n\n{levels}\n",
            comparison.split
        );
    }
    for probe in &comparison.probes {
        text += &mechanisms(comparison, probe);
    }
    if !comparison.differing_keys.is_empty() {
        let header = ["key"].into_iter().chain(comparison.arms.iter().map(|arm| arm.name.as_str()));
        let mut table = markdown(header.map(str::to_owned).collect());
        for (key, values) in &comparison.differing_keys {
            let values = values.iter().map(|value| value.clone().unwrap_or_default());
            table.add_row([key.clone()].into_iter().chain(values).collect::<Vec<_>>());
        }
        let _ = write!(text, "\nKeys of the recipes that differ\n\n{table}\n");
    }
    for warning in &comparison.warnings {
        let _ = write!(text, "\nwarning: {warning}");
    }
    text.trim_end().to_owned()
}

fn effectiveness(comparison: &Comparison) -> Table {
    let header = ["arm", "runs"].into_iter().chain(comparison.measures.iter().map(String::as_str));
    let mut table = markdown(header.map(str::to_owned).collect());
    for arm in &comparison.arms {
        let values = (0..arm.means.len()).map(|measure| arm.shown(measure));
        let row = [arm.name.clone(), arm.runs.len().to_string()].into_iter().chain(values);
        table.add_row(row.collect::<Vec<_>>());
    }
    table
}

fn differences(comparison: &Comparison, measure: usize) -> Table {
    let header = [
        "first",
        "second",
        "seed",
        "difference",
        "95% interval",
        "d",
        "p",
        "Holm",
        "wins",
        "ties",
        "losses",
    ];
    let mut table = markdown(header.map(str::to_owned).to_vec());
    for pair in &comparison.pairs {
        for found in &pair.seeds {
            let difference = &found.differences[measure];
            let [low, high] = difference.interval;
            table.add_row(vec![
                comparison.arms[pair.first].name.clone(),
                comparison.arms[pair.second].name.clone(),
                found.seed.clone().unwrap_or_default(),
                format!("{:+.4}", difference.mean),
                format!("[{low:+.4}, {high:+.4}]"),
                difference.effect_size.map_or_else(String::new, |size| format!("{size:+.2}")),
                p_value(difference.p),
                p_value(found.corrected[measure]),
                difference.wins.to_string(),
                difference.ties.to_string(),
                difference.losses.to_string(),
            ]);
        }
    }
    table
}

fn cost(comparison: &Comparison) -> Option<Table> {
    let mut header = vec![
        "arm",
        "trained parameters",
        "optimizer state",
        "peak RSS",
        "steps",
        "examples",
        "training time",
        "processor time",
        "examples/s",
    ];
    let mebibytes: fn(f64) -> String = |bytes| format!("{:.1} MiB", bytes / MIB);
    let joules: fn(f64) -> String = |joules| format!("{joules:.0} J");
    // What only some machines tell: a column if any run has it.
    type CostOf = fn(&super::Cost) -> Option<f64>;
    type Column = (&'static str, CostOf, fn(f64) -> String);
    let extra: [Column; 3] = [
        ("peak GPU memory", |cost| cost.peak_gpu_memory_bytes.map(|bytes| bytes as f64), mebibytes),
        ("energy of the processors", |cost| cost.processor_joules, joules),
        ("energy of the GPU", |cost| cost.gpu_joules, joules),
    ];
    let costs =
        || comparison.arms.iter().flat_map(|arm| &arm.runs).filter_map(|run| run.cost.as_ref());
    let extra: Vec<_> =
        extra.into_iter().filter(|(_, cost, _)| costs().any(|run| cost(run).is_some())).collect();
    header.extend(extra.iter().map(|(name, ..)| name));
    let mut table = markdown(header.into_iter().map(str::to_owned).collect());
    for arm in &comparison.arms {
        let of = |value: fn(&super::Cost) -> Option<f64>| {
            mean_of(&arm.runs, |run| value(run.cost.as_ref()?))
        };
        let show =
            |value: Option<f64>, text: fn(f64) -> String| value.map_or_else(String::new, text);
        if arm.runs.iter().all(|run| run.cost.is_none()) {
            continue;
        }
        let extra = extra.iter().map(|(_, cost, text)| show(of(*cost), *text));
        let numbers = vec![
            arm.name.clone(),
            show(of(|cost| Some(cost.trained_parameters as f64)), |count| format!("{count:.0}")),
            show(of(|cost| Some(cost.optimizer_state_bytes as f64)), mebibytes),
            show(of(|cost| cost.peak_memory_bytes.map(|bytes| bytes as f64)), mebibytes),
            show(of(|cost| Some(cost.steps as f64)), |count| format!("{count:.0}")),
            show(of(|cost| Some(cost.examples as f64)), |count| format!("{count:.0}")),
            show(of(|cost| Some(cost.training_seconds)), |seconds| format!("{seconds:.1} s")),
            show(of(|cost| cost.processor_seconds), |seconds| format!("{seconds:.1} s")),
            show(of(|cost| Some(cost.examples as f64 / cost.training_seconds)), |rate| {
                format!("{rate:.0}")
            }),
        ];
        table.add_row(numbers.into_iter().chain(extra).collect::<Vec<_>>());
    }
    (!table.is_empty()).then_some(table)
}

fn levels(comparison: &Comparison) -> Option<Table> {
    let header = [
        "arm",
        "level",
        "runs",
        "steps",
        "examples",
        "training time",
        "processor time",
        "gradients",
    ];
    let mut table = markdown(header.map(str::to_owned).to_vec());
    for arm in &comparison.arms {
        let levels = arm.runs.iter().map(|run| run.to_levels.len()).max().unwrap_or(0);
        for index in 0..levels {
            let at = |run: &SystemRun| run.to_levels.get(index).copied();
            let Some(level) = arm.runs.iter().find_map(at) else { continue };
            let reached = |run: &SystemRun| at(run)?.reached;
            let count = arm.runs.iter().filter_map(reached).count();
            let show = |value: fn(super::Reached) -> f64, text: fn(f64) -> String| {
                mean_of(&arm.runs, |run| reached(run).map(value))
                    .map_or("not reached".to_owned(), text)
            };
            let processors = mean_of(&arm.runs, |run| reached(run)?.processor_seconds);
            table.add_row(vec![
                arm.name.clone(),
                format!("{:.4}", level.level),
                format!("{count} of {}", arm.runs.len()),
                show(|reached| reached.steps, |steps| format!("{steps:.0}")),
                show(|reached| reached.examples, |examples| format!("{examples:.0}")),
                show(|reached| reached.seconds, |seconds| format!("{seconds:.1} s")),
                processors.map_or(String::new(), |seconds| format!("{seconds:.1} s")),
                show(|reached| reached.gradient_bytes, |bytes| format!("{:.1} MiB", bytes / MIB)),
            ]);
        }
    }
    (!table.is_empty()).then_some(table)
}

/// The numbers of one probe in each arm, without those of single layers, and its comparisons query by query.
fn mechanisms(comparison: &Comparison, probe: &ProbeComparison) -> String {
    let name = |arm: &usize| comparison.arms[*arm].name.clone();
    let header = || ["quantity".to_owned()].into_iter().chain(probe.arms.iter().map(name));
    let mut text = format!("\nProbe {} (", probe.probe);
    let about: Vec<String> = probe
        .arms
        .iter()
        .zip(&probe.measured_on)
        .map(|(arm, on)| format!("{}: {on}", name(arm)))
        .collect();
    let _ = write!(text, "{})\n\n", about.join("; "));
    let of_model: Vec<&Quantity> =
        probe.quantities.iter().filter(|quantity| !quantity.of_layer).collect();
    // A probe of layers alone is shown whole.
    let mut shown = if of_model.len() > 1 { of_model } else { probe.quantities.iter().collect() };
    let all = shown.len();
    shown.retain(|quantity| quantity.means.windows(2).any(|pair| pair[0] != pair[1]));
    let shown_count = shown.len();
    let differs = probe.arms.len() == 2;
    let mut table = markdown(header().chain(differs.then(|| "difference".to_owned())).collect());
    for quantity in shown {
        let values = quantity.means.iter().zip(&quantity.deviations).map(|value| match value {
            (Some(mean), Some(deviation)) => format!("{mean:.3} ± {deviation:.3}"),
            (Some(mean), None) => format!("{mean:.3}"),
            (None, _) => String::new(),
        });
        let difference = match quantity.means[..] {
            [Some(first), Some(second)] => format!("{:+.3}", second - first),
            _ => String::new(),
        };
        let difference = differs.then_some(difference);
        table.add_row(
            [quantity.name.clone()].into_iter().chain(values).chain(difference).collect::<Vec<_>>(),
        );
    }
    let _ = writeln!(text, "{table}");
    if shown_count < all {
        let _ = writeln!(text, "{} quantities are equal in all arms.", all - shown_count);
    }
    if !probe.pairs.is_empty() {
        let _ = write!(
            text,
            "\nShare of queries whose relevant docid is not at rank 1 (second minus first)\n\n{}\n",
            by_query(comparison, probe)
        );
    }
    text
}

fn by_query(comparison: &Comparison, probe: &ProbeComparison) -> Table {
    let header = [
        "first",
        "second",
        "seed",
        "of",
        "all queries",
        "95% interval",
        "n",
        "correct in both",
        "95% interval",
        "n",
    ];
    let mut table = markdown(header.map(str::to_owned).to_vec());
    for found in &probe.pairs {
        let difference = |difference: &Option<Difference>| match difference {
            Some(found) => {
                let [low, high] = found.interval;
                let queries = found.wins + found.ties + found.losses;
                [
                    format!("{:+.4}", found.mean),
                    format!("[{low:+.4}, {high:+.4}]"),
                    queries.to_string(),
                ]
            }
            None => [String::new(), String::new(), "0".to_owned()],
        };
        let [first, second] =
            [found.first, found.second].map(|arm| comparison.arms[arm].name.clone());
        let about = [first, second, found.seed.clone().unwrap_or_default(), found.of.clone()];
        let numbers = difference(&found.all).into_iter().chain(difference(&found.correct_in_both));
        table.add_row(about.into_iter().chain(numbers).collect::<Vec<_>>());
    }
    table
}

/// The compared numbers of the probes in long form: one row for each quantity and arm.
pub fn probes_csv(comparison: &Comparison) -> String {
    let mut text = "probe,quantity,arm,mean,standard_deviation\n".to_owned();
    for probe in &comparison.probes {
        for quantity in &probe.quantities {
            for (place, arm) in probe.arms.iter().enumerate() {
                let number =
                    |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
                let fields = [
                    probe.probe.to_string(),
                    quoted(&quantity.name),
                    quoted(&comparison.arms[*arm].name),
                    number(quantity.means[place]),
                    number(quantity.deviations[place]),
                ];
                text += &fields.join(",");
                text.push('\n');
            }
        }
    }
    text
}

/// The comparison in long form, one row for each pair, seed and measure.
pub fn csv(comparison: &Comparison) -> String {
    let mut text = "measure,first,second,seed,first_mean,second_mean,difference,low,high,effect_size,p,p_holm,wins,ties,losses\n".to_owned();
    for pair in &comparison.pairs {
        let [first, second] = [pair.first, pair.second].map(|arm| &comparison.arms[arm]);
        for found in &pair.seeds {
            let of_seed = |arm: &Arm, measure: usize| {
                let run =
                    arm.runs.iter().find(|run| run.seed == found.seed).unwrap_or(&arm.runs[0]);
                run.means[measure]
            };
            for (measure, name) in comparison.measures.iter().enumerate() {
                let difference = &found.differences[measure];
                let fields = [
                    quoted(name),
                    quoted(&first.name),
                    quoted(&second.name),
                    found.seed.clone().unwrap_or_default(),
                    of_seed(first, measure).to_string(),
                    of_seed(second, measure).to_string(),
                    difference.mean.to_string(),
                    difference.interval[0].to_string(),
                    difference.interval[1].to_string(),
                    difference.effect_size.map_or_else(String::new, |size| size.to_string()),
                    difference.p.to_string(),
                    found.corrected[measure].to_string(),
                    difference.wins.to_string(),
                    difference.ties.to_string(),
                    difference.losses.to_string(),
                ];
                text += &fields.join(",");
                text.push('\n');
            }
        }
    }
    text
}

/// The value of each measure for each query and run, as CSV: the queries behind wins and losses.
pub fn wins_and_losses(comparison: &Comparison) -> String {
    let measures = comparison.measures.iter().map(|name| quoted(name));
    let header = ["query", "arm", "seed"].into_iter().map(str::to_owned).chain(measures);
    let mut text = header.collect::<Vec<_>>().join(",");
    text.push('\n');
    for (index, query) in comparison.query_ids.iter().enumerate() {
        for arm in &comparison.arms {
            for run in &arm.runs {
                let values = run.values.iter().map(|values| values[index].to_string());
                let about =
                    [quoted(query), quoted(&arm.name), run.seed.clone().unwrap_or_default()];
                text += &about.into_iter().chain(values).collect::<Vec<_>>().join(",");
                text.push('\n');
            }
        }
    }
    text
}

/// A LaTeX table (package booktabs): means with standard deviations over seeds. A letter marks each arm that is
/// significantly worse at every seed (p < 0.05, corrected).
pub fn latex(comparison: &Comparison) -> String {
    let letter = |arm: usize| char::from(b'a' + (arm % 26) as u8);
    let columns = "r".repeat(comparison.measures.len());
    let mut text = format!("\\begin{{tabular}}{{ll{columns}}}\n\\toprule\n & arm");
    for measure in &comparison.measures {
        let _ = write!(text, " & {}", escaped(measure));
    }
    text += " \\\\\n\\midrule\n";
    for (index, arm) in comparison.arms.iter().enumerate() {
        let _ = write!(text, "{} & {}", letter(index), escaped(&arm.name));
        for measure in 0..comparison.measures.len() {
            let _ = write!(text, " & {:.4}", arm.means[measure]);
            if let Some(deviation) = arm.deviations[measure] {
                let _ = write!(text, " {{\\small $\\pm$ {deviation:.4}}}");
            }
            let worse: String = (0..comparison.arms.len())
                .filter(|&other| is_better(comparison, index, other, measure))
                .map(letter)
                .collect();
            if !worse.is_empty() {
                let _ = write!(text, "$^{{{worse}}}$");
            }
        }
        text += " \\\\\n";
    }
    text += "\\bottomrule\n\\end{tabular}\n";
    let _ = writeln!(
        text,
        "% {} queries of {}. Letters: significantly better than that arm (paired randomisation test, p < {SIGNIFICANT}, \
         Holm-corrected{}).",
        comparison.queries,
        comparison.split,
        if comparison.arms.iter().any(|arm| arm.runs.len() > 1) { ", at every seed" } else { "" }
    );
    text
}

/// Returns whether `arm` is significantly better than `other` at every seed.
fn is_better(comparison: &Comparison, arm: usize, other: usize, measure: usize) -> bool {
    let pair = comparison
        .pairs
        .iter()
        .find(|pair| [pair.first, pair.second] == [arm.min(other), arm.max(other)]);
    let Some(pair) = pair.filter(|pair| !pair.seeds.is_empty()) else { return false };
    let sign = if pair.second == arm { 1.0 } else { -1.0 };
    pair.seeds.iter().all(|found| {
        found.corrected[measure] < SIGNIFICANT && sign * found.differences[measure].mean > 0.0
    })
}

/// Escapes the characters that LaTeX reads as commands.
fn escaped(text: &str) -> String {
    let escape = |letter: char| match letter {
        '&' | '%' | '$' | '#' | '_' | '{' | '}' => format!("\\{letter}"),
        '\\' => "\\textbackslash{}".to_owned(),
        '~' => "\\textasciitilde{}".to_owned(),
        '^' => "\\textasciicircum{}".to_owned(),
        letter => letter.to_string(),
    };
    text.chars().map(escape).collect()
}
