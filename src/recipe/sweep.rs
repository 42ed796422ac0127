//! `[sweep]`: the arms and seeds of an experiment, beside the keys of the recipe that all of its runs share.
//!
//! ```toml
//! [sweep]
//! recipe = "quickstart-full"  # without it, this file is the recipe
//! seeds = [1, 2, 3]
//!
//! [sweep.arms.full]           # a trainable set by its name
//!
//! [sweep.arms.low-rank]       # or keys of the recipe
//! trainable.select = ["lora(restricted, rank=4)", "docids"]
//! optimizer.learning_rate = 4e-3
//!
//! [train]                     # keys of the recipe for all arms
//! epochs = 3
//! ```

use toml::{Table, Value};

use super::error::{KeyOrigin, Problem, RecipeErrors};
use super::reader::{self, Section};
use super::source::{Source, join};
use crate::compare::Pairs;
use crate::corpus::Split;

/// The longest name of an arm, in bytes: it is part of the names of directories.
const LONGEST_NAME: usize = 100;

/// A key of a recipe that a sweep sets.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// `key=value` or `~key`, as on the command line.
    pub text: String,
    /// Where it stands.
    pub origin: KeyOrigin,
}

impl Setting {
    /// A setting of the command line.
    pub fn from_command_line(text: &str) -> Self {
        Self { text: text.to_owned(), origin: KeyOrigin::CommandLine }
    }

    /// The key that it sets or removes.
    pub fn key(&self) -> &str {
        let text = self.text.strip_prefix('~').unwrap_or(&self.text);
        text.split_once('=').map_or(text, |(key, _)| key).trim()
    }
}

/// An arm: what distinguishes some of the runs of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepArm {
    /// Its name, which is part of the names of its run directories.
    pub name: String,
    /// The recipe of its own; `None`: that of the sweep.
    pub recipe: Option<String>,
    /// The keys that it sets.
    pub settings: Vec<Setting>,
}

/// The contents of the file of a sweep.
#[derive(Debug, Clone, PartialEq)]
pub struct SweepFile {
    /// `sweep.recipe`; `None`: the file itself is the recipe.
    pub recipe: Option<String>,
    /// `sweep.directory`
    pub directory: Option<String>,
    /// `sweep.seeds`
    pub seeds: Option<Vec<u64>>,
    /// `sweep.split`
    pub split: Option<Split>,
    /// `sweep.metrics`
    pub metrics: Option<String>,
    /// `sweep.pairs`
    pub pairs: Option<Pairs>,
    /// `[sweep.arms.NAME]`, in the order of the file.
    pub arms: Vec<SweepArm>,
    /// `[sweep.vary]`: keys with lists of values; each arm becomes one arm for each value.
    pub vary: Vec<Setting>,
    /// The keys of the recipe that all arms share, where the file is not the recipe itself.
    pub shared: Vec<Setting>,
}

impl SweepFile {
    /// Parses the text of a TOML file; `name` is its name in messages. Returns `None` if it has no `[sweep]`, as a recipe
    /// has none.
    ///
    /// # Errors
    /// All problems of `[sweep]` at once, each with its line.
    pub fn from_text(name: &str, text: &str) -> Result<Option<Self>, RecipeErrors> {
        let failed = |mut problems: Vec<Problem>| {
            problems.sort_by_key(|problem| (problem.origin.is_none(), problem.origin));
            RecipeErrors { file: name.to_owned(), problems }
        };
        let mut source = Source::read(text, &[]).map_err(failed)?;
        let Some(Value::Table(mut section)) = source.table.remove("sweep") else {
            return Ok(None);
        };
        let shared = std::mem::take(&mut source.table);
        let (arms, mut problems) = match section.remove("arms") {
            None => (Vec::new(), Vec::new()),
            Some(arms) => read_arms(&source, arms),
        };
        let mut vary = Vec::new();
        match section.remove("vary") {
            None => {}
            Some(Value::Table(keys)) => add_settings(&source, "sweep.vary", "", &keys, &mut vary),
            Some(_) => {
                let key = "sweep.vary".to_owned();
                let message = "expected a section of keys with lists of values".to_owned();
                problems.push(Problem { origin: source.origin(&key), key, found: None, message });
            }
        }
        source.table.insert("sweep".to_owned(), Value::Table(section));
        let read = reader::read(&source, |file| file.section("sweep", Self::read));
        match read {
            Ok(mut sweep) if problems.is_empty() => {
                sweep.arms = arms;
                sweep.vary = vary;
                if sweep.recipe.is_some() {
                    add_settings(&source, "", "", &shared, &mut sweep.shared);
                }
                Ok(Some(sweep))
            }
            read => {
                problems.extend(read.err().unwrap_or_default());
                Err(failed(problems))
            }
        }
    }

    fn read(section: &mut Section<'_, '_>) -> Self {
        let whole = |text: String| text.parse::<u64>().ok();
        let seeds = section.strings("seeds").optional().map(|texts| {
            let count = texts.len();
            let mut seeds: Vec<u64> = texts.into_iter().filter_map(whole).collect();
            seeds.dedup();
            (seeds.len() == count && count > 0).then_some(seeds)
        });
        if let Some(None) = seeds {
            section.problem("seeds", "expected a list of different whole numbers".to_owned());
        }
        Self {
            recipe: section.path("recipe").optional(),
            directory: section.path("directory").optional(),
            seeds: seeds.flatten(),
            split: section
                .parsed("split", "\"train\", \"validation\" or \"test\"", |text| text.parse().ok())
                .optional(),
            metrics: section.string("metrics").optional(),
            pairs: section
                .parsed("pairs", "\"all\" or \"first\"", |text| text.parse().ok())
                .optional(),
            arms: Vec::new(),
            vary: Vec::new(),
            shared: Vec::new(),
        }
    }
}

/// Returns the arms in the order of the file, or the problems.
fn read_arms(source: &Source, arms: Value) -> (Vec<SweepArm>, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut problem = |key: String, message: &str| {
        let origin = source.origin(&key);
        problems.push(Problem { origin, key, found: None, message: message.to_owned() });
    };
    let Value::Table(arms) = arms else {
        problem("sweep.arms".to_owned(), "expected sections, [sweep.arms.NAME]");
        return (Vec::new(), problems);
    };
    let mut read = Vec::new();
    for (name, arm) in arms {
        let path = join("sweep.arms", &name);
        if let Err(message) = check_arm_name(&name) {
            problem(path.clone(), &message);
        }
        let Value::Table(mut arm) = arm else {
            problem(path, "expected a section with keys of the recipe");
            continue;
        };
        let recipe = match arm.remove("recipe") {
            None => None,
            Some(Value::String(recipe)) => Some(recipe),
            Some(_) => {
                problem(join(&path, "recipe"), "expected the name or the file of a recipe");
                None
            }
        };
        let mut settings = Vec::new();
        add_settings(source, &path, "", &arm, &mut settings);
        read.push((source.origin(&path), SweepArm { name, recipe, settings }));
    }
    read.sort_by_key(|(origin, _)| *origin);
    (read.into_iter().map(|(_, arm)| arm).collect(), problems)
}

/// Checks that a name of an arm can be part of a directory's name on any file system.
pub(crate) fn check_arm_name(name: &str) -> Result<(), String> {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.+".contains(letter);
    match name.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && name.chars().all(allowed)
        && name.len() <= LONGEST_NAME
    {
        true => Ok(()),
        false => Err(format!(
            "`{name}` cannot be the name of an arm: expected up to {LONGEST_NAME} letters and digits of ASCII, `-`, `_`, \
             `.` and `+`, the first a letter or a digit"
        )),
    }
}

/// Adds the keys of `table`, which is at `path` of the file and at `key` of the recipe, as settings.
fn add_settings(
    source: &Source,
    path: &str,
    key: &str,
    table: &Table,
    settings: &mut Vec<Setting>,
) {
    for (last, value) in table {
        let (path, key) = (join(path, last), join(key, last));
        match value {
            Value::Table(inner) if !inner.is_empty() => {
                add_settings(source, &path, &key, inner, settings);
            }
            value => {
                let origin = source.origin(&path).unwrap_or(KeyOrigin::CommandLine);
                settings.push(Setting { text: format!("{key}={value}"), origin });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arms_have_the_order_of_the_file_and_settings_their_lines() {
        let text = "[sweep]\nrecipe = \"quickstart\"\nseeds = [3, 1]\n[sweep.arms.z]\n[sweep.arms.a]\n\
                    recipe = \"other\"\noptimizer.learning_rate = 4e-3\ntrainable.select = [\"full\"]\n\
                    [train]\nepochs = 3\n[sweep.vary]\nmodel.dropout = [0.0, 0.1]\n";
        let sweep = SweepFile::from_text("s.toml", text).unwrap().unwrap();
        assert_eq!(sweep.seeds, Some(vec![3, 1]));
        let names: Vec<&str> = sweep.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(names, ["z", "a"]);
        let line =
            |text: &str, line| Setting { text: text.to_owned(), origin: KeyOrigin::Line(line) };
        let settings =
            [line("optimizer.learning_rate=0.004", 7), line("trainable.select=[\"full\"]", 8)];
        assert_eq!(sweep.arms[1].settings, settings);
        assert_eq!(sweep.arms[1].recipe.as_deref(), Some("other"));
        assert_eq!(sweep.shared, [line("train.epochs=3", 10)]);
        assert_eq!(sweep.vary, [line("model.dropout=[0.0, 0.1]", 12)]);
        assert_eq!(SweepFile::from_text("s.toml", "[train]\nepochs = 3\n"), Ok(None));
    }

    #[test]
    fn all_problems_of_a_sweep_are_reported_with_their_lines() {
        let text = "[sweep]\nseed = [1]\nseeds = [1, 1]\nsplit = \"some\"\n[sweep.arms]\n\"a/b\" = {}\nc = 3\n\
                    d.recipe = 4\n";
        let errors = SweepFile::from_text("s.toml", text).unwrap_err().to_string();
        for part in [
            "6 problems",
            "line 2: sweep.seed = [1]: unknown key; did you mean `seeds`?",
            "line 3: sweep.seeds",
            "line 4: sweep.split = \"some\"",
            "line 6: sweep.arms.a/b: `a/b` cannot be the name of an arm",
            "line 7: sweep.arms.c: expected a section",
            "line 8: sweep.arms.d.recipe",
        ] {
            assert!(errors.contains(part), "{part}:\n{errors}");
        }
    }
}
