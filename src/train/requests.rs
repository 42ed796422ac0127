//! Requests to a running training from outside: from signals, or another thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Asks a training to save, or to save and stop. Clones refer to the same training.
///
/// `genir train` connects it to the signals SIGINT, SIGTERM, SIGHUP (stop) and SIGUSR1 (save).
#[derive(Debug, Clone)]
pub struct Requests {
    /// The signal that asked to stop; 0: none.
    pub(crate) stop: Arc<AtomicUsize>,
    pub(crate) save: Arc<AtomicBool>,
    /// True if there is nothing to save, or a first signal was received a second before: the next signal ends the process at once.
    pub(crate) at_once: Arc<AtomicBool>,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            stop: Arc::new(AtomicUsize::new(0)),
            save: Arc::new(AtomicBool::new(false)),
            at_once: Arc::new(AtomicBool::new(true)),
        }
    }
}

impl Requests {
    /// Asks to finish the update, to write a checkpoint and to stop, for this signal.
    pub fn stop(&self, signal: i32) {
        self.stop.store(usize::try_from(signal).unwrap_or(0), Ordering::SeqCst);
    }

    /// Asks to write a checkpoint after this update and to continue.
    pub fn save(&self) {
        self.save.store(true, Ordering::SeqCst);
    }

    /// From now on a signal is a request; before, it ends the process.
    pub(crate) fn accept(&self) {
        self.at_once.store(false, Ordering::SeqCst);
    }

    /// True if a signal to stop ends the process at once.
    pub(crate) fn is_at_once(&self) -> bool {
        self.at_once.load(Ordering::SeqCst)
    }

    /// The signal that asked to stop, if one did.
    pub(crate) fn signal(&self) -> Option<i32> {
        match self.stop.load(Ordering::SeqCst) {
            0 => None,
            signal => i32::try_from(signal).ok(),
        }
    }

    /// True once for each request to save.
    pub(crate) fn take_save(&self) -> bool {
        self.save.swap(false, Ordering::SeqCst)
    }
}
