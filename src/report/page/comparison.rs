//! The comparison of the arms: differences with intervals and tests, wins and losses, costs.

use super::answer::{bytes, duration};
use super::html::{Html, Table};
use super::{Arms, measure_label, svg};
use crate::compare::{Comparison, Cost, Reached, SystemRun, mean_of, p_value};
use crate::component::grouped;
use crate::report::figures::axis::{Axis, thousands};
use crate::report::figures::color;
use crate::report::figures::spec::{Band, Block, FigureSpec, Labels, Legend, Panel, extent};
use crate::report::tables::number;

/// Appends the section.
pub fn section(html: &mut Html, arms: &Arms) {
    let found = match &arms.comparison {
        Ok(found) => found,
        Err(reason) => {
            html.raw("<div class=\"notice\">")
                .element("p", &[], "These runs are shown beside each other, and not compared:")
                .paragraph("reason", reason)
                .raw("</div>");
            return;
        }
    };
    html.table(&effectiveness(found));
    for figure in figures(found) {
        svg::figure(html, &figure);
    }
    for (measure, name) in found.measures.iter().enumerate() {
        let table = differences(found, measure);
        match measure {
            0 => html.table(&table),
            _ => {
                let mut inner = Html::default();
                inner.table(&table);
                html.details(format!("Differences in {}", measure_label(name)), &inner)
            }
        };
    }
    html.paragraph(
        "note",
        "Difference: second minus first. Interval: 95%, bootstrap over the queries. d: mean difference in standard \
         deviations of the differences. p: paired randomisation test over the queries, two-sided, within one seed. Holm: p \
         corrected for the number of comparisons.",
    );
    html.element("h3", &[], "Cost");
    html.table(&cost(found));
    let levels = levels(found);
    if !levels.rows.is_empty() {
        html.table(&levels);
    }
}

fn effectiveness(found: &Comparison) -> Table {
    let mut table = Table::new(
        format!(
            "Effectiveness on {} {} queries; \u{b1}: standard deviation over seeds; []: 95% interval of a single run, bootstrap over the queries",
            thousands(found.queries as f64),
            found.split
        ),
        &["arm", "runs"],
    );
    table.header.extend(found.measures.iter().map(|name| measure_label(name)));
    for arm in &found.arms {
        let values = (0..arm.means.len()).map(|measure| arm.shown(measure));
        let row = [arm.name.clone(), arm.runs.len().to_string()];
        table.rows.push(row.into_iter().chain(values).collect());
    }
    table
}

/// Returns the names of a compared pair, with the seed if there are several.
fn pair_names(found: &Comparison) -> Vec<(String, usize, usize)> {
    let mut names = Vec::new();
    for (index, pair) in found.pairs.iter().enumerate() {
        let [first, second] = [pair.first, pair.second].map(|arm| found.arms[arm].name.as_str());
        for (place, seed) in pair.seeds.iter().enumerate() {
            let seed = match &seed.seed {
                Some(seed) if pair.seeds.len() > 1 => format!(", seed {seed}"),
                _ => String::new(),
            };
            names.push((format!("{second} \u{2212} {first}{seed}"), index, place));
        }
    }
    names
}

fn differences(found: &Comparison, measure: usize) -> Table {
    let name = measure_label(&found.measures[measure]);
    let header = ["pair", "difference", "95% interval", "d", "p", "Holm", "wins", "ties", "losses"];
    let mut table = Table::new(format!("Differences in {name}"), &header);
    for (name, pair, seed) in pair_names(found) {
        let seed = &found.pairs[pair].seeds[seed];
        let of = &seed.differences[measure];
        let [low, high] = of.interval;
        table.rows.push(vec![
            name,
            format!("{:+.4}", of.mean),
            format!("[{low:+.4}, {high:+.4}]"),
            of.effect_size.map_or_else(|| "-".to_owned(), |size| format!("{size:+.2}")),
            p_value(of.p),
            p_value(seed.corrected[measure]),
            of.wins.to_string(),
            of.ties.to_string(),
            of.losses.to_string(),
        ]);
    }
    table
}

/// Returns the figure of intervals, and of wins, ties and losses.
pub fn figures(found: &Comparison) -> Vec<FigureSpec> {
    let names = pair_names(found);
    if names.is_empty() || found.measures.is_empty() {
        return Vec::new();
    }
    let of = |pair: usize, seed: usize| &found.pairs[pair].seeds[seed].differences[0];
    let label = measure_label(&found.measures[0]);
    let ends = names.iter().flat_map(|(_, pair, seed)| of(*pair, *seed).interval);
    let (low, high) = extent(ends.chain([0.0]));
    let room = 0.05 * (high - low).max(0.01);
    let x = Axis::linear(&format!("difference in {label}"), low - room, high + room);
    let mut blocks = Vec::new();
    for (row, (_, pair, seed)) in names.iter().enumerate() {
        let of = of(*pair, *seed);
        let text = format!("{:+.3} [{:+.3}, {:+.3}]", of.mean, of.interval[0], of.interval[1]);
        let half = 0.006 * (x.end - x.start);
        let around =
            [((of.interval[0], of.interval[1]), 0.06), ((of.mean - half, of.mean + half), 0.22)];
        for (x, height) in around {
            let middle = row as f64 + 0.5;
            blocks.push(Block {
                x,
                y: (middle - height, middle + height),
                color: color::series(0),
                value: of.mean,
                spread: None,
                label: text.clone(),
            });
        }
    }
    let (labels, of_what) = labels(found, &names);
    let side =
        |from: f64, to: f64, name: &str, shaded| Band { from, to, name: name.to_owned(), shaded };
    let panel = |title: String, x: Axis, blocks: Vec<Block>| Panel {
        blocks,
        ..Panel::empty(&title, x, Axis::categorical_from_top("", &labels))
    };
    let bands = vec![
        side(x.start, 0.0, if x.start < -room { "worse" } else { "" }, true),
        side(0.0, x.end, if x.end > room { "better" } else { "" }, false),
    ];
    let mut intervals = panel(format!("{of_what}: difference with its 95% interval"), x, blocks);
    (intervals.bands, intervals.labels) = (bands, Labels::InAll);
    let kinds = [("better", color::series(2)), ("tie", color::FAINT), ("worse", color::series(1))];
    let mut shares = Vec::new();
    for (row, (_, pair, seed)) in names.iter().enumerate() {
        let of = of(*pair, *seed);
        let mut before = 0.0;
        for (count, (_, color)) in [of.wins, of.ties, of.losses].into_iter().zip(kinds) {
            let share = 100.0 * count as f64 / found.queries.max(1) as f64;
            shares.push(Block {
                x: (before, before + share),
                y: (row as f64 + 0.15, row as f64 + 0.85),
                color,
                value: share,
                spread: None,
                label: number(share, 1),
            });
            before += share;
        }
    }
    let percent = Axis::linear("% of queries", 0.0, 100.0);
    let mut won = panel(format!("{of_what}: queries won and lost (%)"), percent, shares);
    won.legend = Legend::Names(kinds.map(|(name, color)| (name.to_owned(), color)).to_vec());
    vec![FigureSpec {
        name: "differences".to_owned(),
        title: "How large the differences are".to_owned(),
        note: format!("{} {} queries; {}", found.queries, found.split, arm_names(found)),
        columns: 1,
        panel: (860, (100 + 34 * names.len() as u32).clamp(160, 500)),
        panels: vec![intervals, won],
    }]
}

/// Returns the names of the rows and of what they show: a single pair stands in the title.
fn labels(found: &Comparison, names: &[(String, usize, usize)]) -> (Vec<String>, String) {
    let measure = measure_label(&found.measures[0]);
    let [pair] = found.pairs.as_slice() else {
        return (names.iter().map(|(name, ..)| name.clone()).collect(), measure);
    };
    let [first, second] = [pair.first, pair.second].map(|arm| found.arms[arm].name.as_str());
    let seed =
        |seed: &Option<String>| seed.as_ref().map_or(String::new(), |seed| format!("seed {seed}"));
    let rows = pair.seeds.iter().map(|found| seed(&found.seed)).collect();
    (rows, format!("{measure}, {second} \u{2212} {first}"))
}

fn arm_names(found: &Comparison) -> String {
    let names: Vec<&str> = found.arms.iter().map(|arm| arm.name.as_str()).collect();
    names.join(", ")
}

fn cost(found: &Comparison) -> Table {
    let header = [
        "arm",
        "trained parameters",
        "optimizer state",
        "peak memory",
        "steps",
        "examples",
        "training time",
        "examples/s",
    ];
    let mut table = Table::new("Cost of training (means over the runs of an arm)", &header);
    for arm in &found.arms {
        let show = |value: fn(&Cost) -> Option<f64>, text: fn(f64) -> String| {
            mean_of(&arm.runs, |run| value(run.cost.as_ref()?)).map_or("-".to_owned(), text)
        };
        table.rows.push(vec![
            arm.name.clone(),
            show(|cost| Some(cost.trained_parameters as f64), |count| grouped(count as usize)),
            show(|cost| Some(cost.optimizer_state_bytes as f64), bytes),
            show(|cost| cost.peak_memory_bytes.map(|bytes| bytes as f64), bytes),
            show(|cost| Some(cost.steps as f64), thousands),
            show(|cost| Some(cost.examples as f64), thousands),
            show(|cost| Some(cost.training_seconds), duration),
            show(|cost| Some(cost.examples as f64 / cost.training_seconds), thousands),
        ]);
    }
    table
}

fn levels(found: &Comparison) -> Table {
    let header = ["arm", "level", "runs", "steps", "examples", "training time", "gradients"];
    let title = format!(
        "Cost to reach a level of Hits@1 ({} queries), interpolated between evaluations",
        found.split
    );
    let mut table = Table::new(title, &header);
    for arm in &found.arms {
        let count = arm.runs.iter().map(|run| run.to_levels.len()).max().unwrap_or(0);
        for index in 0..count {
            let at = |run: &SystemRun| run.to_levels.get(index).copied();
            let Some(level) = arm.runs.iter().find_map(at) else { continue };
            let reached = |run: &SystemRun| at(run)?.reached;
            let reach = arm.runs.iter().filter_map(reached).count();
            let show = |value: fn(Reached) -> f64, text: fn(f64) -> String| {
                mean_of(&arm.runs, |run| reached(run).map(value))
                    .map_or("not reached".to_owned(), text)
            };
            table.rows.push(vec![
                arm.name.clone(),
                format!("{:.3}", level.level),
                format!("{reach} of {}", arm.runs.len()),
                show(|reached| reached.steps, thousands),
                show(|reached| reached.examples, thousands),
                show(|reached| reached.seconds, duration),
                show(|reached| reached.gradient_bytes, bytes),
            ]);
        }
    }
    table
}
