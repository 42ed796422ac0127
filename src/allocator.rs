//! Settings of mimalloc for genir's binaries: memory that a step frees is retained for the next step, and is returned
//! to the operating system between the phases of a run.
//!
//! These functions have no effect in a program whose global allocator is not mimalloc.

use std::ffi::c_long;

/// mimalloc's option `purge_delay` (`mi_option_e` in mimalloc.h; the binding does not define it).
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Delay in milliseconds after which mimalloc returns freed memory to the system: 24 days. "Never" (-1) would also
/// disable [`release_freed_memory`].
const LONG: c_long = i32::MAX as c_long;

/// Configures mimalloc to retain freed memory for the next step instead of returning it to the system.
///
/// A training step frees and allocates hundreds of megabytes. By default, mimalloc returns them after a second, and
/// the kernel must clear the pages of each new allocation, which takes 17% of a full step (`benches/README.md`). Call
/// this function first in a binary whose global allocator is mimalloc.
pub fn retain_freed_memory() {
    // SAFETY: the function sets a number that mimalloc reads; any value is allowed.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, LONG) };
}

/// A phase of a run whose allocations have other sizes than those of training steps: an evaluation, a checkpoint,
/// probes.
///
/// At its start and its end, free memory is returned to the system. Otherwise the memory of a process approaches the
/// sum over its phases, as memory freed by one phase seldom fits the allocations of the next.
#[derive(Debug)]
pub struct MemoryScope(());

impl MemoryScope {
    /// Starts a phase, which ends when the value is dropped. Declare it first, so that the memory of the phase is
    /// freed before.
    pub fn begin() -> Self {
        release_freed_memory();
        Self(())
    }
}

impl Drop for MemoryScope {
    fn drop(&mut self) {
        release_freed_memory();
    }
}

/// Returns all free memory to the system, which takes milliseconds. The next allocations must request memory again.
pub fn release_freed_memory() {
    // SAFETY: the function frees unused memory, and any thread may call it at any time. Each thread has separate
    // pages.
    rayon::broadcast(|_| unsafe { libmimalloc_sys::mi_collect(true) });
}
