//! One run: what is done, and what must come of it.

use std::ops::Range;

use bytes::Bytes;
use netfs::{FallocateMode, MemoryUse, ReadOptions, Sync, WriteOptions};

use crate::{
    op::{How, Op, Space, Way},
    origin::Origin,
    rng::Rng,
    subject::{Style, Subject, open},
};

pub(crate) struct Exerciser {
    style: Style,
    rng: Rng,
    origin: Origin,
    /// `None` only in the middle of a restart.
    subject: Option<Subject>,
    /// What the file holds.
    good: Vec<u8>,
    /// What was done.
    done: Vec<Op>,
    /// Read and written, and of these, as the contexts count: uploaded and read from disk.
    bytes: (u64, u64),
    counted: (u64, u64),
}

impl Exerciser {
    pub(crate) fn new(style: Style) -> Exerciser {
        let origin = Origin::new(&style);
        let subject = Some(Subject::new(&style, &origin));
        let rng = Rng::new(style.seed);
        Exerciser {
            style,
            rng,
            origin,
            subject,
            good: Vec::new(),
            done: Vec::new(),
            bytes: (0, 0),
            counted: (0, 0),
        }
    }

    fn subject(&self) -> &Subject {
        self.subject.as_ref().expect("running")
    }

    /// One operation of the seed's sequence.
    pub(crate) fn random(&mut self) {
        let op = match self.rng.within(0..1000) {
            0..=299 => self.a_read(),
            300..=349 => self.a_space(),
            350..=699 => {
                let (offset, len) = self.span(self.style.max_size);
                let how = match self.rng.within(0..20) {
                    0 => Way::Sync,
                    1 => Way::Direct,
                    _ => Way::Buffered,
                };
                Op::Write { how, offset, len }
            }
            700..=749 => Op::Append { len: self.aligned(self.style.max_len) },
            750..=849 => Op::Truncate { size: self.a_size() },
            850..=899 => {
                let (offset, len) = self.span(self.good.len() as u64);
                Op::Flush { offset, len }
            }
            900..=929 => Op::Fsync,
            930..=959 => Op::CloseOpen,
            960..=979 => Op::DropMemory,
            980..=989 => {
                let (offset, len) = self.span(self.good.len() as u64);
                Op::Evict { offset, len }
            }
            990..=997 => Op::CheckAll,
            _ => Op::Restart,
        };
        self.run(op);
    }

    fn a_read(&mut self) -> Op {
        // Also past the end of the file.
        let (offset, len) = self.span(self.good.len() as u64 + self.style.max_len);
        let how = match self.rng.within(0..10) {
            0 => How::Slices,
            1 => How::Bypass,
            2 => How::Unbuffered,
            _ => How::Copy,
        };
        Op::Read { how, offset, len }
    }

    fn a_space(&mut self) -> Op {
        let what = match self.rng.within(0..8) {
            0..=2 => Space::Punch,
            3 | 4 => Space::Zero,
            5 => Space::ZeroKeepSize,
            6 => Space::Allocate,
            _ => Space::AllocateKeepSize,
        };
        let (offset, len) = self.span(self.style.max_size);
        Op::Space { what, offset, len }
    }

    /// As often down, and to the end or a page's edge, as anywhere.
    fn a_size(&mut self) -> u64 {
        let size = self.good.len() as u64;
        match self.rng.within(0..4) {
            0 => self.aligned(size),
            1 => self.aligned(size) / 4096 * 4096,
            2 => (size + self.aligned(9000)).min(self.style.max_size),
            _ => self.aligned(self.style.max_size),
        }
    }

    fn aligned(&mut self, below: u64) -> u64 {
        let n = self.rng.within(0..below.max(1) + 1);
        n / self.style.align * self.style.align
    }

    fn span(&mut self, size: u64) -> (u64, u64) {
        let offset = self.aligned(size.min(self.style.max_size));
        let len = self.aligned(self.style.max_len);
        (offset, len.min(self.style.max_size - offset))
    }

    /// Does it, and looks.
    pub(crate) fn run(&mut self, op: Op) {
        self.done.push(op);
        match op {
            Op::Read { how, offset, len } => self.read(how, offset, len),
            Op::Write { how, offset, len } => self.write(how, offset, len),
            Op::Space { what, offset, len } => self.space(what, offset, len),
            Op::Evict { offset, len } => {
                let result = self.subject().file.blocking().evict(offset, len);
                self.right(result.is_ok(), || format!("{result:?}"));
            }
            Op::Append { len } => {
                let end = self.good.len() as u64;
                let bytes = self.pattern(end, len.min(self.style.max_size.saturating_sub(end)));
                let at = self.subject().file.blocking().append(&bytes);
                let there = end..end + bytes.len() as u64;
                self.right(at.as_ref().ok() == Some(&there), || format!("{at:?}, not {there:?}"));
                self.put(end, &bytes);
            }
            Op::Truncate { size } => {
                let result = self.subject().file.blocking().set_len(size);
                self.right(result.is_ok(), || format!("{result:?}"));
                self.good.resize(size as usize, 0);
            }
            Op::Flush { offset, len } => {
                let result = self.subject().file.blocking().flush_range(offset, len);
                self.right(result.is_ok(), || format!("{result:?}"));
                self.flushed(offset, len);
            }
            Op::Fsync => self.fsync(),
            Op::CloseOpen => self.close_open(),
            Op::DropMemory => self.subject().netfs().drop_memory(),
            Op::Restart => {
                self.count();
                let old = self.subject.take().expect("running");
                self.subject = Some(old.restart(&self.style, &self.origin));
                self.on_the_origin();
            }
            Op::CheckAll => self.check_all(),
        }
        let size = self.subject().file.sizes().i_size;
        let good = self.good.len() as u64;
        self.right(size == good, || format!("the size is {size}, not {good}"));
    }

    fn write(&mut self, how: Way, offset: u64, len: u64) {
        let bytes = self.pattern(offset, len);
        let options = match how {
            Way::Buffered => WriteOptions::default(),
            Way::Sync => WriteOptions { sync: Sync::Data, ..WriteOptions::default() },
            Way::Direct => WriteOptions::unbuffered(),
        };
        let file = self.subject().file.blocking();
        // Every other one lends its bytes.
        let wrote = if self.done.len().is_multiple_of(2) {
            file.write_bytes_at(offset, Bytes::from(bytes.clone()), options)
        } else {
            file.write_at_with(offset, &bytes, options)
        };
        self.right(wrote.as_ref().ok() == Some(&bytes.len()), || format!("{wrote:?}"));
        self.put(offset, &bytes);
        if how != Way::Buffered {
            self.flushed(offset, len);
        }
    }

    fn space(&mut self, what: Space, offset: u64, len: u64) {
        let (mode, zeros, grows) = match what {
            Space::Punch => (FallocateMode::PunchHole, true, false),
            Space::Zero => (FallocateMode::ZeroRange { keep_size: false }, true, true),
            Space::ZeroKeepSize => (FallocateMode::ZeroRange { keep_size: true }, true, false),
            Space::Allocate => (FallocateMode::Allocate { keep_size: false }, false, true),
            Space::AllocateKeepSize => (FallocateMode::Allocate { keep_size: true }, false, false),
        };
        if len == 0 {
            return;
        }
        let result = self.subject().file.blocking().fallocate(offset, len, mode);
        self.right(result.is_ok(), || format!("{result:?}"));
        let (start, end) = (offset as usize, (offset + len) as usize);
        if grows && self.good.len() < end {
            self.good.resize(end, 0);
        }
        let size = self.good.len();
        if zeros {
            self.good[start.min(size)..end.min(size)].fill(0);
        }
    }

    /// Bytes that say where they are and which operation wrote them.
    fn pattern(&self, offset: u64, len: u64) -> Vec<u8> {
        let count = self.done.len() as u64;
        (offset..offset + len).map(|at| (count ^ (at % 251) ^ (at >> 8)) as u8).collect()
    }

    fn put(&mut self, offset: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = offset as usize + bytes.len();
        if self.good.len() < end {
            self.good.resize(end, 0);
        }
        self.good[offset as usize..end].copy_from_slice(bytes);
        self.bytes.1 += bytes.len() as u64;
    }

    fn expected(&self, offset: u64, len: u64) -> &[u8] {
        let size = self.good.len();
        let start = (offset as usize).min(size);
        &self.good[start..((offset + len) as usize).min(size).max(start)]
    }

    fn read(&mut self, how: How, offset: u64, len: u64) {
        let file = &self.subject().file;
        let mut bytes = vec![0xa5; len as usize];
        let options = match how {
            How::Bypass => ReadOptions { memory: MemoryUse::Bypass, ..ReadOptions::default() },
            How::Unbuffered => ReadOptions { unbuffered: true, ..ReadOptions::default() },
            How::Copy | How::Slices => ReadOptions::default(),
        };
        let read = match how {
            How::Slices => file.blocking().read_slices(offset, len).map(|slices| {
                bytes.clear();
                slices.iter().for_each(|slice| bytes.extend_from_slice(slice));
                bytes.len()
            }),
            _ => file.blocking().read_at_with(offset, &mut bytes, options),
        };
        match read {
            Ok(n) => self.same("read", offset, &bytes[..n], self.expected(offset, len)),
            Err(e) => self.right(false, || format!("{e:?}")),
        }
        self.bytes.0 += bytes.len() as u64;
    }

    fn fsync(&mut self) {
        let result = self.subject().file.blocking().fsync();
        self.right(result.is_ok(), || format!("{result:?}"));
        self.on_the_origin();
    }

    fn close_open(&mut self) {
        let mount = self.subject().mount.clone();
        let new = open(&mount);
        let subject = self.subject.as_mut().expect("running");
        let old = std::mem::replace(&mut subject.file, new);
        let result = pollster::block_on(old.close());
        self.right(result.is_ok(), || format!("close: {result:?}"));
        self.on_the_origin();
    }

    fn check_all(&mut self) {
        let file = open(&self.subject().mount);
        let mut bytes = vec![0; self.style.max_size as usize + 1];
        let read = file.blocking().read_at(0, &mut bytes);
        match read {
            Ok(n) => self.same("the whole file", 0, &bytes[..n], &self.good),
            Err(e) => self.right(false, || format!("{e:?}")),
        }
        self.fsync();
    }

    /// A range that has been flushed is on the origin, as far as that has it.
    fn flushed(&self, offset: u64, len: u64) {
        let there = self.origin.bytes();
        let end = ((offset + len) as usize).min(self.good.len());
        let start = (offset as usize).min(end);
        // What was never written need not be: a hole at the end.
        let cut = there.len().min(end).max(start);
        let held = if start < there.len() { &there[start..cut] } else { &[] };
        self.same("flushed", offset, held, &self.good[start..start + held.len()]);
        let rest = &self.good[start + held.len()..end];
        self.right(rest.iter().all(|&b| b == 0), || "flushed bytes are not on the origin".into());
    }

    fn on_the_origin(&self) {
        self.same("the origin", 0, &self.origin.bytes(), &self.good);
    }

    fn same(&self, what: &str, offset: u64, is: &[u8], should: &[u8]) {
        self.right(is.len() == should.len(), || {
            format!("{what}: {} bytes at {offset:#x}, not {}", is.len(), should.len())
        });
        if is == should {
            return;
        }
        let bad: Vec<usize> = (0..is.len()).filter(|&i| is[i] != should[i]).collect();
        let first = bad[0];
        let at = offset + first as u64..offset + bad[bad.len() - 1] as u64 + 1;
        self.right(false, || {
            format!(
                "{what}: {} bytes differ, in {at:#x?}, the first one is {:#x}, not {:#x}; {}",
                bad.len(),
                is[first],
                should[first],
                self.elsewhere(&at)
            )
        });
    }

    /// Where else the bytes of `range` are right: what a wrong one came from.
    fn elsewhere(&self, range: &Range<u64>) -> String {
        let should = self.expected(range.start, range.end - range.start);
        let origin = self.origin.bytes();
        let on_origin = origin.get(range.start as usize..range.end as usize) == Some(should);
        let mut told = format!("on the origin: {on_origin}");
        let Some(subject) = &self.subject else { return told };
        let mut look = |how: &str, options| {
            let mut bytes = vec![0xa5; should.len()];
            let read = subject.file.blocking().read_at_with(range.start, &mut bytes, options);
            let right = read.map(|n| n == should.len() && bytes == should);
            told += &format!(", {how}: {right:?}");
        };
        let stats = subject.netfs().stats();
        look("again", ReadOptions::default());
        look("past memory", ReadOptions { memory: MemoryUse::Bypass, ..ReadOptions::default() });
        subject.netfs().drop_memory();
        look("after drop_memory", ReadOptions::default());
        look("unbuffered", ReadOptions { unbuffered: true, ..ReadOptions::default() });
        let memory = subject.netfs().memory();
        told + &format!("; {:?}, {memory:?}, {stats:?}", subject.file.sizes())
    }

    /// Fails, with a file of what was done, unless it is right.
    fn right(&self, right: bool, why: impl FnOnce() -> String) {
        if right {
            return;
        }
        let Style { origin, cache, seed, .. } = &self.style;
        let name = format!("fsx-{origin:?}-{cache:?}-{seed}.ops").to_lowercase();
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let kept = std::fs::write(&path, self.replay());
        let last: Vec<String> = self.done.iter().rev().take(20).map(Op::to_string).collect();
        panic!(
            "seed {seed}, operation {}: {}\nthe last ones, newest first:\n  {}\n\
             all of them: {} ({kept:?}); repeat with NETFS_FSX_REPLAY",
            self.done.len(),
            why(),
            last.join("\n  "),
            path.display()
        );
    }

    /// The replay file of what was done so far.
    pub(crate) fn replay(&self) -> String {
        let mut text = format!("{}\n", self.style);
        self.done.iter().for_each(|op| text.push_str(&format!("{op}\n")));
        text
    }

    /// Adds up what a context has counted, before its end.
    fn count(&mut self) {
        let stats = self.subject().netfs().stats();
        self.counted.0 += stats.upload_bytes;
        self.counted.1 += stats.disk_hit_bytes;
    }

    /// A last look; says how much was done.
    pub(crate) fn finish(mut self) -> String {
        self.check_all();
        self.count();
        let ((read, written), (uploaded, from_disk)) = (self.bytes, self.counted);
        let said = format!(
            "{} operations, {read} bytes read, {written} written, {uploaded} uploaded, {from_disk} from disk",
            self.done.len(),
        );
        self.subject.take().expect("running").end();
        said
    }
}
