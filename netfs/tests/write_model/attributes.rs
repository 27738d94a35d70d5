//! Modes, owners and times, as somebody else changes them: what may be shown of them, and who may read.

use std::time::Duration;

use futures_util::FutureExt;
use netfs::{
    clock::BootTime,
    remote::{AccessMask, Attr, Cred, Cx, RemoteFs, SetAttr, SetTime, TimeSpec},
};

use crate::{
    modelling::{cx, life::Life},
    refused::OTHER,
    servers::split,
    world::World,
};

/// What is known of a file's attributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Attributes {
    mode: u32,
    owner: (u32, u32),
    /// Unless something was written since.
    mtime: Option<TimeSpec>,
}

impl Attributes {
    fn fits(&self, attr: &Attr) -> bool {
        let mode = attr.mode & 0o7777 == self.mode;
        let owner = (attr.uid, attr.gid) == self.owner;
        mode && owner && self.mtime.is_none_or(|mtime| attr.mtime == mtime)
    }

    /// Whether somebody without any rights of a group may read it.
    fn lets_read(&self, uid: u32) -> bool {
        let bit = if self.owner.0 == uid { 0o400 } else { 0o004 };
        self.mode & bit != 0
    }
}

/// The states that may be shown, oldest first, each with the time when it ended.
pub(crate) struct Shown(Vec<(Attributes, Option<BootTime>)>);

impl Default for Shown {
    fn default() -> Shown {
        Shown(vec![(Attributes { mode: 0o644, owner: (0, 0), mtime: None }, None)])
    }
}

impl Shown {
    fn newest(&self) -> Attributes {
        self.0[self.0.len() - 1].0
    }

    fn becomes(&mut self, attributes: Attributes, now: BootTime) {
        let last = self.0.len() - 1;
        self.0[last].1 = Some(now);
        self.0.push((attributes, None));
    }

    /// Something was written: nobody here knows the time.
    pub(crate) fn forget_mtime(&mut self) {
        self.0.iter_mut().for_each(|(attributes, _)| attributes.mtime = None);
    }

    /// Everybody was told.
    pub(crate) fn told(&mut self) {
        self.0.drain(..self.0.len() - 1);
    }

    /// What a call that starts now may be shown. `aged`: replies say how old attributes are.
    fn claim(&self, life: Life, aged: bool, now: BootTime) -> Vec<Attributes> {
        let vouched = |ended: &Option<BootTime>| ended.is_none_or(|e| life.covers(e, now));
        let may = self.0.iter().filter(|(_, ended)| !aged && life != Life::None || vouched(ended));
        may.map(|(attributes, _)| *attributes).collect()
    }
}

impl World {
    /// Somebody else changes what is not data.
    pub(crate) fn change_attributes(&mut self) {
        let of = self.rng.index(self.files.len());
        if self.rng.chance(50) {
            self.ask_attributes(of);
        }
        let (path, silent) = (self.files[of].path.clone(), self.rng.chance(50));
        let mut new = self.files[of].attributes.newest();
        let change = self.fs.change(&path);
        let change = if silent { change.silently() } else { change };
        let what = match self.rng.within(0..5) {
            0 | 1 => {
                new.mode = self.rng.pick(&[0o644, 0o600, 0o666, 0o640, 0o604]);
                change.chmod(new.mode).expect("it exists");
                "chmod"
            }
            2 | 3 => {
                new.owner = self.rng.pick(&[(0, 0), (OTHER, OTHER), (OTHER, 0), (7, 7)]);
                change.chown(new.owner.0, new.owner.1).expect("it exists");
                "chown"
            }
            _ => {
                let mtime = TimeSpec { sec: self.rng.within(0..2 << 30) as i64, nsec: 5 };
                self.set_mtime(&path, mtime);
                let dirty = !self.files[of].unsent.is_empty();
                new.mtime = (!dirty).then_some(mtime);
                "utimes"
            }
        };
        let now = self.now();
        self.files[of].attributes.becomes(new, now);
        // The one who sets a time is another client: all others are told.
        let silent = silent && what != "utimes";
        if !silent {
            self.files[of].told();
        }
        self.covered.note(format!("{what} by others: silent {silent}"));
        self.note(format!("{what} of {path} by others, silent {silent}: {new:?}"));
        for _ in 0..self.rng.within(0..3) {
            self.ask_attributes(of);
            // What was believed before may be asked for again.
            self.clock.advance(Duration::from_secs(self.rng.pick(&[0, 4, 70])));
        }
    }

    /// As a client that has mounted nothing here.
    fn set_mtime(&mut self, path: &str, mtime: TimeSpec) {
        let (volume, path) = split(path);
        let client = self.fs.volumes()[volume].client();
        let file = client.file(path).expect("it exists");
        let set = SetAttr { mtime: Some(SetTime::To(mtime)), ..SetAttr::default() };
        let done = client.set_attr(file, set, cx()).now_or_never().expect("no latency was set");
        done.expect("the superuser may");
    }

    /// Everybody hears of another mode.
    pub(crate) fn set_mode_of(&mut self, of: usize, mode: u32) {
        self.fs.change(&self.files[of].path).chmod(mode).expect("it exists");
        let (new, now) = (self.files[of].attributes.newest(), self.now());
        self.files[of].attributes.becomes(Attributes { mode, ..new }, now);
        self.files[of].told();
    }

    fn ask_attributes(&mut self, of: usize) {
        let Some(h) = (0..self.handles.len()).find(|h| self.handles[*h].of == of) else { return };
        let (node, path) = (self.file(h).node(), self.files[of].path.clone());
        let mount = self.mount_for(&path);
        let claim = self.claim_attributes(of);
        match self.drive(mount.getattr(&node, &cx())) {
            Ok(attr) => self.judge_attributes(of, &claim, &attr),
            Err(e) => self.excuse("getattr", &e),
        }
        let claim = self.claim_attributes(of);
        let other = Cx::new(Cred::new(OTHER, 5000));
        match self.drive(mount.access(&node, AccessMask::READ, &other)) {
            Ok(granted) if claim.iter().any(|state| state.lets_read(OTHER) == granted) => {
                self.covered.note(format!("access: {granted}"));
            }
            Ok(granted) => self.fail(&format!("{path}: access {granted}, of none of {claim:?}")),
            Err(e) => self.excuse("access", &e),
        }
    }

    fn claim_attributes(&self, of: usize) -> Claimed {
        let file = &self.files[of];
        let settings = self.fs.settings_of(&file.path);
        let aged = settings.attr_in_reads || settings.attr_moves_version;
        file.attributes.claim(file.life, aged, self.now())
    }

    /// What `getattr` has said must be of a state that may be shown.
    fn judge_attributes(&mut self, of: usize, claim: &Claimed, attr: &Attr) {
        let timed = claim.iter().all(|state| state.mtime.is_some());
        self.covered.note(if timed { "attributes: with a time" } else { "attributes" });
        if !claim.iter().any(|state| state.fits(attr)) {
            let path = &self.files[of].path;
            self.fail(&format!("{path}: {attr:?}, of none of {claim:?}"));
        }
    }
}

type Claimed = Vec<Attributes>;
