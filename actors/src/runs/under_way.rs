//! How much store work of this node is under way: it outlives who asked for it, and a store is closed only after it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts itself for as long as it lives.
#[derive(Debug)]
pub(super) struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    pub(super) fn in_addition(to: &Arc<AtomicUsize>) -> UnderWay {
        to.fetch_add(1, Ordering::AcqRel);
        UnderWay(to.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
