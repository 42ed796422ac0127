//! Run directories: of an older schema, incomplete, or changed by hand.

use std::fs;

use crate::harness::{Case, refused, warned};
use crate::home::{Home, path};

/// `genir eval` of a changed run.
fn evaluated(home: &Home, change: impl FnOnce(&Home)) -> Vec<String> {
    let run = home.run();
    change(home);
    ["eval", &run].map(str::to_owned).to_vec()
}

/// `genir plot` of a changed run.
fn plotted(home: &Home, change: impl FnOnce(&Home)) -> Vec<String> {
    let run = home.run();
    change(home);
    ["plot", &run, "--output", &path(&home.at("figures"))].map(str::to_owned).to_vec()
}

pub const CASES: &[Case] = &[
    refused(
        "`environment.json` of an older schema",
        |home| {
            plotted(home, |home| {
                home.json("run/environment.json", |all| {
                    drop(all.as_object_mut().unwrap().remove("genir"))
                })
            })
        },
        &[
            "run is not a run directory",
            "environment.json was not written by genir (missing field `genir`",
        ],
    ),
    refused(
        "`environment.json` that is not JSON",
        |home| evaluated(home, |home| drop(home.write("run/environment.json", "half a fi"))),
        &["run is not inside a run directory", "environment.json was not written by genir"],
    ),
    refused(
        "a run without `environment.json`",
        |home| plotted(home, |home| fs::remove_file(home.at("run/environment.json")).unwrap()),
        &["run is not a run directory: environment.json is missing"],
    ),
    refused(
        "a run without `recipe.toml`",
        |home| plotted(home, |home| fs::remove_file(home.at("run/recipe.toml")).unwrap()),
        &["run is not a run directory: recipe.toml is missing"],
    ),
    refused(
        "`recipe.toml` with a key of another version",
        |home| {
            evaluated(home, |home| {
                let text = fs::read_to_string(home.at("run/recipe.toml")).unwrap();
                home.write(
                    "run/recipe.toml",
                    text.replace("[corpus]", "[corpus]\nof_the_future = 1"),
                );
            })
        },
        &["run/recipe.toml: 1 problem", "corpus.of_the_future = 1: unknown key"],
    ),
    refused(
        "`recipe.toml` that is not TOML",
        |home| evaluated(home, |home| drop(home.write("run/recipe.toml", "half a fi"))),
        &["run/recipe.toml: ", "line 1: "],
    ),
    refused(
        "a run without a checkpoint",
        |home| evaluated(home, |home| fs::remove_dir_all(home.at("run/checkpoints")).unwrap()),
        &["run: neither a checkpoint (no config.json) nor a run with one"],
    ),
    refused(
        "a run whose links lead nowhere",
        |home| {
            evaluated(home, |home| {
                for name in ["best", "latest"] {
                    home.link(&format!("run/checkpoints/{name}"), "step-000099");
                }
            })
        },
        &["run: neither a checkpoint (no config.json) nor a run with one"],
    ),
    refused(
        "a run in whose place is a directory with other files",
        |home| {
            home.write("run/thesis.tex", "years of work");
            home.check(&["--overwrite"])
        },
        &["run.directory: ", "is not empty and not a run directory of genir", "thesis.tex"],
    ),
    refused(
        "a run directory that is a loop of symbolic links",
        |home| {
            home.link("run", "run");
            home.check(&[])
        },
        &["run.directory: cannot create", "run is a dangling symbolic link"],
    ),
    refused(
        "a corpus of a run that was removed",
        |home| evaluated(home, |home| fs::remove_dir_all(home.at("corpus")).unwrap()),
        &["cannot read", "corpus", "No such file"],
    ),
    warned(
        "a search in a run whose corpus was removed",
        |home| {
            let run = home.run();
            fs::remove_dir_all(home.at("corpus")).unwrap();
            ["search", &run, "iron"].map(str::to_owned).to_vec()
        },
        &["documents are printed without their text: cannot read"],
    ),
];
