//! `scripts/check_dependencies.py` refuses what `deny.toml` does not allow.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// The crates of a small project: names with versions, licences, sources and indices of their dependencies.
type Crates<'a> = &'a [(&'a str, &'a str, Option<&'a str>, &'a str, &'a [usize])];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// All of `bans.skip-tree`, which must be dependencies.
const SKIPPED: [&str; 6] =
    ["burn", "burn-autodiff", "burn-flex", "svg2pdf", "tensorboard-rs", "tokenizers"];

/// The exit code and the output of a check of `crates`, the dependencies of a project that also has [`SKIPPED`].
/// `under_burn` are those of `burn`.
fn check(crates: Crates, under_burn: &[usize]) -> (i32, String) {
    let id = |index: usize| format!("{} {}", crates[index].0, crates[index].1);
    let deps = |indices: &[usize]| -> Vec<Value> {
        indices.iter().map(|&index| json!({"pkg": id(index)})).collect()
    };
    let package = |name: &str, version: &str, license: Option<&str>, source: Option<&str>| {
        json!({"id": format!("{name} {version}"), "name": name, "version": version,
               "license": license, "source": source})
    };
    let mut packages = vec![package("project", "1", Some("Apache-2.0"), None)];
    let mut nodes = Vec::new();
    let mut all = deps(&(0..crates.len()).collect::<Vec<_>>());
    for &(name, version, license, source, of) in crates {
        packages.push(package(name, version, license, Some(source)));
        nodes.push(json!({"id": format!("{name} {version}"), "deps": deps(of)}));
    }
    for name in SKIPPED {
        packages.push(package(name, "1", Some("MIT"), Some(CRATES_IO)));
        let deps = if name == "burn" { deps(under_burn) } else { Vec::new() };
        nodes.push(json!({"id": format!("{name} 1"), "deps": deps}));
        all.push(json!({"pkg": format!("{name} 1")}));
    }
    nodes.push(json!({"id": "project 1", "deps": all}));
    let metadata = json!({"packages": packages, "resolve": {"root": "project 1", "nodes": nodes}});

    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), metadata.to_string()).expect("written");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/check_dependencies.py");
    let done = Command::new("python3").arg(script).arg("--metadata").arg(file.path()).output();
    let done = done.expect("python3 runs");
    let text = [done.stdout, done.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
    (done.status.code().expect("an exit code"), text.concat())
}

#[test]
fn a_licence_that_is_not_allowed_is_refused_with_the_crate() {
    let with = |license| check(&[("a", "1.0", license, CRATES_IO, &[])], &[]);
    for allowed in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(GPL-3.0 OR (MIT AND Zlib)) AND Apache-2.0 WITH LLVM-exception",
    ] {
        let (code, text) = with(Some(allowed));
        assert_eq!(code, 0, "{allowed}: {text}");
    }
    for refused in [
        "GPL-3.0",
        "MPL-2.0",
        "MIT AND GPL-3.0",
        "GPL-3.0 OR (MIT AND AGPL-3.0)",
        "Apache-2.0 WITH Other-exception",
    ] {
        let (code, text) = with(Some(refused));
        assert_eq!(code, 1, "{refused}");
        assert!(text.contains(&format!("a 1.0: the licence is {refused}")), "{text}");
    }
    for unreadable in ["MIT OR", "(MIT", "MIT Zlib", ")"] {
        let (code, text) = with(Some(unreadable));
        assert!(code == 1 && text.contains("cannot be read"), "{unreadable}: {text}");
    }
    let (code, text) = with(None);
    assert!(code == 1 && text.contains("a 1.0: names no licence"), "{text}");
    let (code, text) = check(&[("colored", "3.0", Some("MPL-2.0"), CRATES_IO, &[])], &[]);
    assert_eq!(code, 0, "an exception for one crate: {text}");
}

#[test]
fn two_versions_of_a_crate_are_refused_unless_burn_brings_one() {
    let crates: Crates = &[
        ("a", "1.0", Some("MIT"), CRATES_IO, &[]),
        ("a", "2.0", Some("MIT"), CRATES_IO, &[]),
        ("user", "1.0", Some("MIT"), CRATES_IO, &[0]),
    ];
    let (code, text) = check(crates, &[]);
    assert_eq!(code, 1);
    assert!(text.contains("a: 2 versions: 1.0 by project, user; 2.0 by project"), "{text}");
    let (code, text) = check(crates, &[2]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn a_source_other_than_crates_io_is_refused() {
    let (code, text) = check(&[("a", "1.0", Some("MIT"), "git+https://example.org/a", &[])], &[]);
    assert!(code == 1 && text.contains("a 1.0: it comes from git+https://example.org/a"), "{text}");
}
