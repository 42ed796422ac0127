//! A page around its sections: the head, the header with the table of contents, the style sheet and the script.

use super::html::Html;

/// The subject of a page.
#[derive(Clone, Copy)]
pub enum PageKind {
    /// Runs.
    Runs,
    /// One query.
    Query,
}

/// A page: its title, its header with the table of contents, and its body.
pub fn document(
    title: &str,
    kind: PageKind,
    (header, contents): (&Html, &Html),
    body: &Html,
) -> String {
    let (command, first, of) = match kind {
        PageKind::Runs => {
            ("genir report", ("#answer", "Skip to the answer"), "what the runs have stored")
        }
        PageKind::Query => {
            ("genir inspect", ("#documents", "Skip to the ranked documents"), "a checkpoint")
        }
    };
    let mut html = Html::default();
    html.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n")
        .raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n")
        .raw("<meta name=\"color-scheme\" content=\"light dark\">\n");
    // Nothing is loaded, whatever a text might contain.
    html.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ")
        .raw("style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'; ")
        .raw("form-action 'none'\">\n<link rel=\"icon\" href=\"data:,\">\n");
    html.element("title", &[], format!("{title} \u{2013} {command}"));
    html.raw("\n<style>\n").raw(include_str!("page.css")).raw("</style>\n</head>\n<body>\n");
    html.element("a", &[("class", "skip"), ("href", first.0)], first.1).raw("\n<header>");
    html.paragraph("brand", command).add(header);
    html.raw("<nav aria-label=\"Contents\"><ul>")
        .add(contents)
        .raw("</ul></nav></header>\n<main>\n")
        .add(body)
        .raw("</main>\n<footer>");
    let version = env!("CARGO_PKG_VERSION");
    html.paragraph("note", format!("Made by genir {version} from {of}."));
    html.raw("</footer>\n<div id=\"tip\" role=\"status\" hidden></div>\n<script>\n");
    html.raw(include_str!("page.js")).raw("</script>\n</body>\n</html>\n");
    html.into_string()
}
