//! The values of a panel in words: for tables, and for what is pointed at.

use super::html::{Html, Table};
use super::svg::unit;
use crate::report::figures::axis::{Axis, thousands};
use crate::report::figures::spec::{Block, Legend, Panel, Series};

/// A block in words.
pub struct Described {
    /// Its category on the x axis.
    pub row: String,
    /// Its category on the y axis, or its series.
    pub column: String,
    /// Its value.
    pub value: String,
}

impl Described {
    /// Describes a block.
    pub fn of(block: &Block, panel: &Panel) -> Self {
        let within = |axis: &Axis, (from, to): (f64, f64)| {
            let inside =
                |(place, _): &&(f64, String)| *place > from.min(to) && *place < from.max(to);
            let names: Vec<&str> =
                axis.ticks.iter().filter(inside).map(|(_, name)| name.as_str()).collect();
            match names.as_slice() {
                // A bar is narrower than its category.
                [] => {
                    let near = |(place, _): &&(f64, String)| place.floor() == from.min(to).floor();
                    axis.ticks.iter().find(near).map(|(_, name)| name.clone()).unwrap_or_default()
                }
                [one] => (*one).to_owned(),
                [first, .., last] => format!("{first}\u{2013}{last}"),
            }
        };
        let series = || match &panel.legend {
            Legend::Names(names) => names.iter().find(|(_, color)| *color == block.color),
            Legend::Scale(_) => None,
        };
        let name = |axis: &Axis, text: String| match axis.name.is_empty() || text.is_empty() {
            true => text,
            false => format!("{} {text}", axis.name),
        };
        let value = match (block.label.is_empty(), series()) {
            (false, _) => block.label.clone(),
            (true, Some((name, _))) if panel.y.is_categorical() => name.clone(),
            _ => "undefined".to_owned(),
        };
        let across = || name(&panel.x, within(&panel.x, block.x));
        let down = || name(&panel.y, within(&panel.y, block.y));
        let (row, column) = match (panel.x.is_categorical(), panel.y.is_categorical()) {
            (true, true) => (across(), down()),
            (true, false) => (across(), series().map(|(name, _)| name.clone()).unwrap_or_default()),
            (false, _) => (down(), series().map(|(name, _)| name.clone()).unwrap_or_default()),
        };
        Self { row, column, value }
    }
}

/// The values of blocks: a row for each category of the x axis.
pub fn of_blocks(panel: &Panel) -> Table {
    let found: Vec<Described> =
        panel.blocks.iter().map(|block| Described::of(block, panel)).collect();
    let first = match (panel.x.is_categorical(), panel.x.name.is_empty()) {
        (true, false) => panel.x.name.as_str(),
        (true, true) => "category",
        (false, _) => "row",
    };
    let mut table = Table::new(&panel.title, &[first]);
    let mut columns: Vec<&str> = Vec::new();
    for Described { column, .. } in &found {
        if !columns.contains(&column.as_str()) {
            columns.push(column);
        }
    }
    table.header.extend(columns.iter().map(|&name| match name.is_empty() {
        true => "value".to_owned(),
        false => name.to_owned(),
    }));
    for Described { row, column, value } in &found {
        let index = match table.rows.iter().position(|cells| cells[0] == *row) {
            Some(index) => index,
            None => {
                let empty = vec!["-".to_owned(); columns.len()];
                table.rows.push([row.clone()].into_iter().chain(empty).collect());
                table.rows.len() - 1
            }
        };
        let place = columns.iter().position(|name| name == column).unwrap_or(0);
        if let Some(cell) = table.rows[index].get_mut(place + 1) {
            cell.clone_from(value);
        }
    }
    table
}

/// The values of lines: a row for each x, with its place in the drawing.
pub fn of_lines<'a>(html: &'a mut Html, panel: &Panel, place: impl Fn(f64) -> f64) -> &'a mut Html {
    let finite = |line: &Series| {
        line.points.iter().filter(|point| point.0.is_finite()).copied().collect::<Vec<_>>()
    };
    let mut places: Vec<f64> = panel.lines.iter().flat_map(finite).map(|(x, _)| x).collect();
    places.sort_by(f64::total_cmp);
    places.dedup();
    let label = [("class", "scroll"), ("role", "group"), ("tabindex", "0")];
    let label: Vec<_> = label.into_iter().chain([("aria-label", panel.title.as_str())]).collect();
    html.open("div", &label)
        .raw("<table>")
        .raw("<caption>")
        .element("span", &[], &panel.title)
        .raw("</caption>");
    html.raw("<thead><tr>").element("th", &[("scope", "col")], &panel.x.name);
    for line in &panel.lines {
        html.element("th", &[("scope", "col"), ("class", "n")], &line.name);
    }
    html.raw("</tr></thead><tbody>");
    let is_log = panel.y.name.ends_with("(log)");
    for x in places {
        let place = unit(place(x));
        html.open("tr", &[("data-x", &place)]);
        html.element("th", &[("scope", "row")], name_of(&panel.x, x));
        for line in &panel.lines {
            let show = |value: f64| significant(if is_log { 10f64.powf(value) } else { value });
            let found = line.points.iter().position(|point| point.0 == x);
            let value = found.map_or(f64::NAN, |index| line.points[index].1);
            let ends = found.and_then(|index| line.spread.get(index));
            let text = match (value.is_finite(), ends) {
                (true, Some((low, high))) if low.is_finite() && high.is_finite() => {
                    format!("{} ({} to {})", show(value), show(*low), show(*high))
                }
                (true, _) => show(value),
                (false, _) => String::new(),
            };
            html.element("td", &[("class", "n")], text);
        }
        html.raw("</tr>");
    }
    html.raw("</tbody></table></div>")
}

/// The name of a place on an axis: its category, or the number.
fn name_of(axis: &Axis, value: f64) -> String {
    let tick = axis.ticks.iter().find(|(place, _)| (place - value).abs() < 1e-9);
    match tick.filter(|_| axis.is_categorical()) {
        Some((_, name)) => name.clone(),
        None => significant(value),
    }
}

/// A number with four significant digits.
pub fn significant(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return if value == 0.0 { "0".to_owned() } else { "-".to_owned() };
    }
    let magnitude = value.abs().log10().floor() as i32;
    if magnitude >= 3 {
        return thousands(value);
    }
    if magnitude < -4 {
        return format!("{value:.2e}");
    }
    let text = format!("{value:.*}", (3 - magnitude).clamp(0, 7) as usize);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}
