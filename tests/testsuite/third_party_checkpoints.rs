//! Checkpoints and base models of other programs open as in transformers, or are refused with a clear message.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use burn::tensor::Tensor;
use genir::checkpoint::{Checkpoint, CheckpointContents, write};
use genir::docid::{DocidVocabulary, TextTokenizer};
use genir::t5::weights::StoredType;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::parameter_bits::{assert_same, bits};
use crate::small_checkpoint::*;
use crate::small_tokenizer;
use crate::tiny_model::{DOCIDS, docids, manifest};

/// Adds tokens like `add_tokens` and `resize_token_embeddings` of transformers: after all others, with rows of 1, 2,
/// ...
fn add_tokens(checkpoint: &Path, names: &[&str]) {
    let behind = WORDS + DOCIDS.len();
    change_json(&checkpoint.join("tokenizer.json"), |tokenizer| {
        let added = tokenizer["added_tokens"].as_array_mut().unwrap();
        for (index, name) in names.iter().enumerate() {
            added.push(small_tokenizer::added_token((behind + index) as u32, name, false));
        }
    });
    change_tensors(checkpoint, |tensors| {
        for (name, factor) in [("shared.weight", 1.0), ("lm_head.weight", 3.0)] {
            let Some(table) = tensors.get_mut(name) else { continue };
            table.shape[0] += names.len();
            for row in 1..=names.len() {
                let row = [row as f32 * factor; WIDTH].map(f32::to_le_bytes);
                table.bytes.extend(row.as_flattened());
            }
        }
    });
}

#[test]
fn tokens_added_after_the_docids_keep_their_rows() {
    for tied in [true, false] {
        let parent = TempDir::new().unwrap();
        let checkpoint = write_model(parent.path(), "step-1", &model(tied)).unwrap();
        add_tokens(&checkpoint, &["<a>", "<b>"]);
        let opened = open(&checkpoint).unwrap();
        assert_eq!((opened.docids, opened.tokenizer.vocab_size()), (docids(), WORDS + 2));
        let row = |tensor: Tensor<2>, row: usize| -> Vec<f32> {
            tensor.slice([row..row + 1, 0..WIDTH]).into_data().try_to_vec().unwrap()
        };
        let words = opened.model.t5.shared.weight.val();
        assert_eq!(row(words.clone(), WORDS), [1.0; WIDTH]);
        assert_eq!(row(words, WORDS + 1), [2.0; WIDTH]);
        if let Some(head) = &opened.model.t5.lm_head {
            assert_eq!(row(head.weight.val(), WORDS + 1), [6.0; WIDTH]);
        }
        assert_same(
            &bits(&opened.model).into_iter().filter(|(name, _)| name == "docids.weight").collect(),
            &bits(&model(tied)).into_iter().filter(|(name, _)| name == "docids.weight").collect(),
            "docid rows",
        );
    }
}

/// Rows of the embeddings of text tokens and of docids, by token.
fn rows_by_token(checkpoint: &Checkpoint) -> BTreeMap<String, Vec<u32>> {
    let rows = |values: Tensor<2>| -> Vec<Vec<u32>> {
        let values: Vec<f32> = values.into_data().try_to_vec().unwrap();
        values.chunks(WIDTH).map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
    };
    let t5 = &checkpoint.model.t5;
    let words = t5.lm_head.as_ref().map_or(t5.shared.weight.val(), |head| head.weight.val());
    let words = rows(words).into_iter().enumerate();
    let words = words.map(|(id, row)| (checkpoint.tokenizer.token(id as u32).unwrap(), row));
    let docids = rows(checkpoint.model.docids.weight.val()).into_iter().enumerate();
    let docids = docids.map(|(row, values)| (checkpoint.docids.token(row as u32), values));
    words.chain(docids).collect()
}

/// Gives every token behind the words that `place` tells a row for another row, in tokenizer and tensors.
fn move_rows(checkpoint: &Path, place: &dyn Fn(usize) -> usize) {
    let is_moved = |id: usize| id >= WORDS;
    change_json(&checkpoint.join("tokenizer.json"), |tokenizer| {
        for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
            let id = token["id"].as_u64().unwrap() as usize;
            if is_moved(id) {
                token["id"] = place(id).into();
            }
        }
    });
    change_tensors(checkpoint, |tensors| {
        for name in ["shared.weight", "lm_head.weight"] {
            let Some(table) = tensors.get_mut(name) else { continue };
            let size = WIDTH * 4;
            let old: Vec<Vec<u8>> = table.bytes.chunks(size).map(<[u8]>::to_vec).collect();
            let new_place = |row: usize| if is_moved(row) { place(row) } else { row };
            let count = (0..old.len()).map(new_place).max().unwrap() + 1;
            table.shape[0] = count;
            // Rows without a token are not finite, so that reading them would be noticed.
            table.bytes = f32::NAN.to_le_bytes().repeat(count * WIDTH);
            for (row, bytes) in old.iter().enumerate() {
                let at = new_place(row) * size;
                table.bytes[at..at + size].copy_from_slice(bytes);
            }
        }
    });
}

#[test]
fn docids_keep_their_rows_in_any_order_after_the_text_tokens() {
    let all = WORDS + DOCIDS.len() + 2;
    let places: [(&str, &dyn Fn(usize) -> usize); 4] = [
        ("in the opposite order", &|row| WORDS + all - 1 - row),
        ("two in a row and one apart", &|row| WORDS + (row - WORDS) * 3 / 2),
        ("docids and other tokens by turns", &|row| WORDS + (row - WORDS) * 7 % (all - WORDS)),
        ("far behind", &|row| row + 1000),
    ];
    for (what, place) in places {
        for tied in [true, false] {
            let parent = TempDir::new().unwrap();
            let checkpoint = write_model(parent.path(), "step-1", &model(tied)).unwrap();
            add_tokens(&checkpoint, &["<a>", "<b>"]);
            let before = rows_by_token(&open(&checkpoint).unwrap());
            move_rows(&checkpoint, place);
            let opened = open(&checkpoint).unwrap();
            assert_eq!(rows_by_token(&opened), before, "{what}, tied {tied}");
            assert_eq!(opened.tokenizer.vocab_size(), WORDS + 2, "{what}");

            // When written again, the docids follow all text tokens consecutively.
            let contents = CheckpointContents {
                model: &opened.model,
                tokenizer: &opened.tokenizer,
                docids: Some(&opened.docids),
                stored: StoredType::Float32,
                manifest: &manifest(),
                other_rows: None,
                training: None,
            };
            let again = write(parent.path(), "again", &contents).unwrap();
            assert_eq!(rows_by_token(&open(&again).unwrap()), before, "{what}, written again");
            let ids = TextTokenizer::load(&again).unwrap().docids.unwrap().rows;
            let expected = WORDS as u32 + 2..all as u32;
            assert!(ids.iter().copied().eq(expected), "{what}: {ids:?}");
        }
    }
}

#[test]
fn a_docid_that_shares_a_row_is_refused_with_token_and_id() {
    let with_id = |of: &str, id: usize| {
        let (parent, checkpoint) = written();
        change_json(&checkpoint.join("tokenizer.json"), |tokenizer| {
            let added = tokenizer["added_tokens"].as_array_mut().unwrap();
            let token = added.iter_mut().find(|token| token["content"] == of).unwrap();
            token["id"] = id.into();
        });
        (parent, checkpoint)
    };
    let (_parent, of_word) = with_id("@DOC_ID_7@", 5);
    assert_refused(
        &of_word,
        &[
            "tokenizer.json",
            "docid `@DOC_ID_7@` has id 5",
            "the id of `three`",
            "an id of at least 9",
        ],
    );
    let (_parent, of_docid) = with_id("@DOC_ID_7@", WORDS + 2);
    assert_refused(
        &of_docid,
        &["`@DOC_ID_7@`", "`@DOC_ID_10@`", "both have token id 11", "token ids must differ"],
    );
    let (_parent, beyond) = with_id("@DOC_ID_7@", WORDS + DOCIDS.len() + 4);
    assert_refused(&beyond, &[WEIGHTS, "shared.weight", "[29, 6]", "expected [34, 6]"]);
}

#[test]
fn docids_are_found_in_any_order_of_the_tokenizer_file() {
    let (_parent, checkpoint) = written();
    change_json(&checkpoint.join("tokenizer.json"), |tokenizer| {
        tokenizer["added_tokens"].as_array_mut().unwrap()[3..].reverse();
    });
    let opened = open(&checkpoint).unwrap();
    assert_eq!(opened.docids, docids());
    assert_same(&bits(&opened.model), &bits(&model(true)), "opened");
}

#[test]
fn an_embedding_that_is_stored_under_the_name_of_a_stack_is_found() {
    for (tied, name) in [
        (true, "encoder.embed_tokens.weight"),
        (true, "decoder.embed_tokens.weight"),
        (false, "decoder.embed_tokens.weight"),
    ] {
        let parent = TempDir::new().unwrap();
        let checkpoint = write_model(parent.path(), "step-1", &model(tied)).unwrap();
        change_tensors(&checkpoint, |tensors| {
            let shared = tensors.remove("shared.weight").unwrap();
            tensors.insert(name.to_owned(), shared);
        });
        let opened = open(&checkpoint).unwrap();
        assert_eq!(opened.model.t5.is_tied(), tied);
        assert_same(&bits(&opened.model), &bits(&model(tied)), name);
        change_tensors(&checkpoint, |tensors| tensors.get_mut(name).unwrap().shape.reverse());
        assert_refused(&checkpoint, &[name, "expected ["]);
    }
}

#[test]
fn spare_rows_of_the_embedding_are_dropped() {
    /// Rows of ones before row `at` of the embedding.
    fn insert(checkpoint: &Path, at: usize, count: usize) {
        change_tensors(checkpoint, |tensors| {
            let shared = tensors.get_mut("shared.weight").unwrap();
            let spare = vec![1.0_f32.to_le_bytes(); count * WIDTH].concat();
            let at = at * WIDTH * 4;
            shared.bytes.splice(at..at, spare);
            shared.shape[0] += count;
        });
        change_json(&checkpoint.join("config.json"), |config| {
            config["vocab_size"] = (config["vocab_size"].as_u64().unwrap() + count as u64).into();
        });
    }
    let (_parent, checkpoint) = written();
    insert(&checkpoint, WORDS + DOCIDS.len(), 5);
    assert_same(&bits(&open(&checkpoint).unwrap().model), &bits(&model(true)), "behind the docids");

    // As in T5's checkpoints: 32,128 rows for 32,100 tokens.
    insert(&checkpoint, WORDS, 3);
    change_json(&checkpoint.join("tokenizer.json"), |tokenizer| {
        for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
            let id = token["id"].as_u64().unwrap();
            if id >= WORDS as u64 {
                token["id"] = (id + 3).into();
            }
        }
    });
    let opened = open(&checkpoint).unwrap();
    assert_same(&bits(&opened.model), &bits(&model(true)), "between words and docids");
    assert_eq!(opened.model.t5.config().vocab_size, WORDS);
}

#[test]
fn docids_among_special_tokens_are_read_and_are_not_exported_with_other_docids() {
    let (parent, checkpoint) = written();
    change_json(&checkpoint.join("tokenizer.json"), |tokenizer| {
        for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
            token["special"] = true.into();
        }
    });
    let lists = json!({
        "additional_special_tokens": ["@DOC_ID_7@", {"content": "@DOC_ID_0@"}, "<extra>"],
        "extra_special_tokens": {"first": "@DOC_ID_7@", "other": "<other>"},
        "eos_token": "</s>",
    });
    change_json(&checkpoint.join("tokenizer_config.json"), |config| {
        let fields = lists.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(fields);
    });
    fs::write(checkpoint.join("special_tokens_map.json"), lists.to_string()).unwrap();
    let opened = open(&checkpoint).unwrap();
    assert_eq!(opened.docids, docids());
    assert_same(&bits(&opened.model), &bits(&model(true)), "opened");

    // With other docids: transformers adds every unknown token of these lists, beyond the rows of the embedding.
    let exported = parent.path().join("exported");
    fs::create_dir(&exported).unwrap();
    let other = DocidVocabulary::new(["new"]).unwrap();
    opened.tokenizer.export(&exported, Some(&other)).unwrap();
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let fields: Value =
            serde_json::from_slice(&fs::read(exported.join(name)).unwrap()).unwrap();
        assert_eq!(fields["additional_special_tokens"], json!(["<extra>"]), "{name}");
        assert_eq!(fields["extra_special_tokens"], json!({"other": "<other>"}), "{name}");
        assert_eq!(fields["eos_token"], "</s>", "{name}");
    }
}

#[test]
fn tensors_are_found_in_other_shards_than_the_index_names() {
    let (_parent, checkpoint) = written();
    let file = checkpoint.join(WEIGHTS);
    let whole = fs::read(&file).unwrap();
    let names = ["one.safetensors", "two.safetensors"];
    for (keep, name) in names.iter().enumerate() {
        fs::write(&file, &whole).unwrap();
        change_tensors(&checkpoint, |tensors| {
            let mut place = 0;
            tensors.retain(|_, _| {
                place += 1;
                place % 2 == keep
            });
        });
        fs::rename(&file, checkpoint.join(name)).unwrap();
    }
    // Like the index of an earlier sharding: it names both files, but the wrong one for each tensor.
    let map = json!({"weight_map": {"shared.weight": names[0], "encoder.final_layer_norm.weight": names[1]}});
    fs::write(checkpoint.join("model.safetensors.index.json"), map.to_string()).unwrap();
    assert_same(&bits(&open(&checkpoint).unwrap().model), &bits(&model(true)), "opened");
    let map = json!({"weight_map": {"shared.weight": names[0]}});
    fs::write(checkpoint.join("model.safetensors.index.json"), map.to_string()).unwrap();
    assert_refused(&checkpoint, &["step-1", "is missing"]);
}

#[test]
fn tensors_that_transformers_ignores_and_keys_that_it_defaults_are_accepted() {
    let (_parent, checkpoint) = written();
    // Buffers of other types, and a missing start token: T5's start token is its padding token.
    change_tensors(&checkpoint, |tensors| {
        for name in ["position_ids", "encoder.embed_positions.inv_freq", "lm_head.bias"] {
            let (dtype, shape, bytes) = (Dtype::I64, vec![2], vec![0; 16]);
            tensors.insert(name.to_owned(), StoredTensor { dtype, shape, bytes });
        }
    });
    change_json(&checkpoint.join("config.json"), |config| {
        let fields = config.as_object_mut().unwrap();
        fields.remove("decoder_start_token_id").unwrap();
    });
    let opened = open(&checkpoint).unwrap();
    assert_same(&bits(&opened.model), &bits(&model(true)), "opened");
    assert_eq!(opened.model.t5.config().decoder_start_token_id, 0);
}

#[test]
fn a_slow_tokenizer_is_refused_with_instructions_to_convert_it() {
    let (_parent, checkpoint) = written();
    fs::remove_file(checkpoint.join("tokenizer.json")).unwrap();
    fs::write(checkpoint.join("spiece.model"), b"x").unwrap();
    fs::write(checkpoint.join("added_tokens.json"), r#"{"@DOC_ID_7@": 9}"#).unwrap();
    assert_refused(&checkpoint, &["tokenizer.json does not exist", "save_pretrained"]);
}

#[test]
fn the_tensors_and_not_the_configuration_decide_whether_the_head_is_tied() {
    for tied in [true, false] {
        let parent = TempDir::new().unwrap();
        let checkpoint = write_model(parent.path(), "step-1", &model(tied)).unwrap();
        // As in transformers 5, where scaling has a separate key, which is preserved.
        change_json(&checkpoint.join("config.json"), |config| {
            config["tie_word_embeddings"] = (!tied).into();
        });
        let opened = open(&checkpoint).unwrap();
        assert_eq!(opened.model.t5.is_tied(), tied);
        assert_same(&bits(&opened.model), &bits(&model(tied)), "opened");
    }
}
