//! The command as a process: what it is given, prints and ends with.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What the command did.
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `genir` in the package's directory, where the recipes' relative paths lead.
pub fn genir_with_input(arguments: &[&str], input: &str) -> Done {
    genir_with_bytes(arguments, input.as_bytes())
}

/// The same with input that need not be text.
pub fn genir_with_bytes(arguments: &[&str], input: &[u8]) -> Done {
    let mut child = Command::new(env!("CARGO_BIN_EXE_genir"))
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("RUST_LOG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // What does not read its input may have ended already.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Done {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[track_caller]
pub fn succeeds(arguments: &[&str]) -> Done {
    let done = genir_with_input(arguments, "");
    assert_eq!(done.code, 0, "{arguments:?}: {}", done.stderr);
    done
}

/// Runs what has to fail with all of `parts` in its message.
#[track_caller]
pub fn is_refused(arguments: &[&str], parts: &[&str]) {
    let done = genir_with_input(arguments, "");
    assert_eq!(done.code, 1, "{arguments:?}: {}{}", done.stdout, done.stderr);
    assert_eq!(done.stdout, "", "{arguments:?}");
    assert!(done.stderr.starts_with("error: "), "{}", done.stderr);
    assert_says(&done.stderr, parts);
}

#[track_caller]
pub fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

/// A path as an argument.
pub fn text(path: PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}
