//! The tests, a module for each part of what genir does. They are one crate, since each crate of tests is linked against
//! Burn anew: 50 of them took 20 GB and 10 minutes.
//!
//! Beside it stand the tests that need a process of their own, since they measure its memory, and `bad_input`.

#[path = "../support/any_recipe.rs"]
mod any_recipe;
#[path = "../support/collections.rs"]
mod collections;
#[path = "../support/command.rs"]
mod command;
#[path = "../support/corpus_files.rs"]
mod corpus_files;
#[path = "../support/everything.rs"]
mod everything;
#[path = "../support/hub_models.rs"]
mod hub_models;
#[path = "../support/interrupted_run.rs"]
mod interrupted_run;
#[path = "../support/killed.rs"]
mod killed;
#[path = "../support/near.rs"]
mod near;
#[path = "../support/parameter_bits.rs"]
mod parameter_bits;
#[path = "../support/planted_stages.rs"]
mod planted_stages;
#[path = "../support/preloaded.rs"]
mod preloaded;
#[path = "../support/probe_records.rs"]
mod probe_records;
#[path = "../support/sentinels.rs"]
mod sentinels;
#[path = "../support/small_checkpoint.rs"]
mod small_checkpoint;
#[path = "../support/small_models.rs"]
mod small_models;
#[path = "../support/small_recipe.rs"]
mod small_recipe;
#[path = "../support/small_tokenizer.rs"]
mod small_tokenizer;
#[path = "../support/tiny_corpus.rs"]
mod tiny_corpus;
#[path = "../support/tiny_model.rs"]
mod tiny_model;
#[path = "../support/tiny_recipe.rs"]
mod tiny_recipe;
#[path = "../support/tiny_run.rs"]
mod tiny_run;

mod advise_command;
mod arms;
mod base_models;
mod baseline_bm25;
mod bases_of_runs;
mod bundled_corpus;
mod check_is_the_gate;
mod checkpoints;
mod command_line;
mod compare_command;
mod convert_corpus;
mod corpus_in_runs;
mod corpus_readers;
mod corpus_refusals;
mod denoising;
mod dependencies;
mod detected_stages;
mod docid_vocabulary;
mod documents;
mod eval_command;
mod export_command;
mod frozen_prefix;
mod fused_loss;
mod hub_is_not_trusted;
mod inspect_command;
mod interrupted_starts;
mod ir_metadata;
mod library;
mod loads_in_transformers;
mod lora;
mod monitoring;
mod one_token_path;
mod optimizers;
mod outputs;
mod outside_a_clone;
mod paper_figures;
mod parity_with_transformers;
mod prefix_files;
mod probe_command;
mod probe_options;
mod probe_reports;
mod probes_against_reference;
mod probes_in_training;
mod processes;
mod properties;
mod ranking;
mod recipe_refusals;
mod recipes;
mod released_weights;
mod replay;
mod report_command;
mod resume;
mod retrieval_metrics;
mod run_accounting;
mod run_directory;
mod selectors;
mod shallow_decoders;
mod shipped_recipes;
mod sweep_command;
mod taps;
mod task_sampling;
mod third_party_checkpoints;
mod tokenizer_command;
mod train_starts;
mod training;
mod write_points;
