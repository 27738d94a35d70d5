//! Write groups: no byte of a later group is on the server while it lacks one of an earlier (N-C29, N-C42).
//!
//! Every version the server's file had since the last look is looked at, and what a restart of the server
//! would leave of it now. A byte of a group is told from what was there before it by its value: groups begin on
//! a file that is all on the server, and each write of a group adds another number to what the file held then.
//! What anybody else writes, cuts or punches is not followed any further.

use std::ops::Range;

use netfs::{WriteGroup, WriteOptions};

use crate::{modes::Asked, view::Ranges, world::World};

/// No byte is written so often.
const WRITES_MAX: u8 = 250;

/// The groups of a file.
pub(crate) struct Track {
    /// What the file held before.
    base: Vec<u8>,
    /// Writes so far.
    writes: u8,
    /// Whose a byte is, counted from 1.
    owner: Vec<u16>,
    value: Vec<u8>,
    /// Written in no group, since.
    others: Ranges,
    groups: u16,
    /// The last version that was looked at.
    seen: u64,
}

/// A group that may still be written in.
pub(crate) struct OpenGroup {
    pub(crate) of: usize,
    group: WriteGroup,
    number: u16,
    /// Bytes were written in it: those before it are over.
    begun: bool,
    /// A write in it has failed: those before it may be over.
    tried: bool,
}

impl Track {
    fn new(base: Vec<u8>, seen: u64) -> Track {
        let (owner, value) = (Vec::new(), Vec::new());
        Track { base, writes: 0, owner, value, others: Ranges::default(), groups: 0, seen }
    }

    fn bytes(&mut self, range: Range<usize>) -> Vec<u8> {
        self.writes += 1;
        range.map(|at| self.base.get(at).copied().unwrap_or(0).wrapping_add(self.writes)).collect()
    }

    fn wrote(&mut self, number: u16, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        self.owner.resize(self.owner.len().max(end), 0);
        self.value.resize(self.value.len().max(end), 0);
        self.value[at..end].copy_from_slice(bytes);
        self.owner[at..end].fill(number);
        for other in self.others.inside(&(at..end)) {
            self.owner[other].fill(0);
        }
    }

    /// These bytes are of no group any more.
    pub(crate) fn forget(&mut self, range: Range<usize>) {
        let end = range.end.min(self.owner.len());
        self.owner[range.start.min(end)..end].fill(0);
        self.others.add(range);
    }

    /// Fails if `content` has a byte of a group and lacks one of an earlier group.
    fn check(&self, content: &[u8]) -> Result<(), String> {
        let here = |at: usize| content.get(at) == Some(&self.value[at]);
        let owned = || (0..self.owner.len()).filter(|at| self.owner[*at] > 0);
        let Some(lacking) = owned().filter(|at| !here(*at)).min_by_key(|at| self.owner[*at]) else {
            return Ok(());
        };
        let early = self.owner[lacking];
        match owned().find(|at| self.owner[*at] > early && here(*at)) {
            Some(at) => Err(format!(
                "byte {at} of group {} is on the server, byte {lacking} of group {early} is not",
                self.owner[at]
            )),
            None => Ok(()),
        }
    }

    /// What was written in the groups up to this one, and not since.
    fn ranges(&self, number: u16) -> Vec<Range<usize>> {
        let owned = |of: &u16| (1..=number).contains(of);
        let (mut ranges, mut at) = (Vec::new(), 0);
        for run in self.owner.chunk_by(|a, b| owned(a) == owned(b)) {
            if owned(&run[0]) {
                ranges.push(at..at + run.len());
            }
            at += run.len();
        }
        ranges
    }

    /// Whether the server has all of the groups up to this one.
    fn has(&self, number: u16, content: &[u8]) -> Result<(), String> {
        let owned = |at: &usize| (1..=number).contains(&self.owner[*at]);
        let gone = |at: &usize| content.get(*at) != Some(&self.value[*at]);
        match (0..self.owner.len()).filter(owned).find(gone) {
            Some(at) => Err(format!("byte {at} of group {} is not there", self.owner[at])),
            None => Ok(()),
        }
    }
}

impl World {
    /// Something with groups.
    pub(crate) fn group(&mut self) {
        for _ in 0..self.rng.within(1..7) {
            self.check_groups();
            self.open_groups.retain(|open| self.files[open.of].track.is_some());
            match self.rng.within(0..10) {
                0..3 => self.begin_group(),
                3..9 => self.write_in_group(),
                _ => self.flush_group(),
            }
        }
        self.check_groups();
    }

    fn begin_group(&mut self) {
        let Some(h) = self.handle(true) else { return };
        let (of, file) = (self.handles[h].of, self.file(h));
        let path = self.files[of].path.clone();
        if self.files[of].track.as_ref().is_none_or(|t| t.writes > WRITES_MAX / 2) {
            if self.suspect || self.handles[h].lost || self.files[of].choices() > 1 {
                return;
            }
            self.fsync_of(h);
            let snapshot = self.fs.snapshot(&path).expect("it exists");
            let base = snapshot.content.read(0, snapshot.content.size() as usize);
            if !self.files[of].unsent.is_empty() || base != self.files[of].newest().bytes {
                return;
            }
            self.open_groups.retain(|open| open.of != of);
            self.files[of].track = Some(Track::new(base, snapshot.version));
        }
        let group = file.write_group();
        let track = self.files[of].track.as_mut().expect("made just now");
        track.groups += 1;
        let number = track.groups;
        self.note(format!("group {number} of {path}"));
        self.open_groups.push(OpenGroup { of, group, number, begun: false, tried: false });
    }

    fn write_in_group(&mut self) {
        if self.open_groups.is_empty() {
            return self.begin_group();
        }
        let g = self.rng.index(self.open_groups.len());
        let of = self.open_groups[g].of;
        let fit = |h: &usize| self.handles[*h].of == of && self.handles[*h].writable;
        let Some(h) = (0..self.handles.len()).find(fit) else { return };
        if self.handles[h].lost {
            return;
        }
        let (file, number) = (self.file(h), self.open_groups[g].number);
        let (mut offset, len) = self.rng.span(self.files[of].size());
        if self.rng.chance(70) {
            // Near each other, so that groups meet in a folio.
            offset %= 20_000;
        }
        let range = offset as usize..(offset + len.clamp(1, 6000)) as usize;
        let track = self.files[of].track.as_mut().expect("groups without are forgotten");
        if track.writes == WRITES_MAX || range.end > crate::steps::END_MAX as usize {
            return;
        }
        let bytes = track.bytes(range);
        let direct = self.rng.chance(10);
        let group = &self.open_groups[g].group;
        let options = WriteOptions { unbuffered: direct, ..WriteOptions::in_group(group) };
        let taken = self.bytes_taken();
        let result = self.drive(file.write_at_with(offset, &bytes, options));
        let taken = (self.bytes_taken() - taken) as usize;
        let path = self.files[of].path.clone();
        self.note(format!("write group {number} of {path} {offset}+{}: {result:?}", bytes.len()));
        let later = || self.open_groups.iter().filter(|o| o.of == of && o.number > number);
        let (over, perhaps) = (later().any(|o| o.begun), later().any(|o| o.tried));
        match &result {
            Ok(_) if over => self.fail("a group that is over was written in"),
            Err(e) if (over || perhaps) && e.errno() == netfs::Errno::EINVAL => {
                self.covered.note("group: over");
                return;
            }
            _ => {}
        }
        let open = &mut self.open_groups[g];
        (open.begun, open.tried) = (open.begun || taken > 0, true);
        let track = self.files[of].track.take();
        if direct {
            self.wrote_direct(of, offset, &bytes, &result);
        } else if self.waits(h) {
            self.landed(of, offset, (&bytes, taken), Asked { direct, waits: true }, &result);
        } else {
            self.wrote(of, offset, &bytes, &result);
        }
        if !direct || result.as_ref().is_ok_and(|n| *n == bytes.len()) {
            self.files[of].track = track;
        }
        let n = if direct { result.unwrap_or(0) } else { taken };
        if let Some(track) = &mut self.files[of].track {
            track.wrote(number, offset as usize, &bytes[..n]);
            self.covered.note("group: written in");
        }
    }

    fn flush_group(&mut self) {
        if self.open_groups.is_empty() {
            return;
        }
        let g = self.rng.index(self.open_groups.len());
        let OpenGroup { of, group, number, .. } = &self.open_groups[g];
        let (of, number) = (*of, *number);
        let result = self.drive(group.flush());
        let path = self.files[of].path.clone();
        self.note(format!("flush of group {number} of {path}: {result:?}"));
        match result {
            Err(e) => self.excuse("flush of a group", &e),
            Ok(()) => {
                self.covered.note("group: flushed");
                let durable = self.fs.durable(&path).expect("it exists");
                let durable = durable.read(0, durable.size() as usize);
                let Some(track) = &self.files[of].track else { return };
                self.check(track.has(number, &durable));
                let origin = self.origin_bytes(&path);
                for range in track.ranges(number) {
                    // The log brings nothing older back.
                    let judged = self.files[of].settle_range(&range, &origin);
                    self.check(judged);
                }
            }
        }
    }

    /// Looks at every version of the files with groups that it has not seen yet.
    pub(crate) fn check_groups(&mut self) {
        for of in 0..self.files.len() {
            let Some(mut track) = self.files[of].track.take() else { continue };
            let path = self.files[of].path.clone();
            let durable = self.fs.durable(&path).expect("it exists");
            let durable = durable.read(0, durable.size() as usize);
            let judged = track.check(&durable);
            self.check(judged.map_err(|why| format!("{path}, what would survive: {why}")));
            let newest = self.fs.snapshot(&path).expect("it exists").version;
            for version in track.seen..=newest {
                if let Some(content) = self.version(&path, version) {
                    let judged = track.check(&content);
                    self.check(judged.map_err(|why| format!("{path}, version {version}: {why}")));
                    self.covered.note("group: versions");
                }
            }
            track.seen = newest;
            self.files[of].track = Some(track);
        }
    }
}
