//! Whoever else has access to the cache directory, at work with everything a file system offers.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use rustix::fs::{XattrFlags, getxattr, removexattr, setxattr};

use crate::rng::Rng;

const ATTRIBUTES: [&str; 3] = ["user.netfs.hdr", "user.netfs.map", "user.netfs.vol"];
/// Copies kept of what files were, to be put back when their time is over.
const SAVED_MAX: usize = 12;
/// Most of a file that is copied: enough for every part of it, little of the bulk.
const COPY_MAX: u64 = 2 << 20;

struct Saved {
    path: PathBuf,
    bytes: Vec<u8>,
    attributes: Vec<(&'static str, Vec<u8>)>,
}

pub(crate) struct Saboteur {
    root: PathBuf,
    rng: Rng,
    saved: Vec<Saved>,
    /// What was done how often. Anything may fail: the cache is at work on the same files.
    pub(crate) done: BTreeMap<&'static str, u64>,
}

impl Saboteur {
    pub(crate) fn new(root: &Path, seed: u64) -> Saboteur {
        let rng = Rng::new(seed ^ 0x5ab0);
        Saboteur { root: root.to_owned(), rng, saved: Vec::new(), done: BTreeMap::new() }
    }

    /// One attempt at one thing.
    pub(crate) fn act(&mut self) {
        let mut files = Vec::new();
        walk(&self.root, &mut files);
        if files.is_empty() {
            return;
        }
        let (a, b) = (self.rng.pick(&files), self.rng.pick(&files));
        let (what, done) = match self.rng.within(0..34) {
            0..6 => ("flip a bit", self.flip(&a)),
            6..8 => ("truncate", self.resize(&a, false)),
            8 => ("extend", self.resize(&a, true)),
            9..11 => ("zero a page", self.zero(&a)),
            11 => ("delete", fs::remove_file(&a).ok()),
            12..14 => ("swap two files", swap(&a, &b)),
            14..16 => ("copy over another file", copy_over(&a, &b)),
            16..19 => ("flip a bit of an attribute", self.flip_attribute(&a)),
            19 => ("cut an attribute", self.cut_attribute(&a)),
            20 => ("remove an attribute", self.remove_attribute(&a)),
            21..23 => ("swap an attribute", self.swap_attribute(&a, &b)),
            23..27 => ("save a copy", self.save(&a)),
            27..30 => ("put an old copy's content back", self.put_back(false)),
            30..32 => ("put an old copy back", self.put_back(true)),
            32 => ("put something else there", self.squat(&a)),
            _ => ("delete a directory", self.delete_directory(&a)),
        };
        if done.is_some() {
            *self.done.entry(what).or_default() += 1;
        }
    }

    fn flip(&mut self, path: &Path) -> Option<()> {
        let file = File::options().read(true).write(true).open(path).ok()?;
        let at = self.rng.within(0..file.metadata().ok()?.len().max(1));
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).ok()?;
        byte[0] ^= 1 << self.rng.within(0..8);
        file.write_all_at(&byte, at).ok()
    }

    fn resize(&mut self, path: &Path, grow: bool) -> Option<()> {
        let file = File::options().write(true).open(path).ok()?;
        let len = file.metadata().ok()?.len();
        let to =
            if grow { len + self.rng.within(1..10_000) } else { self.rng.within(0..len.max(1)) };
        file.set_len(to).ok()
    }

    fn zero(&mut self, path: &Path) -> Option<()> {
        let file = File::options().write(true).open(path).ok()?;
        let pages = file.metadata().ok()?.len() / 4096;
        file.write_all_at(&[0; 4096], self.rng.within(0..pages.max(1)) * 4096).ok()
    }

    fn flip_attribute(&mut self, path: &Path) -> Option<()> {
        let (name, mut value) = self.attribute(path)?;
        let at = self.rng.index(value.len());
        value[at] ^= 1 << self.rng.within(0..8);
        set(path, name, &value)
    }

    fn cut_attribute(&mut self, path: &Path) -> Option<()> {
        let (name, value) = self.attribute(path)?;
        set(path, name, &value[..self.rng.index(value.len())])
    }

    fn remove_attribute(&mut self, path: &Path) -> Option<()> {
        let (name, _) = self.attribute(path)?;
        removexattr(path, name).ok()
    }

    fn swap_attribute(&mut self, a: &Path, b: &Path) -> Option<()> {
        let (name, value) = self.attribute(a)?;
        let other = get(b, name)?;
        set(a, name, &other)?;
        set(b, name, &value)
    }

    fn attribute(&mut self, path: &Path) -> Option<(&'static str, Vec<u8>)> {
        let name = self.rng.pick(&ATTRIBUTES);
        Some((name, get(path, name)?))
    }

    fn save(&mut self, path: &Path) -> Option<()> {
        let bytes = read_some(path)?;
        let attributes = ATTRIBUTES.iter().filter_map(|n| Some((*n, get(path, n)?))).collect();
        if self.saved.len() == SAVED_MAX {
            let at = self.rng.index(SAVED_MAX);
            self.saved.swap_remove(at);
        }
        self.saved.push(Saved { path: path.to_owned(), bytes, attributes });
        Some(())
    }

    /// What a file was some time, perhaps several versions ago: as a file of its own, or only its bytes
    /// or only some of its attributes, in the file that is there now.
    fn put_back(&mut self, whole: bool) -> Option<()> {
        if self.saved.is_empty() {
            return None;
        }
        let saved = &self.saved[self.rng.index(self.saved.len())];
        if whole {
            let fresh = self.root.join("fresh");
            fs::write(&fresh, &saved.bytes).ok()?;
            saved.attributes.iter().try_for_each(|(n, v)| set(&fresh, n, v))?;
            return fs::rename(&fresh, &saved.path).ok();
        }
        let what = self.rng.within(0..3);
        if what > 0 {
            let file = File::options().write(true).open(&saved.path).ok()?;
            file.write_all_at(&saved.bytes, 0).ok()?;
        }
        if what < 2 {
            let (name, value) =
                saved.attributes.get(self.rng.index(saved.attributes.len().max(1)))?;
            set(&saved.path, name, value)?;
        }
        Some(())
    }

    fn squat(&mut self, path: &Path) -> Option<()> {
        fs::remove_file(path).ok()?;
        match self.rng.within(0..3) {
            0 => fs::create_dir_all(path.join("full/of/things")).ok(),
            1 => std::os::unix::fs::symlink("/etc/passwd", path).ok(),
            _ => fs::write(path, b"short").ok(),
        }
    }

    fn delete_directory(&mut self, path: &Path) -> Option<()> {
        let dir = path.parent().filter(|d| *d != self.root)?;
        fs::remove_dir_all(dir).ok()
    }
}

fn read_some(path: &Path) -> Option<Vec<u8>> {
    let file = File::open(path).ok()?;
    let len = file.metadata().ok()?.len().min(COPY_MAX);
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    file.read_exact_at(&mut bytes, 0).ok()?;
    Some(bytes)
}

fn copy_over(from: &Path, to: &Path) -> Option<()> {
    let bytes = read_some(from)?;
    File::options().write(true).open(to).ok()?.write_all_at(&bytes, 0).ok()
}

fn swap(a: &Path, b: &Path) -> Option<()> {
    let aside = a.with_extension("aside");
    fs::rename(a, &aside).ok()?;
    let moved = fs::rename(b, a);
    fs::rename(&aside, b).ok()?;
    moved.ok()
}

fn get(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 64 << 10];
    let n = getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(n);
    (!value.is_empty()).then_some(value)
}

fn set(path: &Path, name: &str, value: &[u8]) -> Option<()> {
    setxattr(path, name, value, XattrFlags::empty()).ok()
}

/// Every regular file and, for their attributes, the directories of volumes.
fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    let mut entries: Vec<_> = entries.flatten().map(|e| e.path()).collect();
    entries.sort();
    for path in entries {
        let Ok(kind) = path.symlink_metadata().map(|m| m.file_type()) else { continue };
        if kind.is_dir() {
            walk(&path, out);
        }
        if kind.is_file() || get(&path, "user.netfs.vol").is_some() {
            out.push(path);
        }
    }
}
