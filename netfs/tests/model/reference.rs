//! The plain reference: for each file every version it ever had, and the oldest one that may still be
//! served. It knows nothing of folios, epochs or cookies. The rule is stated in `main.rs`.

use std::{collections::HashMap, sync::Arc};

use netfs::{Errno, Error, clock::BootTime, remote::Promise};
use netfs_memory::{Event, MemoryFs, Snapshot};

use crate::modelling::life::Life;

struct Version {
    snapshot: Arc<Snapshot>,
    /// When another one replaced it.
    ended: Option<BootTime>,
}

/// One file, under its key for ever.
pub(crate) struct FileRef {
    life: Life,
    versionless: bool,
    versions: Vec<Version>,
    /// Nothing older than this one may be read any more.
    floor: usize,
    gone: Option<BootTime>,
    told_gone: bool,
}

impl FileRef {
    fn newest(&self) -> usize {
        self.versions.len() - 1
    }

    /// A version was found. Without versions nothing ties what else is cached to it.
    fn seen(&mut self, index: usize) {
        if !self.versionless {
            self.floor = self.floor.max(index);
        }
    }

    fn oldest_allowed(&self, now: BootTime) -> usize {
        let vouched = |v: &Version| v.ended.is_none_or(|e| self.life.covers(e, now));
        (self.floor..self.newest()).find(|&i| vouched(&self.versions[i])).unwrap_or(self.newest())
    }
}

/// What a read that starts now may return.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    key: Vec<u8>,
    oldest: usize,
    must_be_gone: bool,
}

#[derive(Default)]
pub(crate) struct Reference {
    files: HashMap<Vec<u8>, FileRef>,
}

impl Reference {
    /// Looks at the origin after anything may have changed: first the contents, then what was told.
    pub(crate) fn observe(&mut self, fs: &MemoryFs, now: BootTime) {
        let mut seen = Vec::new();
        for path in fs.files() {
            let (Ok(key), Ok(snapshot)) = (fs.key(&path), fs.snapshot(&path)) else { continue };
            seen.push(key.clone());
            match self.files.get_mut(&key) {
                None => {
                    let file = FileRef {
                        life: Life::UntilTold,
                        versionless: false,
                        versions: vec![Version { snapshot, ended: None }],
                        floor: 0,
                        gone: None,
                        told_gone: false,
                    };
                    self.files.insert(key, file);
                }
                Some(file) => {
                    let last = file.versions.last_mut().expect("never empty");
                    if last.snapshot.version != snapshot.version {
                        last.ended = Some(now);
                        file.versions.push(Version { snapshot, ended: None });
                    }
                }
            }
        }
        for (key, file) in &mut self.files {
            if file.gone.is_none() && !seen.contains(key) {
                file.gone = Some(now);
            }
        }
        for event in fs.take_events() {
            self.told(&event);
        }
    }

    fn told(&mut self, event: &Event) {
        match event {
            Event::Break { key } | Event::Deleted { key } => self.ask_again(key),
            _ => self.ask_again_all(),
        }
    }

    /// Nothing known of this file counts any more.
    pub(crate) fn ask_again(&mut self, key: &[u8]) {
        if let Some(file) = self.files.get_mut(key) {
            file.floor = file.newest();
            file.told_gone |= file.gone.is_some();
        }
    }

    /// The same for all files: a volume event, or a new process.
    pub(crate) fn ask_again_all(&mut self) {
        for file in self.files.values_mut() {
            file.floor = file.newest();
            file.told_gone |= file.gone.is_some();
        }
    }

    /// The promise a file's replies carry from its making on.
    pub(crate) fn promises(&mut self, key: &[u8], promise: &Promise, versionless: bool) {
        let file = self.files.get_mut(key).expect("observed before");
        file.life = Life::of(promise);
        file.versionless = versionless;
    }

    pub(crate) fn size(&self, key: &[u8]) -> u64 {
        let file = &self.files[key];
        file.versions[file.newest()].snapshot.content.size()
    }

    pub(crate) fn knows(&self, key: &[u8]) -> bool {
        self.files.contains_key(key)
    }

    pub(crate) fn is_gone(&self, key: &[u8]) -> bool {
        self.files[key].gone.is_some()
    }

    /// Taken when a read starts.
    pub(crate) fn claim(&self, key: &[u8], now: BootTime) -> Claim {
        let file = &self.files[key];
        let must_be_gone = file.gone.is_some_and(|g| file.told_gone || !file.life.covers(g, now));
        Claim { key: key.to_vec(), oldest: file.oldest_allowed(now), must_be_gone }
    }

    /// Judges what a read returned, when it has ended. `explained`: a fault was injected that may fail
    /// calls. `may_stop`: such a fault may also cut this read short.
    pub(crate) fn judge(
        &mut self,
        claim: &Claim,
        offset: u64,
        len: u64,
        result: &Result<Vec<u8>, Error>,
        explained: bool,
        may_stop: bool,
    ) -> Result<(), String> {
        let file = self.files.get_mut(&claim.key).expect("claimed before");
        match result {
            // Nothing was asked for, so nothing needs to be known.
            Ok(bytes) if len == 0 && bytes.is_empty() => Ok(()),
            Ok(_) if claim.must_be_gone => Err("bytes of a file that is known to be gone".into()),
            // An unbuffered read counts what came before the first failure (N-C16).
            Ok(bytes) if may_stop && !bytes.is_empty() && bytes.len() < len as usize => {
                let got = bytes.len() as u64;
                match_version(file, claim, offset, got, bytes).map(|oldest| file.seen(oldest))
            }
            Ok(bytes) => {
                let oldest = match_version(file, claim, offset, len, bytes)?;
                // What one reader has seen no later reader goes back behind.
                file.seen(oldest);
                Ok(())
            }
            Err(e) if matches!(e.errno(), Errno::ESTALE | Errno::ENOENT) && file.gone.is_some() => {
                Ok(())
            }
            Err(_) if explained => Ok(()),
            Err(e) => Err(format!("an error that no fault explains: {e:?}")),
        }
    }
}

impl Reference {
    /// The same for a size that was asked for.
    pub(crate) fn judge_size(
        &mut self,
        claim: &Claim,
        result: &Result<u64, Error>,
        explained: bool,
    ) -> Result<(), String> {
        let file = self.files.get_mut(&claim.key).expect("claimed before");
        match result {
            Ok(_) if claim.must_be_gone => Err("attributes of a file known to be gone".into()),
            Ok(size) => {
                let fits = |i: &usize| file.versions[*i].snapshot.content.size() == *size;
                let allowed = claim.oldest..file.versions.len();
                let oldest = allowed.clone().find(fits);
                let wrong = || format!("size {size} is of none of indices {allowed:?}");
                file.seen(oldest.ok_or_else(wrong)?);
                Ok(())
            }
            Err(e) if matches!(e.errno(), Errno::ESTALE | Errno::ENOENT) && file.gone.is_some() => {
                Ok(())
            }
            Err(_) if explained => Ok(()),
            Err(e) => Err(format!("an error that no fault explains: {e:?}")),
        }
    }
}

/// The oldest allowed version that explains the bytes.
fn match_version(
    file: &FileRef,
    claim: &Claim,
    offset: u64,
    len: u64,
    bytes: &[u8],
) -> Result<usize, String> {
    let allowed = claim.oldest..file.versions.len();
    let mut wrong = Vec::new();
    for i in allowed.clone() {
        let content = &file.versions[i].snapshot.content;
        if content.size().saturating_sub(offset).min(len) != bytes.len() as u64 {
            wrong.push(format!("version index {i} has {} bytes", content.size()));
            continue;
        }
        match content.verify(offset, bytes) {
            Ok(()) => return Ok(i),
            Err(mismatch) => wrong.push(format!("version index {i}: {mismatch}")),
        }
    }
    let sized = |i: usize| {
        let size = file.versions[i].snapshot.content.size();
        size.saturating_sub(offset).min(len) == bytes.len() as u64
    };
    if file.versionless && allowed.len() > 1 && allowed.clone().any(sized) {
        // Nothing tells versions of this file apart: each byte is of some allowed one.
        let content = |i: usize| &file.versions[i].snapshot.content;
        let all: Vec<_> = allowed.clone().map(|i| content(i).read(offset, bytes.len())).collect();
        if (0..bytes.len()).all(|at| all.iter().any(|version| version[at] == bytes[at])) {
            return Ok(claim.oldest);
        }
    }
    let older = (0..claim.oldest)
        .find(|&i| file.versions[i].snapshot.content.verify(offset, bytes).is_ok())
        .map_or(String::new(), |i| format!("; they are those of the forbidden index {i}"));
    Err(format!(
        "{} bytes at {offset} (asked {len}) match none of indices {allowed:?}{older}; life {:?}\n  {}",
        bytes.len(),
        file.life,
        wrong.join("\n  ")
    ))
}
