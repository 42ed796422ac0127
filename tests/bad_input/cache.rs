//! Stored prefixes: a file that is not what it should be is told and computed again; the run goes on.

use std::fs;

use crate::harness::{Case, accepted, warned};
use crate::home::Home;

/// The tiny recipe as the copied cache was made with.
const RECIPE: [&str; 3] =
    ["train.steps=8", "model.config.num_layers=2", "trainable.select=decoder"];

/// Trains with the stored prefix changed.
fn spoiled(home: &Home, change: impl FnOnce(&Home, &str)) -> Vec<String> {
    let file = home.cache();
    change(home, &file);
    home.train(&RECIPE)
}

fn with_bytes(home: &Home, change: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
    spoiled(home, |home, file| {
        let mut bytes = fs::read(home.at(file)).unwrap();
        change(&mut bytes);
        home.write(file, bytes);
    })
}

const AGAIN: &str = "a stored frozen prefix is recomputed: ";

pub const CASES: &[Case] = &[
    accepted("a stored prefix that is whole", |home| spoiled(home, |_, _| {}), &["reused"]),
    warned(
        "an empty file",
        |home| with_bytes(home, Vec::clear),
        &[AGAIN, "it begins with \"\", expected \"GENIRPFX\""],
    ),
    warned(
        "a truncated file",
        |home| with_bytes(home, |bytes| bytes.truncate(bytes.len() - 1)),
        &[AGAIN, "bytes long, expected "],
    ),
    warned(
        "a file of another kind",
        |home| with_bytes(home, |bytes| bytes[..8].copy_from_slice(b"{\"a\": 1}")),
        &[AGAIN, "it begins with \"{\\\"a\\\": 1}\""],
    ),
    warned(
        "a file of another version",
        |home| with_bytes(home, |bytes| bytes[8] = 99),
        &[AGAIN, "its version is 99, expected 1"],
    ),
    warned(
        "a file of another type",
        |home| with_bytes(home, |bytes| bytes[12] = 77),
        &[AGAIN, "its type is 77, expected 1"],
    ),
    warned(
        "a file from other weights or texts under this name",
        |home| with_bytes(home, |bytes| bytes[16] ^= 1),
        &[AGAIN, "its key is "],
    ),
    warned(
        "one bit of a value",
        |home| {
            with_bytes(home, |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            })
        },
        &[AGAIN, "the checksum of bytes ", "is wrong: damaged"],
    ),
    warned(
        "one bit of the index",
        |home| with_bytes(home, |bytes| bytes[50] ^= 1),
        &[AGAIN, "the checksum of its index is wrong: damaged"],
    ),
    warned(
        "a file of 1 TiB of zeros",
        |home| spoiled(home, |home, file| drop(home.sparse(file, 1 << 40))),
        &[AGAIN, "1099511627776 bytes long, expected "],
    ),
    warned(
        "a device in place of the file",
        |home| spoiled(home, |home, file| drop(home.link(file, "/dev/zero"))),
        &[AGAIN, "it is a device; expected a regular file"],
    ),
    warned(
        "a pipe in place of the file",
        |home| spoiled(home, |home, file| drop(home.fifo(file))),
        &[AGAIN, "it is a named pipe; expected a regular file"],
    ),
    warned(
        "a directory in place of the file",
        |home| spoiled(home, |home, file| drop(home.directory(file))),
        &[AGAIN, "it is a directory; expected a regular file", "is stored in memory only: "],
    ),
    warned(
        "a loop of symbolic links in place of the file",
        |home| {
            spoiled(home, |home, file| drop(home.link(file, file.strip_prefix("cache/").unwrap())))
        },
        &[AGAIN, "Too many levels of symbolic links"],
    ),
    accepted(
        "a pipe that is named like an unfinished file",
        |home| {
            spoiled(home, |home, file| {
                fs::remove_file(home.at(file)).unwrap();
                home.fifo("cache/.00000000000000000000000000000000.prefix.tmp");
            })
        },
        &["stored"],
    ),
    warned(
        "a file in place of the cache directory",
        |home| {
            home.write("cache", "");
            home.train(&RECIPE)
        },
        &["stored in memory only: ", "cache"],
    ),
];
