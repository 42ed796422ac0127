//! The 88 modern constellations: their descriptions, and questions about them.

use super::{Fact, Family};
use crate::corpus::grammar::capitalised;
use crate::corpus::table::Row;

pub(super) const FAMILY: Family = Family {
    name: "constellation",
    file: "constellations.tsv",
    table: include_str!("constellations.tsv"),
    facts: FACTS,
    describe,
};

fn describe(row: &Row) -> String {
    let name = row.name();
    let mut marks = Vec::new();
    for (column, mark) in
        [("abbreviation", "abbreviation"), ("genitive", "genitive"), ("star", "brightest star")]
    {
        if let Some(value) = row.get(column) {
            marks.push(format!("{mark} {value}"));
        }
    }
    let mut text = format!("{} ({}) is a constellation", capitalised(name), marks.join(", "));
    if let Some(figure) = row.get("figure") {
        text += &format!(" that represents {figure}");
    }
    text += ".";
    if let (Some(rank), Some(area)) = (row.get("rank"), row.get("area")) {
        text += &format!(
            " It ranks {rank} in area among the 88 modern constellations and covers about {area} square \
             degrees."
        );
    }
    if let Some(sky) = row.get("sky") {
        text += &format!(" All or most of it lies in the {sky} half of the sky.");
    }
    match row.get("author") {
        Some("Ptolemy") => text += " Ptolemy listed it in his catalogue in the second century.",
        Some(author) => text += &format!(" It was introduced by {author}."),
        None => {}
    }
    if let Some(genitive) = row.get("genitive") {
        text += &format!(" The names of its stars end in {genitive}, after a letter or a number.");
    }
    text
}

const FACTS: &[Fact] = &[
    Fact {
        column: "abbreviation",
        asked: &[
            "What is the abbreviation of the constellation {subject}?",
            "How is {subject} abbreviated on star charts?",
            "Which three letters stand for {subject} in astronomy?",
            "Give the short form of {subject} used by astronomers.",
        ],
        given: &[
            "Which constellation has the abbreviation {value}?",
            "What constellation does {value} stand for?",
            "{value} is the abbreviation of which constellation?",
            "Name the constellation that astronomers shorten to {value}.",
            "Which constellation is marked {value} on star charts?",
        ],
    },
    Fact {
        column: "genitive",
        asked: &[
            "What is the genitive of {subject}?",
            "Which Latin genitive belongs to {subject}?",
            "Give the genitive form of the constellation {subject}.",
            "How do the names of the stars in {subject} end?",
        ],
        given: &[
            "Which constellation has the genitive {value}?",
            "{value} is the genitive of which constellation?",
            "The stars of which constellation are called {value}?",
            "Name the constellation whose genitive is {value}.",
            "To which constellation does the form {value} belong?",
        ],
    },
    Fact {
        column: "star",
        asked: &[
            "What is the brightest star of {subject}?",
            "Which star shines brightest in {subject}?",
            "Name the brightest star in the constellation {subject}.",
            "Which star outshines all others in {subject}?",
        ],
        given: &[
            "Which constellation has {value} as its brightest star?",
            "{value} is the brightest star of which constellation?",
            "In which constellation is {value} the brightest star?",
            "Name the constellation whose brightest star is {value}.",
            "{value} outshines all other stars of which constellation?",
        ],
    },
    Fact {
        column: "figure",
        asked: &[
            "What does the constellation {subject} represent?",
            "Which figure do people see in {subject}?",
            "What is the meaning of the constellation {subject}?",
            "What is {subject} in the night sky a picture of?",
        ],
        given: &[
            "Which constellation represents {value}?",
            "{value} is pictured by which constellation?",
            "In which constellation do people see {value}?",
            "Name the constellation that depicts {value}.",
            "What constellation is a picture of {value}?",
        ],
    },
    Fact {
        column: "rank",
        asked: &[
            "How does {subject} rank in area among the constellations?",
            "Which place does {subject} take when constellations are ordered by area?",
            "What is the rank of {subject} by area?",
            "Where does {subject} come in the list of constellations by area?",
        ],
        given: &[
            "Which constellation ranks {value} in area?",
            "Which constellation is {value} in order of area?",
            "What constellation comes {value} in area?",
            "Name the constellation that is {value} by area.",
            "{value} in area among the constellations is which one?",
        ],
    },
    Fact {
        column: "area",
        asked: &[
            "How large is the constellation {subject}?",
            "How many square degrees does {subject} cover?",
            "What is the area of {subject}?",
            "How much of the sky does {subject} take up?",
        ],
        given: &[],
    },
    Fact {
        column: "sky",
        asked: &[
            "In which half of the sky is {subject}?",
            "Is {subject} a northern or a southern constellation?",
            "Which celestial hemisphere does {subject} belong to?",
            "Is most of {subject} north or south of the celestial equator?",
        ],
        given: &[],
    },
    Fact {
        column: "author",
        asked: &[
            "To which astronomer is the constellation {subject} credited?",
            "Who first listed or introduced the constellation {subject}?",
            "Which astronomer recorded {subject} first?",
            "From whom do we have the constellation {subject}?",
        ],
        given: &[],
    },
];
