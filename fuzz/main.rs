//! Runs libFuzzer on one of the targets: the variable `GENIR_FUZZ_TARGET` names it. See README.md.
//!
//! One program for all of them, since each would link all of genir, which takes a minute.

#![no_main]

use std::panic::{self, AssertUnwindSafe};
use std::process::abort;
use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

mod targets;

fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();
    let target = TARGET.get_or_init(|| {
        // That of libfuzzer-sys ends the process at every panic, also at those that genir catches.
        panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
        let wanted = std::env::var("GENIR_FUZZ_TARGET").unwrap_or_default();
        match targets::TARGETS.iter().find(|(name, _)| *name == wanted) {
            Some((_, target)) => *target,
            None => {
                eprintln!("GENIR_FUZZ_TARGET={wanted} is no target");
                std::process::exit(2);
            }
        }
    });
    if panic::catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
        abort(); // libFuzzer then keeps the input.
    }
});
