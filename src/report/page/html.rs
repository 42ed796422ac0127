//! HTML as text in which nothing from a run can become markup: [`Html::raw`] takes text of the program only, and all
//! other text is escaped.
//!
//! The templates are few, most of them SVG, and control characters need escaping of our own in any case, so that a crate
//! for templates (`maud`, `askama`) would not save much.

use std::fmt::{Display, Write};

use crate::terminal::is_control;

/// A piece of HTML or SVG.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Html(String);

impl Html {
    /// Appends markup, which is part of the program.
    pub fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Appends text, escaped.
    pub fn text(&mut self, text: impl Display) -> &mut Self {
        escape(&mut self.0, &text.to_string());
        self
    }

    /// Appends another piece.
    pub fn add(&mut self, other: &Html) -> &mut Self {
        self.0.push_str(&other.0);
        self
    }

    /// Appends a start tag.
    pub fn open(&mut self, tag: &'static str, attributes: &[(&'static str, &str)]) -> &mut Self {
        self.0.push('<');
        self.0.push_str(tag);
        for (name, value) in attributes {
            let _ = write!(self.0, " {name}=\"");
            escape(&mut self.0, value);
            self.0.push('"');
        }
        self.0.push('>');
        self
    }

    /// Appends an end tag.
    pub fn close(&mut self, tag: &'static str) -> &mut Self {
        let _ = write!(self.0, "</{tag}>");
        self
    }

    /// Appends an element that contains text only.
    pub fn element(
        &mut self,
        tag: &'static str,
        attributes: &[(&'static str, &str)],
        text: impl Display,
    ) -> &mut Self {
        self.open(tag, attributes).text(text).close(tag)
    }

    /// Appends a paragraph.
    pub fn paragraph(&mut self, class: &str, text: impl Display) -> &mut Self {
        self.element("p", &[("class", class)], text)
    }

    /// Appends a table. The first column holds the headers of the rows, and cells that begin with a number are aligned at
    /// the right. Its frame scrolls if the table is wider than the page.
    pub fn table(&mut self, table: &Table) -> &mut Self {
        let label = [("class", "scroll"), ("role", "group"), ("tabindex", "0")];
        let label: Vec<(&str, &str)> =
            label.into_iter().chain([("aria-label", table.caption.as_str())]).collect();
        self.open("div", &label).raw("<table>");
        self.raw("<caption>").element("span", &[], &table.caption);
        self.raw("</caption><thead><tr>");
        for (index, name) in table.header.iter().enumerate() {
            let numeric = table.rows.iter().any(|row| row.get(index).is_some_and(|t| is_number(t)));
            let attributes = [("scope", "col"), ("class", "n")];
            let shown = if numeric && index > 0 { 2 } else { 1 };
            self.element("th", &attributes[..shown], name);
        }
        self.raw("</tr></thead><tbody>");
        for row in &table.rows {
            self.raw("<tr>");
            for (index, cell) in row.iter().enumerate() {
                match index {
                    0 => self.element("th", &[("scope", "row")], cell),
                    _ if is_number(cell) => self.element("td", &[("class", "n")], cell),
                    _ => self.element("td", &[], cell),
                };
            }
            self.raw("</tr>");
        }
        self.raw("</tbody></table></div>")
    }

    /// Appends a section that is closed until it is opened.
    pub fn details(&mut self, summary: impl Display, content: &Html) -> &mut Self {
        self.raw("<details>").element("summary", &[], summary).add(content).raw("</details>")
    }

    /// Returns the text.
    pub fn into_string(self) -> String {
        self.0
    }
}

/// A table with a caption.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table {
    /// The title of the table, with units.
    pub caption: String,
    /// The names of the columns.
    pub header: Vec<String>,
    /// The cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub fn new(caption: impl Display, header: &[&str]) -> Self {
        let header = header.iter().map(|&name| name.to_owned()).collect();
        Self { caption: caption.to_string(), header, rows: Vec::new() }
    }
}

/// Returns whether a cell is a number with what may stand around it, or has no value.
fn is_number(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-', '\u{2212}', '<', '[', '\u{b1}']);
    text == "-" || text == "\u{2013}" || digits.starts_with(|first: char| first.is_ascii_digit())
}

/// Escapes what HTML reads as markup; control characters and those that change the direction of text are shown as
/// `\u{202e}`.
fn escape(into: &mut String, text: &str) {
    for letter in text.chars() {
        match letter {
            '&' => into.push_str("&amp;"),
            '<' => into.push_str("&lt;"),
            '>' => into.push_str("&gt;"),
            '"' => into.push_str("&quot;"),
            '\'' => into.push_str("&#39;"),
            '\n' | '\t' => into.push(letter),
            letter if is_control(letter) => {
                let _ = write!(into, "{}", letter.escape_unicode());
            }
            letter => into.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_markup() {
        let hostile = "</style><script>'\"&\u{202e}\u{0}\u{1b}\u{2028}";
        let mut html = Html::default();
        html.element("p", &[("title", hostile)], hostile);
        let text = r"&lt;/style&gt;&lt;script&gt;&#39;&quot;&amp;\u{202e}\u{0}\u{1b}\u{2028}";
        assert_eq!(html.into_string(), format!("<p title=\"{text}\">{text}</p>"));
    }
}
