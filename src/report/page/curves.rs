//! Curves of training: loss, metrics, learning rate, throughput and memory, over steps and over seconds.

use super::Arms;
use crate::report::figures::axis::Axis;
use crate::report::figures::color;
use crate::report::figures::spec::{FigureSpec, Legend, Panel, Series, extent, lines};

/// A quantity that is logged in training.
struct Quantity {
    title: String,
    /// The name of the axis.
    unit: &'static str,
    scalar: String,
    /// True if its axis is logarithmic when its values differ by more than [`WIDE`].
    may_be_log: bool,
}

fn quantities(arms: &Arms, split: &str) -> Vec<Quantity> {
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
    let any = |quantity: &Quantity| arms.runs().any(|run| !run.curve(&quantity.scalar).is_empty());
    all.retain(any);
    all
}

/// Largest value divided by the smallest from which on an axis is logarithmic: a loss falls fast at first.
const WIDE: f64 = 10.0;

/// Metrics that have curves, with their labels.
const METRICS: [(&str, &str); 3] =
    [("hits@1", "Hits@1"), ("hits@10", "Hits@10"), ("mrr@10", "MRR@10")];

/// Returns the curves over steps, and over seconds of training.
pub fn figures(arms: &Arms, split: &str) -> Vec<FigureSpec> {
    let quantities = quantities(arms, split);
    let steps = quantities.iter().map(|quantity| panel(arms, quantity, Over::Steps));
    let seconds = quantities.iter().map(|quantity| panel(arms, quantity, Over::Seconds));
    let names: Vec<String> = arms.runs().map(|run| run.subject()).collect();
    let figure = |name: &str, title: &str, panels: Vec<Panel>| FigureSpec {
        name: name.to_owned(),
        title: title.to_owned(),
        note: match names.len() {
            0..=4 => names.join("; "),
            more => format!("{} and {} more runs", names[..3].join("; "), more - 3),
        },
        columns: 2,
        panel: (430, 290),
        panels,
    };
    vec![
        figure("training_over_steps", "Training over steps", steps.collect()),
        figure("training_over_seconds", "Training over seconds", seconds.collect()),
    ]
}

/// The x axis of a curve.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    Steps,
    Seconds,
}

fn panel(arms: &Arms, quantity: &Quantity, over: Over) -> Panel {
    let mut all = Vec::new();
    for (index, arm) in arms.arms.iter().enumerate() {
        for run in arm.runs() {
            let mut points = thinned(run.curve(&quantity.scalar));
            if over == Over::Seconds {
                let seconds = run.seconds();
                points.iter_mut().for_each(|point| point.0 = seconds(point.0));
            }
            all.push(Series { name: run.name.clone(), color: color::series(index), points });
        }
    }
    all.retain(|series| !series.points.is_empty());
    let points = || all.iter().flat_map(|series| series.points.iter().copied());
    let (_, last) = extent(points().map(|point| point.0));
    let (low, high) = extent(points().map(|point| point.1));
    let name = if over == Over::Steps { "step" } else { "seconds of training" };
    let x = Axis::linear(name, 0.0, last);
    // Round ticks beyond the last point would leave a part of the plot empty.
    let x = Axis {
        end: last.max(1e-9),
        ticks: x.ticks.into_iter().filter(|(place, _)| *place <= last).collect(),
        ..x
    };
    let y = match low > 0.0 && high > WIDE * low && quantity.may_be_log {
        true => {
            let points = all.iter_mut().flat_map(|series| &mut series.points);
            points.for_each(|point| point.1 = point.1.log10());
            Axis::logarithmic(&format!("{} (log)", quantity.unit), low, high)
        }
        false => Axis::linear(quantity.unit, low.min(0.0), high),
    };
    let mut panel = lines(&quantity.title, x, y, all);
    let names = arms.arms.iter().enumerate().filter(|(_, arm)| arm.runs().next().is_some());
    panel.legend =
        Legend::Names(names.map(|(index, arm)| (arm.name.clone(), color::series(index))).collect());
    panel
}

/// Most points of a line.
const MOST: usize = 120;

/// Returns every n-th point, and the last one.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    let every = points.len().div_ceil(MOST).max(1);
    let last = points.len().saturating_sub(1);
    let keep = |(index, _): &(usize, (f64, f64))| index % every == 0 || *index == last;
    points.into_iter().enumerate().filter(keep).map(|(_, point)| point).collect()
}
