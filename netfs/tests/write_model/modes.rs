//! Writes that are not plain: of several pieces, synchronous, past the caches; and hints.

use std::io::IoSlice;

use bytes::Bytes;
use netfs::{Advice, Errno, Error, File, Sync, WriteOptions};
use netfs_memory::{Fault, Op};

use crate::world::World;

/// How bytes are given.
#[derive(Clone, Copy, Debug)]
enum Given {
    Slice,
    Parts,
    Bytes,
}

/// What is asked of one write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) direct: bool,
    /// It returns when the server has the bytes on stable storage.
    pub(crate) waits: bool,
}

impl World {
    /// A write in some other way, by a handle opened for plain ones.
    pub(crate) fn write_some_way(&mut self) {
        let fit = |h: &crate::world::Handle| h.writable && !h.lost;
        let fit: Vec<usize> = (0..self.handles.len()).filter(|&h| fit(&self.handles[h])).collect();
        if fit.is_empty() {
            return;
        }
        let h = self.rng.pick(&fit);
        let (of, file) = (self.handles[h].of, self.file(h));
        let unbuffered = self.rng.chance(45);
        let sync = self.rng.pick(&[Sync::None, Sync::Data, Sync::Full]);
        let options = WriteOptions { unbuffered, sync, ..WriteOptions::default() };
        let (offset, bytes) = self.write_span(of);
        let asked = Asked { direct: unbuffered, waits: sync > Sync::None || self.waits(h) };
        if !unbuffered || self.rng.chance(80) {
            return self.write_with(of, &file, (offset, &bytes), options, asked);
        }
        // Its second call fails, if it takes as many and nobody else's comes in between.
        let error = self.rng.pick(&[Errno::ENOSPC, Errno::EIO, Errno::EAGAIN]);
        let path = self.files[of].path.clone();
        let fault = Fault::on(Op::Write).errno(error).skip(1).times(1);
        let fault = self.fs.inject_at(&path, fault);
        let suspect = std::mem::replace(&mut self.suspect, true);
        self.write_with(of, &file, (offset, &bytes), options, asked);
        self.fs.remove_fault(&fault);
        self.suspect = suspect || fault.hits() > 0;
    }

    /// Writes, by `options` and however `file` was opened (together: `asked`), and judges it.
    pub(crate) fn write_with(
        &mut self,
        of: usize,
        file: &File,
        (offset, bytes): (u64, &[u8]),
        options: WriteOptions<'_>,
        asked: Asked,
    ) {
        self.write_given(of, file, (offset, None, bytes), options, asked);
    }

    /// The same at an offset that is none, for the bytes go to the end.
    pub(crate) fn write_landing(
        &mut self,
        of: usize,
        file: &File,
        (offset, lands, bytes): (u64, u64, &[u8]),
        asked: Asked,
    ) {
        let options = WriteOptions::default();
        self.write_given(of, file, (offset, Some(lands), bytes), options, asked);
    }

    fn write_given(
        &mut self,
        of: usize,
        file: &File,
        (offset, lands, bytes): (u64, Option<u64>, &[u8]),
        options: WriteOptions<'_>,
        asked: Asked,
    ) {
        let given = self.rng.pick(&[Given::Slice, Given::Parts, Given::Bytes]);
        let cuts = [self.rng.index(bytes.len() + 1), self.rng.index(bytes.len() + 1)];
        let (first, second) = (cuts[0].min(cuts[1]), cuts[0].max(cuts[1]));
        let parts = [&bytes[..first], &bytes[first..second], &bytes[second..]].map(IoSlice::new);
        let taken = self.bytes_taken();
        let result = self.drive(async {
            match given {
                Given::Slice => file.write_at_with(offset, bytes, options).await,
                Given::Parts => file.write_vectored_at(offset, &parts, options).await,
                Given::Bytes => {
                    file.write_bytes_at(offset, Bytes::copy_from_slice(bytes), options).await
                }
            }
        });
        let taken = (self.bytes_taken() - taken) as usize;
        let path = self.files[of].path.clone();
        let len = bytes.len();
        self.note(format!("write {given:?} {asked:?} {path} {offset}+{len}: {result:?}"));
        self.landed(of, lands.unwrap_or(offset), (bytes, taken), asked, &result);
    }

    /// Judges a write whose bytes, of which so many were taken, go to `offset`.
    pub(crate) fn landed(
        &mut self,
        of: usize,
        offset: u64,
        (bytes, taken): (&[u8], usize),
        asked: Asked,
        result: &Result<usize, Error>,
    ) {
        let len = bytes.len();
        if let Ok(n) = *result
            && (n > len || n == 0 && len > 0 || n < len && !self.suspect || n != taken)
        {
            self.fail(&format!("{n} bytes were written, {taken} counted"));
        }
        if asked.direct {
            self.wrote_direct(of, offset, bytes, result);
        } else {
            self.wrote_waiting(of, offset, &bytes[..taken], asked.waits, result);
        }
    }

    /// A write into memory, of which `bytes` went in; one that waited has brought them to the server.
    fn wrote_waiting(
        &mut self,
        of: usize,
        offset: u64,
        bytes: &[u8],
        waits: bool,
        result: &Result<usize, Error>,
    ) {
        self.files[of].wrote(offset, bytes);
        match result {
            Ok(_) if !waits => self.covered.note("write: several ways"),
            Ok(n) => {
                self.covered.note("write, waiting: done");
                self.is_there(of, offset, *n as u64);
            }
            Err(_) if !waits && !bytes.is_empty() => self.fail("bytes were written by an error"),
            Err(e) => self.excuse("write, waiting", e),
        }
    }

    /// The server has this range on stable storage, as it is shown here.
    pub(crate) fn is_there(&mut self, of: usize, offset: u64, len: u64) {
        if len == 0 {
            return;
        }
        let origin = self.origin_bytes(&self.files[of].path);
        let range = offset as usize..(offset + len) as usize;
        let judged = self.files[of].settle_range(&range, &origin);
        self.check(judged);
        let durable = self.fs.durable(&self.files[of].path).expect("it exists");
        let end = range.end.min(origin.len());
        let kept = durable.read(0, end);
        if (durable.size() as usize) < end
            || kept.get(range.start..) != origin.get(range.start..end)
        {
            self.fail("not all of it would survive a restart of the server");
        }
    }

    /// A write past the caches: exactly the first `n` bytes are on the server; of the others it may have taken
    /// some if nobody could say.
    pub(crate) fn wrote_direct(
        &mut self,
        of: usize,
        offset: u64,
        bytes: &[u8],
        result: &Result<usize, Error>,
    ) {
        let n = *result.as_ref().unwrap_or(&0);
        self.files[of].wrote(offset, &bytes[..n]);
        if n > 0 {
            self.covered.note("write, direct: done");
            self.is_there(of, offset, n as u64);
            self.files[of].ask_again();
        }
        if n < bytes.len() {
            self.covered.note(if n > 0 { "write, direct: short" } else { "write, direct: failed" });
            self.perhaps_sent(of, offset + n as u64, &bytes[n..]);
        }
        if let Err(e) = result {
            self.excuse("write, direct", e);
        }
    }

    /// Takes in what the server has of bytes that a call could not vouch for: as if somebody else had written
    /// them. A restart of the server may take them again.
    fn perhaps_sent(&mut self, of: usize, offset: u64, bytes: &[u8]) {
        let after = self.origin_bytes(&self.files[of].path);
        let shown = self.files[of].newest().bytes.clone();
        let at = |i: usize| offset as usize + i;
        let sent = |i: &usize| {
            after.get(at(*i)) == Some(&bytes[*i]) && shown.get(at(*i)) != Some(&bytes[*i])
        };
        let sent: Vec<usize> = (0..bytes.len()).filter(sent).collect();
        let Some(last) = sent.last() else { return };
        let mut before = after.clone();
        for i in &sent {
            before[at(*i)] = shown.get(at(*i)).copied().unwrap_or(0);
        }
        if after.len() == at(*last) + 1 {
            before.truncate(shown.len().max(at(sent[0])));
        }
        let now = self.now();
        self.covered.note("write, direct: more than was said");
        self.files[of].theirs(&before, after, now);
        self.files[of].given_up = true;
    }

    /// Changes nothing that anybody is shown.
    pub(crate) fn hint(&mut self) {
        if self.rng.chance(25) {
            let bytes = self.rng.pick(&[1 << 19, 1 << 20, 2 << 20, 4 << 20]);
            let now = self.netfs().set_budget(bytes);
            self.covered.note(format!("set_budget: {}", now.is_ok()));
            return self.note(format!("set_budget {bytes}: {now:?}"));
        }
        let Some(h) = self.handle(false) else { return };
        let (of, file) = (self.handles[h].of, self.file(h));
        let (offset, len) = self.rng.span(self.files[of].size());
        let path = self.files[of].path.clone();
        let said = match self.rng.within(0..4) {
            0 => {
                let evicted = self.drive(file.evict(offset, len));
                self.covered.note("evict");
                format!("evict: {evicted:?}")
            }
            1 => {
                self.covered.note("start_writeback");
                format!("start_writeback: {:?}", file.start_writeback(offset, len))
            }
            _ => {
                let advice = self.rng.pick(&[
                    Advice::Normal,
                    Advice::Sequential,
                    Advice::Random,
                    Advice::WillNeed,
                    Advice::DontNeed,
                    Advice::DontNeed,
                    Advice::NoReuse,
                ]);
                self.covered.note("advise");
                format!("{advice:?}: {:?}", file.advise(offset, len, advice))
            }
        };
        if said.contains("Err") {
            self.fail(&said);
        }
        self.note(format!("{path} {offset}+{len} {said}"));
    }
}
