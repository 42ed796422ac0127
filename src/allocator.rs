//! How genir's binaries allocate: mimalloc, told to keep the memory that a step gives back.

/// Number of mimalloc's option `purge_delay` (`mi_option_e` in mimalloc.h; the binding does not name it).
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Tells mimalloc to keep freed memory for the next step instead of giving it back to the system.
///
/// A training step frees and allocates hundreds of megabytes. Given back after 10 ms, as mimalloc does by
/// itself, they come back as pages that the kernel must clear: 17% of a full step (`benches/README.md`). Call
/// it first in a binary whose global allocator is mimalloc; elsewhere it does nothing.
pub fn keep_freed_memory() {
    // SAFETY: sets a number that mimalloc reads; any value is allowed, -1 means never.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
}
