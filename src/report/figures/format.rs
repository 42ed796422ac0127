//! Figures as files: SVG, and PDF for LaTeX.

use std::sync::Arc;

use svg2pdf::usvg::fontdb::Database;
use svg2pdf::usvg::{Options, Tree};
use svg2pdf::{ConversionOptions, PageOptions};

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

impl FigureFormat {
    /// Returns the contents of a file of this format with the figure `name`, which is drawn as SVG.
    ///
    /// # Errors
    /// The drawing has no equivalent in this format.
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
    // A size in points stays what it is: a point of SVG is 4/3 pixels, and so is one of the page.
    let options = Options { fontdb: Arc::new(fonts), dpi: 96.0, ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| error.to_string())?;
    let page = PageOptions { dpi: 96.0 };
    svg2pdf::to_pdf(&tree, ConversionOptions::default(), page).map_err(|error| error.to_string())
}
