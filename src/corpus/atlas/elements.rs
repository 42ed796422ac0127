//! The chemical elements: their descriptions, and questions about them.

use super::{Fact, Family};
use crate::corpus::grammar::{capitalised, listed, with_article};
use crate::corpus::table::Row;

pub(super) const FAMILY: Family = Family {
    name: "element",
    file: "elements.tsv",
    table: include_str!("elements.tsv"),
    facts: FACTS,
    describe,
};

fn describe(row: &Row) -> String {
    let name = row.name();
    let category = row.get("category").unwrap_or("synthetic element");
    let mut text = capitalised(name);
    if let (Some(symbol), Some(number)) = (row.get("symbol"), row.get("number")) {
        text += &format!(" (symbol {symbol}, atomic number {number})");
    }
    text += &format!(" is {}", with_article(category));
    match (row.get("group"), row.get("period")) {
        (Some(group), Some(period)) => text += &format!(" in group {group} and period {period}"),
        (None, Some(period)) => text += &format!(" in period {period}"),
        _ => {}
    }
    text += " of the periodic table.";
    if let Some(origin) = row.get("origin") {
        text += &format!(" Its name comes from {origin}.");
    }
    let discoverers = row.list("discoverer");
    match (discoverers.is_empty(), row.get("year")) {
        (_, Some("antiquity")) => text += " It has been known since antiquity.",
        (false, Some(year)) => {
            text += &format!(" It was discovered in {year} by {}.", listed(&discoverers));
        }
        (false, None) => text += &format!(" It was discovered by {}.", listed(&discoverers)),
        (true, Some(year)) => text += &format!(" It was discovered in {year}."),
        (true, None) => {}
    }
    if let Some(block) = row.get("block") {
        text += &format!(" It belongs to the {block} block.");
    }
    if let Some(state) = row.get("state") {
        text += &format!(" At room temperature it is a {state}.");
    }
    match row.get("use") {
        Some(purpose) => text += &format!(" It is used in {purpose}."),
        None => text += " It has no use outside research.",
    }
    match row.get("weight") {
        Some(weight) => text += &format!(" Its standard atomic weight is about {weight}."),
        None => {
            text +=
                " All of its isotopes are radioactive, so that it has no standard atomic weight."
        }
    }
    if let Some(number) = row.get("number") {
        text += &format!(
            " A neutral atom of {name} has {number} electrons around a nucleus with as many protons."
        );
    }
    text
}

const FACTS: &[Fact] = &[
    Fact {
        column: "symbol",
        asked: &[
            "What is the chemical symbol of {subject}?",
            "Which symbol stands for {subject} in formulas?",
            "How do chemists abbreviate {subject}?",
            "Give the symbol of the element {subject}.",
            "Which letters denote {subject} in the periodic table?",
        ],
        given: &[
            "Which element has the chemical symbol {value}?",
            "What does the symbol {value} stand for in chemistry?",
            "{value} is the symbol of which element?",
            "Name the element whose symbol is {value}.",
            "Which element do chemists write as {value}?",
        ],
    },
    Fact {
        column: "number",
        asked: &[
            "What is the atomic number of {subject}?",
            "Which atomic number does {subject} have?",
            "How many protons are in the nucleus of {subject}?",
            "Give the atomic number of the element {subject}.",
            "Where in the order of atomic numbers does {subject} come?",
        ],
        given: &[
            "Which element has the atomic number {value}?",
            "What is the element with atomic number {value}?",
            "The atomic number {value} belongs to which element?",
            "Name the element number {value} of the periodic table.",
            "Which element has {value} protons in its nucleus?",
        ],
    },
    Fact {
        column: "weight",
        asked: &[
            "What is the standard atomic weight of {subject}?",
            "How heavy is an atom of {subject}?",
            "Which atomic weight does {subject} have?",
            "Give the atomic weight of {subject}.",
        ],
        given: &[],
    },
    Fact {
        column: "category",
        asked: &[
            "What kind of element is {subject}?",
            "To which category of elements does {subject} belong?",
            "How is {subject} classified among the elements?",
            "Is {subject} a metal, a metalloid or a nonmetal?",
        ],
        given: &[],
    },
    Fact {
        column: "group",
        asked: &[
            "In which group of the periodic table is {subject}?",
            "Which column of the periodic table holds {subject}?",
            "What is the group number of {subject}?",
            "Which group does {subject} belong to?",
        ],
        given: &[],
    },
    Fact {
        column: "period",
        asked: &[
            "In which period of the periodic table is {subject}?",
            "Which row of the periodic table holds {subject}?",
            "What is the period number of {subject}?",
            "Which period does {subject} belong to?",
        ],
        given: &[],
    },
    Fact {
        column: "state",
        asked: &[
            "Is {subject} a solid, a liquid or a gas at room temperature?",
            "In which state is {subject} at room temperature?",
            "What state of matter is {subject} under ordinary conditions?",
            "Which form does {subject} take at room temperature: solid, liquid or gas?",
        ],
        given: &[],
    },
    Fact {
        column: "discoverer",
        asked: &[
            "Who discovered {subject}?",
            "By whom was {subject} discovered?",
            "Who is credited with the discovery of {subject}?",
            "To whom do we owe the discovery of {subject}?",
        ],
        given: &[
            "Which element did {value} discover?",
            "Which element was discovered by {value}?",
            "{value} discovered which element?",
            "What element is credited to {value}?",
            "Name the element that {value} found.",
        ],
    },
    Fact {
        column: "year",
        asked: &[
            "When was {subject} discovered?",
            "In which year was {subject} discovered?",
            "Since when has {subject} been known?",
            "What is the date of the discovery of {subject}?",
        ],
        given: &[],
    },
    Fact {
        column: "origin",
        asked: &[
            "Where does the name of {subject} come from?",
            "What is {subject} named after?",
            "How did {subject} get its name?",
            "What is the origin of the name {subject}?",
        ],
        given: &[
            "Which element gets its name from {value}?",
            "Which element is named after {value}?",
            "{value} gave its name to which element?",
            "What element's name comes from {value}?",
            "The name of which element goes back to {value}?",
        ],
    },
    Fact {
        column: "use",
        asked: &[
            "What is {subject} used for?",
            "Where is {subject} used?",
            "What are the uses of {subject}?",
            "Name something that {subject} is needed for.",
        ],
        given: &[],
    },
];
