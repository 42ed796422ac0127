//! Stages and selectors: which parameters a recipe's words name, and what is refused.

use std::collections::BTreeSet;

use genir::component::{
    ParameterPlace, Selector, Stages, StagesError, parse_layers, trainable_set,
};

/// The parameter names of a model with `encoder` and `decoder` layers; tied unless `head`.
fn names(encoder: usize, decoder: usize, head: bool) -> Vec<String> {
    let mut names = vec!["t5.shared.weight".to_owned(), "docids.weight".to_owned()];
    if head {
        names.push("t5.lm_head.weight".to_owned());
    }
    let attention = ["norm", "query", "key", "value", "output"];
    let mlp = ["norm", "input", "output"];
    for (stack, layers, components) in [
        ("encoder", encoder, vec!["self_attention", "mlp"]),
        ("decoder", decoder, vec!["self_attention", "cross_attention", "mlp"]),
    ] {
        for part in ["final_norm", "relative_bias"] {
            names.push(format!("t5.{stack}.{part}.weight"));
        }
        for layer in 0..layers {
            for component in &components {
                let tensors: &[&str] = if *component == "mlp" { &mlp } else { &attention };
                for tensor in tensors {
                    names.push(format!("t5.{stack}.layers.{layer}.{component}.{tensor}.weight"));
                }
            }
        }
    }
    names
}

fn resolve(
    selectors: &[&str],
    names: &[String],
    stages: &Stages,
) -> Result<BTreeSet<String>, String> {
    let selectors: Vec<String> = selectors.iter().map(|text| (*text).to_owned()).collect();
    trainable_set(&selectors, Some(stages), names.iter().map(|name| (name.as_str(), 1)))
        .map_err(|error| error.to_string())
}

/// What `selectors` name in a tied model of four encoder and six decoder layers (I 0-1, II 2-4, III 5).
fn named(selectors: &[&str]) -> Result<BTreeSet<String>, String> {
    resolve(selectors, &names(4, 6, false), &Stages::scaled(6).unwrap())
}

/// The parameters of that model that start with one of `prefixes`.
fn starting(prefixes: &[&str]) -> BTreeSet<String> {
    let matches = |name: &String| prefixes.iter().any(|prefix| name.starts_with(prefix));
    names(4, 6, false).into_iter().filter(matches).collect()
}

#[test]
fn stages_scale_from_the_paper_to_any_depth() {
    let shown = |depth| Stages::scaled(depth).unwrap().to_string();
    assert_eq!(shown(24), "I 0-6, II 7-17, III 18-23");
    assert_eq!(shown(12), "I 0-3, II 4-8, III 9-11");
    assert_eq!(shown(6), "I 0-1, II 2-4, III 5");
    assert_eq!(shown(3), "I 0, II 1, III 2");
    for depth in 3..200 {
        let stages = Stages::scaled(depth).unwrap();
        let Stages { first, second, third } = stages.clone();
        assert_eq!(Stages::explicit(first, second, third, depth), Ok(stages));
    }
    for depth in 0..3 {
        let refused = Stages::scaled(depth).unwrap_err();
        assert_eq!(refused, StagesError::TooShallow { depth });
        assert!(refused.to_string().contains("3 are the least"));
    }
}

#[test]
fn stages_that_overlap_leave_a_gap_or_miss_the_depth_are_refused() {
    let refused = |first, second, third, depth| {
        let refused = Stages::explicit(first, second, third, depth);
        refused.unwrap_err().to_string()
    };
    assert!(refused(0..3, 2..4, 4..6, 6).ends_with("an overlap"));
    assert!(refused(0..2, 3..4, 4..6, 6).ends_with("a gap"));
    assert!(refused(1..2, 2..4, 4..6, 6).contains("layer 0 is in no stage"));
    assert!(refused(0..2, 2..2, 2..6, 6).contains("stage II has no layer"));
    assert_eq!(
        refused(0..2, 2..4, 4..6, 8),
        "stage III ends with layer 5, but the decoder's last layer is 7"
    );
}

#[test]
fn layers_are_read_with_either_end() {
    assert_eq!(parse_layers("7..18"), Ok(7..18));
    assert_eq!(parse_layers(" 7 - 17 "), Ok(7..18));
    assert_eq!(parse_layers("7"), Ok(7..8));
    for wrong in ["", "..", "3..3", "5-2", "a..b", "-1", "18446744073709551615"] {
        assert!(parse_layers(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn full_names_every_parameter() {
    assert_eq!(named(&["full"]), Ok(starting(&[""])));
}

#[test]
fn decoder_is_the_stack_without_words_and_docids() {
    assert_eq!(named(&["decoder"]), Ok(starting(&["t5.decoder."])));
    assert_eq!(named(&["decoder.*"]), named(&["decoder"]));
}

#[test]
fn restricted_is_late_cross_attention_and_the_last_stages_mlps() {
    let expected = starting(&[
        "t5.decoder.layers.2.cross_attention.",
        "t5.decoder.layers.3.cross_attention.",
        "t5.decoder.layers.4.cross_attention.",
        "t5.decoder.layers.5.cross_attention.",
        "t5.decoder.layers.5.mlp.",
    ]);
    assert_eq!(expected.len(), 4 * 5 + 3);
    assert_eq!(named(&["restricted"]), Ok(expected.clone()));
    let spelled_out = named(&["decoder.cross_attention[II,III]", "decoder.mlp[III]"]);
    assert_eq!(spelled_out, Ok(expected.clone()));
    let with_docids = named(&["restricted", "docids"]).unwrap();
    assert_eq!(with_docids.len(), expected.len() + 1);
    assert!(with_docids.contains("docids.weight"));
}

#[test]
fn selectors_name_layers_parts_and_what_to_take_away() {
    let mlps = starting(&["t5.decoder.layers.1.mlp.", "t5.decoder.layers.2.mlp."]);
    assert_eq!(named(&["decoder.mlp[1..3]"]), Ok(mlps.clone()));
    assert_eq!(named(&["decoder.mlp[ 1, 2 ]"]), Ok(mlps));
    assert_eq!(
        named(&["encoder.layers[0-1,3]"]),
        Ok(starting(&["t5.encoder.layers.0", "t5.encoder.layers.1", "t5.encoder.layers.3"]))
    );
    assert_eq!(
        named(&["encoder.final_norm", "decoder.relative_bias", "words"]),
        Ok(starting(&["t5.encoder.final_norm", "t5.decoder.relative_bias", "t5.shared"]))
    );
    assert_eq!(named(&["full", "-encoder.*", "!words"]), Ok(starting(&["t5.decoder.", "docids."])));
    let untied = resolve(&["head"], &names(2, 3, true), &Stages::scaled(3).unwrap());
    assert_eq!(untied.unwrap().first().unwrap(), "t5.lm_head.weight");
}

#[test]
fn a_selector_that_is_not_understood_shows_the_nearest() {
    let refused = |selector: &str| named(&[selector]).unwrap_err();
    assert_eq!(
        refused("decoder.crossattention[II]"),
        "selector `decoder.crossattention[II]` is not known; did you mean `decoder.cross_attention`?"
    );
    assert!(refused("restrict").ends_with("did you mean `restricted`?"));
    assert!(refused("everything").contains("known are full, restricted"));
    assert!(refused("docids[3]").contains("docids has no layers"));
    assert!(refused("decoder.mlp[3").contains("no closing bracket"));
    assert!(refused("decoder.mlp[IV]").contains("`IV` is not a range of layers"));
    assert!(refused("encoder.mlp[II]").contains("stages are the decoder's"));
    assert!("encoder.cross_attention".parse::<Selector>().is_err());
}

#[test]
fn a_selector_that_matches_nothing_says_why() {
    assert_eq!(
        named(&["full", "decoder.mlp[18..24]"]).unwrap_err(),
        "selector `decoder.mlp[18..24]` matches nothing: layers 18-23 go beyond the decoder's 6 layers"
    );
    assert!(named(&["head"]).unwrap_err().contains("tied to the word embedding"));
    assert!(named(&["-words"]).unwrap_err().contains("excludes from nothing"));
}

#[test]
fn a_decoder_without_stages_resolves_all_selectors_but_those_that_name_stages() {
    for depth in [1, 2] {
        let names = names(2, depth, false);
        let resolve = |selector: &str| {
            let selectors = [selector.to_owned()];
            trainable_set(&selectors, None, names.iter().map(|name| (name.as_str(), 1)))
        };
        for (selector, count) in [
            ("full", names.len()),
            ("decoder", 2 + 13 * depth),
            ("decoder.mlp", 3 * depth),
            ("decoder.cross_attention[0]", 5),
            ("decoder.layers[0-0]", 13),
        ] {
            assert_eq!(resolve(selector).map(|found| found.len()), Ok(count), "{selector}");
        }
        for selector in ["restricted", "decoder.mlp[III]", "-decoder.layers[0,II]"] {
            let error = resolve(selector).unwrap_err().to_string();
            let parts = [
                selector,
                "three stages",
                &format!("decoder of {depth} layer(s)"),
                "name the layers",
            ];
            parts
                .iter()
                .for_each(|part| assert!(error.contains(part), "{part:?} is not in: {error}"));
        }
        let beyond = resolve(&format!("decoder.mlp[{depth}]")).unwrap_err().to_string();
        assert!(beyond.contains("go beyond"), "{beyond}");
    }
}

#[test]
fn nothing_selected_is_refused() {
    let nothing = "nothing is selected to be trained";
    assert_eq!(named(&[]).unwrap_err(), nothing);
    assert_eq!(named(&["docids", "-docids"]).unwrap_err(), nothing);
}

#[test]
fn stages_of_another_depth_and_unknown_parameters_are_refused() {
    let stages = Stages::scaled(24).unwrap();
    let refused = resolve(&["restricted"], &names(4, 6, false), &stages).unwrap_err();
    assert!(refused.contains("the decoder's last layer is 5"), "{refused}");
    let refused = trainable_set(&["full".to_owned()], Some(&stages), [("t5.adapter.weight", 1)]);
    assert!(refused.unwrap_err().to_string().contains("`t5.adapter.weight`"));
    for unknown in [
        "t5.encoder.layers.0.cross_attention.key.weight",
        "t5.decoder.layers.x.mlp.input.weight",
        "docids",
    ] {
        assert_eq!(ParameterPlace::of(unknown), None, "{unknown}");
    }
}
