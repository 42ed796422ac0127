//! Freed memory stays with the process within a phase of a run, and goes back to the system between two.

#![cfg(target_os = "linux")]

use std::fs;
use std::hint::black_box;
use std::thread::sleep;
use std::time::Duration;

use genir::allocator::{MemoryScope, retain_freed_memory};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MIB: usize = 1 << 20;

/// Resident memory of this process, in MiB.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() / 1024
}

/// What a step does: 256 MiB in tensors of 1 MiB, freed at its end.
fn step() {
    black_box((0..256).map(|_| vec![1_u8; MIB]).collect::<Vec<_>>());
}

#[test]
fn what_a_step_frees_is_kept_for_the_next_one_and_given_back_at_the_end_of_its_phase() {
    retain_freed_memory();
    let before = resident();
    step();
    // By itself mimalloc gives it back after a second, when next something is freed.
    sleep(Duration::from_millis(1200));
    for _ in 0..3 {
        black_box((0..8).map(|_| vec![1_u8; MIB]).collect::<Vec<_>>());
        sleep(Duration::from_millis(50));
    }
    let kept = resident();
    assert!(kept >= before + 240, "{before} MiB before a step, {kept} after it");
    step();
    let again = resident();
    assert!(again <= kept + 16, "{kept} MiB after a step, {again} after two");

    let scope = MemoryScope::begin();
    let given_back = resident();
    assert!(given_back <= before + 32, "{before} MiB before, {given_back} in the next phase");
    step();
    drop(scope);
    let after = resident();
    assert!(after <= before + 32, "{before} MiB before, {after} after the phase");
}
