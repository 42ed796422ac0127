//! Fine-tuning and interpretability of generative information retrieval (GenIR) models: a T5 that answers a query with
//! the identifiers of documents.
//!
//! Each document has one row in the output vocabulary, its *docid*. Training has two tasks: *indexing* (document text
//! to docid) and *retrieval* (query to docid). All parameters are trained, or a few components of the model, whose
//! frozen remainder is computed once and cached. Probes measure what the components do. The command `genir` calls this
//! library.
//!
//! | task | start here |
//! | --- | --- |
//! | train | [`train::Training`], [`recipe::Recipe`], [`train::Plan`] |
//! | continue an interrupted run | [`train::find_start`], [`train::Training::start`] |
//! | run code in training | [`train::Callback`], [`train::TrainerState`] |
//! | search | [`checkpoint::Checkpoint`], [`Searcher`] |
//! | evaluate | [`Retriever`], [`retrieval`] |
//! | read a run's results | [`run::Summary`], [`monitor::read_scalars`], [`probe::files`] |
//! | read and replace activations | [`t5::Tap`], [`t5::Pass`] |
//! | probe | [`probe::Suite`], [`report`] |
//! | inspect one query | [`probe::inspect()`], [`probe::Inspection`] |
//! | find what to train, and the stages | [`advise::Advice`], [`advise::StageDetection`] |
//! | read a corpus | [`corpus::load`] |
//!
//! genir is not on crates.io. Its types contain Burn's, so depend on the same version of Burn:
//!
//! ```toml
//! [dependencies]
//! genir = { path = "../genir" }  # features = ["cuda"] for a GPU
//! burn = { version = "=0.22.1", default-features = false }
//! ```
//!
//! A program that trains should use mimalloc as its global allocator and call [`retain_freed_memory`] first, as
//! `examples/train_with_callback.rs` does.
//!
//! # Train
//!
//! A [`Recipe`](recipe::Recipe) holds every option. A [`Plan`](train::Plan) reads the corpus and the headers of the
//! base model, and reports all problems at once. A [`Training`](train::Training) holds the run directory and trains.
//!
//! ```no_run
//! use genir::monitor::{Console, Verbosity};
//! use genir::recipe::{Recipe, ShippedRecipe};
//! use genir::run::Overwrite;
//! use genir::train::{Plan, Training};
//!
//! # fn main() -> anyhow::Result<()> {
//! let overrides = ["train.epochs=3".to_owned(), "run.directory=runs/three-epochs".to_owned()];
//! let quickstart = ShippedRecipe::find("quickstart").expect("it is inside the library");
//! let recipe = Recipe::from_text("quickstart", quickstart.text, &overrides)?;
//! let plan = Plan::to_start(recipe, Overwrite::Refuse)?;
//! let console = Console::stderr(Verbosity::Normal);
//! for warning in plan.warnings() {
//!     console.message(&warning);
//! }
//! let outcome = Training::claim(&plan, Overwrite::Refuse)?.run(&console)?;
//! println!("{} updates", outcome.steps);
//! # Ok(())
//! # }
//! ```
//!
//! # Run code in training
//!
//! A [`Callback`](train::Callback) sees the model at a cadence of its own, records metrics and can stop the run.
//!
//! ```
//! use genir::train::{Cadence, Callback, TrainerState, TrainError, Verdict};
//!
//! /// Stops a run whose loss stays above a limit.
//! struct LossLimit(f64);
//!
//! impl Callback for LossLimit {
//!     fn cadence(&self) -> Cadence {
//!         Cadence { every: Some(100), at_start: false, at_end: false }
//!     }
//!
//!     fn call(&mut self, state: &mut TrainerState) -> Result<Verdict, TrainError> {
//!         Ok(match state.loss > self.0 {
//!             true => Verdict::Stop(format!("the loss is {:.3}", state.loss)),
//!             false => Verdict::Continue,
//!         })
//!     }
//!
//!     fn reads_no_other_texts(&self) -> bool {
//!         true // it does not use the model: frozen encoder weights may be released
//!     }
//! }
//! ```
//!
//! `training.callback(LossLimit(9.0))` adds it to a training. `examples/train_with_callback.rs` is a whole program.
//!
//! # Search and evaluate
//!
//! ```no_run
//! use std::path::Path;
//!
//! use genir::corpus::Split;
//! use genir::{Retriever, Searcher};
//!
//! # fn main() -> anyhow::Result<()> {
//! let device = genir::device::device("auto")?;
//! let retriever = Retriever::open(Path::new("runs/quickstart"), "best", device)?;
//! for hit in Searcher::new(&retriever.checkpoint).search("Which element is Fe?", 5)? {
//!     println!("{:8.3}  {}", hit.score, hit.docid);
//! }
//!
//! let queries = retriever.queries(Split::Test, None, 0)?;
//! let evaluated = retriever.evaluate(&queries);
//! for (name, value) in evaluated.all.iter().flat_map(|metrics| metrics.values()) {
//!     println!("{name} {value:.4}");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`retrieval::evaluate`] takes other options and writes a TREC run file. A checkpoint outside of a run is opened with
//! [`Checkpoint::open`](checkpoint::Checkpoint::open), and combined with a corpus by [`Retriever::new`].
//!
//! # Read and replace activations
//!
//! A [`Tap`](t5::Tap) is a forward hook, with the sites of TransformerLens.
//!
//! ```
//! use burn::tensor::Tensor;
//! use genir::t5::{Hook, Site, Stack, Tap};
//!
//! /// Zero ablation of the MLP of one decoder layer.
//! struct WithoutMlp {
//!     layer: usize,
//! }
//!
//! impl Tap for WithoutMlp {
//!     fn wants(&self, site: Site) -> bool {
//!         site.stack == Stack::Decoder && site.hook == Hook::MlpOut && site.layer == self.layer
//!     }
//!
//!     /// `[batch, position, d_model]`
//!     fn stream(&mut self, _site: Site, value: Tensor<3>) -> Tensor<3> {
//!         value.zeros_like()
//!     }
//! }
//! ```
//!
//! [`Pass::evaluate`](t5::Pass::evaluate) takes it through a forward pass; see `examples/cross_attention_outputs.rs`.
//! [`Retriever::evaluate_with_tap`] evaluates the ablated model, and [`retrieval::rank_with_tap`] ranks with it.
//!
//! # Read the results of a run
//!
//! ```no_run
//! use genir::monitor::read_scalars;
//! use genir::run::{RunDirectory, Summary};
//!
//! # fn main() -> anyhow::Result<()> {
//! let run = RunDirectory::open("runs/quickstart".as_ref())?;
//! for scalars in read_scalars(&run.metrics())? {
//!     if let Some(hits) = scalars.values.get("validation/hits@1") {
//!         println!("step {}: {hits:.4}", scalars.step);
//!     }
//! }
//! let summary = Summary::read(&run.summary())?;
//! println!("{:?} after {} updates, best {:?}", summary.ended, summary.steps, summary.best);
//! # Ok(())
//! # }
//! ```
//!
//! # Probe
//!
//! ```no_run
//! # use std::path::Path;
//! # use genir::Retriever;
//! # use genir::corpus::Split;
//! use genir::component::Stages;
//! use genir::probe::{ComparisonModels, PROBE_PRECISION, Probe, ProbeOptions, ProbeQueries, Suite};
//! use genir::report;
//! use std::ops::ControlFlow;
//!
//! # fn main() -> anyhow::Result<()> {
//! # let device = genir::device::device("auto")?;
//! # let mut retriever = Retriever::open(Path::new("runs/quickstart"), "best", device)?;
//! retriever.compute_in(PROBE_PRECISION); // probes compare small differences
//! let config = retriever.checkpoint.model.t5.config();
//! let options = ProbeOptions::new(Some(Stages::scaled(config.num_decoder_layers)?));
//! let suite = Suite::new(&[Probe::LogitLens, Probe::StagePatching], options, config)?;
//! let mut queries = ProbeQueries::new(retriever.queries(Split::Validation, Some(200), 0)?);
//! let subject = retriever.subject("runs/quickstart");
//! let mut progress = |_, _| ControlFlow::Continue(()); // or Break, to stop between two batches
//! let records =
//!     suite.measure(&subject, &mut queries, None, &ComparisonModels::default(), &mut progress)?;
//! for titled in records.iter().flat_map(report::tables) {
//!     println!("{}\n{}", titled.title, titled.table);
//! }
//! # Ok(())
//! # }
//! ```

#![warn(missing_docs, clippy::missing_errors_doc)]
// These macros panic if the reader has closed the pipe. Subcommands print through `cli::output`, all other code through
// `monitor::Console`.
#![deny(clippy::print_stdout, clippy::print_stderr)]
// `clippy.toml` lists the functions that create files: only `files` may call them. Tests are exempt.
#![cfg_attr(not(test), deny(clippy::disallowed_methods))]

pub mod advise;
#[doc(hidden)] // for the binary, tests and benches
pub mod allocator;
pub mod checkpoint;
mod choice;
#[doc(hidden)] // for the binary, tests and benches
pub mod cli;
pub mod compare;
pub mod component;
pub mod corpus;
pub mod device;
pub mod docid;
mod exact;
#[doc(hidden)] // for the binary, tests and benches
pub mod files;
mod json_number;
mod kernel;
pub mod monitor;
#[doc(hidden)] // for the binary, tests and benches
pub mod nearest;
pub mod ops;
mod panics;
pub mod prefix;
pub mod probe;
pub mod processes;
pub mod provenance;
pub mod random;
pub mod recipe;
pub mod report;
pub mod retrieval;
mod retriever;
pub mod run;
pub mod sweep;
pub mod t5;
pub mod task;
mod terminal;
pub mod train;

pub use allocator::retain_freed_memory;
pub use choice::UnknownName;
pub use retrieval::Searcher;
pub use retriever::{Retriever, RetrieverError};
