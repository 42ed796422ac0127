//! Panics of another library, where they are errors of ours.

use std::cell::Cell;
use std::panic::{self, AssertUnwindSafe};

thread_local! {
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Returns the result of `call`, or `None` if it panics on this thread. What `call` changes must not be used after a
/// panic.
pub(crate) fn caught<T>(call: impl FnOnce() -> T) -> Option<T> {
    let outer = IS_CAUGHT.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(call));
    IS_CAUGHT.set(outer);
    done.ok()
}

/// Returns whether a panic on this thread is [`caught`], so that it is not to be reported as a bug of genir.
pub(crate) fn is_caught() -> bool {
    IS_CAUGHT.get()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_known_to_be_caught_while_it_may_happen_and_not_afterwards() {
        assert!(!is_caught());
        let inside = caught(|| {
            assert_eq!(caught(|| panic!("of a library")), None::<()>);
            is_caught()
        });
        assert_eq!(inside, Some(true));
        assert!(!is_caught());
    }
}
