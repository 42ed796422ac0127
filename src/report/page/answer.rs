//! The answer at the top: what each arm loses and saves beside the first.

use super::html::Html;
use super::run::ReportedRun;
use super::{Arms, ReportedArm, measure_label};
use crate::compare::{Comparison, SIGNIFICANT, SeedComparison, mean, mean_of};
use crate::component::grouped;
use crate::report::figures::axis::thousands;

/// A quantity of each arm.
struct Criterion {
    name: String,
    hint: &'static str,
    /// By arm; `None` if it is not known.
    values: Vec<Option<f64>>,
    show: fn(f64) -> String,
    /// By arm: what is shown in place of a value that there is not.
    missing: Vec<String>,
    /// True if the change is shown as a difference, not as a ratio.
    is_difference: bool,
}

/// Appends the answer.
pub fn section(html: &mut Html, arms: &Arms, split: &str) {
    for sentence in sentences(arms, split) {
        html.paragraph("answer", sentence);
    }
    html.raw("<div class=\"cards\">");
    for criterion in criteria(arms, split) {
        card(html, &criterion, arms);
    }
    html.raw("</div>");
    if arms.arms.len() > 1 {
        html.paragraph(
            "note",
            "Each recipe as it was run: arms may differ in epochs, so compare the time to reach a level, too. Time is that \
             of updates and of computing frozen states. Memory is the peak of the process on the host; a GPU's is not \
             included.",
        );
    }
}

fn card(html: &mut Html, criterion: &Criterion, arms: &Arms) {
    let most = criterion.values.iter().flatten().copied().fold(0.0, f64::max);
    if criterion.values.iter().all(Option::is_none) {
        return;
    }
    html.raw("<div class=\"card\">").element("h3", &[], &criterion.name);
    html.paragraph("hint", criterion.hint).raw("<ul>");
    let first = criterion.values.first().copied().flatten();
    for (index, (arm, value)) in arms.arms.iter().zip(&criterion.values).enumerate() {
        html.raw("<li>").element("span", &[("class", "arm")], &arm.name);
        let text = value.map_or_else(|| criterion.missing[index].clone(), criterion.show);
        html.element("span", &[("class", "value")], text);
        if let Some(value) = value {
            let share = if most > 0.0 { 100.0 * value / most } else { 0.0 };
            let style = format!("width:{share:.1}%;background:var(--s{})", index % 7);
            html.raw("<span class=\"track\" aria-hidden=\"true\">");
            html.element("span", &[("class", "fill"), ("style", &style)], "").raw("</span>");
        }
        let change = match (first, value) {
            _ if index == 0 => "the reference".to_owned(),
            (Some(first), Some(value)) if criterion.is_difference => {
                format!("{:+.3}", value - first).replace('-', "\u{2212}")
            }
            (Some(first), Some(value)) if first > 0.0 => change(*value, first),
            _ => String::new(),
        };
        if arms.arms.len() > 1 {
            html.element("span", &[("class", "change")], change);
        }
        html.raw("</li>");
    }
    html.raw("</ul></div>");
}

/// A value beside that of the first arm: `38% less`, `2.1 times`.
fn change(value: f64, first: f64) -> String {
    let ratio = value / first;
    match ratio {
        _ if (ratio - 1.0).abs() < 0.005 => "the same".to_owned(),
        _ if ratio >= 2.0 => format!("{ratio:.1} times"),
        _ if ratio > 1.0 => format!("{:.0}% more", 100.0 * (ratio - 1.0)),
        _ if ratio < 0.01 => format!("{:.1}% less", 100.0 * (1.0 - ratio)),
        _ => format!("{:.0}% less", 100.0 * (1.0 - ratio)),
    }
}

fn last(run: &ReportedRun, scalar: &str) -> Option<f64> {
    run.curve(scalar).last().map(|point| point.1)
}

fn seconds(run: &ReportedRun) -> Option<f64> {
    match &run.summary {
        Some(summary) => Some(summary.seconds.steps + summary.seconds.prefix),
        None => last(run, "time/steps_seconds").map(|found| {
            found + run.curve("time/prefix_seconds").first().map_or(0.0, |point| point.1)
        }),
    }
}

fn memory(run: &ReportedRun) -> Option<f64> {
    let logged = || last(run, "memory/peak_mebibytes").map(|found| found * MIB);
    let summary = run.summary.as_ref().and_then(|summary| summary.peak_memory_bytes);
    summary.map(|bytes| bytes as f64).or_else(logged)
}

fn gpu_memory(run: &ReportedRun) -> Option<f64> {
    let logged = || last(run, "memory/gpu_peak_mebibytes").map(|found| found * MIB);
    let summary = run.summary.as_ref().and_then(|summary| summary.peak_gpu_memory_bytes);
    summary.map(|bytes| bytes as f64).or_else(logged)
}

fn trained(run: &ReportedRun) -> Option<f64> {
    let of_model = || Some(run.model.as_ref()?.table.total.trained as f64);
    run.summary.as_ref().map(|summary| summary.parameters.trained as f64).or_else(of_model)
}

fn criteria(arms: &Arms, split: &str) -> Vec<Criterion> {
    let of = |name: &str, hint, value: fn(&ReportedRun) -> Option<f64>, show| Criterion {
        name: name.to_owned(),
        hint,
        values: arms.arms.iter().map(|arm| mean_of(&arm.runs, value)).collect(),
        show,
        missing: not_known(arms),
        is_difference: false,
    };
    let mut all: Vec<Criterion> = effectiveness(arms, split).into_iter().collect();
    all.push(of("Training time", "less is better", seconds, duration));
    all.extend(time_to_level(arms, split));
    all.push(of("Peak memory", "less is better", memory, bytes));
    // Only runs on a GPU have it.
    let of_gpu = of("Peak GPU memory", "less is better", gpu_memory, bytes);
    all.extend(Some(of_gpu).filter(|found| found.values.iter().any(Option::is_some)));
    all.push(of("Trained parameters", "less is cheaper to store", trained, |count| {
        grouped(count as usize)
    }));
    let state = |run: &ReportedRun| Some(run.summary.as_ref()?.optimizer_state_bytes as f64);
    all.push(of("Optimizer state", "less is better", state, bytes));
    let rate = |run: &ReportedRun| {
        let logged = || last(run, "time/examples_per_second");
        run.summary
            .as_ref()
            .filter(|summary| summary.seconds.steps > 0.0)
            .map(|summary| summary.examples as f64 / summary.seconds.steps)
            .or_else(logged)
    };
    all.push(of("Throughput", "examples per second; more is better", rate, thousands));
    all
}

fn effectiveness(arms: &Arms, split: &str) -> Option<Criterion> {
    let (name, values) = match &arms.comparison {
        Ok(found) => {
            let values = found.arms.iter().map(|arm| arm.means.first().copied()).collect();
            (measure_label(found.measures.first()?), values)
        }
        Err(_) => {
            let scalar = format!("{split}/hits@1");
            let value = |arm: &ReportedArm| mean_of(&arm.runs, |run| last(run, &scalar));
            ("Hits@1".to_owned(), arms.arms.iter().map(value).collect())
        }
    };
    Some(Criterion {
        name: format!("{name}, {split} queries"),
        hint: "more is better",
        values,
        show: |value| format!("{value:.3}"),
        missing: not_known(arms),
        is_difference: true,
    })
}

fn not_known(arms: &Arms) -> Vec<String> {
    vec!["not known".to_owned(); arms.arms.len()]
}

/// Seconds to reach the highest level of Hits@1 that every trained arm has reached; or else, the highest that the first of them
/// and another one have.
fn time_to_level(arms: &Arms, split: &str) -> Option<Criterion> {
    let found = arms.comparison.as_ref().ok()?;
    let of_arm = |arm: &crate::compare::Arm, index: usize| {
        let reached = arm.runs.iter().map(|run| Some(run.to_levels.get(index)?.reached?.seconds));
        let seconds: Vec<f64> = reached.collect::<Option<Vec<f64>>>()?;
        (!seconds.is_empty()).then(|| mean(&seconds))
    };
    let trained: Vec<&crate::compare::Arm> =
        found.arms.iter().filter(|arm| arm.runs.iter().any(|run| run.cost.is_some())).collect();
    let levels = &trained.first()?.runs.first()?.to_levels;
    let reached = |index: usize| trained.iter().filter(move |arm| of_arm(arm, index).is_some());
    let all_reach = |index: &usize| reached(*index).count() == trained.len();
    let some_reach = |index: &usize| {
        trained.first().is_some_and(|arm| of_arm(arm, *index).is_some())
            && reached(*index).count() > 1
    };
    let by_level = || (0..levels.len()).rev();
    let index = by_level().find(all_reach).or_else(|| by_level().find(some_reach))?;
    Some(Criterion {
        name: format!("Time to Hits@1 = {:.3}, {split} queries", levels[index].level),
        hint: "less is better; interpolated between evaluations",
        values: found.arms.iter().map(|arm| of_arm(arm, index)).collect(),
        show: duration,
        missing: found.arms.iter().map(|arm| by_how_many(arm, index)).collect(),
        is_difference: false,
    })
}

/// Says which runs of an arm have reached a level, if not all have: `by 2 of 3 seeds`.
fn by_how_many(arm: &crate::compare::Arm, level: usize) -> String {
    let of_run = |run: &crate::compare::SystemRun| {
        run.cost.as_ref()?;
        Some(run.to_levels.get(level)?.reached.is_some())
    };
    let reached: Option<Vec<bool>> = arm.runs.iter().map(of_run).collect();
    match reached.map(|reached| (reached.iter().filter(|is| **is).count(), reached.len())) {
        None | Some((_, 0)) => "not known".to_owned(),
        Some((0, _)) => "not reached".to_owned(),
        Some((count, all)) => format!("by {count} of {all} seeds"),
    }
}

fn sentences(arms: &Arms, split: &str) -> Vec<String> {
    match &arms.comparison {
        Ok(found) => (1..found.arms.len()).map(|arm| beside_first(arms, found, arm)).collect(),
        Err(_) => arms
            .arms
            .iter()
            .filter_map(|arm| {
                let scalar = format!("{split}/hits@1");
                let hits = mean_of(&arm.runs, |run| last(run, &scalar))?;
                let seconds = mean_of(&arm.runs, seconds).map(duration);
                let seconds = seconds.map(|time| format!(" after {time} of training")).unwrap_or_default();
                let name = quoted(&arm.name);
                Some(format!("{name} ranks the relevant document first for {:.1}% of the {split} queries{seconds}.", 100.0 * hits))
            })
            .collect(),
    }
}

/// A name in quotes if it has several words: it stands within a sentence.
fn quoted(name: &str) -> String {
    match name.contains(char::is_whitespace) {
        true => format!("\u{201c}{name}\u{201d}"),
        false => name.to_owned(),
    }
}

/// The losses and savings of an arm beside the first one.
fn beside_first(arms: &Arms, found: &Comparison, arm: usize) -> String {
    let (first, second) = (&found.arms[0], &found.arms[arm]);
    let measure = found.measures.first().map(|name| measure_label(name)).unwrap_or_default();
    let difference = second.means[0] - first.means[0];
    let pair = found.pairs.iter().find(|pair| (pair.first, pair.second) == (0, arm));
    let seeds = pair.map_or(&[][..], |pair| pair.seeds.as_slice());
    let significant = seeds
        .iter()
        .filter(|seed| seed.corrected.first().is_some_and(|p| *p < SIGNIFICANT))
        .count();
    let p = |seed: &SeedComparison| {
        let p = seed.corrected.first().copied().unwrap_or(f64::NAN);
        if p < 0.0001 { "p < 0.0001".to_owned() } else { format!("p = {p:.4}") }
    };
    let certainty = match (seeds, significant) {
        ([], _) => "not tested: the arms have no seed in common".to_owned(),
        ([seed], 1) => format!("a significant difference, {}", p(seed)),
        ([seed], _) => format!("not a significant difference, {}", p(seed)),
        (all, count) if all.len() == count => format!("significant at each of {count} seeds"),
        (all, count) => format!("significant at {count} of {} seeds", all.len()),
    };
    let reference = quoted(&first.name);
    let effect = match difference == 0.0 {
        true => format!("has the {measure} of {reference} ({:.3})", first.means[0]),
        false => format!(
            "has a {measure} of {:.3}, {:.3} {} than {reference} ({certainty})",
            second.means[0],
            difference.abs(),
            if difference < 0.0 { "lower" } else { "higher" },
        ),
    };
    let costs: Vec<String> =
        [("training time", seconds as fn(&ReportedRun) -> Option<f64>), ("peak memory", memory)]
            .into_iter()
            .filter_map(|(name, value)| {
                let of = |index: usize| mean_of(&arms.arms.get(index)?.runs, value);
                let ratio = of(arm)? / of(0).filter(|first| *first > 0.0)?;
                let amount = match ratio {
                    _ if (ratio - 1.0).abs() < 0.005 => "the same".to_owned(),
                    _ if ratio < 1.0 => format!("{:.0}% less", 100.0 * (1.0 - ratio)),
                    _ if ratio < 2.0 => format!("{:.0}% more", 100.0 * (ratio - 1.0)),
                    _ => format!("{ratio:.1} times the"),
                };
                Some(format!("{amount} {name}"))
            })
            .collect();
    let share = || {
        let of = |index: usize| mean_of(&arms.arms.get(index)?.runs, trained);
        let share = 100.0 * of(arm)? / of(0).filter(|first| *first > 0.0)?;
        Some(format!(" It trains {share:.1}% as many parameters."))
    };
    let costs = if costs.is_empty() {
        String::new()
    } else {
        format!(". It takes {}", costs.join(" and "))
    };
    format!("{} {effect}{costs}.{}", quoted(&second.name), share().unwrap_or_default())
}

pub(super) const MIB: f64 = (1 << 20) as f64;

/// Bytes in a unit of their size.
pub fn bytes(bytes: f64) -> String {
    match bytes {
        _ if bytes >= 1024.0 * MIB => format!("{:.2} GiB", bytes / MIB / 1024.0),
        _ if bytes >= 100.0 * MIB => format!("{:.0} MiB", bytes / MIB),
        _ => format!("{:.1} MiB", bytes / MIB),
    }
}

/// Seconds as readable text.
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..120 => format!("{seconds:.0} s"),
        120..7200 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}
