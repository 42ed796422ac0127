//! Axes: a range of numbers with labelled ticks.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// An axis. `start` may be greater than `end` (rows from the top).
#[derive(Debug, Clone)]
pub struct Axis {
    /// The label, with its unit.
    pub name: String,
    pub start: f64,
    pub end: f64,
    /// Positions and labels of the ticks, in order.
    pub ticks: Vec<(f64, String)>,
}

impl Axis {
    /// A categorical axis; category i is the interval from i to i + 1.
    pub fn categorical(name: &str, labels: &[String]) -> Self {
        let ticks = labels.iter().enumerate();
        let ticks = ticks.map(|(index, label)| (index as f64 + 0.5, label.clone())).collect();
        Self { name: name.to_owned(), start: 0.0, end: labels.len().max(1) as f64, ticks }
    }

    /// A categorical axis with the first category at the top.
    pub fn categorical_from_top(name: &str, labels: &[String]) -> Self {
        let Axis { name, start, end, ticks } = Self::categorical(name, labels);
        Self { name, start: end, end: start, ticks }
    }

    /// A linear axis from `low` to `high`, extended to round ticks.
    pub fn linear(name: &str, low: f64, high: f64) -> Self {
        let (low, high) = if high > low { (low, high) } else { (low - 0.5, high + 0.5) };
        let step = round_step((high - low) / 5.0);
        let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
        let digits = (-step.log10().floor()).clamp(0.0, 12.0) as usize;
        let count = (last - first) as usize;
        let ticks = (0..=count).map(|index| {
            let value = (first + index as f64) * step;
            (value, format!("{value:.digits$}"))
        });
        let ticks = ticks.collect();
        Self { name: name.to_owned(), start: first * step, end: last * step, ticks }
    }

    /// A logarithmic axis of ranks up to `highest`; the points must be transformed with [`log_rank`].
    pub fn ranks(name: &str, highest: f64) -> Self {
        let highest = highest.max(10.0);
        // Some room below rank 1, where the lines of the best ranks are.
        let (start, end) = (-0.05, highest.log10() + 0.05);
        let ticks = rank_ticks(highest).into_iter().map(|rank| (rank.log10(), thousands(rank)));
        Self { name: name.to_owned(), start, end, ticks: ticks.collect() }
    }

    /// A logarithmic axis from `low` to `high`, above 0; the points must be transformed with log10.
    pub fn logarithmic(name: &str, low: f64, high: f64) -> Self {
        let (start, end) = (low.log10(), high.log10());
        let room = 0.04 * (end - start).max(0.1);
        let (start, end) = (start - room, end + room);
        let powers = start.floor() as i32..=end.ceil() as i32;
        let steps: &[f64] = if end - start > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
        let ticks = powers.flat_map(|power| steps.iter().map(move |step| (power, *step)));
        let ticks = ticks.map(|(power, step)| {
            let value = step * 10f64.powi(power);
            let digits = (-power).clamp(0, 9) as usize;
            (value.log10(), format!("{value:.digits$}"))
        });
        let ticks = ticks.filter(|(place, _)| (start..=end).contains(place)).collect();
        Self { name: name.to_owned(), start, end, ticks }
    }

    /// Returns whether the ticks are categories.
    pub fn is_categorical(&self) -> bool {
        let half = |place: f64| (place.fract() - 0.5).abs() < 1e-9;
        !self.ticks.is_empty() && self.ticks.iter().all(|(place, _)| half(*place))
    }

    /// Returns an axis that has room for what is drawn on either of two; `None` if they have other categories.
    pub fn spanning(&self, other: &Axis) -> Option<Axis> {
        let range = |axis: &Axis| (axis.start.min(axis.end), axis.start.max(axis.end));
        let ((low, high), (other_low, other_high)) = (range(self), range(other));
        let labels = |axis: &Axis| axis.ticks.iter().map(|(_, label)| label.clone()).collect();
        match (self.is_categorical(), other.is_categorical()) {
            (true, true) => {
                let (own, other): (Vec<String>, Vec<String>) = (labels(self), labels(other));
                (own == other).then(|| self.clone())
            }
            (false, false) if low <= other_low && high >= other_high => Some(self.clone()),
            (false, false) if other_low <= low && other_high >= high => Some(other.clone()),
            (false, false) => {
                Some(Axis::linear(&self.name, low.min(other_low), high.max(other_high)))
            }
            _ => None,
        }
    }

    /// Returns the axis with every n-th tick, such that labels of length `size` fit on `pixels`.
    pub fn thinned(mut self, pixels: f64, size: impl Fn(&str) -> f64) -> Self {
        let longest = self.ticks.iter().map(|(_, label)| size(label)).fold(1.0, f64::max);
        let apart = match (self.ticks.first(), self.ticks.last()) {
            (Some(first), Some(last)) if self.ticks.len() > 1 => {
                let share = (last.0 - first.0).abs() / (self.end - self.start).abs();
                pixels * share / (self.ticks.len() - 1) as f64
            }
            _ => return self,
        };
        let every = [1, 2, 4, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 5000];
        let every = every.into_iter().find(|every| apart * *every as f64 >= longest);
        let every = every.unwrap_or(self.ticks.len());
        self.ticks = self.ticks.into_iter().step_by(every).collect();
        self
    }
}

/// Returns the position of a rank on [`Axis::ranks`]: log10, or NaN if there is none.
pub fn log_rank(rank: f64) -> f64 {
    if rank > 0.0 { rank.log10() } else { f64::NAN }
}

/// Returns the powers of ten up to `highest`.
pub fn rank_ticks(highest: f64) -> Vec<f64> {
    let powers = (0..16).map(|power| 10f64.powi(power));
    powers.take_while(|rank| *rank <= highest * 1.001).collect()
}

/// Formats an integer with commas: `10,000`.
pub fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value);
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        let left = digits.len() - index;
        if index > 0 && left % 3 == 0 && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns the smallest 1, 2 or 5 times a power of ten that is at least `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps.into_iter().find(|step| *step >= least * 0.999).unwrap_or(least)
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = ((value - self.start) / (self.end - self.start)).clamp(-0.1, 1.1);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // There are no minor ticks.
        let bold = !hint.weight().allow_light_points();
        self.ticks.iter().filter(|_| bold).map(|(place, _)| *place).collect()
    }

    fn range(&self) -> Range<f64> {
        self.start..self.end
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self.ticks.iter().find(|(place, _)| (place - value).abs() < 1e-9);
        tick.map(|(_, label)| label.clone()).unwrap_or_default()
    }
}
