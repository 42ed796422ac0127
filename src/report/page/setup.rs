//! Recipes and environments: what was run, where, and with which differences.

use super::html::{Html, Table};
use super::run::ReportedRun;
use super::{Arms, answer};

/// Appends the section.
pub fn section(html: &mut Html, arms: &Arms) {
    html.element("h3", &[], "Recipe");
    if arms.runs().count() > 1 {
        let table = differing_keys(arms);
        match table.rows.is_empty() {
            true => html.paragraph("note", "The recipes have the same keys with the same values."),
            false => html.table(&table),
        };
    }
    for run in arms.runs() {
        let mut inner = Html::default();
        inner.raw("<pre tabindex=\"0\">").text(run.recipe_text.trim_end()).raw("</pre>");
        html.details(format!("{}: recipe", run.name), &inner);
    }
    html.element("h3", &[], "Environment");
    html.table(&environment(arms));
    for warning in arms.comparison.iter().flat_map(|found| &found.warnings) {
        html.paragraph("note", warning);
    }
}

/// Keys that have other values in some run, where the run is written aside.
fn differing_keys(arms: &Arms) -> Table {
    let mut table = Table::new("Keys of the recipes that differ", &["key"]);
    table.header.extend(arms.runs().map(|run| run.name.clone()));
    let mut keys: Vec<&String> = arms.runs().flat_map(|run| run.keys.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys.into_iter().filter(|key| *key != "run.directory") {
        let values: Vec<Option<&String>> = arms.runs().map(|run| run.keys.get(key)).collect();
        if values.windows(2).any(|pair| pair[0] != pair[1]) {
            let values = values.into_iter().map(|v| v.cloned().unwrap_or("not set".to_owned()));
            table.rows.push([key.clone()].into_iter().chain(values).collect());
        }
    }
    table
}

fn environment(arms: &Arms) -> Table {
    let mut table = Table::new("Environment at the start of each run", &["property"]);
    table.header.extend(arms.runs().map(|run| run.name.clone()));
    type Value = fn(&ReportedRun) -> String;
    let rows: [(&str, Value); 14] = [
        ("run directory", |run| run.path.display().to_string()),
        ("ended", |run| run.unfinished().unwrap_or("finished".to_owned())),
        ("started", |run| run.environment.started.clone()),
        ("genir", |run| run.environment.genir.clone()),
        ("Burn", |run| run.environment.burn.clone()),
        ("git revision", |run| match &run.environment.git {
            Some(git) if git.dirty => format!("{} with changes", git.commit),
            Some(git) => git.commit.clone(),
            None => String::new(),
        }),
        ("device", |run| run.environment.device.clone()),
        ("processor", |run| run.environment.cpu.clone().unwrap_or_default()),
        ("cores", |run| run.environment.cores.map(|cores| cores.to_string()).unwrap_or_default()),
        ("processes", |run| run.environment.processes.unwrap_or(1).to_string()),
        ("memory", |run| {
            run.environment.memory.map(|bytes| answer::bytes(bytes as f64)).unwrap_or_default()
        }),
        ("system", |run| run.environment.system.clone().unwrap_or_default()),
        ("resumed", |run| {
            let steps = run.environment.resumed.iter().map(|resumed| resumed.step.to_string());
            let steps: Vec<String> = steps.collect();
            match steps.is_empty() {
                true => "no".to_owned(),
                false => format!("after steps {}", steps.join(", ")),
            }
        }),
        ("command", |run| run.environment.command.join(" ")),
    ];
    for (name, value) in rows {
        table.rows.push([name.to_owned()].into_iter().chain(arms.runs().map(value)).collect());
    }
    table
}
