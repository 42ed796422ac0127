//! Draws figures with plotters, as SVG or pixels.

use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::{Axis, rank_ticks, thousands};
use super::color::{self, INK, Scale, ScaleKind};
use super::layout::{
    EDGE, Entry, KEY, Layout, PANEL_TITLE, PANEL_TITLE_LINE, RUN_KEY, SMALL, SMALL_LINE, TITLE,
    TITLE_LINE, X_LABELS, entries, flow, text_width,
};
use super::spec::{Band, Block, FigureSpec, Labels, Legend, Panel, Series};

/// The first font is registered with plotters; an SVG viewer uses the first one that is installed.
pub const FONT: &str = "DejaVu Sans, Verdana, sans-serif";

/// Pixels left of the name of the y axis.
const LEFT: u32 = 12;

type Area<'a, DB> = DrawingArea<DB, Shift>;
type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;
type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<Axis, Axis>>;

/// Draws the figure; `root` must have the size of its layout.
pub fn draw<DB: DrawingBackend>(
    figure: &FigureSpec,
    layout: &Layout,
    root: &Area<DB>,
) -> Drawn<DB> {
    root.fill(&WHITE)?;
    let edge = EDGE as i32;
    let mut top = 12;
    for line in &layout.title {
        text(root, line, (edge, top), style(TITLE, INK, HPos::Left, VPos::Top))?;
        top += TITLE_LINE as i32;
    }
    let lines = layout.note.len() as i32;
    for (line, index) in layout.note.iter().zip(1..) {
        let bottom = layout.header as i32 - 8 - (lines - index) * SMALL_LINE as i32;
        text(root, line, (edge, bottom), style(SMALL, INK, HPos::Left, VPos::Bottom))?;
    }
    let (width, height) = layout.panel;
    for (index, (panel, title)) in figure.panels.iter().zip(&layout.panel_titles).enumerate() {
        let (row, column) = (index / figure.columns.max(1), index % figure.columns.max(1));
        let corner = (column as u32 * width, layout.header + row as u32 * height);
        let area = root.clone().shrink(corner, (width, height));
        draw_panel(panel, title, layout, corner, root, &area)?;
    }
    root.present()
}

fn draw_panel<DB: DrawingBackend>(
    panel: &Panel,
    title: &[String],
    layout: &Layout,
    corner: (u32, u32),
    root: &Area<DB>,
    area: &Area<DB>,
) -> Drawn<DB> {
    let small = |text: &str| text_width(text, SMALL);
    let (width, height) = layout.panel;
    let plot_width = width.saturating_sub(layout.beside).max(80);
    let below = layout.legend_below.unwrap_or(0);
    let plot_height = height.saturating_sub(layout.panel_header + below).max(80);
    let y_labels = layout.y_labels.min(plot_width / 2);

    let x_pixels = f64::from(plot_width.saturating_sub(y_labels + LEFT + 10));
    let x = panel.x.clone().thinned(x_pixels, |text| small(text) + 8.0);
    let y_pixels = f64::from(plot_height.saturating_sub(X_LABELS));
    let y = panel.y.clone().thinned(y_pixels, |_| SMALL + 2.0);
    let plot = area.clone().shrink((0, layout.panel_header), (plot_width, plot_height));
    let mut chart = ChartBuilder::on(&plot)
        .margin_left(LEFT)
        .margin_right(10)
        .x_label_area_size(X_LABELS)
        .y_label_area_size(y_labels)
        .build_cartesian_2d(x, y)?;

    for band in panel.bands.iter().filter(|band| band.shaded) {
        let corners = [(band.from, panel.y.start), (band.to, panel.y.end)];
        chart.plotting_area().draw(&Rectangle::new(corners, color::SHADE.filled()))?;
    }
    chart
        .configure_mesh()
        .x_desc(&panel.x.name)
        .y_desc(&panel.y.name)
        .disable_x_mesh()
        .bold_line_style(color::FAINT)
        .axis_style(color::lighter(INK, 0.5))
        .label_style((FONT, SMALL))
        .axis_desc_style((FONT, SMALL))
        .draw()?;
    for level in &panel.reference_lines {
        let ends = vec![(panel.x.start, *level), (panel.x.end, *level)];
        let line = color::lighter(INK, 0.6).stroke_width(1);
        chart.plotting_area().draw(&PathElement::new(ends, line))?;
    }
    draw_blocks(panel, &chart)?;
    draw_block_spreads(panel, &chart)?;
    for line in &panel.lines {
        draw_spread(line, panel, &chart)?;
    }
    for line in &panel.lines {
        draw_line(line, (panel.style_of(line.color), panel.dashes_of(line)), &chart)?;
    }
    for band in &panel.bands {
        draw_band_name(band, panel, root, &chart)?;
    }
    draw_counts(panel, root, &chart)?;
    let (left, top) = chart.backend_coord(&(panel.x.start, panel.y.end));
    for (line, index) in title.iter().zip(1..) {
        let bottom = top - 24 - (title.len() as i32 - index) * PANEL_TITLE_LINE as i32;
        text(root, line, (left, bottom), style(PANEL_TITLE, INK, HPos::Left, VPos::Bottom))?;
    }
    let (right, bottom) = chart.backend_coord(&(panel.x.end, panel.y.start));
    match (&panel.legend, layout.legend_below) {
        (Legend::Scale(scale), _) => draw_scale(scale, root, (right + 14, top), bottom - top),
        (Legend::Names(_), None) => {
            let row = |index: usize| (right + 14, top + 8 + SMALL_LINE as i32 * index as i32);
            draw_entries(panel, root, row)
        }
        (Legend::Names(_), Some(_)) => {
            let places = flow(&entries(panel), width.saturating_sub(EDGE));
            let top = corner.1 + layout.panel_header + plot_height + 10;
            draw_entries(panel, root, |index| {
                let (left, row) = places.get(index).copied().unwrap_or_default();
                ((corner.0 + EDGE + left) as i32, (top + row * SMALL_LINE) as i32)
            })
        }
    }
}

fn draw_blocks<DB: DrawingBackend>(panel: &Panel, chart: &Chart<DB>) -> Drawn<DB> {
    let area = chart.plotting_area();
    let size = |block: &Block| {
        let [from, to] = [(block.x.0, block.y.0), (block.x.1, block.y.1)];
        let (from, to) = (chart.backend_coord(&from), chart.backend_coord(&to));
        ((to.0 - from.0).abs(), (to.1 - from.1).abs())
    };
    for block in &panel.blocks {
        let corners = [(block.x.0, block.y.0), (block.x.1, block.y.1)];
        area.draw(&Rectangle::new(corners, block.color.filled()))?;
        // A small block would consist of its border only.
        let (width, height) = size(block);
        if width > 8 && height > 8 {
            area.draw(&Rectangle::new(corners, WHITE.stroke_width(1)))?;
        }
    }
    let plain = style(SMALL, INK, HPos::Left, VPos::Top);
    let fits = |block: &Block| -> Result<bool, DrawingAreaErrorKind<DB::ErrorType>> {
        let (width, height) = size(block);
        let needed = area.estimate_text_size(&block.label, &plain)?.0 as i32;
        Ok(match panel.labels {
            Labels::Above => needed <= width + 4,
            Labels::InEach | Labels::InAll => {
                needed + 4 <= width && f64::from(height) >= SMALL + 1.0
            }
        })
    };
    let labelled: Vec<&Block> =
        panel.blocks.iter().filter(|block| !block.label.is_empty()).collect();
    let fitting = labelled.iter().map(|block| fits(block)).collect::<Result<Vec<bool>, _>>()?;
    let none = panel.labels == Labels::InAll && fitting.contains(&false);
    for (block, fits) in labelled.into_iter().zip(fitting) {
        let middle = (block.x.0 + block.x.1) / 2.0;
        let (y, color, down) = match panel.labels {
            Labels::Above => (block.y.1, INK, VPos::Bottom),
            _ => ((block.y.0 + block.y.1) / 2.0, color::text_on(block.color), VPos::Center),
        };
        if fits && !none {
            let style = style(SMALL, color, HPos::Center, down);
            area.draw(&Text::new(block.label.clone(), (middle, y), style))?;
        }
    }
    Ok(())
}

/// Draws the error bars of blocks, such as the bars of a bar chart.
fn draw_block_spreads<DB: DrawingBackend>(panel: &Panel, chart: &Chart<DB>) -> Drawn<DB> {
    for block in &panel.blocks {
        if let Some(ends) = block.spread.filter(|(low, high)| low.is_finite() && high.is_finite()) {
            error_bar((block.x.0 + block.x.1) / 2.0, ends, INK, panel, chart)?;
        }
    }
    Ok(())
}

/// Draws a line's error bars, or a band if the x axis is not categorical.
fn draw_spread<DB: DrawingBackend>(line: &Series, panel: &Panel, chart: &Chart<DB>) -> Drawn<DB> {
    if panel.x.is_categorical() {
        return line.bars().try_for_each(|(x, ends)| error_bar(x, ends, line.color, panel, chart));
    }
    let (low, high): (Vec<_>, Vec<_>) = line
        .bars()
        .map(|(x, (low, high))| ((x, inside(low, panel)), (x, inside(high, panel))))
        .unzip();
    if low.len() > 1 {
        let edge: Vec<(f64, f64)> = high.into_iter().chain(low.into_iter().rev()).collect();
        chart.plotting_area().draw(&Polygon::new(edge, line.color.mix(0.2).filled()))?;
    }
    Ok(())
}

/// Returns the value within the y axis: an error bar does not leave the plot.
fn inside(value: f64, panel: &Panel) -> f64 {
    value.clamp(panel.y.start.min(panel.y.end), panel.y.start.max(panel.y.end))
}

fn error_bar<DB: DrawingBackend>(
    x: f64,
    (low, high): (f64, f64),
    color: RGBColor,
    panel: &Panel,
    chart: &Chart<DB>,
) -> Drawn<DB> {
    let area = chart.plotting_area();
    let stroke = color.stroke_width(2);
    let ends = [inside(low, panel), inside(high, panel)].map(|y| (x, y));
    area.draw(&PathElement::new(ends.to_vec(), stroke))?;
    for end in ends {
        let cap = PathElement::new(vec![(-4, 0), (4, 0)], stroke);
        area.draw(&(EmptyElement::at(end) + cap))?;
    }
    Ok(())
}

/// Draws the row of counts above the plot, without those for which there is no room.
fn draw_counts<DB: DrawingBackend>(panel: &Panel, root: &Area<DB>, chart: &Chart<DB>) -> Drawn<DB> {
    if panel.counts.is_empty() {
        return Ok(());
    }
    let (start, top) = chart.backend_coord(&(panel.x.start, panel.y.end));
    let row = top - 5;
    let ink = color::lighter(INK, 0.7);
    text(root, "n =", (start - 6, row), style(SMALL, ink, HPos::Right, VPos::Bottom))?;
    let mut free = f64::from(start) - 4.0;
    for (place, count) in &panel.counts {
        let (x, _) = chart.backend_coord(&(*place, panel.y.end));
        let half = text_width(count, SMALL) / 2.0;
        if f64::from(x) - half >= free {
            text(root, count, (x, row), style(SMALL, ink, HPos::Center, VPos::Bottom))?;
            free = f64::from(x) + half + 6.0;
        }
    }
    Ok(())
}

fn draw_line<DB: DrawingBackend>(
    line: &Series,
    (style, dashes): (usize, usize),
    chart: &Chart<DB>,
) -> Drawn<DB> {
    let area = chart.plotting_area();
    let defined = |point: &(f64, f64)| point.0.is_finite() && point.1.is_finite();
    for piece in line.points.split(|point| !defined(point)) {
        if piece.len() > 1 {
            let stroke = line.color.stroke_width(3);
            draw_dashed(piece.to_vec(), dashes, stroke, area)?;
        }
    }
    // Of many points every n-th has a marker, so that markers do not overlap; isolated points always have one.
    let (width, _) = area.dim_in_pixel();
    let every = match line.points.len() * 14 <= width as usize {
        true => 1,
        false => line.points.len().div_ceil(MARKED),
    };
    for (index, point) in line.points.iter().enumerate().filter(|(_, point)| defined(point)) {
        let near = [index.checked_sub(1), index.checked_add(1)];
        let near = near.into_iter().flatten().filter_map(|index| line.points.get(index));
        let alone = !near.into_iter().any(defined);
        if index % every == 0 || alone {
            area.draw(&(EmptyElement::at(*point) + marker(style, line.color)))?;
        }
    }
    Ok(())
}

/// Draws a path with the dashes of an index.
fn draw_dashed<DB: DrawingBackend, CT: CoordTranslate>(
    path: Vec<CT::From>,
    dashes: usize,
    stroke: ShapeStyle,
    area: &DrawingArea<DB, CT>,
) -> Drawn<DB>
where
    CT::From: Clone + 'static,
{
    match DASHES[dashes % DASHES.len()] {
        None => area.draw(&PathElement::new(path, stroke)),
        Some((size, gap)) => area.draw(&DashedPathElement::new(path, size, gap, stroke)),
    }
}

/// Lengths of dashes and gaps in pixels, so that lines differ in greyscale, too; `None`: a solid line.
const DASHES: [Option<(u32, u32)>; 3] = [None, Some((10, 6)), Some((3, 5))];

/// Returns the marker of a style around the origin: lines differ by it in greyscale, too.
fn marker<DB: DrawingBackend>(
    style: usize,
    color: RGBColor,
) -> DynElement<'static, DB, (i32, i32)> {
    let fill = color.filled();
    let polygon = |corners: &[(i32, i32)]| Polygon::new(corners.to_vec(), fill);
    match style % MARKERS {
        0 => Circle::new((0, 0), 4, fill).into_dyn(),
        1 => polygon(&[(-4, -4), (4, -4), (4, 4), (-4, 4)]).into_dyn(),
        2 => polygon(&[(0, -6), (6, 4), (-6, 4)]).into_dyn(),
        3 => polygon(&[(0, -6), (6, 0), (0, 6), (-6, 0)]).into_dyn(),
        4 => Circle::new((0, 0), 5, color.stroke_width(2)).into_dyn(),
        _ => polygon(&[(-6, -4), (6, -4), (0, 6)]).into_dyn(),
    }
}

/// Number of markers on a line of many points.
const MARKED: usize = 6;
/// Number of different markers.
const MARKERS: usize = 6;

fn draw_band_name<DB: DrawingBackend>(
    band: &Band,
    panel: &Panel,
    root: &Area<DB>,
    chart: &Chart<DB>,
) -> Drawn<DB> {
    let (x, y) = chart.backend_coord(&((band.from + band.to) / 2.0, panel.y.end));
    let style = style(SMALL, color::lighter(INK, 0.7), HPos::Center, VPos::Bottom);
    text(root, &band.name, (x, y - 5), style)
}

/// Draws the entries of a legend, each at its place.
fn draw_entries<DB: DrawingBackend>(
    panel: &Panel,
    root: &Area<DB>,
    place: impl Fn(usize) -> (i32, i32),
) -> Drawn<DB> {
    let label = style(SMALL, INK, HPos::Left, VPos::Center);
    for (index, entry) in entries(panel).iter().enumerate() {
        let (left, y) = place(index);
        let key = match *entry {
            Entry::Name(_, color, _) if panel.lines.is_empty() => {
                let corners = [(left, y - 5), (left + 12, y + 5)];
                root.draw(&Rectangle::new(corners, color.filled()))?;
                KEY
            }
            Entry::Name(style, color, _) => {
                root.draw(&(EmptyElement::at((left + 6, y)) + marker(style, color)))?;
                KEY
            }
            Entry::Run(dashes, _) => {
                let path = vec![(left, y), (left + RUN_KEY as i32 - 6, y)];
                draw_dashed(path, dashes, INK.stroke_width(3), root)?;
                RUN_KEY
            }
        };
        text(root, entry.text(), (left + key as i32, y), label.clone())?;
    }
    Ok(())
}

/// Draws a colour bar.
fn draw_scale<DB: DrawingBackend>(
    scale: &Scale,
    root: &Area<DB>,
    (left, top): (i32, i32),
    height: i32,
) -> Drawn<DB> {
    let label = style(SMALL, INK, HPos::Left, VPos::Center);
    let place = |position: f64| top + height - (position * f64::from(height)) as i32;
    let steps = height.clamp(1, 120);
    for step in 0..steps {
        let [from, to] = [step, step + 1].map(|step| f64::from(step) / f64::from(steps));
        let color = scale.color_at((from + to) / 2.0);
        let corners = [(left, place(to)), (left + 14, place(from))];
        root.draw(&Rectangle::new(corners, color.filled()))?;
    }
    for (value, name) in scale_ticks(scale) {
        text(root, &name, (left + 20, place(scale.position(value))), label.clone())?;
    }
    Ok(())
}

/// Returns the ticks of a colour bar: values and labels.
pub(super) fn scale_ticks(scale: &Scale) -> Vec<(f64, String)> {
    if scale.kind == ScaleKind::Rank {
        return rank_ticks(scale.high).into_iter().map(|rank| (rank, thousands(rank))).collect();
    }
    let within = |value: f64| value >= scale.low - 1e-9 && value <= scale.high + 1e-9;
    let ticks = Axis::linear("", scale.low, scale.high).ticks.into_iter();
    ticks.filter(|(value, _)| within(*value)).collect()
}

fn style(size: f64, color: RGBColor, across: HPos, down: VPos) -> TextStyle<'static> {
    let color = color.to_backend_color();
    TextStyle { color, ..TextStyle::from((FONT, size)).pos(Pos::new(across, down)) }
}

/// Draws text at a pixel. Control characters, which fonts show as boxes, are replaced by spaces.
fn text<DB: DrawingBackend>(
    area: &Area<DB>,
    text: &str,
    place: (i32, i32),
    style: TextStyle<'static>,
) -> Drawn<DB> {
    if text.is_empty() {
        return Ok(());
    }
    let printable: String = text
        .chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect();
    area.draw(&Text::new(printable, place, style))
}
