//! Figures as files: SVG, and PDF for LaTeX.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use svg2pdf::usvg::fontdb::Database;
use svg2pdf::usvg::{Group, Node, Options, Tree};
use svg2pdf::{ConversionOptions, PageOptions};
use ttf_parser::Face;

use super::FigureError;
use crate::choice::choice;

choice! {
    /// The format of a figure's file.
    FigureFormat {
        /// For the web and for editors of drawings.
        Svg = "svg",
        /// For LaTeX: one page of the figure's size, with the glyphs that it shows of DejaVu Sans embedded.
        Pdf = "pdf",
    }
}

/// Pixels in an inch, in SVG as in CSS: a size in points stays what it is.
const DPI: f32 = 96.0;

impl FigureFormat {
    /// Returns the contents of a file of this format with the figure `name`, which is drawn as SVG.
    ///
    /// # Errors
    /// The font does not have a character of the figure's text, or the drawing cannot be converted.
    pub fn encode(self, name: &str, svg: &str) -> Result<Vec<u8>, FigureError> {
        match self {
            Self::Svg => Ok(svg.as_bytes().to_vec()),
            Self::Pdf => pdf(svg).map_err(|reason| FigureError { figure: name.to_owned(), reason }),
        }
    }
}

fn pdf(svg: &str) -> Result<Vec<u8>, String> {
    static FONTS: OnceLock<Arc<Database>> = OnceLock::new();
    let fonts = FONTS.get_or_init(|| {
        let mut fonts = Database::new();
        fonts.load_font_data(dejavu::sans::regular().to_vec());
        Arc::new(fonts)
    });
    let options = Options { fontdb: fonts.clone(), dpi: DPI, ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let mut without_glyph = BTreeSet::new();
    let font = Face::parse(dejavu::sans::regular(), 0).map_err(|error| error.to_string())?;
    characters_without_glyph(tree.root(), &font, &mut without_glyph);
    if !without_glyph.is_empty() {
        let name = |character: &char| format!("`{character}` (U+{:04X})", u32::from(*character));
        let names: Vec<String> = without_glyph.iter().map(name).collect();
        return Err(format!(
            "DejaVu Sans, the font of PDF figures, has no {}; give the run another name (NAME=RUN), or write SVG",
            names.join(", ")
        ));
    }
    let page = PageOptions { dpi: DPI };
    svg2pdf::to_pdf(&tree, ConversionOptions::default(), page).map_err(|error| error.to_string())
}

/// Collects the characters of a drawing's texts that the font does not have.
fn characters_without_glyph(group: &Group, font: &Face, found: &mut BTreeSet<char>) {
    for node in group.children() {
        match node {
            Node::Group(group) => characters_without_glyph(group, font, found),
            Node::Text(text) => {
                let characters = text.chunks().iter().flat_map(|chunk| chunk.text().chars());
                found.extend(characters.filter(|&character| font.glyph_index(character).is_none()));
            }
            Node::Path(_) | Node::Image(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_the_font_does_not_have_are_named() {
        let of = |text: &str| {
            let svg = format!(
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"90\" height=\"20\"><g><text y=\"15\" \
                 font-family=\"DejaVu Sans, sans-serif\">{text}</text></g></svg>"
            );
            FigureFormat::Pdf.encode("figure", &svg)
        };
        assert!(of("caf\u{e9} \u{3b1} \u{b1} \u{2212}1 \u{b7}").unwrap().starts_with(b"%PDF-"));
        let error = of("run \u{6f22}\u{5b57} \u{1f9ea}").unwrap_err().to_string();
        for part in
            ["`figure`", "`\u{6f22}` (U+6F22)", "`\u{5b57}` (U+5B57)", "(U+1F9EA)", "write SVG"]
        {
            assert!(error.contains(part), "{error}");
        }
    }
}
