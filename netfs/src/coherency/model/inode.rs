//! What is known of one file: its version, its promise, and what a reply does to them.

use super::{
    Action, Decision, DropReason, Epoch, KeySlot, ReplyKind, StaleReason, Validity,
    VolumeCoherency,
    promise::{Held, Interval, deadline},
};
use crate::{
    clock::BootTime,
    remote::{Facts, Promise, PromiseKind, Version},
};

/// The file half of the model. Each `*_at` is a number of the volume's sequence, 0 = never.
#[derive(Debug)]
pub(crate) struct InodeCoherency {
    slot: KeySlot,
    version: Option<Version>,
    /// Bytes of unknown version may be cached while `version` is unknown.
    unversioned: bool,
    promise: Option<Held>,
    interval: Option<Interval>,
    /// Last break of this file.
    broken_at: u64,
    /// Epoch of the newest reply that settled that cached data is right.
    checked_at: u64,
    /// Last change of `version`, own write, or drop.
    applied_at: u64,
    /// Bytes without a version must have been asked for at this epoch or later.
    silent_since: u64,
    /// Epoch of the reply whose attributes were adopted last (or the number of an own write).
    attrs_at: u64,
    /// The volume's last scrub for which this file was dropped.
    scrub_seen: u64,
    /// Drops in progress. They nest: the file is usable when all have ended.
    dropping: u32,
    /// A drop was abandoned: cached data may still be of an old version.
    unfinished: bool,
    deleted: bool,
    /// Bytes of ours are on their way: the server may state versions of ours that we have not heard of.
    writing: u32,
    /// Replies are judged all the same until there are none.
    impatient: bool,
    /// Since then a reply was put off for that.
    unjudged: bool,
}

impl InodeCoherency {
    /// A file about which nothing is known, so with nothing cached in memory. Scrubs before now do
    /// not concern it: what the disk cache has is checked against the version by the cookie.
    pub(crate) fn new(slot: KeySlot) -> InodeCoherency {
        InodeCoherency {
            slot,
            version: None,
            unversioned: false,
            promise: None,
            interval: None,
            broken_at: 0,
            checked_at: 0,
            applied_at: 0,
            silent_since: 0,
            attrs_at: 0,
            scrub_seen: 0,
            dropping: 0,
            unfinished: false,
            deleted: false,
            writing: 0,
            impatient: false,
            unjudged: false,
        }
    }

    /// Whether cached data may be served at `now` (A1.11). Changes nothing.
    #[cfg(test)]
    pub(crate) fn valid(&self, volume: &VolumeCoherency, now: BootTime) -> Validity {
        match self.published() {
            Ok(held) => volume.check(&held, now),
            Err(validity) => validity,
        }
    }

    /// The promise that stands as far as this file alone is concerned, or why none does. Volume
    /// events and the clock are left to [`VolumeCoherency::check`].
    pub(crate) fn published(&self) -> Result<Held, Validity> {
        if self.deleted {
            return Err(Validity::Deleted);
        }
        if self.dropping > 0 || self.unfinished {
            return Err(Validity::Stale(StaleReason::Dropping));
        }
        let broken = self.broken_at > self.checked_at;
        let reason = if broken { StaleReason::Broken } else { StaleReason::NoPromise };
        self.promise.ok_or(Validity::Stale(reason))
    }

    /// A break with the number [`VolumeCoherency::on_key_break`] gave it.
    pub(crate) fn on_break(&mut self, at: u64) {
        self.broken_at = self.broken_at.max(at);
        // A break that was overtaken by a reply issued after it does not void that reply's promise.
        self.promise = self.promise.filter(|held| held.seq > at);
    }

    /// The file is gone on the server. There is no way back: keys are never reused.
    pub(crate) fn on_deleted(&mut self) {
        self.deleted = true;
        self.promise = None;
    }

    /// This client changed the file: `version` is what the server calls the result, `None` if it
    /// did not say. Replies issued before may describe the file as it was: they become late.
    ///
    /// Only for a write that moved the file from the current version; one that found another
    /// version is a change by someone else and goes through [`apply`](Self::apply).
    pub(crate) fn on_own_write(&mut self, volume: &mut VolumeCoherency, version: Option<Version>) {
        self.applied_at = volume.bump();
        // A reply asked for after this is the first to tell more; those asked for before have lower numbers.
        self.attrs_at = self.applied_at - 1;
        self.interval = None;
        if version.is_some() {
            self.version = version;
        } else {
            // The version moved to one nobody named: the next check cannot compare with the old one.
            self.unversioned = true;
            self.version = None;
            self.promise = None;
        }
    }

    /// This client's own changes are on their way to the server, or that has ended.
    ///
    /// Meanwhile a reply that states another version than the known one is late, whoever made that
    /// version: nobody can tell yet whether it is ours. It is asked again when the replies to the changes
    /// have told (P-D71: bounded by whoever asks).
    pub(crate) fn begin_writing(&mut self) {
        self.writing += 1;
    }

    /// See [`begin_writing`](InodeCoherency::begin_writing).
    pub(crate) fn end_writing(&mut self) {
        self.writing = self.writing.saturating_sub(1);
        if self.writing == 0 {
            (self.impatient, self.unjudged) = (false, false);
        }
    }

    /// Judges replies from now on although changes are on their way, until none is.
    pub(crate) fn judge_anyway(&mut self) {
        self.impatient = self.writing > 0;
        self.unjudged = false;
    }

    /// Whether a reply was put off because changes are on their way.
    pub(crate) fn is_unjudged(&self) -> bool {
        self.unjudged
    }

    /// Decides what a reply means (A1.29: one call, one lock section).
    ///
    /// `now` is when the reply is processed, not when it was asked for.
    pub(crate) fn apply(
        &mut self,
        volume: &mut VolumeCoherency,
        facts: &Facts,
        epoch: &Epoch,
        kind: ReplyKind,
        now: BootTime,
    ) -> Decision {
        if self.deleted {
            return Decision { action: Action::Deleted, adopt: false };
        }
        let waits = self.writing > 0 && !self.impatient;
        let unjudged = waits && facts.version.is_some() && facts.version != self.version;
        self.unjudged |= unjudged;
        if unjudged || self.is_late(facts, epoch) {
            return Decision { action: Action::Late, adopt: false };
        }
        if let Some(said) = &facts.volume {
            volume.apply(said, epoch);
        }
        if volume.scrub_at > self.scrub_seen && self.holds_anything() {
            // An equal version proves nothing about contents from before a scrub.
            return self.drop_all(volume, DropReason::Scrubbed, facts, epoch);
        }
        self.scrub_seen = volume.scrub_at;
        if self.unfinished {
            return self.drop_all(volume, DropReason::Unfinished, facts, epoch);
        }
        self.compare(volume, facts, epoch, kind, now)
    }

    /// Whether bytes that came with a reply of this version and epoch may enter the page cache now.
    ///
    /// A versioned reply must be of the current version; a silent one must have been issued after
    /// the last version change and event. None may be from before a scrub. A `true` for bytes
    /// without version is remembered, because the first version seen later says nothing about them.
    pub(crate) fn is_current(
        &mut self,
        volume: &VolumeCoherency,
        version: Option<&Version>,
        epoch: &Epoch,
    ) -> bool {
        if self.deleted || epoch.seq < volume.scrub_at {
            return false;
        }
        if version.is_some() {
            return version == self.version.as_ref();
        }
        let asked_in_time = epoch.seq > self.applied_at && epoch.seq >= self.silent_since;
        let current = asked_in_time && !self.event_since(volume, epoch);
        self.unversioned |= current && self.version.is_none();
        current
    }

    /// Whether neither an event nor a change of the version came after `epoch`.
    pub(crate) fn quiet_since(&self, volume: &VolumeCoherency, epoch: &Epoch) -> bool {
        !self.deleted && self.applied_at <= epoch.seq && !self.event_since(volume, epoch)
    }

    /// Whether nobody else can have changed the file since `epoch`: the server has promised so before, and nothing
    /// came that takes the promise back. It does not let anybody else write before it has had that taken back.
    pub(crate) fn is_alone_since(
        &self,
        volume: &VolumeCoherency,
        epoch: &Epoch,
        now: BootTime,
    ) -> bool {
        let held = self.promise.filter(|held| volume.check(held, now) == Validity::Valid);
        let since = held.and_then(|held| held.alone_since);
        !self.deleted && since.is_some_and(|since| since <= epoch.seq)
    }

    /// A drop has ended: its pages are gone and its cookie is cut over.
    pub(crate) fn drop_done(&mut self) {
        self.dropping = self.dropping.saturating_sub(1);
    }

    /// A drop will never end (its task was cancelled): what was to go may still be there, so the
    /// next reply starts another.
    pub(crate) fn drop_abandoned(&mut self) {
        self.dropping = self.dropping.saturating_sub(1);
        self.unfinished = true;
    }

    /// Whether a drop is in progress.
    pub(crate) fn is_dropping(&self) -> bool {
        self.dropping > 0
    }

    /// The version known last.
    pub(crate) fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// Rule 2: another version than the current one, asked for before the last change.
    fn is_late(&self, facts: &Facts, epoch: &Epoch) -> bool {
        facts.version.is_some() && facts.version != self.version && epoch.seq < self.applied_at
    }

    /// Whether there can be cached data that a scrub makes untrustworthy.
    fn holds_anything(&self) -> bool {
        self.version.is_some() || self.unversioned || self.dropping > 0 || self.unfinished
    }

    /// Whether anything that voids a promise came after the request was issued.
    fn event_since(&self, volume: &VolumeCoherency, epoch: &Epoch) -> bool {
        // The volume remembers breaks of this key, even those from before this inode existed.
        volume.own_barrier().max(volume.key_broken_at(self.slot)) > epoch.seq
    }

    /// What the reply's version, or its silence, says about cached data.
    fn compare(
        &mut self,
        volume: &mut VolumeCoherency,
        facts: &Facts,
        epoch: &Epoch,
        kind: ReplyKind,
        now: BootTime,
    ) -> Decision {
        // Vouched for without a gap from the last check until now: silence means "unchanged".
        let continuous =
            self.promise.is_some_and(|held| volume.check(&held, now) == Validity::Valid);
        match (&facts.version, &self.version) {
            (Some(said), Some(known)) if said == known => self.keep(volume, facts, epoch),
            (Some(_), Some(_)) => self.drop_all(volume, DropReason::VersionChanged, facts, epoch),
            (Some(_), None) if self.unversioned && !continuous => {
                self.drop_all(volume, DropReason::Unverified, facts, epoch)
            }
            (Some(_), None) => {
                self.version.clone_from(&facts.version);
                self.unversioned = false;
                self.applied_at = volume.bump();
                self.keep(volume, facts, epoch)
            }
            (None, _) if continuous && self.holds_anything() => {
                // What is cached stays for as long as it was vouched for. Silence cannot renew a
                // promise that time ends: it may have been sent after a change nobody told.
                self.keep_no_promise(facts, epoch)
            }
            (None, known) if continuous || (known.is_none() && !self.unversioned) => {
                // Nothing is cached. Bytes asked for before this promise, or before this check that a
                // reader waits for, must not become so; those that come with the reply itself may.
                let vouches = facts.promise != Promise::None || facts.volume.is_some();
                if !continuous && (kind == ReplyKind::Check || vouches) {
                    self.silent_since = self.silent_since.max(epoch.seq);
                }
                self.keep(volume, facts, epoch)
            }
            (None, _) if kind == ReplyKind::Check => {
                self.drop_all(volume, DropReason::Unverified, facts, epoch)
            }
            (None, _) => self.keep_no_promise(facts, epoch),
        }
    }

    /// The reply settled nothing about what is cached.
    fn keep_no_promise(&mut self, facts: &Facts, epoch: &Epoch) -> Decision {
        let adopt = self.adopt_attrs(facts, epoch);
        Decision { action: Action::KeepNoPromise, adopt }
    }

    /// What is cached was found right.
    fn keep(&mut self, volume: &mut VolumeCoherency, facts: &Facts, epoch: &Epoch) -> Decision {
        self.checked_at = self.checked_at.max(epoch.seq);
        let adopt = self.adopt_attrs(facts, epoch);
        let installed = self.install(volume, facts, epoch);
        let action = if installed { Action::Keep } else { Action::KeepNoPromise };
        Decision { action, adopt }
    }

    /// Starts a drop. The reply is believed, as far as its epoch allows.
    fn drop_all(
        &mut self,
        volume: &mut VolumeCoherency,
        reason: DropReason,
        facts: &Facts,
        epoch: &Epoch,
    ) -> Decision {
        self.version.clone_from(&facts.version);
        self.unversioned = false;
        self.unfinished = false;
        self.dropping += 1;
        self.scrub_seen = volume.scrub_at;
        self.checked_at = self.checked_at.max(epoch.seq);
        self.promise = None;
        self.interval = None;
        let adopt = self.adopt_attrs(facts, epoch);
        // A new version with the old size would be worse than no promise (P-D26).
        if facts.stated_size().is_some() {
            self.install(volume, facts, epoch);
        }
        self.applied_at = volume.bump();
        Decision { action: Action::Drop(reason), adopt }
    }

    /// Installs the reply's promise unless something came in between or a newer one stands.
    fn install(&mut self, volume: &mut VolumeCoherency, facts: &Facts, epoch: &Epoch) -> bool {
        let newer_stands = self.promise.is_some_and(|held| held.seq > epoch.seq);
        if newer_stands || self.event_since(volume, epoch) {
            return false;
        }
        let covered = VolumeCoherency::covers(facts.volume.as_ref());
        let own = deadline(&facts.promise, epoch.issued_at, &mut self.interval);
        // Under a volume promise a file needs none of its own (A1.36).
        let Some(deadline) = own.or(covered.then_some(BootTime::NEVER)) else { return false };
        let write = Promise::UntilBroken { kind: PromiseKind::Write };
        // Renewed without a gap only if nothing has voided the one before. (One that the volume's promise covers
        // may have lapsed in between.)
        let barrier = volume.own_barrier().max(volume.key_broken_at(self.slot));
        let before = self.promise.filter(|held| held.seq >= barrier);
        // A new one counts from now on: between the request and the server's promise anybody may have written.
        let since = before.and_then(|held| held.alone_since);
        let given = facts.promise == write && !covered;
        let alone_since = given.then(|| since.unwrap_or_else(|| volume.bump()));
        self.promise = Some(Held { seq: epoch.seq, deadline, covered, alone_since });
        true
    }

    /// Whether the reply's attributes are newer than those adopted last. A reply without version may
    /// have been overtaken by a version change, too.
    fn adopt_attrs(&mut self, facts: &Facts, epoch: &Epoch) -> bool {
        let stated = facts.attr.is_some() || facts.size.is_some();
        let overtaken =
            facts.version.is_none() && self.version.is_some() && epoch.seq < self.applied_at;
        let newer = stated && !overtaken && epoch.seq > self.attrs_at;
        if newer {
            self.attrs_at = epoch.seq;
        }
        newer
    }
}
