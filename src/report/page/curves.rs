//! Curves of training: loss, metrics, learning rate, throughput and memory, over steps and over seconds.

use super::answer::MIB;
use super::{ReportedArm, ReportedRun};
use crate::compare::{mean, standard_deviation};
use crate::report::figures::axis::Axis;
use crate::report::figures::combine::{describe_seeds, mean_line};
use crate::report::figures::spec::{
    Bars, Digits, FigureSpec, Legend, Panel, Series, extent, lines,
};
use crate::report::figures::{color, sentences};

/// A quantity that is logged in training.
struct Quantity {
    title: String,
    /// The name of the axis.
    unit: &'static str,
    scalar: String,
    /// True if its axis is logarithmic when its values differ by more than [`WIDE`].
    may_be_log: bool,
}

fn quantities(arms: &[ReportedArm], split: &str) -> Vec<Quantity> {
    let of = |title: &str, unit, scalar: &str, may_be_log| Quantity {
        title: title.to_owned(),
        unit,
        scalar: scalar.to_owned(),
        may_be_log,
    };
    let mut all = vec![of("Training loss", "loss", "loss/train", true)];
    for (name, label) in METRICS {
        all.push(of(
            &format!("{label} ({split} queries)"),
            label,
            &format!("{split}/{name}"),
            false,
        ));
    }
    let held_out = of("Loss of held-out documents (denoising)", "loss", "denoising/loss", true);
    all.push(held_out);
    all.push(of("Learning rate", "learning rate", "optimizer/learning_rate", false));
    all.push(of("Gradient norm", "norm", "optimizer/gradient_norm", true));
    all.push(of("Throughput", "examples/s", "time/examples_per_second", false));
    all.push(of("Peak memory (resident set size)", "MiB", "memory/peak_mebibytes", false));
    let any = |quantity: &Quantity| runs(arms).any(|run| !run.curve(&quantity.scalar).is_empty());
    all.retain(any);
    all
}

fn runs(arms: &[ReportedArm]) -> impl Iterator<Item = &ReportedRun> {
    arms.iter().flat_map(|arm| &arm.runs)
}

/// Largest value divided by the smallest from which on an axis is logarithmic: a loss falls fast at first.
const WIDE: f64 = 10.0;

/// Metrics that have curves, with their labels.
const METRICS: [(&str, &str); 3] =
    [("hits@1", "Hits@1"), ("hits@10", "Hits@10"), ("mrr@10", "MRR@10")];

/// Returns the curves over steps, and over seconds of training: a line for each arm, the mean over its seeds.
pub fn figures(arms: &[ReportedArm], split: &str) -> Vec<FigureSpec> {
    let quantities = quantities(arms, split);
    let steps = quantities.iter().map(|quantity| panel(arms, quantity, Over::Steps));
    let seconds = quantities.iter().map(|quantity| panel(arms, quantity, Over::Seconds));
    let figure = |name: &str, title: &str, panels: Vec<Panel>| FigureSpec {
        name: name.to_owned(),
        title: title.to_owned(),
        note: note(arms),
        columns: 2,
        panel: (430, 290),
        panels,
    };
    vec![
        figure("training_over_steps", "Training over steps", steps.collect()),
        figure("training_over_seconds", "Training over seconds", seconds.collect()),
    ]
}

/// Names the arms with their seeds, base and collection, those together that have the same, and says what is shown of several
/// seeds.
fn note(arms: &[ReportedArm]) -> String {
    let mut groups: Vec<(String, &ReportedRun, Vec<&str>)> = Vec::new();
    for arm in arms {
        let Some(first) = arm.runs.first() else { continue };
        let seeds: Vec<String> = arm.runs.iter().map(|run| run.key("run.seed")).collect();
        let seeds = match seeds.len() {
            1 => String::new(),
            _ => format!(" (seeds {})", seeds.join(", ")),
        };
        let same = |(other, run, _): &&mut (String, &ReportedRun, Vec<&str>)| {
            *other == seeds && run.subject_of("") == first.subject_of("")
        };
        match groups.iter_mut().find(same) {
            Some((.., names)) => names.push(&arm.name),
            None => groups.push((seeds, first, vec![&arm.name])),
        }
    }
    let names: Vec<String> = groups
        .iter()
        .map(|(seeds, run, names)| run.subject_of(&format!("{}{seeds}", names.join(", "))))
        .collect();
    let names = names.join("; ");
    let seeds = arms.iter().map(|arm| arm.runs.len()).max().unwrap_or(0);
    let seeds = if seeds > 1 { describe_seeds(seeds) } else { String::new() };
    sentences(&[&names, &seeds])
}

/// The x axis of a curve.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    Steps,
    Seconds,
}

fn panel(arms: &[ReportedArm], quantity: &Quantity, over: Over) -> Panel {
    let (low, high) =
        extent(runs(arms).flat_map(|run| run.curve(&quantity.scalar)).map(|point| point.1));
    let is_log = low > 0.0 && high > WIDE * low && quantity.may_be_log;
    let mut all = Vec::new();
    for (index, arm) in arms.iter().enumerate() {
        let of_run = |run: &ReportedRun| {
            let mut points = run.curve(&quantity.scalar);
            if is_log {
                points.iter_mut().for_each(|point| point.1 = point.1.log10());
            }
            Series::new(&arm.name, color::series(index), points)
        };
        let seeds: Vec<Series> = arm.runs().map(of_run).collect();
        let mut line = match seeds.as_slice() {
            [] => continue,
            [line] => line.clone(),
            seeds => mean_line(&seeds.iter().collect::<Vec<_>>()),
        };
        line.points = thinned(line.points);
        line.spread = thinned(line.spread);
        if over == Over::Seconds {
            // Of seeds: the mean of the seconds that they took to the step.
            let seconds: Vec<_> = arm.runs().map(|run| run.seconds()).collect();
            for point in &mut line.points {
                let all = seconds.iter().map(|seconds| seconds(point.0));
                point.0 = all.sum::<f64>() / seconds.len() as f64;
            }
        }
        all.push(line);
    }
    all.retain(|series| !series.points.is_empty());
    let (_, last) = extent(all.iter().flat_map(|series| &series.points).map(|point| point.0));
    let edges = |line: &Series| line.bars().flat_map(|(_, (low, high))| [low, high]).collect();
    let edges: Vec<f64> = all.iter().flat_map::<Vec<f64>, _>(edges).collect();
    let values = all.iter().flat_map(|line| &line.points).map(|point| point.1);
    let (low, high) = extent(values.chain(edges));
    let name = if over == Over::Steps { "step" } else { "seconds of training" };
    let x = Axis::linear(name, 0.0, last);
    // Round ticks beyond the last point would leave a part of the plot empty.
    let x = Axis {
        end: last.max(1e-9),
        ticks: x.ticks.into_iter().filter(|(place, _)| *place <= last).collect(),
        ..x
    };
    let y = match is_log {
        true => {
            let (low, high) = (10f64.powf(low), 10f64.powf(high));
            Axis::logarithmic(&format!("{} (log)", quantity.unit), low, high)
        }
        false => Axis::linear(quantity.unit, low.min(0.0), high),
    };
    let mut panel = lines(&quantity.title, x, y, all);
    let names = arms.iter().enumerate().filter(|(_, arm)| arm.runs().next().is_some());
    panel.legend =
        Legend::Names(names.map(|(index, arm)| (arm.name.clone(), color::series(index))).collect());
    panel
}

/// A number of `summary.json`; `None` without one.
type CostOf = fn(&ReportedRun) -> Option<f64>;

/// The costs of a training, each with its number of decimals.
const COSTS: [(&str, usize, CostOf); 5] = [
    ("Training time (s)", 1, |run| {
        let seconds = &run.summary.as_ref()?.seconds;
        Some(seconds.steps + seconds.prefix)
    }),
    ("Peak memory (MiB)", 0, |run| Some(run.summary.as_ref()?.peak_memory_bytes? as f64 / MIB)),
    ("Peak GPU memory (MiB)", 0, |run| {
        Some(run.summary.as_ref()?.peak_gpu_memory_bytes? as f64 / MIB)
    }),
    ("Optimizer state (MiB)", 1, |run| {
        Some(run.summary.as_ref()?.optimizer_state_bytes as f64 / MIB)
    }),
    ("Trained parameters (millions)", 2, |run| {
        Some(run.summary.as_ref()?.parameters.trained as f64 / 1e6)
    }),
];

/// Returns the cost of training as bars, one for each arm; of runs that have ended.
pub fn costs(arms: &[ReportedArm]) -> FigureSpec {
    // Names of many arms do not fit below their bars.
    let is_crowded = arms.len() > 3;
    let panel = |(title, digits, cost): (&str, usize, CostOf)| {
        let runs = |arm: &ReportedArm| arm.runs.iter().filter_map(cost).collect::<Vec<f64>>();
        let values: Vec<Vec<f64>> = arms.iter().map(runs).collect();
        let name = |arm: &ReportedArm| if is_crowded { String::new() } else { arm.name.clone() };
        let names: Vec<String> = arms.iter().map(name).collect();
        let (_, most) = extent(values.iter().flatten().copied());
        let axis = Axis::linear("", 0.0, 1.15 * most.max(1e-3));
        // One bar in each category: the colour is the arm's, as in the curves.
        let bars = Bars {
            categories: &names,
            names: vec![(String::new(), color::series(0))],
            values: values.iter().map(|values| vec![mean_or_nan(values)]).collect(),
            digits: Digits::Decimals(digits),
        };
        let mut panel = bars.grouped(title, "", axis);
        let of_arms = arms.iter().enumerate().filter(|_| is_crowded);
        panel.legend = Legend::Names(
            of_arms.map(|(index, arm)| (arm.name.clone(), color::series(index))).collect(),
        );
        for ((index, block), values) in panel.blocks.iter_mut().enumerate().zip(&values) {
            block.color = color::series(index);
            let deviation = standard_deviation(values);
            block.spread = deviation.map(|by| (block.y.1 - by, block.y.1 + by));
        }
        panel
    };
    let any = |cost: CostOf| runs(arms).any(|run| cost(run).is_some());
    let panels = COSTS.into_iter().filter(|(.., cost)| any(*cost)).map(panel);
    FigureSpec {
        name: "training_costs".to_owned(),
        title: "What the training costs".to_owned(),
        note: note(arms),
        columns: 2,
        panel: (430, 260),
        panels: panels.collect(),
    }
}

fn mean_or_nan(values: &[f64]) -> f64 {
    if values.is_empty() { f64::NAN } else { mean(values) }
}

/// Most points of a line.
const MOST: usize = 120;

/// Returns every n-th point, and the last one.
fn thinned<T>(points: Vec<T>) -> Vec<T> {
    let every = points.len().div_ceil(MOST).max(1);
    let last = points.len().saturating_sub(1);
    let keep = |(index, _): &(usize, T)| index % every == 0 || *index == last;
    points.into_iter().enumerate().filter(keep).map(|(_, point)| point).collect()
}
