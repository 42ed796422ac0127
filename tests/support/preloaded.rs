//! Libraries in C that are loaded into a process by `LD_PRELOAD`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Compiles `tests/support/<name>.c` into `directory`; none where that cannot be done.
pub fn build(name: &str, directory: &Path) -> Option<PathBuf> {
    let library = directory.join(name).with_extension("so");
    let source = format!("{}/tests/support/{name}.c", env!("CARGO_MANIFEST_DIR"));
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
    let built = compiler.stderr(Stdio::null()).status();
    if built.is_ok_and(|status| status.success()) {
        return Some(library);
    }
    eprintln!("skipped: no C compiler for Linux");
    None
}
