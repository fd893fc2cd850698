//! Settings that are replaced as a whole while others read them.

use std::sync::{Arc, PoisonError, RwLock};

/// What holds now; clones share it. Whoever needs two of its values together takes `now` once.
#[derive(Debug)]
pub struct Current<T>(Arc<RwLock<Arc<T>>>);

impl<T> Current<T> {
    pub fn new(value: T) -> Current<T> {
        Current::from(Arc::new(value))
    }

    pub fn now(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn replace(&self, value: Arc<T>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

impl<T> Clone for Current<T> {
    fn clone(&self) -> Current<T> {
        Current(self.0.clone())
    }
}

impl<T> From<Arc<T>> for Current<T> {
    fn from(value: Arc<T>) -> Current<T> {
        Current(Arc::new(RwLock::new(value)))
    }
}
