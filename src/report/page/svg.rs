//! Draws the panels of a figure as inline SVG whose colours follow the page, with the values in a table below. The files
//! of `genir plot` and of `--figures` are drawn by plotters from the same [`FigureSpec`]; its SVG has fixed colours and
//! nothing to point at.

use plotters::style::RGBColor;

use super::html::Html;
use super::values::{Described, of_blocks, of_lines};
use crate::report::figures::axis::{Axis, thousands};
use crate::report::figures::color::{self, ScaleKind};
use crate::report::figures::spec::{Block, FigureSpec, Labels, Legend, Panel, Series};

/// Width of a panel in units of its drawing, which is about its width in pixels.
const WIDTH: f64 = 370.0;
/// Font size.
const FONT: f64 = 12.0;
/// Mean width of a letter.
const LETTER: f64 = 6.6;

/// Appends a figure: its title and note, its panels, and the values of each panel as a table.
pub fn figure(html: &mut Html, spec: &FigureSpec) {
    if spec.panels.is_empty() {
        return;
    }
    html.open("figure", &[("class", "figure"), ("data-figure", &spec.name)]).raw("<figcaption>");
    html.element("span", &[("class", "title")], &spec.title);
    if !spec.note.is_empty() {
        html.raw(" ").element("span", &[("class", "note")], &spec.note);
    }
    html.raw("</figcaption><div class=\"panels\">");
    for panel in &spec.panels {
        draw(html, &spec.title, panel, spec.panel.1);
    }
    html.raw("</div></figure>");
}

/// The place of the plot within the drawing, in its units.
struct Frame {
    left: f64,
    top: f64,
    right: f64,
    bottom: f64,
}

impl Frame {
    fn x(&self, axis: &Axis, value: f64) -> f64 {
        self.left + (self.right - self.left) * share(axis, value)
    }

    fn y(&self, axis: &Axis, value: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * share(axis, value)
    }
}

/// The place of a value on an axis, from 0 to 1.
fn share(axis: &Axis, value: f64) -> f64 {
    ((value - axis.start) / (axis.end - axis.start)).clamp(-0.02, 1.02)
}

/// A number as an attribute.
pub fn unit(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
}

fn width_of(text: &str) -> f64 {
    text.chars().count() as f64 * LETTER
}

fn draw(html: &mut Html, figure: &str, panel: &Panel, height: u32) {
    let plot_height = match panel.lines.is_empty() {
        true => (f64::from(height) - 100.0).clamp(54.0, 420.0),
        false => 190.0,
    };
    let longest = panel.y.ticks.iter().map(|(_, label)| width_of(label)).fold(0.0, f64::max);
    let top = if panel.bands.is_empty() && panel.counts.is_empty() { 10.0 } else { 24.0 };
    let frame = Frame {
        left: longest.min(140.0) + if panel.y.name.is_empty() { 10.0 } else { 26.0 },
        top,
        right: WIDTH - 10.0,
        bottom: top + plot_height,
    };
    let total = frame.bottom + if panel.x.name.is_empty() { 24.0 } else { 42.0 };
    html.raw("<div class=\"panel\">").element("p", &[("class", "panel-title")], &panel.title);
    legend(html, panel);
    let label = format!("{figure}: {}. The values are in the table below.", panel.title);
    let kind = if panel.lines.is_empty() { "blocks" } else { "lines" };
    let view = format!("0 0 {} {}", unit(WIDTH), unit(total));
    let [edge_top, edge_bottom] = [frame.top, frame.bottom].map(unit);
    let attributes = [
        ("viewBox", view.as_str()),
        ("role", "img"),
        ("tabindex", "0"),
        ("aria-label", &label),
        ("class", "chart"),
        ("data-kind", kind),
    ];
    html.open("svg", &attributes);
    bands(html, panel, &frame);
    counts(html, panel, &frame);
    axes(html, panel, &frame);
    for block in &panel.blocks {
        self::block(html, block, panel, &frame);
    }
    block_labels(html, panel, &frame);
    for block in &panel.blocks {
        if let Some(ends) = block.spread.filter(|(low, high)| low.is_finite() && high.is_finite()) {
            error_bar(html, (block.x.0 + block.x.1) / 2.0, ends, color::INK, (panel, &frame));
        }
    }
    for line in &panel.lines {
        spread(html, line, panel, &frame);
    }
    for line in &panel.lines {
        self::line(html, line, panel.style_of(line.color), panel, &frame);
    }
    if !panel.lines.is_empty() {
        let cross = [("class", "cross"), ("x1", "0"), ("x2", "0"), ("y1", edge_top.as_str())];
        let cross: Vec<_> = cross.into_iter().chain([("y2", edge_bottom.as_str())]).collect();
        html.open("line", &cross).close("line");
    }
    html.close("svg");
    let mut values = Html::default();
    match panel.lines.is_empty() {
        true => values.table(&of_blocks(panel)),
        false => of_lines(&mut values, panel, |x| frame.x(&panel.x, x)),
    };
    html.details("Values", &values).close("div");
}

/// The name of a colour: those of series and of text follow the page.
fn css(color: RGBColor) -> String {
    let known = [
        (color::INK, "var(--ink)"),
        (color::UNPATCHED, "var(--unpatched)"),
        (color::UNDEFINED, "var(--undefined)"),
        (color::FAINT, "var(--frozen)"),
    ];
    if let Some((_, name)) = known.iter().find(|(other, _)| *other == color) {
        return (*name).to_owned();
    }
    match (0..7).find(|&index| color::series(index) == color) {
        Some(index) => format!("var(--s{index})"),
        None => hexadecimal(color),
    }
}

/// The name of a block's colour. Those of many series are shades of a few, which must keep their order: they are the same
/// on light and dark ground.
fn block_css(panel: &Panel, color: RGBColor) -> String {
    match &panel.legend {
        Legend::Names(names) if names.len() > 7 && panel.lines.is_empty() => hexadecimal(color),
        _ => css(color),
    }
}

fn hexadecimal(color: RGBColor) -> String {
    format!("#{:02x}{:02x}{:02x}", color.0, color.1, color.2)
}

fn legend(html: &mut Html, panel: &Panel) {
    match &panel.legend {
        Legend::Names(names) if names.is_empty() => {}
        Legend::Names(names) => {
            html.raw("<ul class=\"legend\">");
            for (index, (name, color)) in names.iter().enumerate() {
                html.raw("<li><svg viewBox=\"0 0 22 12\" class=\"key\" aria-hidden=\"true\">");
                let color = block_css(panel, *color);
                if panel.lines.is_empty() {
                    let style = format!("fill:{color}");
                    let rectangle = [("x", "4"), ("width", "14"), ("height", "12"), ("rx", "2")];
                    let style = [("class", "swatch"), ("style", style.as_str())];
                    html.open("rect", &[rectangle.as_slice(), &style].concat()).close("rect");
                } else {
                    let style = format!("stroke:{color}");
                    let class = format!("line d{}", index % DASHES);
                    html.open("path", &[("d", "M0 6H22"), ("class", &class), ("style", &style)])
                        .close("path");
                    marker(html, index, &color, 11.0, 6.0);
                }
                html.raw("</svg>").text(name).raw("</li>");
            }
            html.raw("</ul>");
        }
        Legend::Scale(scale) => {
            let stops: Vec<String> =
                (0..=8).map(|step| css(scale.color_at(f64::from(step) / 8.0))).collect();
            let style = format!("background:linear-gradient(90deg,{})", stops.join(","));
            let show = |value: f64| match scale.kind {
                ScaleKind::Rank => thousands(value),
                _ if value.fract() == 0.0 => format!("{value:.0}"),
                _ => format!("{value:.2}"),
            };
            html.raw("<p class=\"scale\">").element("span", &[], show(scale.low));
            html.element("span", &[("class", "bar"), ("style", &style)], "");
            html.element("span", &[], show(scale.high)).raw("</p>");
        }
    }
}

fn bands(html: &mut Html, panel: &Panel, frame: &Frame) {
    for band in &panel.bands {
        let (from, to) = (frame.x(&panel.x, band.from), frame.x(&panel.x, band.to));
        if band.shaded {
            rectangle(html, "band", (from, frame.top), (to, frame.bottom), &[]);
        }
        let middle = (from + to) / 2.0;
        let name = if band.name.starts_with('I') && to - from > 56.0 {
            format!("Stage {}", band.name)
        } else {
            band.name.clone()
        };
        let half = width_of(&name) / 2.0;
        let middle = middle.clamp(half, (WIDTH - half).max(half));
        label(html, "band-name", "middle", (middle, frame.top - 8.0), &name);
    }
}

/// The row of counts above the plot, without those for which there is no room.
fn counts(html: &mut Html, panel: &Panel, frame: &Frame) {
    if panel.counts.is_empty() {
        return;
    }
    let row = frame.top - 8.0;
    label(html, "band-name", "end", (frame.left - 6.0, row), "n =");
    let mut free = frame.left - 4.0;
    for (place, count) in &panel.counts {
        let (x, half) = (frame.x(&panel.x, *place), width_of(count) / 2.0);
        if x - half >= free {
            label(html, "band-name", "middle", (x, row), count);
            free = x + half + 5.0;
        }
    }
}

/// The error bars of a line, or a band if the x axis is not categorical.
fn spread(html: &mut Html, line: &Series, panel: &Panel, frame: &Frame) {
    if panel.x.is_categorical() {
        for (x, ends) in line.bars() {
            error_bar(html, x, ends, line.color, (panel, frame));
        }
        return;
    }
    let place =
        |x: f64, y: f64| format!("{} {}", unit(frame.x(&panel.x, x)), unit(frame.y(&panel.y, y)));
    let upper = line.bars().map(|(x, (_, high))| place(x, high));
    let mut lower: Vec<String> = line.bars().map(|(x, (low, _))| place(x, low)).collect();
    lower.reverse();
    let edge: Vec<String> = upper.chain(lower).collect();
    if edge.len() > 2 {
        let (path, fill) = (format!("M{}Z", edge.join("L")), format!("fill:{}", css(line.color)));
        html.open("path", &[("d", &path), ("class", "spread"), ("style", &fill)]).close("path");
    }
}

fn error_bar(
    html: &mut Html,
    x: f64,
    (low, high): (f64, f64),
    color: RGBColor,
    (panel, frame): (&Panel, &Frame),
) {
    let (x, half) = (frame.x(&panel.x, x), 3.5);
    let [low, high] = [low, high].map(|end| unit(frame.y(&panel.y, end)));
    let [left, right] = [x - half, x + half].map(unit);
    let x = unit(x);
    let path = format!("M{x} {low}V{high}M{left} {low}H{right}M{left} {high}H{right}");
    let stroke = format!("stroke:{}", css(color));
    html.open("path", &[("d", &path), ("class", "error-bar"), ("style", &stroke)]).close("path");
}

fn axes(html: &mut Html, panel: &Panel, frame: &Frame) {
    let apart = frame.right - frame.left;
    let x = panel.x.clone().thinned(apart, |text| width_of(text) + 8.0);
    let y = panel.y.clone().thinned(frame.bottom - frame.top, |_| FONT + 3.0);
    for (value, text) in &y.ticks {
        let place = frame.y(&panel.y, *value);
        if !panel.y.is_categorical() {
            let path = format!("M{} {}H{}", unit(frame.left), unit(place), unit(frame.right));
            html.open("path", &[("d", &path), ("class", "grid")]).close("path");
        }
        let most = ((frame.left - 8.0) / LETTER) as usize;
        label(html, "tick", "end", (frame.left - 6.0, place + 4.0), &shortened(text, most));
    }
    for level in &panel.reference_lines {
        let place = unit(frame.y(&panel.y, *level));
        let path = format!("M{} {place}H{}", unit(frame.left), unit(frame.right));
        html.open("path", &[("d", &path), ("class", "reference")]).close("path");
    }
    let room = if panel.x.is_categorical() { apart / x.ticks.len().max(1) as f64 } else { apart };
    for (value, text) in &x.ticks {
        let text = shortened(text, (room / LETTER) as usize);
        // A label at the edge would be cut off by it.
        let half = width_of(&text) / 2.0;
        let place = frame.x(&panel.x, *value).clamp(half, (WIDTH - half).max(half));
        label(html, "tick", "middle", (place, frame.bottom + 16.0), &text);
    }
    let path = format!("M{} {}H{}", unit(frame.left), unit(frame.bottom), unit(frame.right));
    html.open("path", &[("d", &path), ("class", "axis")]).close("path");
    if !panel.x.name.is_empty() {
        let middle = (frame.left + frame.right) / 2.0;
        label(html, "axis-name", "middle", (middle, frame.bottom + 34.0), &panel.x.name);
    }
    if !panel.y.name.is_empty() {
        let place = format!("translate(12 {}) rotate(-90)", unit((frame.top + frame.bottom) / 2.0));
        let attributes =
            [("class", "axis-name"), ("text-anchor", "middle"), ("transform", place.as_str())];
        html.element("text", &attributes, &panel.y.name);
    }
}

/// Shortens a text to its end.
fn shortened(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most || most < 2 {
        return text.to_owned();
    }
    let end: String = text.chars().skip(count + 1 - most).collect();
    format!("\u{2026}{end}")
}

fn label(html: &mut Html, class: &str, anchor: &str, (x, y): (f64, f64), text: &str) {
    let (x, y) = (unit(x), unit(y));
    let attributes = [("class", class), ("text-anchor", anchor), ("x", &x), ("y", &y)];
    html.element("text", &attributes, text);
}

fn rectangle(
    html: &mut Html,
    class: &str,
    from: (f64, f64),
    to: (f64, f64),
    more: &[(&'static str, &str)],
) {
    let (x, y) = (unit(from.0.min(to.0)), unit(from.1.min(to.1)));
    let (width, height) = (unit((to.0 - from.0).abs()), unit((to.1 - from.1).abs()));
    let own =
        [("class", class), ("x", &x), ("y", &y), ("width", &width), ("height", height.as_str())];
    let attributes: Vec<_> = own.into_iter().chain(more.iter().copied()).collect();
    html.open("rect", &attributes).close("rect");
}

fn corners(block: &Block, panel: &Panel, frame: &Frame) -> ((f64, f64), (f64, f64)) {
    let corner = |x: f64, y: f64| (frame.x(&panel.x, x), frame.y(&panel.y, y));
    (corner(block.x.0, block.y.0), corner(block.x.1, block.y.1))
}

fn block(html: &mut Html, block: &Block, panel: &Panel, frame: &Frame) {
    let (from, to) = corners(block, panel, frame);
    let style = format!("fill:{}", block_css(panel, block.color));
    let Described { row, column, value } = Described::of(block, panel);
    let tip: Vec<&str> =
        [row.as_str(), &column, &value].into_iter().filter(|t| !t.is_empty()).collect();
    let tip = tip.join(" \u{b7} ");
    rectangle(html, "block", from, to, &[("style", &style), ("data-tip", &tip)]);
}

fn block_labels(html: &mut Html, panel: &Panel, frame: &Frame) {
    let fits = |block: &Block| {
        let (from, to) = corners(block, panel, frame);
        let width = (to.0 - from.0).abs();
        let height = (to.1 - from.1).abs();
        match panel.labels {
            Labels::Above => width_of(&block.label) <= width + 4.0,
            _ => width_of(&block.label) + 2.0 <= width && height >= FONT + 1.0,
        }
    };
    let labelled: Vec<&Block> = panel.blocks.iter().filter(|b| !b.label.is_empty()).collect();
    if panel.labels == Labels::InAll && !labelled.iter().all(|block| fits(block)) {
        return;
    }
    for block in labelled.into_iter().filter(|block| fits(block)) {
        let (from, to) = corners(block, panel, frame);
        let x = (from.0 + to.0) / 2.0;
        match panel.labels {
            Labels::Above => label(html, "tick", "middle", (x, to.1 - 4.0), &block.label),
            _ => {
                let dark = color::text_on(block.color) == color::INK;
                let class = match block_css(panel, block.color).as_str() {
                    "var(--frozen)" => "on-frozen",
                    known if known.starts_with("var") => "on-series",
                    _ if dark => "on-light",
                    _ => "on-dark",
                };
                let y = (from.1 + to.1) / 2.0 + 4.0;
                label(html, class, "middle", (x, y), &block.label);
            }
        }
    }
}

/// Number of patterns of dashes in the style sheet.
const DASHES: usize = 3;
/// More points than this have no markers, except for single ones.
const MARKED: usize = 30;

fn line(html: &mut Html, line: &Series, style: usize, panel: &Panel, frame: &Frame) {
    let color = css(line.color);
    let defined = |point: &&(f64, f64)| point.0.is_finite() && point.1.is_finite();
    let place = |point: &(f64, f64)| (frame.x(&panel.x, point.0), frame.y(&panel.y, point.1));
    let mut path = String::new();
    let mut pen_is_down = false;
    for point in &line.points {
        match Some(point).filter(defined) {
            Some(point) => {
                let (x, y) = place(point);
                path += if pen_is_down { "L" } else { "M" };
                path += &format!("{} {}", unit(x), unit(y));
                pen_is_down = true;
            }
            None => pen_is_down = false,
        }
    }
    let (class, stroke) = (format!("line d{}", style % DASHES), format!("stroke:{color}"));
    html.open("path", &[("d", &path), ("class", &class), ("style", &stroke)]).close("path");
    let many = line.points.len() > MARKED;
    let last = line.points.iter().filter(defined).count().saturating_sub(1);
    // Of many points every n-th has a marker: lines must differ without colours, too.
    let every = if many { line.points.len().div_ceil(6) } else { 1 };
    for (index, point) in line.points.iter().filter(defined).enumerate() {
        if index % every == 0 || index == last {
            let (x, y) = place(point);
            marker(html, style, &color, x, y);
        }
    }
}

/// The shapes of markers around the origin, as in the files of figures.
const MARKERS: [&str; 6] = [
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0Z",
    "M-3.3 -3.3H3.3V3.3H-3.3Z",
    "M0 -4.6L4.4 3.2H-4.4Z",
    "M0 -4.8L4.8 0L0 4.8L-4.8 0Z",
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0ZM-1.7 0a1.7 1.7 0 1 1 3.4 0a1.7 1.7 0 1 1 -3.4 0Z",
    "M-4.4 -3.2H4.4L0 4.6Z",
];

fn marker(html: &mut Html, style: usize, color: &str, x: f64, y: f64) {
    let place = format!("translate({} {})", unit(x), unit(y));
    let fill = format!("fill:{color}");
    let shape = MARKERS[style % MARKERS.len()];
    let attributes = [
        ("d", shape),
        ("class", "marker"),
        ("fill-rule", "evenodd"),
        ("transform", &place),
        ("style", &fill),
    ];
    html.open("path", &attributes).close("path");
}
