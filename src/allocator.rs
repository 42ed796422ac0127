//! How genir's binaries allocate: mimalloc, told to keep the memory that a step gives back, and to give it to the
//! system where one phase of a run ends and another begins.
//!
//! Without a global allocator that is mimalloc, as in a program that uses the library with one of its own, nothing
//! here has an effect.

use std::ffi::c_long;

/// Number of mimalloc's option `purge_delay` (`mi_option_e` in mimalloc.h; the binding does not name it).
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Milliseconds after which freed memory goes back to the system by itself: 24 days. "Never" (-1) would also keep
/// [`give_back_freed_memory`] from doing it.
const LONG: c_long = i32::MAX as c_long;

/// Tells mimalloc to keep freed memory for the next step instead of giving it back to the system.
///
/// A training step frees and allocates hundreds of megabytes. Given back after a second, as mimalloc does by
/// itself, they come back as pages that the kernel must clear: 17% of a full step (`benches/README.md`). Call
/// it first in a binary whose global allocator is mimalloc.
pub fn keep_freed_memory() {
    // SAFETY: sets a number that mimalloc reads; any value is allowed.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, LONG) };
}

/// A phase of a run that needs memory of other sizes than training steps do: an evaluation, a checkpoint, probes.
///
/// Where it begins and where it ends, memory that is free goes back to the system. Without that a process comes to hold
/// the sum of what its phases need: what one has freed seldom fits what the next one asks for.
#[derive(Debug)]
pub struct MemoryScope(());

impl MemoryScope {
    /// The phase lasts until this is dropped: declare it first, so that what it frees is free by then.
    pub fn begin() -> Self {
        give_back_freed_memory();
        Self(())
    }
}

impl Drop for MemoryScope {
    fn drop(&mut self) {
        give_back_freed_memory();
    }
}

/// Gives memory that is free now to the system, which takes milliseconds; whatever needs memory next finds none at hand.
pub fn give_back_freed_memory() {
    // SAFETY: it frees what is not in use, and every thread may call it at any time. Each has pages of its own.
    rayon::broadcast(|_| unsafe { libmimalloc_sys::mi_collect(true) });
}
