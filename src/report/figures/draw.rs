//! Draws figures with plotters, as SVG or pixels.

use plotters::chart::ChartContext;
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::element::DashedPathElement;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::{Axis, rank_ticks, thousands};
use super::color::{self, INK, Scale, ScaleKind};
use super::spec::{Band, Block, FigureSpec, Labels, Legend, Panel, Series};

/// The first font is registered with plotters; an SVG viewer uses the first one that is installed.
pub const FONT: &str = "DejaVu Sans, Verdana, sans-serif";

// Font sizes in pixels. They are even because plotters truncates half pixels when it centres text.
const TITLE: f64 = 20.0;
const PANEL_TITLE: f64 = 16.0;
const SMALL: f64 = 14.0;

/// Pixels above the panels, for title and note.
const HEADER: u32 = 62;
/// Pixels right of the panels and below them.
const MARGIN: u32 = 12;
/// Pixels in a panel above its plot, for its title and the labels of bands.
const PANEL_HEADER: u32 = 46;
/// Pixels below a plot, for ticks and name of the x axis.
const X_LABELS: u32 = 46;
/// Pixels left of the name of the y axis.
const LEFT: u32 = 12;

type Area<'a, DB> = DrawingArea<DB, Shift>;
type Drawn<DB> = Result<(), DrawingAreaErrorKind<<DB as DrawingBackend>::ErrorType>>;
type Chart<'a, DB> = ChartContext<'a, DB, Cartesian2d<Axis, Axis>>;

/// Width and height of the whole figure in pixels.
pub fn size(figure: &FigureSpec) -> (u32, u32) {
    let columns = figure.columns.max(1);
    let rows = figure.panels.len().div_ceil(columns);
    (columns as u32 * figure.panel.0 + MARGIN, HEADER + rows as u32 * figure.panel.1 + MARGIN)
}

/// Draws the figure; `root` must be of its [`size`].
pub fn draw<DB: DrawingBackend>(figure: &FigureSpec, root: &Area<DB>) -> Drawn<DB> {
    root.fill(&WHITE)?;
    let (left, top, bottom) = (HPos::Left, VPos::Top, VPos::Bottom);
    text(root, &figure.title, (18, 12), style(TITLE, INK, left, top))?;
    text(root, &figure.note, (18, HEADER as i32 - 8), style(SMALL, INK, left, bottom))?;
    let (width, height) = figure.panel;
    let margins = Margins::of(figure, root);
    for (index, panel) in figure.panels.iter().enumerate() {
        let (row, column) = (index / figure.columns.max(1), index % figure.columns.max(1));
        let corner = (column as u32 * width, HEADER + row as u32 * height);
        let area = root.clone().shrink(corner, (width, height));
        draw_panel(panel, margins, root, &area)?;
    }
    root.present()
}

/// Pixels left and right of the plots: the same for all panels, so that stacked panels have aligned x axes.
#[derive(Clone, Copy)]
struct Margins {
    y_labels: u32,
    legend: u32,
}

impl Margins {
    fn of<DB: DrawingBackend>(figure: &FigureSpec, area: &Area<DB>) -> Margins {
        let widest = |labels: &mut dyn Iterator<Item = String>| {
            labels.map(|label| text_width(area, &label, SMALL)).fold(0.0, f64::max) as u32
        };
        let of_panel = |panel: &Panel| {
            let ticks = widest(&mut panel.y.ticks.iter().map(|(_, label)| label.clone()));
            let name = if panel.y.name.is_empty() { 16 } else { 40 };
            let legend = match &panel.legend {
                Legend::Names(names) => widest(&mut names.iter().map(|(name, _)| name.clone())),
                Legend::Scale(scale) => {
                    widest(&mut scale_ticks(scale).into_iter().map(|(_, label)| label))
                }
            };
            Margins { y_labels: ticks + name, legend: legend + 44 }
        };
        figure.panels.iter().map(of_panel).fold(Margins { y_labels: 0, legend: 0 }, |all, panel| {
            Margins {
                y_labels: all.y_labels.max(panel.y_labels),
                legend: all.legend.max(panel.legend),
            }
        })
    }
}

fn draw_panel<DB: DrawingBackend>(
    panel: &Panel,
    margins: Margins,
    root: &Area<DB>,
    area: &Area<DB>,
) -> Drawn<DB> {
    let small = |text: &str| text_width(area, text, SMALL);
    let (width, height) = area.dim_in_pixel();
    let plot_width = width.saturating_sub(margins.legend).max(80);
    let plot_height = height.saturating_sub(PANEL_HEADER).max(80);
    let y_labels = margins.y_labels.min(plot_width / 2);

    let x_pixels = f64::from(plot_width.saturating_sub(y_labels + LEFT + 10));
    let x = panel.x.clone().thinned(x_pixels, |text| small(text) + 8.0);
    let y_pixels = f64::from(plot_height.saturating_sub(X_LABELS));
    let y = panel.y.clone().thinned(y_pixels, |_| SMALL + 2.0);
    let plot = area.clone().shrink((0, PANEL_HEADER), (plot_width, plot_height));
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
    for line in &panel.lines {
        draw_line(line, panel.style_of(line.color), &chart)?;
    }
    for band in &panel.bands {
        draw_band_name(band, panel, root, &chart)?;
    }
    let (left, top) = chart.backend_coord(&(panel.x.start, panel.y.end));
    let title = style(PANEL_TITLE, INK, HPos::Left, VPos::Bottom);
    text(root, &panel.title, (left, top - 24), title)?;
    let (right, bottom) = chart.backend_coord(&(panel.x.end, panel.y.start));
    draw_legend(panel, root, (right + 14, top), bottom - top)
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

fn draw_line<DB: DrawingBackend>(line: &Series, style: usize, chart: &Chart<DB>) -> Drawn<DB> {
    let area = chart.plotting_area();
    let defined = |point: &(f64, f64)| point.0.is_finite() && point.1.is_finite();
    for piece in line.points.split(|point| !defined(point)) {
        if piece.len() > 1 {
            let stroke = line.color.stroke_width(3);
            match DASHES[style % DASHES.len()] {
                None => area.draw(&PathElement::new(piece.to_vec(), stroke))?,
                Some((size, gap)) => {
                    area.draw(&DashedPathElement::new(piece.to_vec(), size, gap, stroke))?;
                }
            }
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

fn draw_legend<DB: DrawingBackend>(
    panel: &Panel,
    root: &Area<DB>,
    (left, top): (i32, i32),
    height: i32,
) -> Drawn<DB> {
    let label = style(SMALL, INK, HPos::Left, VPos::Center);
    match &panel.legend {
        Legend::Names(names) => {
            for (index, (name, color)) in names.iter().enumerate() {
                let y = top + 8 + 18 * index as i32;
                if panel.lines.is_empty() {
                    let corners = [(left, y - 5), (left + 12, y + 5)];
                    root.draw(&Rectangle::new(corners, color.filled()))?;
                } else {
                    root.draw(&(EmptyElement::at((left + 6, y)) + marker(index, *color)))?;
                }
                text(root, name, (left + 18, y), label.clone())?;
            }
        }
        Legend::Scale(scale) => {
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
        }
    }
    Ok(())
}

/// Returns the ticks of a colour bar: values and labels.
fn scale_ticks(scale: &Scale) -> Vec<(f64, String)> {
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

/// Draws text at a pixel. Control characters, which SVG does not allow, are replaced by spaces.
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

/// Returns the width of a text in pixels, estimated if the font has no metrics.
fn text_width<DB: DrawingBackend>(area: &Area<DB>, text: &str, size: f64) -> f64 {
    let style = style(size, INK, HPos::Left, VPos::Top);
    let guess = text.chars().count() as f64 * size * 0.6;
    area.estimate_text_size(text, &style).map_or(guess, |(width, _)| f64::from(width))
}
