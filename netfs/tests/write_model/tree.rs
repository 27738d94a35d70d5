//! The plain reference of a tree of names: what each directory may be shown to hold, oldest first, and what is
//! in the files. Others change names only, and never the bytes of these files.

use std::collections::{BTreeMap, BTreeSet};

use netfs::{
    Errno,
    clock::BootTime,
    remote::{FileKind, RenameHow},
};

use crate::modelling::life::Life;

pub(crate) type Key = Vec<u8>;

/// A name's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Key,
    pub(crate) kind: FileKind,
}

/// What a directory holds.
pub(crate) type Names = BTreeMap<String, Entry>;

/// All paths below the directory of the test: one name, or two.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Paths(pub(crate) BTreeMap<String, Entry>);

/// A change of names.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Make(String, FileKind),
    Link(String, String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, RenameHow),
}

pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Paths {
    pub(crate) fn kind(&self, path: &str) -> Option<FileKind> {
        self.0.get(path).map(|e| e.kind)
    }

    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        self.0.values().any(|e| e.key == key)
    }

    fn is_empty(&self, dir: &str) -> bool {
        !self.0.keys().any(|path| split(path).0 == dir)
    }

    /// What `dir` holds ("": the topmost one).
    pub(crate) fn names(&self, dir: &str) -> Names {
        let inside = self.0.iter().filter(|(path, _)| split(path).0 == dir);
        inside.map(|(path, entry)| (split(path).1.to_owned(), entry.clone())).collect()
    }

    /// Another name for the file with this key, whatever its names are.
    pub(crate) fn linked(&self, key: &[u8], to: &str) -> Result<Paths, Errno> {
        if self.0.contains_key(to) {
            return Err(Errno::EEXIST);
        }
        let file = self.0.values().find(|entry| entry.key == key).ok_or(Errno::ESTALE)?;
        if file.kind == FileKind::Dir {
            return Err(Errno::EPERM);
        }
        let mut after = self.clone();
        after.0.insert(to.to_owned(), file.clone());
        Ok(after)
    }

    /// What a server makes of `change`; what is made has no key yet.
    pub(crate) fn after(&self, change: &Change) -> Result<Paths, Errno> {
        let not_empty = Errno::from_raw(libc::ENOTEMPTY);
        let mut after = self.clone();
        match change {
            Change::Make(path, _) | Change::Link(_, path) if self.0.contains_key(path) => {
                return Err(Errno::EEXIST);
            }
            Change::Make(path, kind) => {
                after.0.insert(path.clone(), Entry { key: Vec::new(), kind: *kind });
            }
            Change::Link(from, to) => {
                let file = self.0.get(from).ok_or(Errno::ESTALE)?;
                return self.linked(&file.key, to);
            }
            Change::Unlink(path) => match self.kind(path) {
                None => return Err(Errno::ENOENT),
                Some(FileKind::Dir) => return Err(Errno::EISDIR),
                Some(_) => drop(after.0.remove(path)),
            },
            Change::Rmdir(path) => match self.kind(path) {
                None => return Err(Errno::ENOENT),
                Some(FileKind::Dir) if self.is_empty(path) => drop(after.0.remove(path)),
                Some(FileKind::Dir) => return Err(not_empty),
                Some(_) => return Err(Errno::ENOTDIR),
            },
            Change::Rename(from, to, how) => {
                let moved = self.0.get(from).ok_or(Errno::ENOENT)?;
                let other = self.0.get(to);
                match (how, other) {
                    (RenameHow::NoReplace, Some(_)) => return Err(Errno::EEXIST),
                    (RenameHow::Exchange, None) => return Err(Errno::ENOENT),
                    _ => {}
                }
                if other.is_some_and(|other| other.key == moved.key) {
                    return Ok(after);
                }
                let is_dir = moved.kind == FileKind::Dir;
                match other.map(|other| other.kind == FileKind::Dir) {
                    _ if *how == RenameHow::Exchange => {}
                    Some(true) if !is_dir => return Err(Errno::EISDIR),
                    Some(false) if is_dir => return Err(Errno::ENOTDIR),
                    Some(true) if !self.is_empty(to) => return Err(not_empty),
                    _ => {}
                }
                after.take(from, to, self);
                if *how == RenameHow::Exchange {
                    after.take(to, from, self);
                }
            }
        }
        Ok(after)
    }

    /// Gives `to` what is at `from` in `was`, with all below it.
    fn take(&mut self, from: &str, to: &str, was: &Paths) {
        let below = |path: &str, dir: &str| path == dir || path.starts_with(&format!("{dir}/"));
        self.0.retain(|path, entry| {
            let moved = below(path, from) && was.0.get(path) == Some(entry);
            let replaced = below(path, to) && was.0.get(path) == Some(entry);
            !moved && !replaced
        });
        for (path, entry) in was.0.iter().filter(|(path, _)| below(path, from)) {
            self.0.insert(format!("{to}{}", &path[from.len()..]), entry.clone());
        }
    }
}

/// The states a directory may be shown in.
struct Dir {
    states: Vec<(Names, Option<BootTime>)>,
    forgotten: usize,
}

/// Taken when a call starts.
#[derive(Clone, Copy)]
pub(crate) struct Claim(usize);

/// What is in a file.
#[derive(Clone, Default, Debug)]
pub(crate) struct Held {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: Option<u32>,
}

pub(crate) struct Tree {
    pub(crate) life: Life,
    dirs: BTreeMap<Key, Dir>,
    /// What is on the server.
    pub(crate) paths: Paths,
    pub(crate) held: BTreeMap<Key, Held>,
    /// Files written to since all was uploaded.
    pub(crate) unsent: BTreeSet<Key>,
    /// Written bytes have gone with their file, and nobody may have noticed yet.
    pub(crate) lost_some: bool,
    /// The same, of a file whose last name this context has not removed.
    pub(crate) lost_others: bool,
    /// Files whose last name this context has removed.
    pub(crate) ours_gone: Vec<Key>,
}

impl Tree {
    pub(crate) fn new(life: Life) -> Tree {
        Tree {
            life,
            dirs: BTreeMap::new(),
            paths: Paths::default(),
            held: BTreeMap::new(),
            unsent: BTreeSet::new(),
            lost_some: false,
            lost_others: false,
            ours_gone: Vec::new(),
        }
    }

    /// The newest state only may be shown, of every directory.
    pub(crate) fn ask_again(&mut self) {
        self.dirs.values_mut().for_each(|dir| dir.seen(usize::MAX));
    }

    /// Takes over what is on the server: `top` is the key of the topmost directory. `told`: everybody knows.
    pub(crate) fn is_now(&mut self, top: &[u8], paths: Paths, told: bool, now: BootTime) {
        let dirs = paths.0.iter().filter(|(_, e)| e.kind == FileKind::Dir);
        let dirs = dirs.map(|(path, e)| (path.as_str(), e.key.clone()));
        let dirs: Vec<_> = dirs.chain([("", top.to_vec())]).collect();
        for (path, key) in &dirs {
            let names = paths.names(path);
            let fresh = || Dir { states: vec![(names.clone(), None)], forgotten: 0 };
            let dir = self.dirs.entry(key.clone()).or_insert_with(fresh);
            let last = dir.states.last_mut().expect("never empty");
            if last.0 != names {
                last.1 = Some(now);
                dir.states.push((names, None));
                if told {
                    dir.seen(usize::MAX);
                }
            }
        }
        let lost = |key: &Key| !paths.has_key(key);
        self.lost_some |= self.unsent.iter().any(lost);
        self.unsent.retain(|key| !lost(key));
        self.held.retain(|key, _| !lost(key));
        self.paths = paths;
    }

    /// Whether the directory is known, and is there no more.
    pub(crate) fn is_gone(&self, dir: &[u8]) -> bool {
        self.dirs.contains_key(dir) && !self.paths.has_key(dir)
    }

    pub(crate) fn claim(&self, dir: &[u8], now: BootTime) -> Claim {
        let Some(dir) = self.dirs.get(dir) else { return Claim(0) };
        let vouched = |ended: &Option<BootTime>| ended.is_none_or(|e| self.life.covers(e, now));
        let first = dir.states.iter().position(|(_, ended)| vouched(ended)).unwrap_or(0);
        Claim(dir.forgotten + first)
    }

    /// What the directory may be shown to hold.
    pub(crate) fn states(&self, dir: &[u8], claim: Claim) -> Vec<&Names> {
        let Some(dir) = self.dirs.get(dir) else { return Vec::new() };
        let first = claim.0.saturating_sub(dir.forgotten);
        dir.states[first..].iter().map(|(names, _)| names).collect()
    }

    /// A caller was shown what `fits`; what is older is not shown any more.
    pub(crate) fn judge(
        &mut self,
        key: &[u8],
        claim: Claim,
        fits: impl Fn(&Names) -> bool,
    ) -> Result<(), String> {
        let Some(dir) = self.dirs.get_mut(key) else { return Err("an unknown directory".into()) };
        let first = claim.0.saturating_sub(dir.forgotten);
        match (first..dir.states.len()).find(|i| fits(&dir.states[*i].0)) {
            Some(i) => dir.seen(dir.forgotten + i),
            None => return Err(format!("of none of the states {:?}", &dir.states[first..])),
        }
        Ok(())
    }

    /// Only the newest state of this directory may be shown.
    pub(crate) fn is_known(&mut self, key: &[u8]) {
        if let Some(dir) = self.dirs.get_mut(key) {
            dir.seen(usize::MAX);
        }
    }
}

impl Dir {
    fn seen(&mut self, index: usize) {
        let gone = index.saturating_sub(self.forgotten).min(self.states.len() - 1);
        self.states.drain(..gone);
        self.forgotten += gone;
    }
}
