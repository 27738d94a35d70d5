//! Deleting and publishing: what goes away is renamed into the graveyard first and deleted from there
//! in the background; what comes into being gets its name only when it is complete.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{LinkMethod, Shared};
use crate::{
    io::{Errno, Io, IoResult},
    stats::Counters,
    workers::Lane,
};

/// Deepest tree that is deleted: ours have three levels, a hostile one may have any number.
const DEPTH_MAX: usize = 64;

impl Shared {
    /// A name nothing in the graveyard has (N-C70: also not what an earlier run left there).
    pub(crate) fn grave_name(&self) -> String {
        format!("{:016x}", self.next_number())
    }

    /// Moves whatever has this name out of the way and deletes it later. Nothing there is fine.
    pub(crate) fn bury(&self, at: &File, name: &str) -> IoResult<()> {
        let grave = self.grave_name();
        match self.io.rename(at, name, &self.graveyard, &grave) {
            Ok(()) => {}
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e),
        }
        let (io, yard) = (Arc::clone(&self.io), self.graveyard.try_clone());
        let (stats, stop) = (Arc::clone(&self.stats), Arc::clone(&self.withdrawn));
        let job = Box::new(move || {
            let Ok(yard) = yard else { return };
            match remove_tree(&*io, &yard, &grave, 0, &stop) {
                Ok(()) | Err(Errno::CANCELED) => {}
                Err(_) => Counters::count(&stats.refusals),
            }
        });
        // A withdrawn cache leaves it for the next opening.
        let _ = self.workers.submit(Lane::Fill, job);
        Ok(())
    }

    /// Deletes what an earlier run left behind, in the background.
    pub(super) fn clean_graveyard(&self) {
        let (io, yard) = (Arc::clone(&self.io), self.graveyard.try_clone());
        let names = io.list(&self.graveyard).unwrap_or_default();
        if names.is_empty() {
            return;
        }
        let stop = Arc::clone(&self.withdrawn);
        let job = Box::new(move || {
            let Ok(yard) = yard else { return };
            for name in names {
                match remove_tree(&*io, &yard, &name, 0, &stop) {
                    Ok(()) => {}
                    Err(Errno::CANCELED) => return,
                    Err(e) => tracing::warn!(name, "cannot delete a leftover: {e}"),
                }
            }
        });
        let _ = self.workers.submit(Lane::Fill, job);
    }

    /// Makes a file, completes it with `prepare` and only then gives it its name, in place of
    /// whatever had it before.
    pub(crate) fn publish(
        &self,
        at: &File,
        name: &str,
        prepare: &dyn Fn(&File) -> IoResult<()>,
    ) -> IoResult<File> {
        if self.probe.link == LinkMethod::Rename {
            return self.publish_by_rename(at, name, prepare);
        }
        let file = self.io.temp_file(at)?;
        prepare(&file)?;
        match self.io.link(&file, at, name) {
            Err(Errno::EXIST) => {
                let temp = self.grave_name();
                self.io.link(&file, &self.graveyard, &temp)?;
                self.replace(&temp, at, name)?;
            }
            other => other?,
        }
        Ok(file)
    }

    fn publish_by_rename(
        &self,
        at: &File,
        name: &str,
        prepare: &dyn Fn(&File) -> IoResult<()>,
    ) -> IoResult<File> {
        let temp = self.grave_name();
        let file = self.io.create_file(&self.graveyard, &temp)?;
        if let Err(e) = prepare(&file) {
            // Best effort: a leftover is deleted at the next opening.
            let _ = self.io.unlink(&self.graveyard, &temp);
            return Err(e);
        }
        self.replace(&temp, at, name)?;
        Ok(file)
    }

    fn replace(&self, temp: &str, at: &File, name: &str) -> IoResult<()> {
        let mut moved = self.io.rename(&self.graveyard, temp, at, name);
        if let Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) = moved {
            moved =
                self.bury(at, name).and_then(|()| self.io.rename(&self.graveyard, temp, at, name));
        }
        if moved.is_err() {
            // Best effort: a leftover is deleted at the next opening.
            let _ = self.io.unlink(&self.graveyard, temp);
        }
        moved
    }
}

/// Deletes a file or a tree without following links. Nothing there is fine.
pub(super) fn remove(io: &dyn Io, at: &File, name: &str) -> IoResult<()> {
    remove_tree(io, at, name, 0, &AtomicBool::new(false))
}

/// The same until `stop` is set: then `ECANCELED`. What is left is deleted after the next opening, so
/// that a withdrawal does not wait for a million files to be deleted.
fn remove_tree(
    io: &dyn Io,
    at: &File,
    name: &str,
    depth: usize,
    stop: &AtomicBool,
) -> IoResult<()> {
    if stop.load(Ordering::Relaxed) {
        return Err(Errno::CANCELED);
    }
    match io.unlink(at, name) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) if depth < DEPTH_MAX => {}
        Err(e) => return Err(e),
    }
    let dir = io.open_dir(at, name)?;
    for inner in io.list(&dir)? {
        remove_tree(io, &dir, &inner, depth + 1, stop)?;
    }
    io.remove_dir(at, name)
}
