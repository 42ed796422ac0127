//! Figures of several runs in one: the mean over seeds with its standard deviation, and arms beside each other.

use std::collections::HashMap;

use plotters::style::RGBColor;

use super::axis::Axis;
use super::color::Scale;
use super::spec::{Block, FigureSpec, Labels, Legend, Panel, Series};
use crate::compare::{mean, standard_deviation};

/// More lines than this in one panel cannot be told apart.
const MOST_LINES: usize = 6;

/// Returns the figure of the mean over runs that differ in their seed: lines and grouped bars with one standard deviation
/// (of a sample: n - 1) in both directions, cells and stacked bars without. On a logarithmic axis, mean and deviation are
/// those of the logarithms. What is not in all of the figures is left out. Returns `None` without a figure.
pub fn over_seeds(seeds: &[FigureSpec]) -> Option<FigureSpec> {
    let first = seeds.first()?;
    if seeds.len() == 1 {
        return Some(first.clone());
    }
    let panels = first.panels.iter().filter_map(|panel| {
        let same = seeds.iter().map(|seed| seed.panels.iter().find(|p| p.title == panel.title));
        mean_panel(&same.collect::<Option<Vec<&Panel>>>()?)
    });
    Some(FigureSpec { panels: panels.collect(), ..first.clone() })
}

/// Returns what figures of the mean over seeds say about themselves.
pub fn describe_seeds(seeds: usize) -> String {
    format!(
        "Means over {seeds} seeds; error bars and bands: one standard deviation in both directions, on logarithmic axes \
         of the logarithms"
    )
}

/// Returns the mean, and the mean less and plus the standard deviation; NaN if a value is not finite.
fn mean_and_spread(values: &[f64]) -> (f64, (f64, f64)) {
    let (mean, deviation) = (mean(values), standard_deviation(values).unwrap_or(f64::NAN));
    (mean, (mean - deviation, mean + deviation))
}

fn mean_panel(seeds: &[&Panel]) -> Option<Panel> {
    let first = *seeds.first()?;
    let (x, y) = shared_axes(seeds)?;
    let lines = first.lines.iter().filter_map(|line| {
        let same = seeds.iter().map(|seed| seed.lines.iter().find(|other| other.name == line.name));
        Some(mean_line(&same.collect::<Option<Vec<&Series>>>()?))
    });
    let legend = shared_legend(seeds);
    let blocks = mean_blocks(seeds, &legend);
    let counts = first.counts.iter().map(|(place, count)| {
        let at = |seed: &&Panel| {
            let found = seed.counts.iter().find(|(other, _)| other == place)?;
            Some(found.1.clone())
        };
        let mut all: Vec<String> = seeds.iter().filter_map(at).collect();
        if all.iter().all(|other| other == count) {
            all.truncate(1);
        }
        (*place, all.join("/"))
    });
    Some(Panel {
        lines: lines.collect(),
        counts: counts.collect(),
        x,
        y,
        legend,
        blocks,
        ..first.clone()
    })
}

/// Returns the mean of lines at the places that all of them have, in the style of the first.
pub fn mean_line(seeds: &[&Series]) -> Series {
    let mut line = Series::new(&seeds[0].name, seeds[0].color, Vec::new());
    let points = |seed: &&Series| seed.points.iter().map(|(x, y)| (x.to_bits(), *y)).collect();
    let by_place: Vec<HashMap<u64, f64>> = seeds.iter().map(points).collect();
    for &(x, _) in &seeds[0].points {
        let at = |seed: &HashMap<u64, f64>| seed.get(&x.to_bits()).copied();
        let Some(values) = by_place.iter().map(at).collect::<Option<Vec<f64>>>() else { continue };
        let (mean, spread) = mean_and_spread(&values);
        line.points.push((x, mean));
        line.spread.push(spread);
    }
    line
}

/// Returns the blocks of means: cells in the colour of the mean, bars as high as the mean.
fn mean_blocks(seeds: &[&Panel], legend: &Legend) -> Vec<Block> {
    let first = seeds[0];
    let is_same = |one: &Block, other: &Block| {
        one.x == other.x
            && match legend {
                Legend::Scale(_) => one.y == other.y,
                Legend::Names(_) => one.color == other.color,
            }
    };
    let mut blocks: Vec<Block> = Vec::new();
    for block in &first.blocks {
        let at = |seed: &&Panel| seed.blocks.iter().find(|b| is_same(b, block)).map(|b| b.value);
        let Some(values) = seeds.iter().map(at).collect::<Option<Vec<f64>>>() else { continue };
        let (mean, spread) = mean_and_spread(&values);
        let mut block = Block { value: mean, ..block.clone() };
        let height = if mean.is_finite() { mean } else { 0.0 };
        match (legend, first.labels) {
            (Legend::Scale(scale), _) => block.color = scale.color(mean),
            (Legend::Names(_), Labels::Above) => {
                (block.y, block.spread) = ((0.0, height), Some(spread));
            }
            (Legend::Names(_), _) if mean.is_finite() => {
                let below = blocks.iter().rfind(|below| below.x == block.x).map_or(0.0, |b| b.y.1);
                block.y = (below, below + height);
            }
            (Legend::Names(_), _) => {}
        }
        block.label = match (legend, mean.is_finite()) {
            (Legend::Scale(_), false) => String::new(),
            _ => first.digits.write(mean),
        };
        blocks.push(block);
    }
    blocks
}

/// Returns axes that are the same for all of the panels; `None` if they have other categories.
fn shared_axes(panels: &[&Panel]) -> Option<(Axis, Axis)> {
    let (first, rest) = panels.split_first()?;
    rest.iter().try_fold((first.x.clone(), first.y.clone()), |(x, y), panel| {
        Some((x.spanning(&panel.x)?, y.spanning(&panel.y)?))
    })
}

/// Returns the first panel's legend; a colour scale has the range of all of them.
fn shared_legend(panels: &[&Panel]) -> Legend {
    let scales = panels.iter().filter_map(|panel| match panel.legend {
        Legend::Scale(scale) => Some(scale),
        Legend::Names(_) => None,
    });
    let shared = scales.reduce(|one, other| Scale {
        low: one.low.min(other.low),
        high: one.high.max(other.high),
        ..one
    });
    match shared {
        Some(scale) => Legend::Scale(scale),
        None => panels[0].legend.clone(),
    }
}

/// Returns one figure of several arms, given with their names. Panels of few lines are drawn into one another, an arm's
/// lines with its dashes; all others stand beside each other, with the same axes and colours.
pub fn beside(arms: &[(String, FigureSpec)]) -> Option<FigureSpec> {
    let (_, first) = arms.first()?;
    if arms.len() == 1 {
        return Some(first.clone());
    }
    let mut titles: Vec<&str> = Vec::new();
    for panel in arms.iter().flat_map(|(_, figure)| &figure.panels) {
        if !titles.contains(&panel.title.as_str()) {
            titles.push(&panel.title);
        }
    }
    let rows: Vec<Vec<Option<&Panel>>> = titles
        .iter()
        .map(|title| {
            let of_arm = |arm: &'_ (String, FigureSpec)| {
                arm.1.panels.iter().position(|p| p.title == **title)
            };
            arms.iter().map(|arm| of_arm(arm).map(|index| &arm.1.panels[index])).collect()
        })
        .collect();
    let names: Vec<String> = arms.iter().map(|(name, _)| name.clone()).collect();
    let overlaid: Option<Vec<Panel>> = rows
        .iter()
        .map(|row| overlaid(&names, &row.iter().copied().collect::<Option<Vec<_>>>()?))
        .collect();
    if let Some(panels) = overlaid {
        return Some(FigureSpec { panels, ..first.clone() });
    }
    let panels = rows.iter().flat_map(|row| row_beside(&names, row)).collect();
    let (width, height) = first.panel;
    Some(FigureSpec {
        columns: arms.len(),
        panel: (width.min(560), height),
        panels,
        ..first.clone()
    })
}

/// Returns the lines of several arms in one panel, or `None` if they would be too many or the panels are no line charts.
fn overlaid(names: &[String], arms: &[&Panel]) -> Option<Panel> {
    let first = *arms.first()?;
    let (x, y) = shared_axes(arms)?;
    let lines: usize = arms.iter().map(|panel| panel.lines.len()).sum();
    let is_alike = |panel: &&Panel| {
        let key = |panel: &Panel| -> Vec<(f64, f64)> {
            panel.bands.iter().map(|band| (band.from, band.to)).collect()
        };
        !panel.lines.is_empty() && panel.counts.is_empty() && key(panel) == key(first)
    };
    if lines > MOST_LINES || !arms.iter().all(is_alike) {
        return None;
    }
    let mut panel = Panel { x, y, runs: names.to_vec(), lines: Vec::new(), ..first.clone() };
    let mut legend: Vec<(String, RGBColor)> = Vec::new();
    for (run, (name, arm)) in names.iter().zip(arms).enumerate() {
        if let Legend::Names(entries) = &arm.legend {
            legend.extend(
                entries.iter().filter(|entry| !legend.contains(entry)).cloned().collect::<Vec<_>>(),
            );
        }
        panel.lines.extend(arm.lines.iter().map(|line| Series {
            name: format!("{}, {name}", line.name),
            run: Some(run),
            ..line.clone()
        }));
    }
    panel.legend = Legend::Names(legend);
    Some(panel)
}

/// Returns the panels of a row, one for each arm; an arm that has none gets an empty one.
fn row_beside(names: &[String], arms: &[Option<&Panel>]) -> Vec<Panel> {
    let there: Vec<&Panel> = arms.iter().flatten().copied().collect();
    let (axes, legend) = (shared_axes(&there), shared_legend(&there));
    let panel = |(name, panel): (&String, &Option<&Panel>)| {
        let Some(panel) = panel else {
            let empty = Panel::empty(
                &format!("{name}: not measured"),
                there[0].x.clone(),
                there[0].y.clone(),
            );
            return Panel { legend: legend.clone(), ..empty };
        };
        let mut panel = Panel { title: format!("{name}: {}", panel.title), ..(*panel).clone() };
        if let Some((x, y)) = &axes {
            (panel.x, panel.y) = (x.clone(), y.clone());
        }
        if let Legend::Scale(scale) = &legend {
            panel.blocks.iter_mut().for_each(|block| block.color = scale.color(block.value));
            panel.legend = legend.clone();
        }
        panel
    };
    names.iter().zip(arms).map(panel).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figures::color;
    use crate::report::figures::spec::{Bars, Digits, PERCENT, heat_map, lines, rank_lines};

    fn figure(panel: Panel) -> FigureSpec {
        FigureSpec {
            name: "made".to_owned(),
            title: "Made".to_owned(),
            note: String::new(),
            columns: 1,
            panel: (860, 300),
            panels: vec![panel],
        }
    }

    fn line(values: [f64; 2]) -> Vec<Series> {
        let points = vec![(0.5, values[0]), (1.5, values[1])];
        vec![Series::new("MLP", color::series(0), points)]
    }

    fn axes() -> (Axis, Axis) {
        let labels = ["0".to_owned(), "1".to_owned()];
        (Axis::categorical("layer", &labels), Axis::linear("", 0.0, 10.0))
    }

    fn of_seeds(panels: [Panel; 2]) -> Panel {
        over_seeds(&panels.map(figure)).unwrap().panels.remove(0)
    }

    #[test]
    fn lines_of_seeds_are_their_mean_and_the_deviation_of_a_sample() {
        let panel = |values| lines("Made", axes().0, axes().1, line(values));
        let found = of_seeds([panel([1.0, f64::NAN]), panel([4.0, 2.0])]);
        let half = 4.5f64.sqrt();
        assert_eq!(found.lines[0].points[0], (0.5, 2.5));
        assert_eq!(found.lines[0].spread[0], (2.5 - half, 2.5 + half));
        // Undefined in one seed is undefined in the mean.
        assert!(found.lines[0].points[1].1.is_nan());
        assert_eq!(found.lines[0].bars().count(), 1);
    }

    #[test]
    fn means_of_ranks_are_those_of_logarithms() {
        let panel = |rank| rank_lines("Made", axes().0, "rank (log)", line([rank, 1.0]));
        let found = of_seeds([panel(10.0), panel(1000.0)]);
        assert_eq!(found.lines[0].points[0].1, 2.0);
        assert!(found.y.end > 3.0, "the axis has room for both");
    }

    #[test]
    fn cells_and_bars_of_seeds_have_the_label_the_colour_and_the_length_of_the_mean() {
        let values = |value: f64| vec![vec![value, 100.0 - value]];
        let cell = |value| {
            let axes = (axes().0, Axis::categorical("", &["all".to_owned()]));
            heat_map("Made", axes, &values(value), PERCENT, Digits::Decimals(0))
        };
        let found = of_seeds([cell(10.0), cell(30.0)]);
        assert_eq!(found.blocks[0].label, "20");
        assert_eq!(found.blocks[0].color, PERCENT.color(20.0));

        let categories = ["all".to_owned()];
        let bars = |value| Bars {
            categories: &categories,
            names: ["one", "two"]
                .iter()
                .zip(0..)
                .map(|(n, i)| ((*n).to_owned(), color::series(i)))
                .collect(),
            values: values(value),
            digits: Digits::Decimals(1),
        };
        let stacked = |value| bars(value).stacked("Made", "", axes().1);
        let found = of_seeds([stacked(10.0), stacked(30.0)]);
        assert_eq!((found.blocks[0].y, found.blocks[1].y), ((0.0, 20.0), (20.0, 100.0)));
        assert_eq!(found.blocks[0].spread, None);
        let grouped = |value| bars(value).grouped("Made", "", axes().1);
        let found = of_seeds([grouped(10.0), grouped(30.0)]);
        assert_eq!(found.blocks[1].y, (0.0, 80.0));
        assert_eq!(found.blocks[1].spread, Some((80.0 - 200f64.sqrt(), 80.0 + 200f64.sqrt())));
        assert_eq!(found.blocks[1].label, "80.0");
    }

    #[test]
    fn arms_side_by_side_share_axes_and_colours() {
        let cell = |value: f64| {
            let scale = Scale { high: value, ..PERCENT };
            let axes = (axes().0, Axis::categorical("", &["all".to_owned()]));
            figure(heat_map("Made", axes, &[vec![5.0, value]], scale, Digits::Decimals(0)))
        };
        let arms = [("one".to_owned(), cell(10.0)), ("other".to_owned(), cell(40.0))];
        let found = beside(&arms).unwrap();
        let titles: Vec<&str> = found.panels.iter().map(|panel| panel.title.as_str()).collect();
        assert_eq!(
            (titles.as_slice(), found.columns),
            (["one: Made", "other: Made"].as_slice(), 2)
        );
        assert_eq!(found.panels[0].blocks[0].color, found.panels[1].blocks[0].color);

        // Few lines are drawn over one another.
        let panel =
            |high| figure(lines("Made", axes().0, Axis::linear("", 0.0, high), line([1.0, 2.0])));
        let found =
            beside(&[("one".to_owned(), panel(3.0)), ("other".to_owned(), panel(8.0))]).unwrap();
        let [panel] = found.panels.as_slice() else { panic!("one panel") };
        assert_eq!((panel.lines.len(), panel.runs.len(), panel.y.end), (2, 2, 8.0));
        assert_ne!(panel.dashes_of(&panel.lines[0]), panel.dashes_of(&panel.lines[1]));
        assert_eq!(panel.style_of(panel.lines[0].color), panel.style_of(panel.lines[1].color));
    }
}
