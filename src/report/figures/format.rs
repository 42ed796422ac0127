//! Figures as files: SVG, and PDF for LaTeX.

use std::sync::Arc;

use svg2pdf::usvg::fontdb::Database;
use svg2pdf::usvg::{Group, Node, Options, TextChunk, Tree};
use svg2pdf::{ConversionOptions, PageOptions};

use super::FigureError;
use crate::choice::choice;

choice! {
    /// The format of a figure's file.
    FigureFormat {
        /// For the web and for editors of drawings.
        Svg = "svg",
        /// For LaTeX: one page of the figure's size, with the glyphs that it shows embedded. They are those of DejaVu Sans, or of
        /// an installed font for characters that it does not have.
        Pdf = "pdf",
    }
}

/// Pixels in an inch, in SVG as in CSS: a size in points stays what it is.
const DPI: f32 = 96.0;

impl FigureFormat {
    /// Returns the contents of a file of this format with the figure `name`, which is drawn as SVG.
    ///
    /// # Errors
    /// No font has a character of the figure's text, or the drawing cannot be converted.
    pub fn encode(self, name: &str, svg: &str) -> Result<Vec<u8>, FigureError> {
        match self {
            Self::Svg => Ok(svg.as_bytes().to_vec()),
            Self::Pdf => pdf(svg).map_err(|reason| FigureError { figure: name.to_owned(), reason }),
        }
    }
}

fn pdf(svg: &str) -> Result<Vec<u8>, String> {
    let mut fonts = Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    let mut tree = parse(svg, fonts.clone())?;
    if text_without_glyphs(tree.root()).is_some() {
        fonts.load_system_fonts();
        tree = parse(svg, fonts)?;
    }
    if let Some(text) = text_without_glyphs(tree.root()) {
        return Err(format!(
            "neither DejaVu Sans nor an installed font has all characters of `{text}`; install a font that has them, \
             or write it as svg"
        ));
    }
    let page = PageOptions { dpi: DPI };
    svg2pdf::to_pdf(&tree, ConversionOptions::default(), page).map_err(|error| error.to_string())
}

fn parse(svg: &str, fonts: Database) -> Result<Tree, String> {
    let options = Options { fontdb: Arc::new(fonts), dpi: DPI, ..Options::default() };
    Tree::from_str(svg, &options).map_err(|error| error.to_string())
}

/// Returns a text with a character that no font has.
fn text_without_glyphs(group: &Group) -> Option<String> {
    group.children().iter().find_map(|node| match node {
        Node::Group(group) => text_without_glyphs(group),
        Node::Text(text) => {
            let mut glyphs = text.layouted().iter().flat_map(|span| &span.positioned_glyphs);
            let texts = || text.chunks().iter().map(TextChunk::text).collect();
            // Glyph 0 is a font's box for characters that it does not have.
            glyphs.any(|glyph| glyph.id.0 == 0).then(texts)
        }
        Node::Path(_) | Node::Image(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_no_font_can_show_is_named() {
        let of = |text: &str| {
            let svg = format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"90\" height=\"20\"><text y=\"15\" \
                 font-family=\"DejaVu Sans, sans-serif\">{text}</text></svg>"
            );
            FigureFormat::Pdf.encode("figure", &svg)
        };
        assert!(of("caf\u{e9} \u{3b1} \u{b1} \u{2212}1").unwrap().starts_with(b"%PDF-"));
        // A character for private use: fonts of the machine do not have it either.
        let error = of("run \u{10fffd}").unwrap_err().to_string();
        assert!(error.contains("`figure`") && error.contains("`run \u{10fffd}`"), "{error}");
        assert!(error.contains("as svg"), "{error}");
    }
}
