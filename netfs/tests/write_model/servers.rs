//! The servers: one, or two volumes in one context whose files have the same keys and other bytes. A path in the
//! second volume begins with [`SECOND`].

use std::sync::Arc;

use netfs::{
    Result,
    coherency::{BreakReason, LocalState, RecallTicket},
    remote::{FileKind, PromiseKind},
};
use netfs_memory::{
    Call, Change, Counts, Fault, FileSettings, MemoryFs, Settings, Snapshot, content::Content,
};

/// What paths in the second volume begin with.
pub(crate) const SECOND: &str = "2:";

/// Which volume a path is in, and where in it.
pub(crate) fn split(path: &str) -> (usize, &str) {
    path.strip_prefix(SECOND).map_or((0, path), |path| (1, path))
}

/// Where in its volume a path is.
pub(crate) fn real(path: &str) -> &str {
    split(path).1
}

/// A fault, wherever it was injected.
#[derive(Clone)]
pub(crate) struct Injected(Vec<(usize, netfs_memory::Injected)>);

impl Injected {
    pub(crate) fn hits(&self) -> u64 {
        self.0.iter().map(|(_, fault)| fault.hits()).sum()
    }
}

/// All volumes.
pub(crate) struct Servers(Vec<Arc<MemoryFs>>);

impl Servers {
    pub(crate) fn new(volumes: Vec<Arc<MemoryFs>>) -> Servers {
        Servers(volumes)
    }

    pub(crate) fn volumes(&self) -> &[Arc<MemoryFs>] {
        &self.0
    }

    fn at<'a>(&self, path: &'a str) -> (&Arc<MemoryFs>, &'a str) {
        let (volume, path) = split(path);
        (&self.0[volume], path)
    }

    /// The paths of all files.
    pub(crate) fn files(&self) -> Vec<String> {
        let paths = |fs: &Arc<MemoryFs>, before: &str| {
            let name = |path: Vec<u8>| format!("{before}{}", String::from_utf8_lossy(&path));
            fs.files().into_iter().map(name).collect::<Vec<_>>()
        };
        self.0.iter().zip(["", SECOND]).flat_map(|(fs, before)| paths(fs, before)).collect()
    }

    pub(crate) fn settings(&self) -> Settings {
        self.0[0].settings()
    }

    pub(crate) fn settings_of(&self, path: &str) -> Settings {
        self.at(path).0.settings()
    }

    pub(crate) fn configure_file(
        &self,
        path: &str,
        change: impl FnOnce(&mut FileSettings),
    ) -> Result<()> {
        let (fs, path) = self.at(path);
        fs.configure_file(path, change)
    }

    pub(crate) fn key(&self, path: &str) -> Result<Vec<u8>> {
        let (fs, path) = self.at(path);
        fs.key(path)
    }

    pub(crate) fn kind(&self, path: &str) -> Result<FileKind> {
        let (fs, path) = self.at(path);
        fs.kind(path)
    }

    pub(crate) fn size(&self, path: &str) -> Result<u64> {
        let (fs, path) = self.at(path);
        fs.size(path)
    }

    pub(crate) fn snapshot(&self, path: &str) -> Result<Arc<Snapshot>> {
        let (fs, path) = self.at(path);
        fs.snapshot(path)
    }

    pub(crate) fn snapshot_of(&self, path: &str, version: u64) -> Result<Option<Arc<Snapshot>>> {
        let (fs, path) = self.at(path);
        fs.snapshot_of(path, version)
    }

    pub(crate) fn durable(&self, path: &str) -> Result<Content> {
        let (fs, path) = self.at(path);
        fs.durable(path)
    }

    pub(crate) fn file_counts(&self, path: &str) -> Result<Counts> {
        let (fs, path) = self.at(path);
        fs.file_counts(path)
    }

    pub(crate) fn change(&self, path: &str) -> Change<'_> {
        let (fs, path) = self.at(path);
        fs.change(path)
    }

    pub(crate) fn send_break(&self, path: &str) -> Result<()> {
        let (fs, path) = self.at(path);
        fs.send_break(path).map(drop)
    }

    pub(crate) fn recall(&self, path: &str, kind: PromiseKind) -> Result<Vec<RecallTicket>> {
        let (fs, path) = self.at(path);
        fs.recall(path, kind)
    }

    pub(crate) fn local_states(&self, path: &str) -> Result<Vec<LocalState>> {
        let (fs, path) = self.at(path);
        fs.local_states(path)
    }

    /// On every server.
    pub(crate) fn inject(&self, fault: Fault) -> Injected {
        let each = self.0.iter().enumerate();
        Injected(each.map(|(volume, fs)| (volume, fs.inject(fault.clone()))).collect())
    }

    /// On calls about one file.
    pub(crate) fn inject_at(&self, path: &str, fault: Fault) -> Injected {
        let (volume, path) = split(path);
        self.inject_in(volume, fault.file(path))
    }

    /// On every call to one volume.
    pub(crate) fn inject_in(&self, volume: usize, fault: Fault) -> Injected {
        Injected(vec![(volume, self.0[volume].inject(fault))])
    }

    pub(crate) fn remove_fault(&self, fault: &Injected) {
        fault.0.iter().for_each(|(volume, fault)| self.0[*volume].remove_fault(fault));
    }

    pub(crate) fn clear_faults(&self) {
        self.0.iter().for_each(|fs| fs.clear_faults());
    }

    pub(crate) fn wait_idle(&self) {
        self.0.iter().for_each(|fs| fs.wait_idle());
    }

    pub(crate) fn restart(&self) {
        self.0.iter().for_each(|fs| drop(fs.restart_server()));
    }

    pub(crate) fn break_all(&self, reason: BreakReason) {
        self.0.iter().for_each(|fs| drop(fs.break_all(reason)));
    }

    pub(crate) fn scrub(&self, reason: BreakReason) {
        self.0.iter().for_each(|fs| fs.scrub(reason));
    }

    /// Calls about one file since the last look; those about others are forgotten.
    pub(crate) fn take_calls(&self, path: &str) -> Vec<Call> {
        let (fs, path) = self.at(path);
        let mut calls = fs.take_calls();
        calls.retain(|call| call.path == path);
        calls
    }

    pub(crate) fn take_breaches(&self) -> Vec<String> {
        self.0.iter().flat_map(|fs| fs.take_breaches()).collect()
    }
}
