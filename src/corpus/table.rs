//! Parses a bundled table strictly: tab-separated text with a header that starts with `id` and `name`.

use std::collections::HashSet;

use thiserror::Error;

/// Errors of a bundled table. Lines are counted from 1, including the header.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum TableError {
    #[error("{file}: the header must start with the columns id and name, but reads {found:?}")]
    Header { file: &'static str, found: String },
    #[error("{file}, line {line}: {found} cells, but the header has {expected} columns")]
    Cells { file: &'static str, line: usize, found: usize, expected: usize },
    #[error("{file}, line {line}, column {column}: {value:?} has white space around it")]
    Padded { file: &'static str, line: usize, column: &'static str, value: &'static str },
    #[error(
        "{file}, line {line}: the id {value:?} must be lower-case letters, digits and hyphens, and unique"
    )]
    Id { file: &'static str, line: usize, value: &'static str },
    #[error("{file}, line {line}: the name is empty")]
    Name { file: &'static str, line: usize },
}

/// The rows of one family of documents.
pub(super) struct Table {
    columns: Vec<&'static str>,
    rows: Vec<Vec<&'static str>>,
}

/// One subject with its facts. An empty cell is a fact that is unknown, contested or does not apply.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    columns: &'a [&'static str],
    cells: &'a [&'static str],
}

impl Table {
    /// Parses a table; the first invalid row is an error.
    pub(super) fn parse(file: &'static str, text: &'static str) -> Result<Self, TableError> {
        let mut lines = text.lines();
        let header = lines.next().unwrap_or_default();
        let columns: Vec<_> = header.split('\t').collect();
        if columns.len() < 2 || columns[0] != "id" || columns[1] != "name" {
            return Err(TableError::Header { file, found: header.to_owned() });
        }
        let mut ids = HashSet::new();
        let mut rows = Vec::new();
        for (index, text) in lines.enumerate() {
            let line = index + 2;
            let cells: Vec<_> = text.split('\t').collect();
            if cells.len() != columns.len() {
                return Err(TableError::Cells {
                    file,
                    line,
                    found: cells.len(),
                    expected: columns.len(),
                });
            }
            for (column, value) in columns.iter().zip(&cells) {
                if value.trim() != *value {
                    return Err(TableError::Padded { file, line, column, value });
                }
            }
            let id = cells[0];
            let plain =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            if id.is_empty() || !id.bytes().all(plain) || !ids.insert(id) {
                return Err(TableError::Id { file, line, value: id });
            }
            if cells[1].is_empty() {
                return Err(TableError::Name { file, line });
            }
            rows.push(cells);
        }
        Ok(Self { columns, rows })
    }

    /// Returns whether the table has a column.
    pub(super) fn has(&self, column: &str) -> bool {
        self.columns.contains(&column)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|cells| Row { columns: &self.columns, cells })
    }
}

impl Row<'_> {
    pub(super) fn id(&self) -> &'static str {
        self.cells[0]
    }

    /// Returns the subject as written inside a sentence: `iron`, `the Netherlands`.
    pub(super) fn name(&self) -> &'static str {
        self.cells[1]
    }

    /// Returns the cell of a column; `None` if it is empty.
    ///
    /// # Panics
    /// Panics if the table has no such column: a template and its table are parts of one program.
    pub(super) fn get(&self, column: &str) -> Option<&'static str> {
        let index = self
            .columns
            .iter()
            .position(|name| *name == column)
            .unwrap_or_else(|| panic!("a bundled table has no column {column:?}"));
        Some(self.cells[index]).filter(|cell| !cell.is_empty())
    }

    /// Returns the values of a cell that are separated by semicolons.
    pub(super) fn list(&self, column: &str) -> Vec<&'static str> {
        self.get(column).map(|cell| cell.split("; ").collect()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_cell_is_none() {
        let table =
            Table::parse("t.tsv", "id\tname\tcolour\tuse\nrust\tRust\tred; brown\t\n").unwrap();
        let row = table.rows().next().unwrap();
        assert_eq!((row.id(), row.name()), ("rust", "Rust"));
        assert_eq!(row.list("colour"), ["red", "brown"]);
        assert_eq!(row.get("use"), None);
    }

    #[test]
    fn a_malformed_row_is_refused_with_its_line() {
        let refused = |text| Table::parse("t.tsv", text).err().map(|error| error.to_string());
        assert_eq!(
            refused("id\tname\tuse\na\tA\tx\nb\tB\n").unwrap(),
            "t.tsv, line 3: 2 cells, but the header has 3 columns"
        );
        assert_eq!(
            refused("id\tname\tuse\na\tA\tx \n").unwrap(),
            "t.tsv, line 2, column use: \"x \" has white space around it"
        );
        assert!(refused("id\tname\na\tA\na\tB\n").unwrap().contains("line 3: the id \"a\""));
        assert!(refused("id\tname\nA b\tA\n").unwrap().contains("line 2: the id"));
        assert!(refused("id\tname\na\t\n").unwrap().contains("line 2: the name is empty"));
        assert!(refused("name\tuse\n").unwrap().contains("the header must start"));
        assert!(refused("id\tname\n\n").unwrap().contains("line 2: 1 cells"));
    }
}
