//! Sizes of a figure's parts in pixels: texts are wrapped, and legends are placed where there is room.

use plotters::style::{IntoFont, RGBColor};

use super::draw::{FONT, scale_ticks};
use super::spec::{FigureSpec, Legend, Panel};
use crate::choice::choice;

// Font sizes in pixels. They are even because plotters truncates half pixels when it centres text.
pub const TITLE: f64 = 20.0;
pub const PANEL_TITLE: f64 = 16.0;
pub const SMALL: f64 = 14.0;

/// plotters divides its sizes by this to get the font size of SVG.
const FONT_SIZE: f64 = 1.24;

/// Heights of lines of text in pixels.
pub const TITLE_LINE: u32 = 26;
pub const PANEL_TITLE_LINE: u32 = 20;
pub const SMALL_LINE: u32 = 18;

/// Pixels above the panels besides the lines of title and note.
const HEADER: u32 = 18;
/// Pixels right of the panels and below them.
const MARGIN: u32 = 12;
/// Pixels left of title and note.
pub const EDGE: u32 = 18;
/// Pixels in a panel above its plot besides its title: for the names of bands.
const PANEL_HEADER: u32 = 26;
/// Pixels below a plot, for ticks and name of the x axis.
pub const X_LABELS: u32 = 46;
/// Panels narrower than this have their legend below the plot.
const LEGEND_BESIDE: u32 = 600;
/// The least width of a panel in a figure for a page.
const NARROWEST: u32 = 320;

choice! {
    /// The width of a figure in a paper.
    FigureWidth {
        /// A column of two: 3.33 inches.
        Column = "column",
        /// The text of a page: 7 inches.
        Page = "page",
    }
}

impl FigureWidth {
    /// Returns the width in PostScript points, of which an inch has 72.
    pub fn points(self) -> f64 {
        match self {
            Self::Column => 3.33 * 72.0,
            Self::Page => 7.0 * 72.0,
        }
    }

    /// Returns the width in pixels of the drawing, in which the smallest text has a font size of 7 points.
    fn pixels(self) -> u32 {
        (self.points() * SMALL / FONT_SIZE / 7.0).floor() as u32
    }
}

impl FigureSpec {
    /// Returns the figure with its panels arranged for a width.
    pub fn arranged(mut self, width: FigureWidth) -> Self {
        let room = width.pixels() - MARGIN;
        let columns = (room / NARROWEST).max(1) as usize;
        self.columns = self.columns.clamp(1, columns);
        self.panel.0 = room / self.columns as u32;
        self
    }
}

/// An entry of a legend.
pub enum Entry<'a> {
    /// The style of a name, its colour and the name.
    Name(usize, RGBColor, &'a str),
    /// The dashes of a run, and its name.
    Run(usize, &'a str),
}

impl Entry<'_> {
    pub fn text(&self) -> &str {
        match self {
            Self::Name(_, _, name) | Self::Run(_, name) => name,
        }
    }
}

/// Pixels of an entry before its text.
pub const KEY: u32 = 18;
/// Pixels of the dashes of a run before its text.
pub const RUN_KEY: u32 = 40;

/// Returns the entries of a panel's legend of names.
pub fn entries(panel: &Panel) -> Vec<Entry<'_>> {
    let Legend::Names(names) = &panel.legend else { return Vec::new() };
    let names = names.iter().enumerate().map(|(i, (name, color))| Entry::Name(i, *color, name));
    let runs = panel.runs.iter().enumerate().map(|(index, name)| Entry::Run(index, name));
    names.chain(runs).collect()
}

/// Returns the places of entries in rows of a width: pixels from the left, and the row.
pub fn flow(entries: &[Entry], width: u32) -> Vec<(u32, u32)> {
    let (mut left, mut row) = (0, 0);
    let mut places = Vec::new();
    for entry in entries {
        let needed = entry_width(entry);
        if left > 0 && left + needed > width {
            (left, row) = (0, row + 1);
        }
        places.push((left, row));
        left += needed + 16;
    }
    places
}

fn entry_width(entry: &Entry) -> u32 {
    let key = if matches!(entry, Entry::Run(..)) { RUN_KEY } else { KEY };
    key + text_width(entry.text(), SMALL) as u32
}

/// Sizes of a figure's parts in pixels. The margins are the same in all panels, so that those of a column have aligned
/// axes.
pub struct Layout {
    /// Lines of the title.
    pub title: Vec<String>,
    /// Lines of the note.
    pub note: Vec<String>,
    /// Lines of each panel's title.
    pub panel_titles: Vec<Vec<String>>,
    /// Height above the panels.
    pub header: u32,
    /// Height of a panel above its plot.
    pub panel_header: u32,
    /// Height of the legend below a plot; `None` if legends are beside the plots.
    pub legend_below: Option<u32>,
    /// Width of the labels of the y axis.
    pub y_labels: u32,
    /// Width of what stands beside a plot.
    pub beside: u32,
    /// Width and height of a panel.
    pub panel: (u32, u32),
    /// Width and height of the figure.
    pub size: (u32, u32),
}

impl Layout {
    pub fn of(figure: &FigureSpec) -> Self {
        let columns = figure.columns.max(1);
        let rows = figure.panels.len().div_ceil(columns) as u32;
        let (panel_width, panel_height) = figure.panel;
        let width = columns as u32 * panel_width + MARGIN;
        let title = wrapped(&figure.title, TITLE, width - EDGE - MARGIN);
        let note = wrapped(&figure.note, SMALL, width - EDGE - MARGIN);
        let header =
            HEADER + TITLE_LINE * title.len().max(1) as u32 + SMALL_LINE * note.len().max(1) as u32;

        let widest = |labels: &mut dyn Iterator<Item = String>| {
            labels.map(|label| text_width(&label, SMALL)).fold(0.0, f64::max) as u32
        };
        let y_labels = figure.panels.iter().map(|panel| {
            let name = if panel.y.name.is_empty() { 16 } else { 40 };
            widest(&mut panel.y.ticks.iter().map(|(_, label)| label.clone())) + name
        });
        let y_labels = y_labels.max().unwrap_or(0);
        let is_below = panel_width < LEGEND_BESIDE;
        let beside = figure.panels.iter().map(|panel| match &panel.legend {
            Legend::Scale(scale) => {
                widest(&mut scale_ticks(scale).into_iter().map(|(_, label)| label)) + 44
            }
            Legend::Names(_) if is_below => 10,
            Legend::Names(_) => {
                entries(panel).iter().map(entry_width).max().unwrap_or(KEY) + 44 - KEY
            }
        });
        let beside = beside.max().unwrap_or(0);
        let legend_rows = figure.panels.iter().map(|panel| {
            let places = flow(&entries(panel), panel_width.saturating_sub(EDGE));
            places.last().map_or(0, |(_, row)| row + 1)
        });
        let legend_rows = legend_rows.max().unwrap_or(0);
        let legend_below = (is_below && legend_rows > 0).then(|| legend_rows * SMALL_LINE + 10);

        let panel_titles: Vec<Vec<String>> = figure
            .panels
            .iter()
            .map(|panel| {
                let room = panel_width.saturating_sub(y_labels.min(panel_width / 2) + EDGE);
                wrapped(&panel.title, PANEL_TITLE, room)
            })
            .collect();
        let lines = panel_titles.iter().map(Vec::len).max().unwrap_or(1).max(1) as u32;
        let panel_header = PANEL_HEADER + PANEL_TITLE_LINE * lines;
        let more = (lines - 1) * PANEL_TITLE_LINE + legend_below.unwrap_or(0);
        let panel = (panel_width, panel_height + more);
        let size = (width, header + rows * panel.1 + MARGIN);
        Self {
            title,
            note,
            panel_titles,
            header,
            panel_header,
            legend_below,
            y_labels,
            beside,
            panel,
            size,
        }
    }
}

/// Returns the lines of a text that are not wider than `width`; a word that is wider is broken.
pub fn wrapped(text: &str, size: f64, width: u32) -> Vec<String> {
    let fits = |line: &str| text_width(line, size) <= f64::from(width.max(40));
    let mut lines: Vec<String> = Vec::new();
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if let Some(line) = lines.last_mut() {
            let longer = format!("{line} {word}");
            if fits(&longer) {
                *line = longer;
                continue;
            }
        }
        let mut rest = String::new();
        for letter in word.chars() {
            rest.push(letter);
            if rest.chars().count() > 1 && !fits(&rest) {
                rest.pop();
                lines.push(std::mem::replace(&mut rest, letter.to_string()));
            }
        }
        lines.push(rest);
    }
    lines
}

/// Returns the width of a text in pixels, estimated if the font has no metrics.
pub fn text_width(text: &str, size: f64) -> f64 {
    let guess = text.chars().count() as f64 * size * 0.6;
    (FONT, size).into_font().box_size(text).map_or(guess, |(width, _)| f64::from(width))
}
