//! Holes, zeros, reservations.
//!
//! What a call did is taken from what the server was asked for: of a hole the part inside the file, as long as
//! it may be shown here to be. Done well it is exactly that, there and here, and written bytes in it are gone. A
//! server that makes no holes gets zeros, which are as any bytes written.

use std::ops::Range;

use netfs::{Errno, Error, FallocateMode};
use netfs_memory::{Call, Effect, Fault, Op};

use crate::{
    steps::{END_MAX, is_of_the_log},
    world::World,
};

/// What goes wrong with the one call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Trouble {
    None,
    /// The server cannot.
    Cannot,
    /// Refused, nothing done.
    Refused(Errno),
    /// Done, and nobody says so.
    Unknown(Effectively),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Effectively {
    LostReply,
    DoneBut(Errno),
}

impl Trouble {
    fn effect(self) -> Option<Effect> {
        Some(match self {
            Trouble::None => return None,
            Trouble::Cannot => Effect::Errno(Errno::EOPNOTSUPP),
            Trouble::Refused(errno) => Effect::Errno(errno),
            Trouble::Unknown(Effectively::LostReply) => Effect::LostReply,
            Trouble::Unknown(Effectively::DoneBut(errno)) => Effect::DoneBut(errno),
        })
    }

    /// The answer that comes of it.
    fn errno(self) -> Option<Errno> {
        match self {
            Trouble::None => None,
            Trouble::Cannot => Some(Errno::EOPNOTSUPP),
            Trouble::Refused(errno) | Trouble::Unknown(Effectively::DoneBut(errno)) => Some(errno),
            Trouble::Unknown(Effectively::LostReply) => Some(Errno::ETIMEDOUT),
        }
    }
}

/// One call, before it is judged.
struct Asked {
    of: usize,
    mode: FallocateMode,
    range: Range<u64>,
    /// What was to go wrong, with which call, and whether it did.
    trouble: Trouble,
    op: Op,
    hit: bool,
    /// How long the file might be shown to be.
    sizes: Vec<Range<u64>>,
    /// The version before.
    since: u64,
    /// What the server was asked for.
    calls: Vec<Call>,
    /// Bytes that went into memory: zeros.
    zeros: u64,
}

impl World {
    pub(crate) fn space(&mut self) {
        let Some(h) = self.handle(true) else { return };
        // Where the server makes no holes zeros are written, and these may have to wait for it.
        if self.hears_first(h) {
            return;
        }
        let (of, file) = (self.handles[h].of, self.file(h));
        let mode = self.rng.pick(&[
            FallocateMode::PunchHole,
            FallocateMode::PunchHole,
            FallocateMode::ZeroRange { keep_size: false },
            FallocateMode::ZeroRange { keep_size: true },
            FallocateMode::Allocate { keep_size: false },
            FallocateMode::Allocate { keep_size: true },
        ]);
        let (mut offset, bytes) = self.write_span(of);
        let mut len = bytes.len() as u64;
        if self.rng.chance(15) {
            len = END_MAX - offset;
        }
        if self.rng.chance(20)
            && let Some(added) = self.append_unheard(of)
        {
            // Over the end that is known here, perhaps not over the other one.
            offset = added.start.saturating_sub(self.rng.within(0..5000));
            len = self.rng.within(added.start..added.end + 1000) + 1 - offset;
        }
        let path = self.files[of].path.clone();
        if len == 0 {
            let result = self.drive(file.fallocate(offset, 0, mode));
            if !result.as_ref().is_err_and(|e| e.errno() == Errno::EINVAL) {
                self.fail(&format!("an empty range: {result:?}"));
            }
            return;
        }
        let (trouble, op) = self.trouble(mode);
        let injected = trouble
            .effect()
            .map(|effect| self.fs.inject_at(&path, Fault::on(op).effect(effect).times(1)));
        let since = self.fs.snapshot(&path).expect("it exists").version;
        let sizes = self.files[of].sizes(self.files[of].claim(self.now()));
        let zeros = self.bytes_taken();
        drop(self.fs.take_calls(&path));
        let result = self.drive(file.fallocate(offset, len, mode));
        let calls = self.fs.take_calls(&path);
        let hit = injected.as_ref().is_some_and(|fault| fault.hits() > 0);
        injected.iter().for_each(|fault| self.fs.remove_fault(fault));
        let range = offset..offset + len;
        let end = file.sizes().i_size;
        self.note(format!(
            "{mode:?} {path} {range:?}, {trouble:?} of {op:?}: {hit}; {result:?}, the file ends at {end}"
        ));
        let zeros = self.bytes_taken() - zeros;
        let asked = Asked { of, mode, range, trouble, op, hit, sizes, since, calls, zeros };
        match result {
            Ok(()) => self.space_done(&asked),
            Err(e) => self.space_failed(&asked, &e),
        }
    }

    /// Somebody else makes the file longer, and nobody is told.
    fn append_unheard(&mut self, of: usize) -> Option<Range<u64>> {
        let file = &self.files[of];
        if file.unit > 1 || file.choices() > 4 || file.size() > END_MAX {
            return None;
        }
        let (path, len) = (file.path.clone(), self.rng.within(1..20_000));
        let done = self.fs.change(&path).silently().append(len).expect("it is there");
        let (before, after) = self.content(&path, done.version - 1).expect("young");
        let now = self.now();
        self.files[of].theirs(&before, after, now);
        let end = self.files[of].size();
        self.note(format!("append {len} to {path} silently: up to {end}"));
        Some(before.len() as u64..before.len() as u64 + len)
    }

    /// What goes wrong, and with which of the calls this may take.
    fn trouble(&mut self, mode: FallocateMode) -> (Trouble, Op) {
        let op = match mode {
            FallocateMode::Allocate { .. } => Op::Allocate,
            FallocateMode::ZeroRange { keep_size: false } if self.rng.chance(30) => Op::SetSize,
            _ => Op::Deallocate,
        };
        let unknown = [Effectively::LostReply, Effectively::DoneBut(Errno::EIO)];
        let trouble = match self.rng.within(0..10) {
            0..5 => Trouble::None,
            5 | 6 if op != Op::SetSize => Trouble::Cannot,
            7 => Trouble::Refused(self.rng.pick(&[Errno::EIO, Errno::ENOSPC, Errno::EAGAIN])),
            8 => Trouble::Unknown(self.rng.pick(&unknown)),
            _ => Trouble::None,
        };
        (trouble, op)
    }

    /// Bytes that writes of this context have taken so far.
    pub(crate) fn bytes_taken(&self) -> u64 {
        let fields = self.netfs().stats().fields();
        fields.iter().find(|(name, _)| *name == "write_bytes").expect("it is counted").1
    }

    fn space_done(&mut self, asked: &Asked) {
        let Asked { of, mode, range, trouble, op, hit, .. } = asked;
        let cannot = *hit && *trouble == Trouble::Cannot && *op == Op::Deallocate;
        if *hit && !cannot {
            self.fail("the server did not do it, and nobody was told");
        }
        match mode {
            FallocateMode::Allocate { keep_size } => {
                self.covered.note("allocate: done");
                if !keep_size {
                    self.files[*of].reserved(range.end);
                    self.origin_is_as_long(*of, range.end);
                }
            }
            FallocateMode::PunchHole => self.hole_done(asked, cannot, true),
            FallocateMode::ZeroRange { keep_size } => {
                self.hole_done(asked, cannot, true);
                if !keep_size {
                    self.extended(asked);
                }
            }
            _ => self.fail("a mode the test does not know"),
        }
    }

    /// The hole is there, or zeros instead. `logged`: the log will not bring back what was in it.
    fn hole_done(&mut self, asked: &Asked, cannot: bool, logged: bool) {
        let Asked { of, range, sizes, .. } = asked;
        let name = if cannot { "zeros: written" } else { "hole: done" };
        self.covered.note(name);
        if cannot {
            self.is_cut_at(sizes, range, range.start + asked.zeros);
            return self.files[*of].wrote(range.start, &vec![0; asked.zeros as usize]);
        }
        self.grown_first(asked);
        let Some(call) = asked.calls.iter().rev().find(|c| c.op == Op::Deallocate) else {
            return self.is_cut_at(sizes, range, range.start);
        };
        let hole = call.range.clone().expect("a hole has a range");
        self.is_cut_at(sizes, range, hole.end);
        if hole.start != range.start {
            self.fail(&format!("a hole of {hole:?} was made"));
        }
        let hole = hole.start as usize..hole.end as usize;
        if logged {
            self.files[*of].punched(&hole);
        } else {
            self.covered.note("hole: the log failed");
            self.files[*of].punched_unlogged(&hole);
        }
        let origin = self.origin_bytes(&self.files[*of].path);
        let shown = hole.start.min(origin.len())..hole.end.min(origin.len());
        if let Some(at) = shown.clone().find(|at| origin[*at] != 0) {
            self.fail(&format!("byte {at} of the hole is {} on the origin", origin[at]));
        }
        if asked.sizes.len() > 1 {
            // Somebody has cut the file unheard, perhaps: written bytes that would have made it as long again are
            // in the hole.
            self.files[*of].may_end_at(origin.len());
        }
    }

    /// Whether `end` is where this context may have cut `range`: at the end of a state that may be shown.
    fn is_cut_at(&self, sizes: &[Range<u64>], range: &Range<u64>, end: u64) {
        let fits = |sizes: &Range<u64>| {
            if end == range.start {
                sizes.start <= range.start
            } else if end == range.end {
                sizes.end >= range.end
            } else {
                (sizes.start..=sizes.end).contains(&end)
            }
        };
        if !sizes.iter().any(fits) {
            self.fail(&format!("of {range:?} the part up to {end} was done; sizes {sizes:?}"));
        }
    }

    /// A hole that takes along the dirty bytes that were to make the server's file longer lets it grow first.
    fn grown_first(&mut self, asked: &Asked) {
        let hole = asked.calls.iter().position(|c| c.op == Op::Deallocate);
        let grown = asked.calls.iter().position(|c| c.op == Op::SetSize);
        if let (Some(hole), Some(grown)) = (hole, grown)
            && grown < hole
        {
            self.covered.note("hole: the file grew first");
            // As long as it is shown here, which is less than it may be where somebody has cut it unheard.
            let size = self.files[asked.of].size();
            let there = self.origin_bytes(&self.files[asked.of].path).len() as u64;
            self.files[asked.of].reserved(size.min(there));
        }
    }

    /// The file reaches as far as the zeros.
    fn extended(&mut self, asked: &Asked) {
        let end = asked.range.end;
        let hole = asked.calls.iter().rposition(|c| c.op == Op::Deallocate);
        let grown = asked.calls.iter().rposition(|c| c.op == Op::SetSize);
        if grown.is_some() && grown > hole {
            self.covered.note("zeros: the file grew");
            self.files[asked.of].reserved(end);
            self.origin_is_as_long(asked.of, end);
            return;
        }
        if asked.sizes.iter().all(|sizes| sizes.end < end) {
            self.fail("the file should have grown");
        }
    }

    fn origin_is_as_long(&self, of: usize, end: u64) {
        let size = self.origin_bytes(&self.files[of].path).len() as u64;
        if size < end {
            self.fail(&format!("the origin's file has {size} bytes, not {end}"));
        }
    }

    fn space_failed(&mut self, asked: &Asked, error: &Error) {
        let Asked { of, mode, range, trouble, op, hit, since, .. } = asked;
        // A server that makes no holes gets zeros: then something else failed.
        let zeros = *op == Op::Deallocate && *trouble == Trouble::Cannot;
        let explained = *hit && !zeros && trouble.errno() == Some(error.errno());
        if !explained {
            self.excuse(&format!("{mode:?}"), error);
        }
        self.covered.note(format!("{op:?}: {trouble:?}"));
        // Nobody else makes a hole fail: of two calls the first one was made.
        let hole_failed = *op == Op::Deallocate && *hit;
        if !hole_failed && asked.calls.iter().any(|c| c.op == Op::Deallocate) {
            self.hole_done(asked, false, !is_of_the_log(error));
        }
        if asked.zeros > 0 {
            self.files[*of].wrote(range.start, &vec![0; asked.zeros as usize]);
        }
        // Done, perhaps, and nobody could say so: as if somebody else had.
        let path = self.files[*of].path.clone();
        let now = self.now();
        for version in *since..self.fs.snapshot(&path).expect("it exists").version {
            if let Some((before, after)) = self.content(&path, version)
                && is_space(&before, &after, range)
            {
                self.files[*of].perhaps_punched(&before, after, now);
            }
        }
        if explained && error.errno() != Errno::ENOSPC && error.errno() != Errno::EOPNOTSUPP {
            self.files[*of].ask_again();
        }
    }
}

/// Whether the change of `before` to `after` is a hole in `range`, or a size that such a call makes.
fn is_space(before: &[u8], after: &[u8], range: &Range<u64>) -> bool {
    if before == after {
        return false;
    }
    let common = before.len().min(after.len());
    let differs = (0..common).filter(|i| before[*i] != after[*i]);
    let (start, end) = (range.start as usize, range.end as usize);
    let hole = differs.clone().all(|i| after[i] == 0 && (start..end).contains(&i));
    let grown = after.len() > before.len() && after[before.len()..].iter().all(|b| *b == 0);
    if before.len() == after.len() { hole } else { grown && differs.count() == 0 }
}
