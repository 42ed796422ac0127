//! Ranges of numbers that several keys share, each with its description for messages.

pub(super) const POSITIVE: &str = "a number above 0";
pub(super) const FRACTION: &str = "a number from 0 to less than 1";
pub(super) const NOT_NEGATIVE: &str = "a number of at least 0";

pub(super) fn positive(number: f64) -> bool {
    number > 0.0
}

pub(super) fn fraction(number: f64) -> bool {
    (0.0..1.0).contains(&number)
}

pub(super) fn not_negative(number: f64) -> bool {
    number >= 0.0
}
