//! The table in `docs/reliability.md` has every case with its words, and nothing else.

use std::fs;
use std::path::Path;

use crate::SUBJECTS;
use crate::harness::{Case, Ends};

/// A row of the table.
fn row(case: &Case) -> String {
    let ends = match case.ends {
        Ends::Refused => "refused",
        Ends::Warned => "goes on, with a warning",
        Ends::Accepted => "accepted",
    };
    // A tab and a bar would end a cell of the table.
    let words = case.says.iter().map(|words| words.replace('\t', "<TAB>").replace('|', "\\|"));
    let words: Vec<String> = words.map(|words| format!("``{}``", words.trim())).collect();
    format!("| {} | {ends}: {} |", case.name, words.join(" ... "))
}

fn table(cases: &[&[Case]]) -> Vec<String> {
    let head = ["| input | what genir does |", "| --- | --- |"].map(str::to_owned);
    head.into_iter().chain(cases.iter().copied().flatten().map(row)).collect()
}

#[test]
fn the_documents_list_every_case_with_its_words() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md");
    let text = fs::read_to_string(page).unwrap();
    let mut count = 0;
    let mut wrong = Vec::new();
    for (subject, module, cases) in SUBJECTS {
        let heading = format!("\n### {subject}\n");
        let section = text.split(&heading).nth(1).unwrap_or_default();
        let section = section.split("\n#").next().unwrap_or_default();
        let written: Vec<&str> = section.lines().filter(|line| line.starts_with('|')).collect();
        let expected = table(cases);
        count += expected.len() - 2;
        if !section.contains(&format!("`tests/bad_input/{module}.rs`")) {
            wrong.push(format!("### {subject}: does not name tests/bad_input/{module}.rs"));
        }
        if written != expected {
            wrong.push(format!("### {subject}\n\n{}", expected.join("\n")));
        }
    }
    if !text.contains(&format!("{count} bad inputs")) {
        wrong.push(format!("the page does not say that there are {count} bad inputs"));
    }
    assert!(wrong.is_empty(), "docs/reliability.md should have:\n\n{}", wrong.join("\n\n"));
}

#[test]
fn no_two_cases_have_the_same_name() {
    for (subject, _, cases) in SUBJECTS {
        let mut names: Vec<&str> = cases.iter().copied().flatten().map(|case| case.name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count, "{subject}");
    }
}
