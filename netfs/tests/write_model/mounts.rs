//! Mounts: of two volumes, several of one, and mounts that come and go while files are open and dirty.

use std::sync::Arc;

use netfs::Mount;
use netfs_memory::MemoryFs;

use crate::{modelling::cx, servers::split, world::World};

impl World {
    pub(crate) fn mount(&mut self, volume: usize, client: &Arc<MemoryFs>) {
        let mounted = self.drive(self.netfs().mount(Arc::clone(client), &cx()));
        let mount = match mounted {
            Ok(mount) => mount,
            Err(e) => self.fail(&format!("a mount: {e:?}")),
        };
        self.rest(&mount);
        let mounts = self.mounts_in(volume);
        mounts.push(mount);
        let (count, volumes) = (mounts.len(), self.fs.volumes().len());
        self.covered.note(format!("mounts of a volume: {count}"));
        self.covered.note(format!("volumes: {volumes}"));
    }

    fn mounts_in(&mut self, volume: usize) -> &mut Vec<Mount> {
        if volume == 0 { &mut self.mounts } else { &mut self.second }
    }

    /// The mounts of a path's volume.
    pub(crate) fn mounts_of(&self, path: &str) -> &[Mount] {
        if split(path).0 == 0 { &self.mounts } else { &self.second }
    }

    /// One of them.
    pub(crate) fn mount_for(&mut self, path: &str) -> Mount {
        let which = self.rng.index(self.mounts_of(path).len());
        self.mounts_of(path)[which].clone()
    }

    pub(crate) fn unmount(&mut self) {
        self.mounts.clear();
        self.second.clear();
    }

    /// A volume is mounted once more, or less; or by nobody for a moment. Files stay open, and what was written
    /// to them stays.
    pub(crate) fn remount(&mut self) {
        if self.suspect || self.cache_hangs {
            return;
        }
        let volume = self.rng.index(self.fs.volumes().len());
        let clients = self.clients.iter().filter(|(of, _)| *of == volume);
        let clients: Vec<_> = clients.map(|(_, client)| Arc::clone(client)).collect();
        let (count, client) = (self.mounts_in(volume).len(), self.rng.pick(&clients));
        match self.rng.within(0..3) {
            0 if count > 1 => {
                let which = self.rng.index(count);
                self.mounts_in(volume).swap_remove(which);
                self.note(format!("one mount less of volume {volume}"));
            }
            1 if count < 3 => {
                self.note(format!("one mount more of volume {volume}"));
                self.mount(volume, &client);
            }
            _ => self.mount_anew(volume, &clients),
        }
    }

    fn mount_anew(&mut self, volume: usize, clients: &[Arc<MemoryFs>]) {
        self.mounts_in(volume).clear();
        // Also with nobody left who could have been told of anything.
        let all = self.rng.chance(30);
        let dirty = self.files.iter().any(|f| split(&f.path).0 == volume && !f.unsent.is_empty());
        if all {
            let files = &self.files;
            let keeps = |of: usize| split(&files[of].path).0 != volume;
            self.open_groups.retain(|group| keeps(group.of));
            self.handles.retain(|handle| keeps(handle.of));
        } else {
            for _ in 0..self.rng.within(0..3) {
                self.read_one(false);
            }
        }
        self.note(format!("volume {volume} is mounted anew, files closed {all}, dirty {dirty}"));
        self.covered.note(format!("mounted anew: closed {all}, dirty {dirty}"));
        for client in clients {
            self.mount(volume, client);
        }
    }
}
