//! Raw handles to owned values.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::error::{Error, Result};

/// INVARIANT: a number is given out once a process, over all devices and kinds of handle, and none of those that stand for a default
/// stream. So a handle of another device, of another kind, or already given back is found to be wrong.
static NEXT: AtomicU64 = AtomicU64::new(16);

/// The values of one kind that one device has given out handles to.
#[derive(Debug)]
pub(super) struct Table<T> {
    what: &'static str,
    values: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Table<T> {
    pub(super) fn new(what: &'static str) -> Self {
        Self { what, values: RwLock::default() }
    }

    /// Stores a value and returns its handle.
    pub(super) fn insert(&self, value: Arc<T>) -> u64 {
        let handle = NEXT.fetch_add(1, Ordering::Relaxed);
        self.values.write().unwrap_or_else(PoisonError::into_inner).insert(handle, value);
        handle
    }

    pub(super) fn get(&self, handle: u64) -> Result<Arc<T>> {
        let found = self.values.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned();
        found.ok_or_else(|| {
            Error::invalid(format!(
                "{} {handle} is unknown to this cpu device: it was given back, or belongs to another device",
                self.what
            ))
        })
    }

    pub(super) fn all(&self) -> Vec<Arc<T>> {
        self.values.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn remove(&self, handle: u64) -> Option<Arc<T>> {
        self.values.write().unwrap_or_else(PoisonError::into_inner).remove(&handle)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_other_tables_and_removed_ones_are_refused() {
        let (numbers, letters) = (Table::new("number"), Table::new("letter"));
        let handle = numbers.insert(Arc::new(7));
        letters.insert(Arc::new('a'));
        assert_eq!(*numbers.get(handle).unwrap(), 7);
        assert!(letters.get(handle).unwrap_err().to_string().contains("letter"));
        numbers.remove(handle);
        assert!(numbers.get(handle).is_err());
        assert!(numbers.get(0).is_err());
    }
}
