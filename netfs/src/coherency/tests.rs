//! Tests of the shell: a simulated server with callbacks, and (with `--cfg shuttle`) interleavings.

#[cfg(not(shuttle))]
mod events;
#[cfg(shuttle)]
mod interleavings;
#[cfg(not(shuttle))]
mod merging;
#[cfg(not(shuttle))]
mod world;

use std::collections::HashMap;

use super::{InodeCell, InodeTable, VolumeCell, VolumeEvents};
use crate::{
    clock::StepClock,
    remote::{Attr, Facts, FileKind, Promise, PromiseKind, Version},
    stats::Counters,
    sync::{Arc, Mutex, Weak},
};

const STANDING: Promise = Promise::UntilBroken { kind: PromiseKind::Read };

/// A table as the core has one.
#[derive(Default)]
struct Table {
    inodes: Mutex<HashMap<Vec<u8>, Arc<InodeCell>>>,
    /// What is to be done later.
    work: Mutex<Vec<Box<dyn FnOnce() + Send>>>,
}

impl InodeTable for Table {
    fn find(&self, key: &[u8]) -> Option<Arc<InodeCell>> {
        self.inodes.lock().get(key).cloned()
    }

    fn later(&self, work: Box<dyn FnOnce() + Send>) {
        self.work.lock().push(work);
    }
}

impl Table {
    fn get_or_insert(&self, volume: &Arc<VolumeCell>, key: &[u8]) -> Arc<InodeCell> {
        let mut table = self.inodes.lock();
        let new = || InodeCell::new(Arc::clone(volume), key);
        Arc::clone(table.entry(key.to_vec()).or_insert_with(new))
    }

    /// Does what was put off. How much that was.
    fn work(&self) -> usize {
        let work = std::mem::take(&mut *self.work.lock());
        let much = work.len();
        work.into_iter().for_each(|work| work());
        much
    }
}

/// A volume with its table, clock, counters and event handle.
struct Client {
    volume: Arc<VolumeCell>,
    table: Arc<Table>,
    clock: StepClock,
    counters: Arc<Counters>,
    events: VolumeEvents,
}

impl Client {
    fn new() -> Client {
        let (clock, counters) = (StepClock::new(), Arc::new(Counters::default()));
        let volume = VolumeCell::new("test", Arc::new(clock.clone()), Arc::clone(&counters));
        let table = Arc::new(Table::default());
        let weak = Arc::downgrade(&table);
        let weak: Weak<dyn InodeTable> = weak;
        volume.bind(weak);
        let events = VolumeEvents::new(Arc::clone(&volume));
        Client { volume, table, clock, counters, events }
    }

    fn inode(&self, key: &[u8]) -> Arc<InodeCell> {
        self.table.get_or_insert(&self.volume, key)
    }
}

/// Facts of a reply that states everything: the size goes with the version.
fn facts(version: u64, promise: Promise) -> Facts {
    Facts::version(Version::from_u64(version))
        .with_attr(Attr::plain(FileKind::File, version * 1000))
        .with_promise(promise)
}
