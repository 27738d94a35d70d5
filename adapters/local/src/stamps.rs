//! When a `statx` tuple may be called a version.
//!
//! A version promises that other content has another version. Timestamps keep that promise only under
//! conditions, which are what this file is about:
//!
//! - **S1** *The step.* Two writes within one step of the stamping clock leave one ctime. So a tuple
//!   counts only once the clock has moved past its ctime by a step: whatever is written later is
//!   stamped later. Only ctime is asked: `utimensat` moves mtime anywhere, but it moves ctime to now.
//! - **S2** *The write in flight.* A kernel stamps first and copies after; a reader in between sees the
//!   new stamp on old bytes. Where the kernel lets us, we ask it whether anyone has the file open for
//!   writing (a read lease is granted only then). If nobody has, and the ctime is older than that
//!   question by a step, every write that bears the stamp has ended: the tuple is *clean*, for good,
//!   because whoever writes later stamps anew. So it is asked once a tuple, and always *before* the
//!   bytes are read. Where the kernel does not tell, a tuple counts only after [`QUIET`], and a single
//!   `write` that takes longer than that and is read meanwhile is not noticed.
//! - **S3** *The other clock.* Where another host stamps, ages say nothing: its clock may be behind.
//!   There a tuple counts when it is older than any plausible difference of clocks, or once it has been
//!   seen unchanged for the step by our own clock, which is true of any server clock that runs.
//! - **S4** *Our own change.* Where the kernel never leaves a ctime in place that was asked for
//!   ([`grain`](crate::grain)), a tuple read after our change counts at once, if the kernel says *after*
//!   that that there are no writers, and the tuple is still the same then: nothing is under way that bears
//!   the stamp, and whatever comes will have another.
//!
//! A tuple that does not count yet is reported as facts without a version: served, never stored.

use std::{sync::Arc, time::Duration};

use netfs::{
    clock::{BootTime, Clock, SystemClock},
    remote::{FileKind, TimeSpec},
};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_getres, clock_gettime};

use crate::{kind::FsKind, lru::Lru, stat::Stat};

/// How long a write is assumed to be on its way where nobody can be asked (S2).
pub(crate) const QUIET: Duration = Duration::from_secs(1);
/// The step of a filesystem with whole-second stamps; FAT's is two seconds.
const COARSE_STEP: Duration = Duration::from_secs(2);
/// The step of other hosts' filesystems that show fractions of a second: no kernel ticks slower.
const OTHER_HOST_STEP: Duration = Duration::from_millis(20);
/// Tuples remembered for S2 and S3, each. A forgotten one is found out again.
const REMEMBERED_MAX: usize = 16 * 1024;

/// When a question was put: taken before the `statx` it belongs to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    /// By the clock that stamps files, as coarse as that.
    pub(crate) wall: TimeSpec,
    pub(crate) boot: BootTime,
}

impl Moment {
    pub(crate) fn now() -> Moment {
        let t = clock_gettime(ClockId::RealtimeCoarse);
        let nsec = u32::try_from(t.tv_nsec).unwrap_or(0);
        Moment { wall: TimeSpec { sec: t.tv_sec, nsec }, boot: SystemClock.now() }
    }
}

/// What is known about writers of a file after the [`Moment`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Writers {
    /// The kernel says there are none.
    Absent,
    /// The kernel says there is one, or was not asked although it would have told.
    Maybe,
    /// The kernel does not tell.
    Unknown,
}

/// The tuples seen of files that another host stamps, and since when.
type Observed = Lru<Arc<[u8]>, ([u8; 40], BootTime)>;
/// The tuples found clean (S2).
type Clean = Lru<Arc<[u8]>, [u8; 40]>;

/// The rules S1 to S3 for one filesystem.
pub(crate) struct Stamps {
    host_clock: bool,
    step: Duration,
    clock_skew: Duration,
    /// A ctime that was asked for is never left in place by a change (S4).
    fine: bool,
    observed: Mutex<Observed>,
    clean: Mutex<Clean>,
}

impl Stamps {
    /// For a filesystem of `kind` whose clocks differ from ours by less than `clock_skew`. `sample` is
    /// any file's ctime: whole seconds there mean whole seconds everywhere.
    pub(crate) fn new(kind: FsKind, sample: TimeSpec, clock_skew: Duration) -> Stamps {
        let step = if kind.coarse || sample.nsec == 0 {
            COARSE_STEP
        } else if kind.host_clock {
            tick() * 2
        } else {
            OTHER_HOST_STEP
        };
        Stamps {
            host_clock: kind.host_clock,
            step,
            clock_skew,
            fine: false,
            observed: Mutex::new(Lru::new()),
            clean: Mutex::new(Lru::new()),
        }
    }

    /// The same where S4 holds.
    pub(crate) fn fine(mut self, fine: bool) -> Stamps {
        self.fine = fine && self.host_clock;
        self
    }

    pub(crate) fn step(&self) -> Duration {
        self.step
    }

    /// Whether the tuple of `st`, asked for at `at`, may be called a version of the file `key`.
    /// `ask` is called at most once, to find out about writers.
    pub(crate) fn settled(
        &self,
        key: &Arc<[u8]>,
        st: &Stat,
        at: Moment,
        ask: impl FnOnce() -> Writers,
    ) -> bool {
        // A stamp of whole seconds may come from a filesystem (or an inode) that has no finer ones.
        let step = if st.attr.ctime.nsec == 0 { COARSE_STEP.max(self.step) } else { self.step };
        if !self.host_clock {
            let wait = step.max(QUIET);
            // Some servers know only mtime and make ctime up from it.
            let stamp = st.attr.ctime.max(st.attr.mtime);
            return older(stamp, at.wall, wait + self.clock_skew)
                || self.seen_for(key, st, at.boot, wait);
        }
        if !older(st.attr.ctime, at.wall, step) {
            // Young, but found by S4.
            return self.fine && self.is_known_clean(key, st);
        }
        match st.attr.kind {
            FileKind::File => self.is_clean(key, st, at, ask),
            // A link's target never changes; the link is replaced, by another inode.
            FileKind::Symlink => true,
            _ => older(st.attr.ctime, at.wall, QUIET),
        }
    }

    /// S2: every write that bears the stamp has ended.
    fn is_clean(
        &self,
        key: &Arc<[u8]>,
        st: &Stat,
        at: Moment,
        ask: impl FnOnce() -> Writers,
    ) -> bool {
        if self.is_known_clean(key, st) {
            return true;
        }
        match ask() {
            Writers::Maybe => false,
            Writers::Unknown => older(st.attr.ctime, at.wall, QUIET),
            Writers::Absent => {
                self.remember_clean(key, st);
                true
            }
        }
    }

    /// S4: whether the tuple of `st`, read after a change by this process, is a version already. `again`
    /// says whether it is still the same, after the question about writers.
    pub(crate) fn fresh(
        &self,
        key: &Arc<[u8]>,
        st: &Stat,
        ask: impl FnOnce() -> Writers,
        again: impl FnOnce() -> bool,
    ) -> bool {
        let known =
            self.fine && st.attr.kind == FileKind::File && ask() == Writers::Absent && again();
        if known {
            self.remember_clean(key, st);
        }
        known
    }

    fn is_known_clean(&self, key: &Arc<[u8]>, st: &Stat) -> bool {
        self.clean.lock().get(key).is_some_and(|known| *known == st.tuple())
    }

    fn remember_clean(&self, key: &Arc<[u8]>, st: &Stat) {
        let mut clean = self.clean.lock();
        clean.insert(Arc::clone(key), st.tuple());
        while clean.len() > REMEMBERED_MAX {
            clean.pop();
        }
    }

    /// S3: the tuple has been the same for `wait` by our own clock.
    fn seen_for(&self, key: &Arc<[u8]>, st: &Stat, now: BootTime, wait: Duration) -> bool {
        let tuple = st.tuple();
        let mut observed = self.observed.lock();
        match observed.get(key) {
            Some((seen, since)) if *seen == tuple => return now.since(*since) >= wait,
            Some(entry) => *entry = (tuple, now),
            None => {
                observed.insert(Arc::clone(key), (tuple, now));
                while observed.len() > REMEMBERED_MAX {
                    observed.pop();
                }
            }
        }
        false
    }
}

/// Resolution of the clock that stamps files: one tick of the kernel.
fn tick() -> Duration {
    let res = clock_getres(ClockId::RealtimeCoarse);
    let nanos = u64::try_from(res.tv_nsec).unwrap_or(0);
    // A kernel that claims better than a millisecond ticks no slower than one that claims ten.
    Duration::from_nanos(nanos).clamp(Duration::from_millis(1), Duration::from_millis(10))
}

/// Whether `stamp` is at least `age` before `now`. A stamp in the future is not.
fn older(stamp: TimeSpec, now: TimeSpec, age: Duration) -> bool {
    let nanos = |t: TimeSpec| i128::from(t.sec) * 1_000_000_000 + i128::from(t.nsec);
    let age = i128::try_from(age.as_nanos()).unwrap_or(i128::MAX);
    nanos(now).saturating_sub(nanos(stamp)) >= age
}

#[cfg(test)]
mod tests {
    use netfs::remote::Attr;

    use super::*;

    const SEC: i64 = 1_000_000;

    fn stamps(f_type: u64) -> Stamps {
        let fine = TimeSpec { sec: SEC, nsec: 1 };
        Stamps::new(FsKind::of(f_type), fine, Duration::from_secs(600))
    }

    fn ext4() -> Stamps {
        stamps(0xEF53)
    }

    fn nfs() -> Stamps {
        stamps(0x6969)
    }

    fn key() -> Arc<[u8]> {
        Arc::from(&b"key"[..])
    }

    /// A file or directory last changed half a second past `SEC`.
    fn changed(kind: FileKind) -> Stat {
        let t = TimeSpec { sec: SEC, nsec: 500_000_000 };
        let attr = Attr { mtime: t, ctime: t, ..Attr::plain(kind, 1) };
        Stat { attr, dev: (0, 0), btime: None }
    }

    /// `age` after that change.
    fn after(age: Duration) -> Moment {
        let nanos = 500_000_000 + u64::try_from(age.as_nanos()).unwrap();
        let (sec, nsec) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
        Moment {
            wall: TimeSpec { sec: SEC + i64::try_from(sec).unwrap(), nsec: nsec as u32 },
            boot: BootTime::from_nanos(3_600_000_000_000 + nanos),
        }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn s1_nothing_younger_than_the_step_has_a_version() {
        let s = ext4();
        assert!(s.step() >= 2 * MS && s.step() <= 20 * MS);
        let file = changed(FileKind::File);
        for age in [Duration::ZERO, s.step() - Duration::from_nanos(1)] {
            assert!(!s.settled(&key(), &file, after(age), || Writers::Absent));
        }
        assert!(s.settled(&key(), &file, after(s.step()), || Writers::Absent));
    }

    #[test]
    fn s1_a_stamp_from_the_future_has_no_version() {
        let mut file = changed(FileKind::File);
        file.attr.ctime.sec += 3600;
        assert!(!ext4().settled(&key(), &file, after(QUIET), || Writers::Absent));
    }

    #[test]
    fn s1_whole_seconds_take_two() {
        let mut file = changed(FileKind::File);
        file.attr.ctime.nsec = 0;
        let s = ext4();
        let age = Duration::from_millis(500); // the stamp is half a second older than changed()'s
        assert!(!s.settled(&key(), &file, after(age), || Writers::Absent));
        assert!(s.settled(&key(), &file, after(3 * age), || Writers::Absent));
        assert_eq!(stamps(0x4D44).step(), COARSE_STEP);
    }

    #[test]
    fn s2_a_file_that_may_have_writers_never_has_a_version() {
        let (s, file) = (ext4(), changed(FileKind::File));
        assert!(!s.settled(&key(), &file, after(3600 * QUIET), || Writers::Maybe));
    }

    #[test]
    fn s2_where_nobody_tells_a_version_takes_a_second() {
        let (s, file) = (ext4(), changed(FileKind::File));
        assert!(!s.settled(&key(), &file, after(QUIET - MS), || Writers::Unknown));
        assert!(s.settled(&key(), &file, after(QUIET), || Writers::Unknown));
        let dir = changed(FileKind::Dir);
        assert!(!s.settled(&key(), &dir, after(QUIET - MS), || Writers::Absent));
        assert!(s.settled(&key(), &dir, after(QUIET), || Writers::Unknown));
    }

    #[test]
    fn s2_a_clean_tuple_stays_clean_until_it_changes() {
        let (s, file) = (ext4(), changed(FileKind::File));
        assert!(s.settled(&key(), &file, after(QUIET), || Writers::Absent));
        assert!(s.settled(&key(), &file, after(QUIET), || panic!("it is known")));
        let mut other = file;
        other.attr.ctime.nsec += 1;
        assert!(!s.settled(&key(), &other, after(QUIET), || Writers::Maybe));
    }

    #[test]
    fn s4_our_own_change_counts_at_once_if_nobody_else_can_be_at_it() {
        let file = changed(FileKind::File);
        let now = after(Duration::ZERO);
        let (absent, same) = (|| Writers::Absent, || true);
        assert!(!ext4().fresh(&key(), &file, absent, same), "a coarse stamp");
        assert!(!nfs().fine(true).fresh(&key(), &file, absent, same), "another host's stamp");
        let s = ext4().fine(true);
        for writers in [Writers::Maybe, Writers::Unknown] {
            assert!(!s.fresh(&key(), &file, || writers, same));
        }
        assert!(!s.fresh(&key(), &file, absent, || false), "changed meanwhile");
        assert!(!s.fresh(&key(), &changed(FileKind::Dir), absent, same));
        assert!(!s.settled(&key(), &file, now, || panic!("it is too young to ask")));
        assert!(s.fresh(&key(), &file, absent, same));
        assert!(s.settled(&key(), &file, now, || panic!("it is known")));
        let mut other = file;
        other.attr.ctime.nsec += 1;
        assert!(!s.settled(&key(), &other, now, || Writers::Absent));
    }

    #[test]
    fn s3_another_hosts_file_counts_when_seen_unchanged_by_our_own_clock() {
        let (s, file) = (nfs(), changed(FileKind::File));
        // The server's clock is a minute behind: by our clock the file looks a minute old at once.
        let at = |age: Duration| after(Duration::from_secs(60) + age);
        assert!(!s.settled(&key(), &file, at(Duration::ZERO), || Writers::Unknown));
        assert!(!s.settled(&key(), &file, at(QUIET - MS), || Writers::Unknown));
        let mut rewritten = file;
        rewritten.attr.ctime.nsec += 1;
        assert!(!s.settled(&key(), &rewritten, at(QUIET), || Writers::Unknown));
        assert!(!s.settled(&key(), &rewritten, at(2 * QUIET - MS), || Writers::Unknown));
        assert!(s.settled(&key(), &rewritten, at(2 * QUIET), || Writers::Unknown));
    }

    #[test]
    fn s3_older_than_any_skew_counts_at_once() {
        let (s, file) = (nfs(), changed(FileKind::File));
        assert!(s.settled(&key(), &file, after(Duration::from_secs(602)), || Writers::Unknown));
    }
}
