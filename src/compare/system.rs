//! The inputs of a comparison: runs of genir, and TREC runs of other systems.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::CompareError;
use super::cost::TrainingCost;
use crate::corpus::Split;
use crate::docid::DocidVocabulary;
use crate::recipe::flat_keys;
use crate::retrieval::measure::JudgedRanks;
use crate::retrieval::run_files::{read_qrels, read_run};
use crate::run::{LATEST, RunDirectory};

/// The relevant documents of each query with their grades, by query id.
pub(super) type Qrels = BTreeMap<String, BTreeMap<String, u32>>;

/// Sections and keys of a recipe that do not change what is trained, or how it is evaluated.
const WITHOUT_EFFECT: [&str; 8] =
    ["run", "log", "cache", "probes", "save", "watch", "evaluate.batch_size", "corpus.path"];

/// A run, or the ranking of another system.
pub(super) struct System {
    pub path: PathBuf,
    /// The name that was given.
    pub given_name: Option<String>,
    /// The documents of each query, best first, as `trec_eval` sorts them.
    rankings: HashMap<String, Vec<String>>,
    /// The name of the system in the TREC run.
    pub tag: String,
    pub training: Option<Training>,
}

/// The contents of a run directory besides its rankings.
pub(super) struct Training {
    pub qrels: Qrels,
    /// Number of documents, and a hash of their docids; `None` without a checkpoint.
    pub docids: Option<(usize, blake3::Hash)>,
    /// The keys of the recipe that have an effect on results, without the seed.
    pub keys: BTreeMap<String, String>,
    pub seed: String,
    pub select: String,
    pub cost: TrainingCost,
    /// The device, the processor and the version of genir.
    pub machine: String,
}

impl System {
    /// Reads the run directory or the TREC run file at `path`.
    pub fn read(
        path: &Path,
        given_name: Option<String>,
        split: Split,
    ) -> Result<Self, CompareError> {
        let (file, training) = match path.is_dir() {
            true => {
                let run = RunDirectory::open(path)?;
                let training = Training::read(&run, split)?;
                (run.retrieval().join(format!("{split}.run")), Some(training))
            }
            false => (path.to_path_buf(), None),
        };
        let lines = read_run(&file)?;
        let tag = lines.first().map_or_else(String::new, |line| line.tag.clone());
        let mut scored: HashMap<String, Vec<(f64, String)>> = HashMap::new();
        for line in lines {
            scored.entry(line.query).or_default().push((line.score, line.document));
        }
        let mut rankings = HashMap::new();
        for (query, mut documents) in scored {
            // trec_eval's order: by score in f32, equal ones by docid, both descending.
            documents.sort_by(|one, other| {
                (other.0 as f32).total_cmp(&(one.0 as f32)).then_with(|| other.1.cmp(&one.1))
            });
            let documents: Vec<String> =
                documents.into_iter().map(|(_, document)| document).collect();
            let mut seen = HashSet::new();
            if let Some(document) = documents.iter().find(|document| !seen.insert(*document)) {
                let (file, document) = (file.clone(), document.clone());
                return Err(CompareError::DocumentTwice { file, query, document });
            }
            rankings.insert(query, documents);
        }
        Ok(Self { path: path.to_path_buf(), given_name, rankings, tag, training })
    }

    /// The ranks of the relevant documents of each query of `qrels`, in their order.
    pub fn judged(&self, qrels: &Qrels) -> Vec<JudgedRanks> {
        let of_query = |(query, relevant): (&String, &BTreeMap<String, u32>)| {
            let ranked = self.rankings.get(query).map_or(&[][..], Vec::as_slice);
            let ranks: HashMap<&str, u32> =
                ranked.iter().zip(1..).map(|(document, rank)| (document.as_str(), rank)).collect();
            let rank =
                |document: &str| ranks.get(document).copied().unwrap_or(JudgedRanks::NOT_RETRIEVED);
            JudgedRanks {
                relevant: relevant
                    .iter()
                    .map(|(document, &grade)| (rank(document), grade))
                    .collect(),
            }
        };
        qrels.iter().map(of_query).collect()
    }

    /// Returns whether a ranking of a query of `qrels` is there.
    pub fn has_any_of(&self, qrels: &Qrels) -> bool {
        qrels.keys().any(|query| self.rankings.contains_key(query))
    }
}

/// Returns the keys of a recipe that have an effect on results, without the seed: they are the same in the runs of an arm.
pub(crate) fn keys_with_effect(all: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let has_effect = |key: &str| {
        !WITHOUT_EFFECT.iter().any(|without| {
            key.strip_prefix(without).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let with_effect = all.iter().filter(|(key, _)| has_effect(key));
    with_effect.map(|(key, value)| (key.clone(), value.clone())).collect()
}

impl Training {
    fn read(run: &RunDirectory, split: Split) -> Result<Self, CompareError> {
        let recipe = crate::files::read_regular_to_string(&run.recipe())
            .map_err(crate::files::FileError::new("read", &run.recipe()))?;
        let file = run.retrieval().join(format!("{split}.qrels"));
        if !file.exists() {
            return Err(CompareError::NoRankings { run: run.path().to_path_buf(), split });
        }
        let environment = run.environment()?;
        let all = flat_keys(&recipe);
        let of = |key: &str| all.get(key).cloned().unwrap_or_default();
        Ok(Self {
            qrels: qrels_of(&file)?,
            docids: docids(run),
            seed: of("run.seed"),
            select: of("trainable.select"),
            keys: keys_with_effect(&all),
            cost: TrainingCost::read(run)?,
            machine: format!(
                "genir {}, {}, {}",
                environment.genir,
                environment.device,
                environment.cpu.unwrap_or_default()
            ),
        })
    }
}

/// The number of documents of the latest checkpoint, and a hash of their docids.
fn docids(run: &RunDirectory) -> Option<(usize, blake3::Hash)> {
    let docids = DocidVocabulary::read(&run.checkpoints().join(LATEST).join("docids.json")).ok()?;
    let mut hasher = blake3::Hasher::new();
    for id in docids.ids() {
        hasher.update(&(id.len() as u64).to_le_bytes());
        hasher.update(id.as_bytes());
    }
    Some((docids.len(), hasher.finalize()))
}

/// Reads the relevant documents of a TREC qrels file: those of grade 1 or higher.
pub(super) fn qrels_of(path: &Path) -> Result<Qrels, CompareError> {
    let mut qrels = Qrels::new();
    for line in read_qrels(path)? {
        let relevant = qrels.entry(line.query).or_default();
        if let Some(grade) = u32::try_from(line.grade).ok().filter(|&grade| grade > 0) {
            relevant.insert(line.document, grade);
        }
    }
    // A query without relevant documents cannot be judged.
    qrels.retain(|_, relevant| !relevant.is_empty());
    Ok(qrels)
}
