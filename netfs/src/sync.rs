//! The one place locks, atomics and threads are imported from, so that a checker can replace them.
//!
//! Normal builds use `parking_lot` (no poisoning, small) and `std`; built with `--cfg shuttle` the
//! same names come from the shuttle model checker, which explores thread interleavings.

mod biased;

pub(crate) use biased::{BiasedLock, Readers};

#[cfg(not(shuttle))]
mod imp {
    pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
    pub(crate) use std::sync::{Arc, Weak, atomic};
}

#[cfg(shuttle)]
mod imp {
    pub(crate) use shuttle::sync::{Arc, Weak, atomic};
    pub(crate) use wrappers::*;

    /// `parking_lot`'s shape over shuttle's std-like locks.
    mod wrappers {
        use shuttle::sync as s;
        pub(crate) type MutexGuard<'a, T> = s::MutexGuard<'a, T>;
        pub(crate) type RwLockReadGuard<'a, T> = s::RwLockReadGuard<'a, T>;
        pub(crate) type RwLockWriteGuard<'a, T> = s::RwLockWriteGuard<'a, T>;

        #[derive(Debug, Default)]
        pub(crate) struct Mutex<T>(s::Mutex<T>);
        impl<T> Mutex<T> {
            pub(crate) const fn new(t: T) -> Self {
                Mutex(s::Mutex::new(t))
            }
            pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
                self.0.lock().expect("a panicking model run ends anyway")
            }
            pub(crate) fn get_mut(&mut self) -> &mut T {
                self.0.get_mut().expect("a panicking model run ends anyway")
            }
        }

        #[derive(Debug, Default)]
        pub(crate) struct RwLock<T>(s::RwLock<T>);
        impl<T> RwLock<T> {
            pub(crate) const fn new(t: T) -> Self {
                RwLock(s::RwLock::new(t))
            }
            pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
                self.0.read().expect("a panicking model run ends anyway")
            }
            pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
                self.0.write().expect("a panicking model run ends anyway")
            }
        }
    }
}

pub(crate) use imp::*;
