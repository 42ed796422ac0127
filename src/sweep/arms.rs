//! The arms that the command line names and defines.

use crate::component::check_trainable;
use crate::nearest::nearest;
use crate::recipe::{Setting, SweepArm, check_arm_name};
use crate::train::named_sets;

/// The name of the arm that is no training: BM25 on the corpus.
pub(super) const BM25: &str = "bm25";

/// The keys of the arm [`BM25`], with the options of `genir eval` that they are.
pub(super) const BM25_KEYS: [(&str, &str); 3] =
    [("k1", "--bm25-k1"), ("b", "--bm25-b"), ("language", "--bm25-language")];

/// Splits a list of arms at its commas, except those in brackets: `full,lora(restricted, rank=8, alpha=16)`.
pub(super) fn names(list: &str) -> Vec<String> {
    let mut depth = 0_i32;
    let parts = list.split(|letter| {
        match letter {
            '(' | '[' => depth += 1,
            ')' | ']' => depth -= 1,
            _ => {}
        }
        letter == ',' && depth <= 0
    });
    parts.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
}

/// Returns the arm of a name, a selector or several of them joined by `+`.
///
/// # Errors
/// The word is none of them.
pub(super) fn named(word: &str, defined: &[SweepArm]) -> Result<SweepArm, String> {
    if let Some(arm) = defined.iter().find(|arm| arm.name == word) {
        return Ok(arm.clone());
    }
    let arm = |name: &str, settings| SweepArm { name: name.to_owned(), recipe: None, settings };
    if word == BM25 || selectors(word).is_some() {
        return Ok(arm(word, Vec::new()));
    }
    let parts: Vec<&str> = word.split('+').map(str::trim).collect();
    if let Some(error) = parts.iter().find_map(|part| check_selector(part).err()) {
        let names = defined.iter().map(|arm| arm.name.as_str());
        let known: Vec<&str> =
            names.chain(named_sets().map(|(name, _)| name)).chain([BM25]).collect();
        // What has brackets or dots was meant as a selector.
        let near = nearest(word, known.iter().copied()).filter(|_| !word.contains(['(', '[', '.']));
        return Err(match near {
            Some(near) => format!("there is no arm `{word}`; did you mean `{near}`?"),
            None => format!(
                "there is no arm `{word}`; known are {}, and selectors ({error}); --arm 'NAME: KEY=VALUE ...' defines one",
                known.join(", ")
            ),
        });
    }
    Ok(arm(&directory_name(word), vec![select(&parts)]))
}

fn check_selector(text: &str) -> Result<(), String> {
    check_trainable(text).map_err(|error| error.to_string())
}

/// Returns the selectors of a trainable set that is known by its name.
fn selectors(name: &str) -> Option<&'static [&'static str]> {
    named_sets().find(|(known, _)| *known == name).map(|(_, select)| select)
}

fn select(selectors: &[&str]) -> Setting {
    let list: Vec<toml::Value> = selectors.iter().map(|&text| text.into()).collect();
    Setting::from_command_line(&format!("trainable.select={}", toml::Value::Array(list)))
}

/// `lora-restricted-rank-4-alpha-8` for `lora(restricted, rank=4, alpha=8)`.
fn directory_name(word: &str) -> String {
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "_.+".contains(letter);
    let parts = word.split(|letter| !allowed(letter)).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-")
}

/// Reads the definition of an arm, `NAME: KEY=VALUE ...`. Values with spaces are quoted, or in brackets.
///
/// # Errors
/// It has no name, or a part is not of the form `key=value`.
pub(super) fn defined(text: &str) -> Result<SweepArm, String> {
    let (name, rest) = text.split_once(':').unwrap_or((text, ""));
    let name = name.trim();
    check_arm_name(name).map_err(|message| format!("--arm '{text}': {message}"))?;
    let mut arm = SweepArm { name: name.to_owned(), recipe: None, settings: Vec::new() };
    for word in words(rest) {
        let setting = Setting::from_command_line(&word);
        match (setting.key(), word.split_once('=')) {
            ("recipe", Some((_, recipe))) => arm.recipe = Some(recipe.trim_matches('"').to_owned()),
            (_, None) if !word.starts_with('~') => {
                return Err(format!(
                    "--arm '{text}': `{word}` is not KEY=VALUE; an arm is 'NAME: KEY=VALUE KEY=VALUE ...', with values that \
                     have spaces in quotes or brackets"
                ));
            }
            _ => arm.settings.push(setting),
        }
    }
    Ok(arm)
}

/// Splits text at white space outside of quotes and brackets.
fn words(text: &str) -> Vec<String> {
    let (mut depth, mut quote) = (0_i32, None);
    let parts = text.split(|letter: char| {
        match (quote, letter) {
            (Some(open), _) if open == letter => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(letter),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        letter.is_whitespace() && quote.is_none() && depth <= 0
    });
    parts.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Returns an arm for each of `arms` and each value of a variation, `key=[value, ...]` or `key=value,value`: the arm `full`
/// becomes `full-learning_rate-0.001` and others. BM25 is not trained, and stays as it is.
///
/// # Errors
/// It is not a key with several different values, or a name would be too long.
pub(super) fn varied(arms: &[SweepArm], variation: &Setting) -> Result<Vec<SweepArm>, String> {
    let wrong = || {
        format!(
            "`{}`: expected a key with different values, such as train.epochs=2,4",
            variation.text
        )
    };
    let (key, list) = variation.text.split_once('=').ok_or_else(wrong)?;
    let list = list.trim();
    let values: Vec<String> = match list.parse::<toml::Value>() {
        Ok(toml::Value::Array(values)) => values.iter().map(toml::Value::to_string).collect(),
        _ => names(list),
    };
    let short = key.trim().rsplit('.').next().unwrap_or_default().to_owned();
    let mut all: Vec<SweepArm> = Vec::new();
    for arm in arms {
        if arm.name == BM25 {
            all.push(arm.clone());
            continue;
        }
        for value in &values {
            let name = format!("{}-{short}-{}", arm.name, directory_name(value));
            check_arm_name(&name)?;
            let text = format!("{}={value}", key.trim());
            let mut varied = SweepArm { name, ..arm.clone() };
            varied.settings.push(Setting { text, origin: variation.origin });
            all.push(varied);
        }
    }
    let is_twice =
        |(at, arm): (usize, &SweepArm)| all[..at].iter().any(|other| other.name == arm.name);
    match values.len() < 2 || all.iter().enumerate().any(is_twice) {
        true => Err(wrong()),
        false => Ok(all),
    }
}

/// Adds the trainable set that an arm's name stands for, unless the arm says what is trained; an arm that says nothing
/// must have such a name.
///
/// # Errors
/// The arm is empty and its name is not known.
pub(super) fn complete(mut arm: SweepArm) -> Result<SweepArm, String> {
    let selects = |setting: &Setting| setting.key().starts_with("trainable");
    if arm.name == BM25 || arm.recipe.is_some() || arm.settings.iter().any(selects) {
        return Ok(arm);
    }
    match selectors(&arm.name) {
        Some(set) => arm.settings.insert(0, select(set)),
        None if arm.settings.is_empty() => {
            let known: Vec<&str> = named_sets().map(|(name, _)| name).chain([BM25]).collect();
            return Err(match nearest(&arm.name, known.iter().copied()) {
                Some(near) => format!("the arm sets no key; did you mean `{near}`?"),
                None => format!(
                    "the arm sets no key, and its name is none of {}, which stand for trainable sets",
                    known.join(", ")
                ),
            });
        }
        None => {}
    }
    Ok(arm)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(arm: &SweepArm) -> Vec<&str> {
        arm.settings.iter().map(|setting| setting.text.as_str()).collect()
    }

    #[test]
    fn a_list_of_arms_is_split_outside_of_brackets() {
        let found = names("full, lora(restricted, rank=4, alpha=8),decoder.mlp[I,II]+docids,");
        assert_eq!(
            found,
            ["full", "lora(restricted, rank=4, alpha=8)", "decoder.mlp[I,II]+docids"]
        );
        let arm = named(&found[1], &[]).unwrap();
        assert_eq!(arm.name, "lora-restricted-rank-4-alpha-8");
        assert_eq!(texts(&arm), ["trainable.select=[\"lora(restricted, rank=4, alpha=8)\"]"]);
        let arm = named(&found[2], &[]).unwrap();
        assert_eq!(arm.name, "decoder.mlp-I-II-+docids");
        assert_eq!(texts(&arm), ["trainable.select=[\"decoder.mlp[I,II]\", \"docids\"]"]);
        let error = named("restrictd", &[]).unwrap_err();
        assert_eq!(error, "there is no arm `restrictd`; did you mean `restricted`?");
        let error = named("lora(restricted, rank=4)", &[]).unwrap_err();
        assert!(error.contains("alpha"), "{error}");
    }

    #[test]
    fn a_definition_has_values_with_spaces_in_quotes_and_brackets() {
        let arm = defined(
            "low: trainable.select=[\"lora(restricted, rank=8, alpha=16)\", \"docids\"] optimizer.learning_rate=4e-3 ~stop",
        );
        let arm = arm.unwrap();
        assert_eq!(arm.name, "low");
        assert_eq!(
            texts(&arm),
            [
                "trainable.select=[\"lora(restricted, rank=8, alpha=16)\", \"docids\"]",
                "optimizer.learning_rate=4e-3",
                "~stop"
            ]
        );
        assert!(
            defined("low: train.epochs 3").unwrap_err().contains("`train.epochs` is not KEY=VALUE")
        );
        assert!(defined("a/b: train.epochs=3").unwrap_err().contains("cannot be the name"));
    }

    #[test]
    fn a_variation_makes_an_arm_of_each_value() {
        let arms = [defined("full").unwrap(), defined("bm25").unwrap()];
        let of = |text: &str| varied(&arms, &Setting::from_command_line(text));
        let found = of("optimizer.learning_rate=1e-3,0.01").unwrap();
        let names: Vec<&str> = found.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(names, ["full-learning_rate-1e-3", "full-learning_rate-0.01", "bm25"]);
        assert_eq!(texts(&found[1]), ["optimizer.learning_rate=0.01"]);
        let found = of("train.epochs=[2, 4]").unwrap();
        assert_eq!(found[1].name, "full-epochs-4");
        for wrong in ["train.epochs", "train.epochs=2", "train.epochs=2,2"] {
            assert!(of(wrong).unwrap_err().contains("different values"), "{wrong}");
        }
    }

    #[test]
    fn a_known_name_stands_for_its_set_unless_the_arm_says_what_is_trained() {
        let of = |text: &str| complete(defined(text).unwrap());
        let learnt = of("restricted: optimizer.learning_rate=4e-3").unwrap();
        assert_eq!(
            texts(&learnt),
            ["trainable.select=[\"restricted\", \"docids\"]", "optimizer.learning_rate=4e-3"]
        );
        assert_eq!(texts(&of("full: trainable.select=[\"norms\"]").unwrap()).len(), 1);
        assert_eq!(texts(&of("slow: train.epochs=3").unwrap()), ["train.epochs=3"]);
        assert!(of("slow").unwrap_err().contains("sets no key"));
        assert!(of("decodr").unwrap_err().contains("did you mean `decoder`?"));
    }
}
