//! Processes are killed at random moments: all of them end at once, and the run continues to the same bits.

use std::fmt;
use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use genir::recipe::Recipe;
use genir::train::{Resume, Start, find_start};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::{assert_same_end, process_of_rank, processes, train};
use crate::interrupted_run::Home;

const KILLS: usize = 50;

/// The longest time from a kill to the end of all processes.
const LIMIT: Duration = Duration::from_secs(10);

/// With a frozen prefix, and with evaluations and checkpoints that are close to each other.
const OVERRIDES: [&str; 6] = [
    "train.batch_size=4",
    "train.accumulate=4",
    "train.steps=100",
    "trainable.select=[\"restricted\",\"docids\"]",
    "evaluate.every_steps=6",
    "save.every_steps=4",
];

/// One kill of one process.
struct Attempt {
    number: usize,
    /// Number of processes.
    count: usize,
    /// The process that is killed.
    rank: usize,
    /// The time from its start to the kill.
    after: Duration,
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, count, rank, after } = self;
        write!(f, "kill {number}, of process {rank} of {count} after {after:.2?}")
    }
}

impl Attempt {
    /// Starts or continues the run of `home`, kills the process, and waits until all have ended.
    #[track_caller]
    fn run(&self, home: &Home) {
        let log = home.path.join("output");
        let file = File::create(&log).unwrap();
        let mut mpirun = processes(self.count, &home.command())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let ended_before = self.kill(&mut mpirun);
        let (killed, output) = (Instant::now(), || fs::read_to_string(&log).unwrap());
        if let Some(status) = ended_before {
            assert!(status.success(), "{self}: the run has failed before: {}", output());
        }
        loop {
            let (ended, left) = (mpirun.try_wait().unwrap(), processes_of(home));
            if ended.is_some() && left.is_empty() {
                return;
            }
            if killed.elapsed() > LIMIT {
                // They would go on after the test.
                left.iter().for_each(|process| kill(process));
                // If a process dies while it connects to it, mpirun of Open MPI 4 may hang, when nobody else is left.
                if left == [mpirun.id().to_string()] && output().contains("PMIX ERROR") {
                    eprintln!("{self}: mpirun alone was still there: {}", output());
                    mpirun.wait().unwrap();
                    return;
                }
                panic!("{self}: {LIMIT:?} later {left:?} are still there: {}", output());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills the process of the rank. Returns the exit status of mpirun if that has ended before.
    fn kill(&self, mpirun: &mut Child) -> Option<ExitStatus> {
        let deadline = Instant::now() + Duration::from_secs(60);
        let process = loop {
            if let Some(process) = process_of_rank(mpirun, self.rank) {
                break process;
            }
            if let Some(status) = mpirun.try_wait().unwrap() {
                return Some(status);
            }
            assert!(Instant::now() < deadline, "{self}: no such process within a minute");
            thread::sleep(Duration::from_millis(1));
        };
        thread::sleep(self.after);
        let ended = mpirun.try_wait().unwrap();
        if ended.is_none() {
            kill(&process);
        }
        ended
    }

    /// Returns the number of updates at the newest checkpoint, or 0 without one. All checkpoints must be whole.
    #[track_caller]
    fn newest_checkpoint(&self, home: &Home) -> u64 {
        let overrides = OVERRIDES.map(str::to_owned);
        let recipe = Recipe::from_file(&home.path.join("recipe.toml"), &overrides).unwrap();
        let begun = Instant::now();
        loop {
            match find_start(&recipe, false, &Resume::Auto) {
                Ok(Start::Continue(point)) => {
                    assert!(point.notes.is_empty(), "{self}: {:?}", point.notes);
                    return point.state.step;
                }
                Ok(Start::New(_)) => return 0,
                // A process that ends has no command any more, while its threads may still hold the lock of the run.
                Err(error)
                    if error.to_string().contains("is in use") && begun.elapsed() < LIMIT =>
                {
                    thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("{self}: {error}"),
            }
        }
    }
}

/// Kills a process, if it is still there.
fn kill(process: &str) {
    Command::new("kill").args(["-KILL", process]).stderr(Stdio::null()).status().unwrap();
}

/// The processes whose command names the directory of `home`: mpirun and all that it has started.
fn processes_of(home: &Home) -> Vec<String> {
    let directory = format!("{}/", home.path.display()).into_bytes();
    let is_of_home = |process: &String| {
        let command = fs::read(format!("/proc/{process}/cmdline")).unwrap_or_default();
        command.windows(directory.len()).any(|part| part == directory)
    };
    let entries = fs::read_dir("/proc").unwrap();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.parse::<u32>().is_ok()).filter(is_of_home).collect()
}

/// The results of a number of kills.
struct Survived {
    /// Runs that have ended meanwhile.
    ended: usize,
    /// Kills before the run had a checkpoint, and after.
    kills: [usize; 2],
}

/// Kills a process of a run for each of `numbers`, and goes on with another run once that one has ended. Each run must end as
/// `alone` did.
fn kill_each(numbers: Range<usize>, whole: Duration, homes: &Path, alone: &Home) -> Survived {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(numbers.start as u64);
    let mut survived = Survived { ended: 0, kills: [0, 0] };
    let home = |run: usize| Home::new(&homes.join(format!("{}-{run}", numbers.start)), &OVERRIDES);
    let (mut killed, mut newest) = (home(0), 0);
    let mut left = numbers.clone().peekable();
    while let Some(&number) = left.peek() {
        let count = [2, 4][number / 4 % 2];
        let after = whole.mul_f64(random.random_range(0.0..1.0));
        let attempt = Attempt { number, count, rank: number % count, after };
        attempt.run(&killed);
        // A process may also be killed between the end of the run and its own end.
        let summary = fs::read_to_string(killed.run().join("summary.json")).unwrap_or_default();
        if summary.contains("\"ended\": \"finished\"") {
            assert_same_end(&killed, alone, &format!("{attempt}"));
            survived.ended += 1;
            (killed, newest) = (home(survived.ended), 0);
            continue;
        }
        let found = attempt.newest_checkpoint(&killed);
        assert!(found >= newest, "{attempt}: the checkpoint of step {newest} is gone");
        newest = found;
        survived.kills[usize::from(newest > 0)] += 1;
        eprintln!("{attempt}: the newest checkpoint is that of step {newest}");
        left.next();
    }
    train(&killed, 2);
    assert_same_end(&killed, alone, "after the last kill");
    survived
}

#[test]
fn kills_of_any_process_at_random_moments_end_all_and_the_run_continues_to_the_same_bits() {
    // In memory if that can be: what is flushed there costs nothing, so that more kills hit something else.
    let homes = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
    let home = |name: &str| Home::new(&homes.path().join(name), &OVERRIDES);
    let alone = home("alone");
    alone.train();
    let undisturbed = home("undisturbed");
    let begun = Instant::now();
    train(&undisturbed, 4);
    let whole = begun.elapsed();
    undisturbed.results().assert_same(&alone.results(), "undisturbed");
    // Two at a time, since mpirun sleeps for a second or two before it kills the other processes.
    let survived = thread::scope(|scope| {
        let halves = [0..KILLS / 2, KILLS / 2..KILLS];
        let threads =
            halves.map(|numbers| scope.spawn(|| kill_each(numbers, whole, homes.path(), &alone)));
        threads.map(|thread| thread.join().unwrap())
    });
    for Survived { ended, kills } in survived {
        eprintln!(
            "{ended} runs of {whole:.2?} have ended; {kills:?} kills before and after a checkpoint"
        );
        assert!(kills[1] > 0, "no kill came after a checkpoint: {kills:?}");
    }
}
