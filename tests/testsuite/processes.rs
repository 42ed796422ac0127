//! Refusals of a process that MPI has started among others, and `genir check --processes`. Trainings of several processes
//! are in `tests/processes.rs`.

use std::process::Command;

use crate::command::{is_refused, succeeds};
use crate::tiny_recipe::tiny_recipe;

/// The error of a command that is told by its environment to be one of `count` processes.
fn started_as_one_of(count: usize, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_genir"))
        .args(arguments)
        .env("OMPI_COMM_WORLD_SIZE", count.to_string())
        .env("OMPI_COMM_WORLD_RANK", "0")
        .output()
        .unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_sweep_does_not_run_in_several_processes() {
    let found = started_as_one_of(4, &["sweep", "sweep-quickstart"]);
    assert!(
        found.contains("MPI has started 4 processes (OMPI_COMM_WORLD_SIZE=4), and a sweep"),
        "{found}"
    );
}

#[cfg(not(feature = "mpi"))]
#[test]
fn a_build_without_mpi_refuses_to_do_the_same_work_several_times() {
    let home = tempfile::TempDir::new().unwrap();
    let found = started_as_one_of(2, &["train", &tiny_recipe(&home)]);
    assert!(found.contains("MPI has started 2 processes"), "{found}");
    assert!(found.contains("`--features mpi`"), "{found}");
    assert!(!home.path().join("run").exists(), "nothing is written");
    for shared in [&["eval", "run"][..], &["search", "run", "a query"], &["probe", "run"]] {
        let found = started_as_one_of(2, shared);
        assert!(found.contains("each would do the whole of the work"), "{found}");
    }
}

#[test]
fn check_tells_what_several_processes_need() {
    let home = tempfile::TempDir::new().unwrap();
    let directory = format!("run.directory={}", home.path().join("run").display());
    let arguments = |processes| {
        ["check", "quickstart-full", &directory, "train.accumulate=8", "--processes", processes]
            .map(str::to_owned)
    };
    let check = |processes| succeeds(&arguments(processes).each_ref().map(String::as_str)).stdout;
    let found = check("2");
    assert!(found.contains("processes 2: 4 of the 8 batches of an update each"), "{found}");
    // Twice half of the gradients.
    let gradients = found.split_once(" of gradients").unwrap().0.rsplit_once(", ").unwrap().1;
    assert!(found.contains(&format!("exchange  {gradients} leave each process")), "{found}");
    assert!(found.contains("for 90% efficiency"), "{found}");
    let mut halved = arguments("2").to_vec();
    halved.push("train.gradient_dtype=bfloat16".to_owned());
    let halved = succeeds(&halved.iter().map(String::as_str).collect::<Vec<_>>()).stdout;
    let sent = |text: &str| -> f64 {
        let words = text.split_once("exchange  ").unwrap().1;
        words.split_once(" MiB").unwrap().0.parse().unwrap()
    };
    // Both are rounded to whole MiB.
    assert!((2.0 * sent(&halved) - sent(&found)).abs() <= 1.5, "{halved}\n{found}");
    let alone = check("1");
    assert!(alone.contains("exchange  0.0 MiB leave"), "{alone}");
    let refused = ["check", &tiny_recipe(&home), "train.accumulate=8", "--processes", "3"];
    is_refused(&refused, &["the nearest such value is 6"]);
}
