//! The countries (members and observers of the United Nations): their descriptions, and questions about them. Regions
//! follow the geographical scheme of the United Nations.

use super::{Fact, Family};
use crate::corpus::grammar::{capitalised, listed};
use crate::corpus::table::Row;

pub(super) const FAMILY: Family = Family {
    name: "country",
    file: "countries.tsv",
    table: include_str!("countries.tsv"),
    facts: FACTS,
    describe,
};

fn describe(row: &Row) -> String {
    let name = row.name();
    let mut marks = Vec::new();
    if let Some(capital) = row.get("capital") {
        marks.push(format!("capital {capital}"));
    }
    if let Some(calling) = row.get("calling") {
        marks.push(format!("calling code {calling}"));
    }
    if let (Some(two), Some(three)) = (row.get("alpha2"), row.get("alpha3")) {
        marks.push(format!("country codes {two} and {three}"));
    }
    let mut text = format!("{} ({})", capitalised(name), marks.join(", "));
    match row.list("currency").as_slice() {
        [] => {}
        [currency] => text += &format!(" has the currency {currency} and"),
        several => text += &format!(" has the currencies {} and", listed(several)),
    }
    if let (Some(region), Some(continent)) = (row.get("region"), row.get("continent")) {
        text += &format!(" lies in {region}");
        if region != continent {
            text += &format!(", on the continent of {continent}");
        }
    }
    text += ".";
    if let Some(demonym) = row.get("demonym") {
        text += &format!(" Its people are described as {demonym}.");
    }
    match row.list("languages").as_slice() {
        [] => {}
        [language] => text += &format!(" The official language of the state is {language}."),
        several => {
            text += &format!(" The official languages of the state are {}.", listed(several))
        }
    }
    match row.list("borders").as_slice() {
        [] => {}
        ["none"] => {
            text += " The sea is all around it: it has no land border with any other country."
        }
        [neighbour] => text += &format!(" It has a land border with {neighbour}."),
        several => text += &format!(" It has land borders with {}.", listed(several)),
    }
    if let Some(note) = row.get("note") {
        text += &format!(" {note}");
    }
    if let Some(calling) = row.get("calling") {
        text += &format!(" A telephone call to {name} from abroad begins with {calling}.");
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
            "What is the name of the capital of {subject}?",
        ],
        given: &[
            "Which country has {value} as its capital?",
            "{value} is the capital of which country?",
            "Of which country is {value} the capital city?",
            "Name the country whose capital is {value}.",
            "What country has its capital in {value}?",
        ],
    },
    Fact {
        column: "currency",
        asked: &[
            "What is the currency of {subject}?",
            "Which money is used in {subject}?",
            "How do people pay in {subject}?",
            "Name the currency of {subject}.",
            "Which currency does {subject} have?",
        ],
        given: &[
            "Which country uses the {value}?",
            "The {value} is the currency of which country?",
            "In which country do people pay with the {value}?",
            "Name the country whose currency is the {value}.",
            "What country has the {value} as its currency?",
        ],
    },
    Fact {
        column: "languages",
        asked: &[
            "What is an official language of {subject}?",
            "Which language is official in {subject}?",
            "In which language are the laws of {subject} published?",
            "Name an official language of {subject}.",
        ],
        given: &[],
    },
    Fact {
        column: "region",
        asked: &[
            "In which part of the world is {subject}?",
            "Where is {subject}?",
            "On which continent does {subject} lie?",
            "Which region does {subject} belong to?",
        ],
        given: &[],
    },
    Fact {
        column: "borders",
        asked: &[
            "Which countries border {subject}?",
            "What are the neighbours of {subject}?",
            "With whom does {subject} share a land border?",
            "Does {subject} have neighbours on land?",
        ],
        given: &[],
    },
    Fact {
        column: "calling",
        asked: &[
            "What is the calling code of {subject}?",
            "Which telephone code is used for {subject}?",
            "How does a call to {subject} from abroad begin?",
            "Give the international dialling code of {subject}.",
        ],
        given: &[
            "Which country has the calling code {value}?",
            "The telephone code {value} belongs to which country?",
            "What country do I call with {value}?",
            "Name the country with the dialling code {value}.",
            "Where does a call that begins with {value} go?",
        ],
    },
    Fact {
        column: "alpha2",
        asked: &[
            "What is the two-letter country code of {subject}?",
            "Which two letters stand for {subject}?",
            "Give the two-letter ISO code of {subject}.",
            "How is {subject} abbreviated to two letters?",
        ],
        given: &[
            "Which country has the two-letter code {value}?",
            "What country does the ISO code {value} stand for?",
            "{value} is the country code of which country?",
            "Name the country with the code {value}.",
            "Which country is abbreviated to {value}?",
        ],
    },
    Fact {
        column: "alpha3",
        asked: &[
            "What is the three-letter country code of {subject}?",
            "Which three letters stand for {subject}?",
            "Give the three-letter ISO code of {subject}.",
            "How is {subject} abbreviated to three letters?",
        ],
        given: &[
            "Which country has the three-letter code {value}?",
            "What country does the code {value} stand for?",
            "{value} is the three-letter code of which country?",
            "Name the country with the three-letter code {value}.",
            "Which country is shortened to {value}?",
        ],
    },
    Fact {
        column: "demonym",
        asked: &[
            "How are people from {subject} described?",
            "What is the demonym of {subject}?",
            "What do you call somebody from {subject}?",
            "Which word describes the people of {subject}?",
        ],
        given: &[
            "Which country's people are described as {value}?",
            "The demonym {value} belongs to which country?",
            "From which country is somebody who is {value}?",
            "Name the country of the {value} people.",
            "Somebody described as {value} comes from which country?",
        ],
    },
];
