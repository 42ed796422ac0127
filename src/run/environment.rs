//! The environment of a run: versions, machine, git revision, command line.

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

/// The version of Burn that this crate is built with, as `Cargo.toml` pins it.
const BURN_VERSION: &str = "0.22.1";

/// The environment in which a run was started; values that are unavailable are `None`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// The version of genir.
    pub genir: String,
    /// The version of Burn.
    pub burn: String,
    /// The start time in UTC: `2026-01-31T12:00:00Z`.
    pub started: String,
    /// The arguments of the command line.
    pub command: Vec<String>,
    /// The compute device, as named by the caller.
    pub device: String,
    /// The architecture and the operating system of the build: `x86_64-linux`.
    pub target: String,
    /// The name and version of the operating system.
    pub system: Option<String>,
    /// The processor's name.
    pub cpu: Option<String>,
    /// The number of threads that the process may run in parallel.
    pub cores: Option<usize>,
    /// The number of processes that train the run together, if there are several; all else is of the first of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes: Option<usize>,
    /// The machine's memory in bytes.
    pub memory: Option<u64>,
    /// The git revision of the current directory at the start.
    pub git: Option<GitRevision>,
    /// The number of findings in the corpus, by kind.
    #[serde(default)]
    pub corpus: BTreeMap<String, usize>,
    /// The environments in which the run was continued, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<Resumption>,
}

/// The continuation of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resumption {
    /// Number of updates before it.
    pub step: u64,
    /// The environment of the process that continued the run.
    #[serde(flatten)]
    pub environment: Box<Environment>,
}

/// The state of a git repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitRevision {
    /// The checked out commit.
    pub commit: String,
    /// True if tracked files differ from the commit.
    pub dirty: bool,
}

impl Environment {
    /// Captures the current environment of this process; `device` is recorded unchanged.
    pub fn capture(device: &str) -> Environment {
        let arguments = env::args_os().map(|argument| argument.to_string_lossy().into_owned());
        Environment {
            genir: env!("CARGO_PKG_VERSION").to_string(),
            burn: BURN_VERSION.to_string(),
            started: utc(SystemTime::now()),
            command: arguments.collect(),
            device: device.to_string(),
            target: format!("{}-{}", env::consts::ARCH, env::consts::OS),
            system: system(),
            cpu: field("/proc/cpuinfo", "model name"),
            cores: thread::available_parallelism().ok().map(Into::into),
            processes: None,
            memory: bytes(field("/proc/meminfo", "MemTotal")),
            git: git_revision(),
            corpus: BTreeMap::new(),
            resumed: Vec::new(),
        }
    }
}

/// Returns the resident memory of this process in bytes, including mapped files (Linux; `None` elsewhere).
pub(crate) fn resident_memory() -> Option<u64> {
    bytes(field("/proc/self/status", "VmRSS"))
}

/// Returns the peak resident memory of this process in bytes (Linux; `None` elsewhere).
pub(crate) fn peak_memory() -> Option<u64> {
    bytes(field("/proc/self/status", "VmHWM"))
}

/// Returns the memory in bytes that is available to this process (Linux; `None` elsewhere): that of the machine with
/// its swap space, or the lower limit of a control group, such as that of a container or a cluster job.
pub(crate) fn available_to_process() -> Option<u64> {
    let machine = bytes(field("/proc/meminfo", "MemTotal"))?;
    let swap = bytes(field("/proc/meminfo", "SwapTotal")).unwrap_or(0);
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Some(
        (machine + swap).min(group_limit(Path::new("/sys/fs/cgroup"), &groups).unwrap_or(u64::MAX)),
    )
}

/// Returns the lowest `memory.max` of the control group in `groups` (the text of `/proc/self/cgroup`) and its parents.
/// In a container the group itself may be the root of the file system.
fn group_limit(root: &Path, groups: &str) -> Option<u64> {
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let limits = Path::new(group).ancestors().filter_map(|group| {
        let text = fs::read_to_string(root.join(group).join("memory.max")).ok()?;
        text.trim().parse().ok()
    });
    limits.min()
}

/// Returns the value of the first line `name : value` of a file under `/proc`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim().to_string())
    })
}

/// Parses `12 kB` as a number of bytes.
fn bytes(text: Option<String>) -> Option<u64> {
    let kibibytes: u64 = text?.strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Returns the name of the distribution with the version of the kernel.
fn system() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    Some(format!("{}, Linux {}", name.trim_matches('"'), kernel.trim()))
}

/// Returns the host name.
pub(super) fn host() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let from_command = || {
        let output = Command::new("hostname").stdin(Stdio::null()).output().ok()?;
        String::from_utf8(output.stdout).ok()
    };
    let name = name.or_else(from_command)?;
    Some(name.trim().to_string()).filter(|name| !name.is_empty())
}

/// Runs `git`; `None` if there is no git, no repository or no commit.
fn git_revision() -> Option<GitRevision> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git")
            // A query must not take the lock that a concurrent commit needs.
            .arg("--no-optional-locks")
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_string())
    };
    Some(GitRevision {
        commit: git(&["rev-parse", "--verify", "HEAD"])?,
        dirty: !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty(),
    })
}

/// Formats a time in UTC, to the second; times before 1970 are written as 1970.
pub(super) fn utc(time: SystemTime) -> String {
    let since_1970 =
        time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (mut days, second) = (since_1970 / 86_400, since_1970 % 86_400);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let mut year = 1970;
    while days >= 365 + u64::from(leap(year)) {
        days -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let day = days + 1;
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        let at = |seconds| utc(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_399), "2000-02-28T23:59:59Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(4_107_542_400), "2100-03-01T00:00:00Z");
        assert_eq!(at(1_767_225_599), "2025-12-31T23:59:59Z");
    }

    #[test]
    fn the_memory_limit_is_the_lowest_of_a_group_and_its_parents() {
        let root = tempfile::tempdir().unwrap();
        let inner = root.path().join("slice/job");
        fs::create_dir_all(&inner).unwrap();
        assert_eq!(group_limit(root.path(), "0::/slice/job\n"), None);
        fs::write(inner.join("memory.max"), "max\n").unwrap();
        fs::write(root.path().join("slice/memory.max"), "5000\n").unwrap();
        assert_eq!(group_limit(root.path(), "3:cpu:/x\n0::/slice/job\n"), Some(5000));
        fs::write(inner.join("memory.max"), "4000\n").unwrap();
        assert_eq!(group_limit(root.path(), "0::/slice/job\n"), Some(4000));
        fs::write(inner.join("memory.max"), "6000\n").unwrap();
        assert_eq!(group_limit(root.path(), "0::/slice/job\n"), Some(5000));
        assert_eq!(group_limit(root.path(), "3:memory:/slice\n"), None);
    }

    #[test]
    fn the_version_of_burn_is_the_one_that_cargo_pins() {
        let manifest: toml::Table = include_str!("../../Cargo.toml").parse().unwrap();
        let pinned = manifest["dependencies"]["burn"]["version"].as_str();
        assert_eq!(pinned, Some(format!("={BURN_VERSION}").as_str()));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_holds_some_memory() {
        let resident = resident_memory().unwrap();
        assert!(resident > 100 * 1024, "{resident}");
        let block = std::hint::black_box(vec![1_u8; 64 << 20]);
        let peak = peak_memory().unwrap();
        assert!(peak + (4 << 20) >= block.len() as u64, "{peak}");
        drop(block);
        // The kernel sums the counters of the processors only approximately.
        assert!(peak_memory().unwrap() + (4 << 20) >= peak, "a peak does not fall");
    }
}
