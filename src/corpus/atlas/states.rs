//! The fifty states of the United States: their descriptions, and questions about them.

use super::{Fact, Family};
use crate::corpus::grammar::capitalised;
use crate::corpus::table::Row;

pub(super) const FAMILY: Family = Family {
    name: "state",
    file: "states.tsv",
    table: include_str!("states.tsv"),
    facts: FACTS,
    describe,
};

fn describe(row: &Row) -> String {
    let name = row.name();
    let mut marks = Vec::new();
    for (column, mark) in
        [("capital", "capital"), ("postal", "postal abbreviation"), ("nickname", "nickname")]
    {
        if let Some(value) = row.get(column) {
            marks.push(format!("{mark} {value}"));
        }
    }
    let mut text = format!("{} ({})", capitalised(name), marks.join(", "));
    match row.get("order") {
        Some(order) => text += &format!(" was the {order} state to join the United States"),
        None => text += " joined the United States",
    }
    if let Some(date) = row.get("date") {
        text += &format!(", on {date}");
    }
    text += ".";
    if let Some(largest) = row.get("largest") {
        text += &format!(" Its largest city is {largest}.");
    }
    if let Some(bird) = row.get("bird") {
        text += &format!(" The state bird is the {bird}.");
    }
    if let Some(flower) = row.get("flower") {
        text += &format!(" The state flower is the {flower}.");
    }
    if let Some(capital) = row.get("capital") {
        text += &format!(" The governor and the legislature of {name} work in {capital}.");
    }
    if let Some(postal) = row.get("postal") {
        text += &format!(" In addresses its name is shortened to {postal}.");
    }
    text
}

const FACTS: &[Fact] = &[
    Fact {
        column: "capital",
        asked: &[
            "What is the capital of {subject}?",
            "Which city is the capital of {subject}?",
            "Name the capital city of {subject}.",
            "Which capital does {subject} have?",
            "In which city does the governor of {subject} work?",
        ],
        given: &[
            "Which state has {value} as its capital?",
            "{value} is the capital of which state?",
            "Of which state is {value} the capital city?",
            "Name the state whose capital is {value}.",
            "What state has its capital in {value}?",
        ],
    },
    Fact {
        column: "postal",
        asked: &[
            "What is the postal abbreviation of {subject}?",
            "How is {subject} abbreviated in addresses?",
            "Which two letters stand for {subject} on a letter?",
            "Give the postal abbreviation used for {subject}.",
        ],
        given: &[
            "Which state has the postal abbreviation {value}?",
            "What state does {value} stand for in an address?",
            "{value} is the postal abbreviation of which state?",
            "Name the state that the post office shortens to {value}.",
            "In which state is an address that ends in {value}?",
        ],
    },
    Fact {
        column: "order",
        asked: &[
            "As which state in order did {subject} join the Union?",
            "Which place has {subject} in the order of statehood?",
            "Where does {subject} come in the list of states by admission?",
            "What number in the order of admission is {subject}?",
        ],
        given: &[
            "Which state was the {value} to join the Union?",
            "What was the {value} state of the United States?",
            "Which state came {value} in the order of statehood?",
            "Name the {value} state to be admitted.",
            "The {value} state to join was which one?",
        ],
    },
    Fact {
        column: "date",
        asked: &[
            "When did {subject} become a state?",
            "On which day did {subject} join the Union?",
            "What is the date of the statehood of {subject}?",
            "In which year was {subject} admitted as a state?",
        ],
        given: &[],
    },
    Fact {
        column: "largest",
        asked: &[
            "What is the largest city of {subject}?",
            "Which city of {subject} has the most people?",
            "Name the biggest city in {subject}.",
            "Which city is the most populous of {subject}?",
        ],
        given: &[
            "Which state has {value} as its largest city?",
            "{value} is the largest city of which state?",
            "In which state is {value} the biggest city?",
            "Name the state whose largest city is {value}.",
            "{value} has more people than any other city of which state?",
        ],
    },
    Fact {
        column: "nickname",
        asked: &[
            "What is the nickname of {subject}?",
            "How is {subject} nicknamed?",
            "Which nickname does {subject} have?",
            "By which other name is {subject} known?",
        ],
        given: &[
            "Which state is nicknamed {value}?",
            "{value} is the nickname of which state?",
            "Which state is called {value}?",
            "Name the state that is known as {value}.",
            "What state do people mean by {value}?",
        ],
    },
    Fact {
        column: "bird",
        asked: &[
            "What is the state bird of {subject}?",
            "Which bird did {subject} choose as its symbol?",
            "Name the official bird of {subject}.",
            "Which bird stands for {subject}?",
        ],
        given: &[
            "Which state has the {value} as its bird?",
            "The {value} is the state bird of which state?",
            "Of which state is the {value} the official bird?",
            "Name the state whose bird is the {value}.",
            "What state chose the {value} as its bird?",
        ],
    },
    Fact {
        column: "flower",
        asked: &[
            "What is the state flower of {subject}?",
            "Which flower did {subject} choose as its symbol?",
            "Name the official flower of {subject}.",
            "Which flower stands for {subject}?",
        ],
        given: &[
            "Which state has the {value} as its flower?",
            "The {value} is the state flower of which state?",
            "Of which state is the {value} the official flower?",
            "Name the state whose flower is the {value}.",
            "What state chose the {value} as its flower?",
        ],
    },
];
