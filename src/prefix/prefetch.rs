//! Gathers the stored prefix of the next batch on a separate thread, while the device computes the current one.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::PrefixOutput;
use super::store::{Gathered, Store};

/// Batches of stored texts, gathered one ahead: from the disk, and for a GPU into memory that it fetches from by
/// itself.
///
/// The thread stays the same over a run: the memory that it gathers into belongs to a thread's own stream of a GPU,
/// which uses it again. It ends with this.
pub struct Prefetcher {
    store: Arc<Store>,
    wanted: SyncSender<Vec<usize>>,
    gathered: Receiver<Gathered>,
    /// True if the thread was asked for a batch that was not taken yet.
    asked: bool,
}

impl Prefetcher {
    /// For batches of `store`; none if they are at hand anyway, or there can be no thread.
    pub(super) fn new(store: Arc<Store>) -> Option<Self> {
        if !store.gathering_blocks() {
            return None;
        }
        // Never more than one batch on the way: neither end waits for room.
        let (wanted, requests) = sync_channel::<Vec<usize>>(1);
        let (done, gathered) = sync_channel(1);
        let from = store.clone();
        let gather = move || {
            for places in requests {
                if done.send(from.gather(places)).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("prefix".to_owned()).spawn(gather).ok()?;
        Some(Self { store, wanted, gathered, asked: false })
    }

    /// Starts gathering the batch of `texts`, if all of them are stored. A batch requested before must be taken first.
    pub fn request(&mut self, texts: &[&[u32]]) {
        if let Some(places) = self.store.find(texts)
            && !self.asked
        {
            self.asked = self.wanted.send(places).is_ok();
        }
    }

    /// The prefix of a batch of texts, if all of them are stored: the one that was asked for, if it is that, and else
    /// gathered now.
    pub fn take(&mut self, texts: &[&[u32]]) -> Option<PrefixOutput> {
        let places = self.store.find(texts)?;
        let ahead = if self.asked { self.gathered.recv().ok() } else { None };
        self.asked = false;
        let gathered = ahead.filter(|gathered| gathered.is_of(&places));
        Some(self.store.to_device(gathered.unwrap_or_else(|| self.store.gather(places))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prefix::store::tests::{close, mapped};

    #[test]
    fn a_batch_is_the_same_whatever_was_asked_for_before() {
        let (store, texts) = mapped();
        let store = Arc::new(store);
        let mut ahead = Prefetcher::new(store.clone()).unwrap();
        let batches = [&texts[..2], &texts[1..], &texts[..1]];
        for asked in [None, Some(0), Some(1), Some(2)] {
            for wanted in batches {
                if let Some(asked) = asked {
                    ahead.request(batches[asked]);
                }
                let (found, expected) =
                    (ahead.take(wanted).unwrap(), store.output(wanted).unwrap());
                assert_eq!(close(&found, &expected), 0.0);
            }
        }
        ahead.request(&[&[20, 21, 22]]);
        assert!(ahead.take(&[&[20, 21, 22]]).is_none());
        assert!(ahead.take(batches[0]).is_some());
    }
}
