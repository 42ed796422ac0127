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
    let drawing = Drawing::of(found, "");
    let parts = (&mut body, &mut contents);
    section(parts, ("documents", "Ranked documents", &inspected_docid(found)), |html| {
        html.table(&ranking(found));
    });
    let lead =
        "What cross-attention of each decoder layer reads: the weights of the query's tokens.";
    section((&mut body, &mut contents), ("attention", "Attention", lead), |html| {
        drawing.attention(html);
    });
    let lead = "Where the docid is ranked if the model stops after a component, and what it is ranked by the output of \
                cross-attention or of the MLP alone.";
    section((&mut body, &mut contents), ("lens", "Logit lens", lead), |html| {
        drawing.figure(html, "inspected_lens");
        drawing.tables(html, &["Logit lens", "Top tokens"]);
    });
    let lead = "What changes if the output of a component is replaced by its mean over other queries: what it does for \
                this query alone is then missing.";
    section((&mut body, &mut contents), ("ablation", "Mean ablation", lead), |html| {
        match &found.ablation {
            Some(_) => {
                drawing.figure(html, "inspected_ablation");
                drawing.tables(html, &["Mean ablation"]);
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
    inner.table(&Table { caption: format!("{name}: ranked documents"), ..ranking(found) });
    let drawing = Drawing::of(found, &format!("{name}: "));
    drawing.attention(&mut inner);
    drawing.figure(&mut inner, "inspected_lens");
    drawing.figure(&mut inner, "inspected_ablation");
    drawing.tables(&mut inner, &["Top tokens"]);
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

/// The figures and tables of an inspected query.
struct Drawing {
    figures: Vec<FigureSpec>,
    tables: Vec<Table>,
    /// Length of what stands before each title.
    named: usize,
}

impl Drawing {
    /// Draws all of them, with `named` before their titles.
    fn of(found: &Inspection, named: &str) -> Self {
        let mut figures = figures(found);
        figures.iter_mut().for_each(|figure| figure.title.insert_str(0, named));
        let mut tables: Vec<Table> = inspection_tables(found).iter().map(of_text).collect();
        tables.iter_mut().for_each(|table| table.caption.insert_str(0, named));
        Self { figures, tables, named: named.len() }
    }

    fn attention(&self, html: &mut Html) {
        self.figure(html, "attention_over_layers");
        let mut inner = Html::default();
        self.figure(&mut inner, "attention_over_heads");
        html.details("Heads of each layer", &inner);
        self.tables(html, &["Cross-attention"]);
    }

    /// Appends a figure by its name, if there is one.
    fn figure(&self, html: &mut Html, name: &str) {
        for figure in self.figures.iter().filter(|figure| figure.name == name) {
            svg::figure(html, figure);
        }
    }

    /// Appends the tables whose titles begin so.
    fn tables(&self, html: &mut Html, titles: &[&str]) {
        for table in &self.tables {
            let title = &table.caption[self.named..];
            if titles.iter().any(|begins| title.starts_with(begins)) {
                html.table(table);
            }
        }
    }
}
