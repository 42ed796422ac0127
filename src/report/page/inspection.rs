//! An inspected query: as a page of its own, and as a part of the report.

use super::document::{PageKind, document};
use super::html::{Html, Table};
use super::probes::of_text;
use super::queries::shortened;
use super::{section, svg};
use crate::probe::Inspection;
use crate::report::figures::inspection::figures;
use crate::report::figures::spec::FigureSpec;
use crate::report::inspection::{inspected_docid, inspection_tables, percent};

/// Returns an inspected query as one HTML page that loads nothing.
pub fn inspection_page(found: &Inspection) -> String {
    let (mut body, mut contents) = (Html::default(), Html::default());
    let parts = (&mut body, &mut contents);
    section(parts, ("documents", "Ranked documents", &inspected_docid(found)), |html| {
        html.table(&ranking(found));
    });
    let lead =
        "What cross-attention of each decoder layer reads: the weights of the query's tokens.";
    section((&mut body, &mut contents), ("attention", "Attention", lead), |html| {
        attention(html, found, "");
    });
    let lead = "Where the docid is ranked if the model stops after a component, and what it is ranked by the output of \
                cross-attention or of the MLP alone.";
    section((&mut body, &mut contents), ("lens", "Logit lens", lead), |html| {
        drawn(html, found, "inspected_lens", "");
        tables(html, found, &["Logit lens", "Top tokens"], "");
    });
    let lead = "What changes if the output of a component is replaced by its mean over other queries: what it does for \
                this query alone is then missing.";
    section((&mut body, &mut contents), ("ablation", "Mean ablation", lead), |html| {
        match &found.ablation {
            Some(_) => {
                drawn(html, found, "inspected_ablation", "");
                tables(html, found, &["Mean ablation"], "");
            }
            None => {
                html.paragraph("note", "The corpus has no queries to take means over.");
            }
        }
    });
    let mut header = Html::default();
    header.element("h1", &[], &found.query.text);
    header.paragraph("about", about(found));
    document(&found.query.text, PageKind::Query, (&header, &contents), &body)
}

/// The model and the query in one line.
fn about(found: &Inspection) -> String {
    let step = found.step.map(|step| format!(" \u{b7} step {step}")).unwrap_or_default();
    let query = match (&found.query.id, found.query.split) {
        (Some(id), Some(split)) => format!(" \u{b7} {split} query {id}"),
        _ => String::new(),
    };
    format!("{}{step}{query}", found.checkpoint)
}

/// Appends an inspected query of a run as a part that can be opened.
pub fn part(html: &mut Html, name: &str, found: &Inspection) {
    let mut inner = Html::default();
    inner.paragraph("note", about(found)).paragraph("note", inspected_docid(found));
    let named = format!("{name}: ");
    inner.table(&Table { caption: format!("{name}: ranked documents"), ..ranking(found) });
    attention(&mut inner, found, &named);
    for figure in ["inspected_lens", "inspected_ablation"] {
        drawn(&mut inner, found, figure, &named);
    }
    tables(&mut inner, found, &["Top tokens"], &named);
    html.open("details", &[("class", "query")]).raw("<summary>");
    html.element("span", &[("class", "query-text")], &found.query.text);
    html.raw(" ").element("span", &[("class", "why")], format!("inspected in {name}"));
    html.raw("</summary>").add(&inner).raw("</details>");
}

fn ranking(found: &Inspection) -> Table {
    let header = ["rank", "relevant", "document", "logit", "probability", "text"];
    let mut table = Table::new("Documents, ranked among docids", &header);
    for document in &found.documents {
        let is_relevant = if document.is_relevant { "\u{2713} relevant" } else { "" };
        table.rows.push(vec![
            document.rank.to_string(),
            is_relevant.to_owned(),
            document.docid.clone(),
            format!("{:.3}", document.logit),
            percent(document.probability),
            document.text.as_deref().map(shortened).unwrap_or_default(),
        ]);
    }
    table
}

fn attention(html: &mut Html, found: &Inspection, named: &str) {
    drawn(html, found, "attention_over_layers", named);
    let mut inner = Html::default();
    drawn(&mut inner, found, "attention_over_heads", named);
    html.details("Heads of each layer", &inner);
    tables(html, found, &["Cross-attention"], named);
}

/// Appends one of the figures, with `named` before its title.
fn drawn(html: &mut Html, found: &Inspection, name: &str, named: &str) {
    for figure in figures(found).into_iter().filter(|figure| figure.name == name) {
        svg::figure(html, &FigureSpec { title: format!("{named}{}", figure.title), ..figure });
    }
}

/// Appends the tables whose titles begin so.
fn tables(html: &mut Html, found: &Inspection, titles: &[&str], named: &str) {
    for table in inspection_tables(found) {
        if titles.iter().any(|title| table.title.starts_with(title)) {
            let mut table = of_text(&table);
            table.caption.insert_str(0, named);
            html.table(&table);
        }
    }
}
