//! Two users' bytes are in the log when the machine stops: those of each are uploaded with their own rights
//! (`Builder::replay_as`), else with the mount's.

use std::ops::Range;

use netfs::{
    Durability, OpenOptions,
    remote::{Cred, Cx},
};
use netfs_memory::Op;

use crate::{refused::OTHER, world::World};

impl World {
    pub(crate) fn owners(&mut self) {
        if self.log.is_none() {
            return;
        }
        self.calm();
        let of = self.rng.index(self.files.len());
        if self.cache_hangs || self.files[of].unit > 1 || self.handles.iter().any(|h| h.lost) {
            return;
        }
        let path = self.files[of].path.clone();
        self.set_mode_of(of, 0o666);
        let start = self.rng.within(0..20_000);
        let middle = start + self.rng.within(1..5000);
        let end = middle + self.rng.within(1..5000);
        let mut ranges = [(0, start..middle), (OTHER, middle..end)];
        if self.rng.chance(50) {
            ranges.reverse();
        }
        for (uid, range) in &ranges {
            let as_user = Cx::new(Cred::new(*uid, *uid));
            let how = OpenOptions::new().read(true).write(true).durability(Durability::Journal);
            let Some(file) = self.fresh_how(of, &how, &as_user) else { return };
            let bytes = self.bytes(range.end - range.start);
            let result = self.drive(file.write_at(range.start, &bytes));
            self.wrote(of, range.start, &bytes, &result);
            match self.drive(file.fsync()) {
                Ok(()) => self.files[of].durable.fsynced(),
                Err(e) => self.excuse("fsync", &e),
            }
        }
        self.note(format!("two users' bytes of {path} are in the log: {ranges:?}; crash"));
        self.end_life();
        let there = self.origin_bytes(&path);
        self.tree_as_on_server();
        drop(self.fs.take_calls(&path));
        self.start();
        self.judge_replay();
        self.calm();
        self.judge_owners(&path, &ranges, &there);
    }

    /// What the server did not have it got on behalf of whoever wrote it.
    fn judge_owners(&mut self, path: &str, ranges: &[(u32, Range<u64>)], there: &[u8]) {
        let now = self.origin_bytes(path);
        let mut calls = self.fs.take_calls(path);
        calls.retain(|call| call.op == Op::Write);
        for (uid, range) in ranges {
            let user = if self.replay_as_owner { *uid } else { 0 };
            for at in range.clone() {
                let has = |bytes: &[u8]| bytes.get(at as usize).copied();
                if has(there) == has(&now) {
                    continue;
                }
                let covers = |range: &Range<u64>| range.contains(&at);
                let call = calls.iter().rfind(|call| call.range.as_ref().is_some_and(covers));
                if call.is_none_or(|call| call.uid != user) {
                    self.fail(&format!("{path}: byte {at} of {uid} was sent by {call:?}"));
                }
                self.covered.note(format!("replayed as {user}, written by {uid}"));
            }
        }
    }
}
