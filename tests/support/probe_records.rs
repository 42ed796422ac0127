//! Results of all nine probes that no model gave: made for tests of what shows them.

use genir::component::{Component, Stage, Stages};
use genir::probe::*;
use genir::retrieval::CandidateSet;

/// One record a probe, in the order of [`Probe::ALL`], for a decoder of `depth` layers, measured after `step`
/// updates. Numbers differ by place and move with the step.
pub fn records(depth: usize, step: u64) -> Vec<Record> {
    let stages = Stages::scaled(depth).expect("three stages");
    let make = Made { depth, stages, progress: 1.0 - (-(step as f64) / 300.0).exp() };
    let results = [
        make.residual_contribution(),
        make.logit_lens(),
        make.direct_effect(),
        make.stage_patching(),
        make.circuit(),
        make.encoder_swap(),
        ProbeResult::NeuronReads(make.reads(Variant::Paper, 1000.0)),
        ProbeResult::AttentionReads(make.reads(Variant::Exact, 8.0)),
        make.attention_writes(),
    ];
    results.map(|result| make.record(result, step)).into()
}

/// A number between 0 and 1 that looks like any other.
fn noise(seed: usize) -> f64 {
    ((seed as f64 * 12.9898).sin() * 43758.5453).rem_euclid(1.0)
}

/// 100 queries around `rank`.
fn ranks(rank: f64) -> RankShift {
    let all: Vec<f64> = (0..100).map(|n| rank.powf(2.0 * noise(n + 1)).round().max(1.0)).collect();
    let beyond = |limit: f64| all.iter().filter(|rank| **rank > limit).count() as f64;
    let mut sorted = all.clone();
    sorted.sort_by(f64::total_cmp);
    let mut octaves = vec![0; 14];
    for rank in &all {
        octaves[(rank.log2() as usize).min(13)] += 1;
    }
    RankShift {
        queries: 100,
        beyond_1: beyond(1.0),
        beyond_5: beyond(5.0),
        beyond_10: beyond(10.0),
        beyond_100: beyond(100.0),
        mean_rank: all.iter().sum::<f64>() / 100.0,
        median_rank: (sorted[49] + sorted[50]) / 2.0,
        best_rank: sorted[0] as u32,
        worst_rank: sorted[99] as u32,
        octaves,
        ranks: Vec::new(),
    }
}

struct Made {
    depth: usize,
    stages: Stages,
    /// From 0 to 1 over training.
    progress: f64,
}

impl Made {
    fn record(&self, result: ProbeResult, step: u64) -> Record {
        Record {
            schema: SCHEMA,
            genir: "0.1.0".to_owned(),
            measured_on: MeasuredOn {
                checkpoint: "runs/a, \"b\"".to_owned(),
                step: Some(step),
                queries: "validation".to_owned(),
                ranked: 120,
                correct: 100,
                over: Over::Correct,
                measured: 100,
                named: None,
                vocabulary: CandidateSet::Docids,
                stages: Some(self.stages.clone()),
                base: Some("t5-small".to_owned()),
                measured_queries: Vec::new(),
            },
            seconds: 1.5,
            result,
        }
    }

    /// How far up a layer is, 0 to 1.
    fn height(&self, layer: usize) -> f64 {
        (layer + 1) as f64 / self.depth as f64
    }

    fn residual_contribution(&self) -> ProbeResult {
        let mut contributions = Vec::new();
        for layer in 0..self.depth {
            for (index, component) in Component::ALL.into_iter().enumerate() {
                let any = noise(10 * layer + index);
                contributions.push(Contribution {
                    layer,
                    stage: Some(self.stages.of(layer)),
                    component,
                    ratio: 0.2 + any * self.progress,
                    cosine_post: 0.8 - 1.5 * self.height(layer) * any,
                    cosine_pre: 0.5 - 1.2 * self.height(layer) * any,
                });
            }
        }
        let mut priming = Vec::new();
        for layer in self.stages.third.clone() {
            for component in Component::ALL {
                for mlp_layer in self.stages.first.clone() {
                    let cosine = -noise(layer * 7 + mlp_layer * 3 + component as usize);
                    priming.push(PrimingCosine { layer, component, mlp_layer, cosine });
                }
            }
        }
        ProbeResult::ResidualContribution(ResidualContribution { contributions, priming })
    }

    fn logit_lens(&self) -> ProbeResult {
        let (mut sites, mut populations) = (Vec::new(), Vec::new());
        for layer in 0..self.depth {
            let stage = Some(self.stages.of(layer));
            for (index, site) in LensSite::ALL.iter().enumerate() {
                let far = 4.0 * (1.0 - self.progress * self.height(layer)) + 0.3 * index as f64;
                let ranks = ranks(10f64.powf(far * 0.9));
                sites.push(SiteRank { layer, stage, site: *site, ranks });
            }
            for (index, group) in TokenGroup::ALL.iter().enumerate() {
                let median = 20_000.0 - 9_000.0 * self.height(layer) + 5_000.0 * index as f64;
                populations.push(PopulationRanks {
                    layer,
                    stage,
                    group: *group,
                    mean: median * 1.1,
                    median,
                    best: 1.0 + 300.0 * index as f64 * self.height(layer),
                    worst: 42_000.0,
                });
            }
        }
        ProbeResult::LogitLens(LogitLens { sites, populations })
    }

    fn direct_effect(&self) -> ProbeResult {
        let effect = |(component, rank)| ComponentEffect { component, ranks: ranks(rank) };
        let effects = [
            (Component::Mlp, 20.0 - 15.0 * self.progress),
            (Component::CrossAttention, 900.0 - 500.0 * self.progress),
        ];
        ProbeResult::DirectEffect(DirectEffect { effects: effects.map(effect).into() })
    }

    fn stage_patching(&self) -> ProbeResult {
        let mut cells = Vec::new();
        for replacement in Replacement::ALL {
            for component in Component::ALL {
                for stage in Stage::ALL {
                    let seed = *replacement as usize * 9 + component as usize * 3 + stage as usize;
                    cells.push(PatchedCell {
                        selector: format!("decoder.{}[{stage}]", component.name()),
                        component: Some(component),
                        stage: Some(stage),
                        replacement: *replacement,
                        ranks: ranks(1.0 + 8.0 * noise(seed) * self.progress),
                    });
                }
            }
        }
        cells.push(PatchedCell {
            selector: "decoder.cross_attention[0-1].head[2]".to_owned(),
            component: None,
            stage: None,
            replacement: Replacement::Mean,
            ranks: ranks(1.4),
        });
        ProbeResult::StagePatching(StagePatching { cells })
    }

    fn circuit(&self) -> ProbeResult {
        let scores = |of: f64| Scores { hits_1: 0.4 * of, recall_5: 0.6 * of, hits_10: 0.7 * of };
        let circuit = |(name, of): (&str, f64)| CircuitScore {
            name: name.to_owned(),
            patches: vec!["decoder.mlp[I,II]=mean".to_owned()],
            absolute: scores(of * self.progress),
            relative: Scores { hits_1: of, recall_5: of * 1.05, hits_10: of * 1.1 },
        };
        ProbeResult::Circuit(Circuit {
            test_set: "test".to_owned(),
            test_queries: 1000,
            unpatched: scores(self.progress),
            circuits: [("paper", 0.9), ("paper with base", 0.8), ("given", 0.5)]
                .map(circuit)
                .into(),
            per_query: Vec::new(),
        })
    }

    fn encoder_swap(&self) -> ProbeResult {
        let score = |mrr, hits_1| HeldOutScore { mrr, hits_1, first: 7 };
        let held_out = HeldOut {
            documents: 10,
            queries: 12,
            swapped: score(0.82, 0.7),
            own: score(0.95, 0.9),
            per_query: Vec::new(),
        };
        let swap = |(encoder, rank, held_out): (&str, f64, Option<HeldOut>)| Swap {
            encoder: encoder.to_owned(),
            ranks: ranks(rank),
            held_out,
        };
        let swaps = [
            ("base", 9.0 + 20.0 * self.progress, None),
            ("runs/a-run-with-a-long-name/checkpoints/latest", 2.0, Some(held_out)),
        ];
        let (encoder_norm, swaps) = (EncoderNorm::Other, swaps.map(swap).into());
        ProbeResult::EncoderSwap(EncoderSwap { encoder_norm, swaps })
    }

    fn reads(&self, variant: Variant, readers: f64) -> InputAttribution {
        let layers: Vec<LayerAttribution> =
            (0..self.depth).map(|layer| self.layer_reads(layer, readers)).collect();
        let stages = Stage::ALL.map(|stage| {
            let of = layers.iter().filter(|reads| reads.stage == Some(stage));
            self.stage_reads(stage, &of.collect::<Vec<_>>())
        });
        let largest_deviation = (variant == Variant::Exact).then_some(1e-6);
        let average_first = AverageFirst::Readers;
        InputAttribution {
            variant,
            average_first,
            layers,
            stages: stages.into(),
            largest_deviation,
        }
    }

    fn layer_reads(&self, layer: usize, readers: f64) -> LayerAttribution {
        let mut shares = vec![SourceShare { source: Source::Start, layer: None, share: 0.3 }];
        for source in 0..=layer {
            for component in Component::ALL {
                if source < layer || component == Component::SelfAttention {
                    let share = 0.05 + noise(layer * 31 + source * 3 + component as usize);
                    shares.push(SourceShare {
                        source: component.into(),
                        layer: Some(source),
                        share,
                    });
                }
            }
        }
        let sum: f64 = shares.iter().map(|share| share.share).sum();
        shares.iter_mut().for_each(|share| share.share /= sum);
        LayerAttribution { layer, stage: Some(self.stages.of(layer)), readers, shares }
    }

    fn stage_reads(&self, stage: Stage, layers: &[&LayerAttribution]) -> StageAttribution {
        let start = StageSource { source: Source::Start, stage: None };
        let of_stage =
            |stage| Component::ALL.map(|c| StageSource { source: c.into(), stage: Some(stage) });
        let sources = [start].into_iter().chain(Stage::ALL.into_iter().flat_map(of_stage));
        let shares = sources.map(|source| {
            let all = layers.iter().flat_map(|layer| &layer.shares);
            let of = all.filter(|share| {
                share.source == source.source
                    && share.layer.map(|layer| self.stages.of(layer)) == source.stage
            });
            let share = of.map(|share| share.share).sum::<f64>() / layers.len() as f64;
            StageShare { source, share }
        });
        StageAttribution { stage, shares: shares.collect() }
    }

    fn attention_writes(&self) -> ProbeResult {
        const HEADS: usize = 8;
        let share = |layer: Option<usize>, stage, of: &str, seed| DocidShare {
            stage,
            layer,
            of: of.to_owned(),
            top_10: 40.0 * noise(seed) * self.progress,
            top_100: 60.0 * noise(seed + 1) * self.progress,
            top_1000: 100.0 * noise(seed + 2) * self.progress,
        };
        let (mut layers, mut samples) = (Vec::new(), Vec::new());
        for layer in 0..self.depth {
            let stage = Some(self.stages.of(layer));
            layers.push(share(Some(layer), stage, "output", layer));
            for head in 0..HEADS {
                let seed = 100 * layer + head;
                layers.push(share(Some(layer), stage, &format!("head {head}"), seed));
                let tokens = ["▁king", " ", "@DOC_ID_3@"].map(str::to_owned).into();
                samples.push(HeadTokens { query: "q,1".to_owned(), layer, head, tokens });
            }
        }
        let stages = Stage::ALL.into_iter().flat_map(|stage| {
            let all = [("output", 7), ("heads", 9)];
            all.map(|(of, seed)| share(None, Some(stage), of, seed + stage as usize))
        });
        let stages = stages.collect();
        let result = AttentionWrites { chance: 23.5, layers, stages, samples };
        ProbeResult::AttentionWrites(result)
    }
}
