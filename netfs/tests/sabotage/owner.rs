//! Who writes to files of its own while the cache directory is sabotaged: it knows every byte.

use std::sync::atomic::Ordering;

use netfs::{File, MemoryUse, Mount, ReadOptions};

use super::{Bench, Shared, cx, rng::Rng};

/// Only the owner changes them: one's map is in an attribute, the other's in a side file.
pub(crate) const OWN: [(&str, u64); 2] = [("own", 60_000), ("d/ownlarge", 6 << 20)];

pub(crate) struct Owner<'a> {
    shared: &'a Shared,
    mount: &'a Mount,
    rng: Rng,
    /// What the files hold.
    bytes: [Vec<u8>; OWN.len()],
}

impl<'a> Owner<'a> {
    pub(crate) fn new(shared: &'a Shared, mount: &'a Mount) -> Owner<'a> {
        let bytes = OWN.map(|(path, size)| {
            let mut bytes = vec![0; size as usize];
            shared.fs.snapshot(path).expect("it exists").content.fill(0, &mut bytes);
            bytes
        });
        Owner { shared, mount, rng: Rng::new(shared.seed ^ 0x0a11), bytes }
    }

    /// Writes and reads back until the run is over.
    pub(crate) fn run(&mut self) {
        while !self.shared.over.load(Ordering::Acquire) {
            // Opened anew each time, so that objects are closed and looked up again.
            let f = self.rng.index(OWN.len());
            let node = pollster::block_on(self.mount.walk(OWN[f].0, &cx())).expect("walk");
            let file = pollster::block_on(self.mount.open_rw(&node, &cx())).expect("open");
            for _ in 0..self.rng.within(0..4) {
                self.write(f, &file);
            }
            for _ in 0..self.rng.within(1..20) {
                self.read(f, &file);
            }
        }
        for (f, (path, _)) in OWN.iter().enumerate() {
            let snapshot = self.shared.fs.snapshot(path).expect("it exists");
            let right = snapshot.content.verify(0, &self.bytes[f]).is_ok();
            assert!(right, "seed {}: the server has other bytes of {path}", self.shared.seed);
        }
    }

    fn write(&mut self, f: usize, file: &File) {
        let at = self.rng.index(self.bytes[f].len());
        let len = self.rng.index(20_000).min(self.bytes[f].len() - at);
        let byte = self.rng.next() as u8;
        self.bytes[f][at..at + len].fill(byte);
        let written = pollster::block_on(file.write_at(at as u64, &self.bytes[f][at..at + len]));
        assert_eq!(written.expect("nothing fails"), len);
        pollster::block_on(file.fsync()).expect("the server takes it");
    }

    fn read(&mut self, f: usize, file: &File) {
        let (offset, len) = self.rng.span(OWN[f].1);
        let len = len.min(40_000).min(OWN[f].1.saturating_sub(offset));
        let memory = self.rng.pick(&[MemoryUse::Fill, MemoryUse::Bypass, MemoryUse::Bypass]);
        let mut buf = vec![0xaa; len as usize];
        let options = ReadOptions { memory, ..ReadOptions::default() };
        let n = pollster::block_on(file.read_at_with(offset, &mut buf, options)).expect("read");
        let at = (offset as usize).min(self.bytes[f].len());
        let right = n as u64 == len && buf == self.bytes[f][at..at + n];
        assert!(
            right,
            "seed {}: {n} wrong bytes of {} at {offset}+{len}",
            self.shared.seed, OWN[f].0
        );
    }
}

/// The next owner of the directory reads what was written.
pub(crate) fn check_all(bench: &Bench) {
    for (path, size) in OWN {
        (0..size).step_by(100_000).for_each(|at| bench.check(path, at, 100_000));
    }
}
