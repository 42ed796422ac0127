//! Reads the wordings of a family, and tells a fact of a row in one of them.
//!
//! Each line of a fact is one wording, and all of them say the same; a sentence may be told in any of them. A fact ends
//! with a blank line. A line with `>` starts one that depends on other rows, or on a condition:
//!
//! | first line | the fact |
//! | --- | --- |
//! | none | is told of every row that has the columns of the wording |
//! | `> if COLUMN = VALUE`, `> if COLUMN != VALUE` | only of rows with this value, or with another one |
//! | `> compare COLUMN` | compares two rows by a number: `{more}` and `{less}` are their names |
//! | `> order COLUMN` | sorts some rows by a number, smallest first: `{names}` |
//! | `> group COLUMN` | lists some rows that have the same `{value}` of the column: `{names}` |
//!
//! `{column}` is the cell, its values joined as in "a, b and c"; `{column:a}` has `a` or `an` before it, and
//! `{column:is/are}` is the first word for one value and the second one for several. Lines that start with `#` are
//! comments.

use thiserror::Error;

use crate::corpus::grammar::{capitalised, listed, with_article};
use crate::corpus::table::{Row, Table};

/// Most rows that a sentence lists.
const MAX_NAMES: usize = 4;

/// Errors of the wordings. Lines are counted from 1.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum WordingError {
    #[error("{file}, line {line}: no such kind of fact: {found:?}")]
    Kind { file: &'static str, line: usize, found: &'static str },
    #[error("{file}, line {line}: neither the table nor the kind of the fact has {found:?}")]
    Placeholder { file: &'static str, line: usize, found: &'static str },
    #[error("{file}, line {line}: a brace is not closed, or a sentence does not end with a stop")]
    Sentence { file: &'static str, line: usize },
}

/// What a fact needs besides the columns of its wordings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Always,
    Equal(&'static str, &'static str),
    Unequal(&'static str, &'static str),
    Compare(&'static str),
    Order(&'static str),
    Group(&'static str),
}

/// A fact with its wordings.
pub(super) struct Fact {
    kind: Kind,
    wordings: Vec<&'static str>,
}

impl Fact {
    /// Parses the wordings of a family; the first invalid line is an error.
    pub(super) fn parse_all(
        file: &'static str,
        text: &'static str,
        table: &Table,
    ) -> Result<Vec<Self>, WordingError> {
        let mut facts: Vec<Self> = Vec::new();
        let mut starts = true;
        for (line, text) in (1..).zip(text.lines()) {
            if text.is_empty() {
                starts = true;
                continue;
            }
            if text.starts_with('#') {
                continue;
            }
            let header = text.strip_prefix("> ");
            if starts || header.is_some() {
                let kind = header.map_or(Some(Kind::Always), Kind::parse);
                let kind = kind.ok_or(WordingError::Kind { file, line, found: text })?;
                if let Some(found) = kind.column().filter(|column| !table.has(column)) {
                    return Err(WordingError::Placeholder { file, line, found });
                }
                facts.push(Self { kind, wordings: Vec::new() });
                starts = false;
            }
            if let (None, Some(fact)) = (header, facts.last_mut()) {
                let placeholders = placeholders(text).filter(|_| text.ends_with('.'));
                let placeholders = placeholders.ok_or(WordingError::Sentence { file, line })?;
                let known = |name: &str| table.has(name) || fact.kind.derives().contains(&name);
                if let Some(found) = placeholders.into_iter().find(|name| !known(name)) {
                    return Err(WordingError::Placeholder { file, line, found });
                }
                fact.wordings.push(text);
            }
        }
        Ok(facts)
    }

    /// Returns whether its sentences name other rows too, so that no pronoun can follow.
    pub(super) fn names_others(&self) -> bool {
        matches!(self.kind, Kind::Compare(_) | Kind::Order(_) | Kind::Group(_))
    }

    /// Returns the number of wordings.
    pub(super) fn wordings(&self) -> usize {
        self.wordings.len()
    }

    /// Tells the fact of `row` in a wording. `others` are the other rows of its table, in the order in which a sentence
    /// is to choose from them. `None` if the row lacks the fact, or the wording must name its subject and does not.
    pub(super) fn tell(
        &self,
        wording: usize,
        row: &Row,
        others: &[Row],
        must_name: bool,
    ) -> Option<String> {
        let wording = self.wordings.get(wording)?;
        if must_name && !["{name}", "{name:"].iter().any(|name| wording.contains(name)) {
            return None;
        }
        let derived = self.kind.derive(row, others)?;
        let values = |name: &str| {
            let derived = derived.iter().find(|(known, _)| *known == name);
            derived.map_or_else(|| row.list(name), |(_, values)| values.clone())
        };
        let mut sentence = String::new();
        let mut rest = *wording;
        while let Some((before, after)) = rest.split_once('{') {
            let (placeholder, after) = after.split_once('}')?;
            let (name, form) = placeholder.split_once(':').unwrap_or((placeholder, ""));
            let values = values(name);
            sentence += before;
            match (values.as_slice(), form.split_once('/')) {
                ([], _) => return None,
                ([_], Some((one, _))) => sentence += one,
                (_, Some((_, several))) => sentence += several,
                (values, None) if form == "a" => sentence += &with_article(&listed(values)),
                (values, None) => sentence += &listed(values),
            }
            rest = after;
        }
        sentence += rest;
        // A value may end with a stop of its own: Washington, D.C.
        if sentence.ends_with("..") {
            sentence.pop();
        }
        Some(capitalised(&sentence))
    }
}

impl Kind {
    fn parse(header: &'static str) -> Option<Self> {
        let (kind, rest) = header.split_once(' ')?;
        match kind {
            "if" => {
                let unequal =
                    rest.split_once(" != ").map(|(name, value)| Self::Unequal(name, value));
                let equal = || rest.split_once(" = ").map(|(name, value)| Self::Equal(name, value));
                unequal.or_else(equal)
            }
            "compare" => Some(Self::Compare(rest)),
            "order" => Some(Self::Order(rest)),
            "group" => Some(Self::Group(rest)),
            _ => None,
        }
    }

    /// Returns the column that the kind names.
    fn column(self) -> Option<&'static str> {
        match self {
            Self::Always => None,
            Self::Equal(column, _)
            | Self::Unequal(column, _)
            | Self::Compare(column)
            | Self::Order(column)
            | Self::Group(column) => Some(column),
        }
    }

    /// Returns the names of the values that the kind adds to those of the row.
    fn derives(self) -> &'static [&'static str] {
        match self {
            Self::Always | Self::Equal(..) | Self::Unequal(..) => &[],
            Self::Compare(_) => &["more", "less"],
            Self::Order(_) => &["names"],
            Self::Group(_) => &["names", "value"],
        }
    }

    /// Returns the added values with their names; `None` if the fact does not hold for the row.
    fn derive(self, row: &Row, others: &[Row]) -> Option<Vec<(&'static str, Vec<&'static str>)>> {
        let numbered = |column: &str| {
            let rows = std::iter::once(row).chain(others);
            let mut rows: Vec<(f64, &'static str)> =
                rows.filter_map(|row| Some((number(row.get(column)?)?, row.name()))).collect();
            // The row itself comes first, or the fact is not one of this row.
            let own = rows.first().is_some_and(|(_, name)| *name == row.name());
            let mut seen = Vec::new();
            rows.retain(|(number, _)| {
                let new = !seen.contains(number);
                seen.push(*number);
                new
            });
            own.then_some(rows).filter(|rows| rows.len() > 1)
        };
        match self {
            Self::Always => Some(Vec::new()),
            Self::Equal(column, value) => (row.get(column) == Some(value)).then(Vec::new),
            Self::Unequal(column, value) => {
                row.get(column).filter(|cell| *cell != value).map(|_| Vec::new())
            }
            Self::Compare(column) => {
                let mut pair = numbered(column)?;
                pair.truncate(2);
                pair.sort_by(|left, right| left.0.total_cmp(&right.0));
                Some(vec![("less", vec![pair[0].1]), ("more", vec![pair[1].1])])
            }
            Self::Order(column) => {
                let mut rows = numbered(column)?;
                rows.truncate(MAX_NAMES);
                rows.sort_by(|left, right| left.0.total_cmp(&right.0));
                let names = rows.into_iter().map(|(_, name)| name).collect::<Vec<_>>();
                Some(vec![("names", names)]).filter(|_| others.len() > 1)
            }
            Self::Group(column) => {
                let value = row.get(column)?;
                let same = others.iter().filter(|other| other.get(column) == Some(value));
                let names: Vec<_> =
                    std::iter::once(row).chain(same).map(Row::name).take(MAX_NAMES).collect();
                (names.len() > 1).then(|| vec![("names", names), ("value", row.list(column))])
            }
        }
    }
}

/// Returns the number in a cell: `8,849` or `-38.8`. `None` if there is more than a number in it.
fn number(cell: &str) -> Option<f64> {
    cell.replace(',', "").parse().ok()
}

/// Returns the names in braces, without their forms; `None` if a brace is not closed.
fn placeholders(mut text: &'static str) -> Option<Vec<&'static str>> {
    let mut names = Vec::new();
    while let Some((_, after)) = text.split_once('{') {
        let (placeholder, after) = after.split_once('}')?;
        names.push(placeholder.split_once(':').map_or(placeholder, |(name, _)| name));
        text = after;
    }
    Some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "id\tname\theight\trange\tbirds\n\
        a\tAce Peak\t1,200\tAlps\teagle\n\
        b\tBee Peak\t900\tAlps\tjay; owl\n\
        c\tCee Peak\t\tAndes\t\n";

    /// All sentences about the first row, then those of the second one, and so on.
    fn told(wordings: &'static str) -> Vec<String> {
        let table = Table::parse("t.tsv", TABLE).unwrap();
        let facts = Fact::parse_all("t.txt", wordings, &table).unwrap();
        let mut told = Vec::new();
        for own in 0..3 {
            let mut others: Vec<_> = table.rows().collect();
            let row = others.remove(own);
            for fact in &facts {
                let told_of = |wording| fact.tell(wording, &row, &others, false);
                told.extend((0..fact.wordings()).filter_map(told_of));
            }
        }
        told
    }

    #[test]
    fn a_wording_is_told_of_the_rows_that_have_its_columns() {
        assert_eq!(
            told("# birds\n{name} has {birds:one bird/birds}: {birds}.\n\n{height:a} is tall.\n"),
            [
                "Ace Peak has one bird: eagle.",
                "A 1,200 is tall.",
                "Bee Peak has birds: jay and owl.",
                "A 900 is tall."
            ]
        );
    }

    #[test]
    fn a_value_that_ends_with_a_stop_gives_no_second_one() {
        let table = Table::parse("t.tsv", "id\tname\nus\tthe U.S.\n").unwrap();
        let fact = &Fact::parse_all("t.txt", "That is {name}.\n", &table).unwrap()[0];
        let row = table.rows().next().unwrap();
        assert_eq!(fact.tell(0, &row, &[], true).unwrap(), "That is the U.S.");
    }

    #[test]
    fn conditions_compare_with_the_cell_and_an_empty_cell_is_no_other_value() {
        let conditions = "> if range = Andes\nFar.\n\n> if birds != eagle\n{name} lacks it.\n";
        assert_eq!(told(conditions), ["Bee Peak lacks it.", "Far."]);
    }

    #[test]
    fn rows_are_compared_sorted_and_grouped() {
        assert_eq!(
            told("> compare height\n{more} is above {less}.\n"),
            ["Ace Peak is above Bee Peak."; 2]
        );
        assert_eq!(told("> order height\n{names}.\n"), ["Bee Peak and Ace Peak."; 2]);
        assert_eq!(
            told("> group range\n{value}: {names}.\n"),
            ["Alps: Ace Peak and Bee Peak.", "Alps: Bee Peak and Ace Peak."]
        );
    }

    #[test]
    fn a_sentence_that_must_name_its_subject_does() {
        let table = Table::parse("t.tsv", TABLE).unwrap();
        let fact = &Fact::parse_all("t.txt", "It.\nThat is {name}.\n", &table).unwrap()[0];
        let row = table.rows().next().unwrap();
        assert_eq!(fact.tell(0, &row, &[], true), None);
        assert_eq!(fact.tell(1, &row, &[], true).unwrap(), "That is Ace Peak.");
    }

    #[test]
    fn a_malformed_wording_is_refused_with_its_line() {
        let table = Table::parse("t.tsv", TABLE).unwrap();
        let refused = |text| Fact::parse_all("t.txt", text, &table).err().unwrap().to_string();
        assert!(refused("{name}.\n{colour}.\n").contains("line 2: neither the table"));
        assert!(refused("{more}.\n").contains("\"more\""));
        assert!(refused("> compare colour\n{more}.\n").contains("line 1: neither the table"));
        assert!(refused("> sort height\n").contains("line 1: no such kind"));
        assert!(refused("{name.\n").contains("line 1: a brace is not closed"));
        assert!(refused("{name}\n").contains("does not end with a stop"));
    }
}
