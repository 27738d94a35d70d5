//! Random changes by two clients and a third party, with faults, commits and restarts, against plain
//! byte vectors: what is there, what the disk holds, and what each reply says.

use std::sync::Arc;

use netfs::remote::{Change, RemoteFile, Stability, Version, WriteSub};
use netfs_memory::{Effect, Fault, MemoryFs, Op};
use proptest::{collection::vec, prelude::*};

use crate::common::*;

#[derive(Clone, Debug)]
enum Step {
    Write { at: u16, bytes: Vec<u8>, stable: bool },
    Fault(usize),
    Commit(u16, u16),
    SetSize(u16),
    Punch(u16, u16),
    Allocate(u16, u16, bool),
    Other(u16, Vec<u8>),
    Restart,
}

/// What a write may meet: the effect, how many bytes it lets through, whether there is an answer.
fn effects() -> [(Effect, u64, bool); 6] {
    let eio = netfs::Errno::EIO;
    [
        (Effect::Short(3), 3, true),
        (Effect::Retry(5), 5, true),
        (Effect::FailAfter(7, eio), 7, true),
        (Effect::DropSub(2), 2, true),
        (Effect::LostReply, u64::MAX, false),
        (Effect::Errno(eio), 0, false),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let pos = || 0u16..3000;
    let bytes = || vec(any::<u8>(), 1..60);
    prop_oneof![
        6 => (pos(), bytes(), any::<bool>())
            .prop_map(|(at, bytes, stable)| Step::Write { at, bytes, stable }),
        2 => (0..effects().len()).prop_map(Step::Fault),
        2 => (pos(), pos()).prop_map(|(at, n)| Step::Commit(at, n)),
        1 => pos().prop_map(Step::SetSize),
        1 => (pos(), 1u16..500).prop_map(|(at, n)| Step::Punch(at, n)),
        1 => (pos(), 1u16..500, any::<bool>()).prop_map(|(at, n, keep)| Step::Allocate(at, n, keep)),
        1 => (pos(), bytes()).prop_map(|(at, bytes)| Step::Other(at, bytes)),
        1 => Just(Step::Restart),
    ]
}

fn put(plain: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if !bytes.is_empty() {
        plain.resize(plain.len().max(at + bytes.len()), 0);
        plain[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// The reference: what is there, what a restart leaves, which bytes differ by right.
#[derive(Default)]
struct Plain {
    now: Vec<u8>,
    disk: Vec<u8>,
    /// Offsets written and not committed.
    pending: std::collections::BTreeSet<usize>,
    version: u64,
}

impl Plain {
    fn both(&mut self, edit: impl Fn(&mut Vec<u8>)) {
        edit(&mut self.now);
        edit(&mut self.disk);
        self.version += 1;
    }

    fn write(&mut self, at: usize, bytes: &[u8], stable: bool) {
        let range = at..at + bytes.len();
        if stable {
            self.pending.retain(|o| !range.contains(o));
            return self.both(|plain| put(plain, at, bytes));
        }
        put(&mut self.now, at, bytes);
        self.pending.extend(range);
        self.version += 1;
    }

    fn cut(&mut self, size: usize) {
        self.pending.retain(|o| *o < size);
        self.both(|plain| plain.resize(size, 0));
    }

    fn punch(&mut self, at: usize, n: usize) {
        self.pending.retain(|o| !(at..at + n).contains(o));
        self.both(|plain| {
            let end = plain.len();
            plain[at.min(end)..(at + n).min(end)].fill(0);
        });
    }

    fn commit(&mut self, range: std::ops::Range<usize>) {
        for at in self.pending.extract_if(range.clone(), |_| true).collect::<Vec<_>>() {
            put(&mut self.disk, at, &self.now[at..=at]);
        }
        if range.end >= self.now.len() {
            self.disk.resize(self.now.len(), 0);
        }
    }
}

fn check(change: &Change, before: u64, plain: &Plain) -> Result<(), TestCaseError> {
    prop_assert_eq!(&change.before, &Some(Version::from_u64(before)));
    prop_assert_eq!(&change.after.version, &Some(Version::from_u64(plain.version)));
    prop_assert_eq!(change.after.stated_size(), Some(plain.now.len() as u64));
    Ok(())
}

fn apply(
    fs: &Arc<MemoryFs>,
    plain: &mut Plain,
    step: Step,
    next: &mut Option<usize>,
) -> Result<(), TestCaseError> {
    let file = fs.file("a").unwrap();
    let before = plain.version;
    match step {
        Step::Fault(i) => *next = Some(i),
        Step::Write { at, bytes, stable } => {
            let fault = next.take().map(|i| effects()[i].clone());
            if let Some((effect, ..)) = &fault {
                fs.inject(Fault::on(Op::Write).effect(effect.clone()));
            }
            let _ = file.limits();
            let (sub, done) = WriteSub::detached(at.into(), &bytes, cx(0));
            now(file.write(sub.stable(stable)));
            let done = done.wait();
            let (most, says) = fault.map_or((u64::MAX, true), |(_, most, says)| (most, says));
            let n = most.min(bytes.len() as u64);
            if n > 0 {
                plain.write(at.into(), &bytes[..n as usize], stable);
            }
            prop_assert_eq!(done.written, if says { n } else { 0 });
            prop_assert_eq!(done.change.is_some(), says);
            if let Some(change) = done.change {
                check(&change, before, plain)?;
                prop_assert_eq!(matches!(done.stability, Stability::Stable), stable);
            }
        }
        Step::Commit(at, n) => {
            let range = usize::from(at)..usize::from(at) + usize::from(n);
            plain.commit(range.clone());
            let reply = now(file.commit(range.start as u64..range.end as u64, cx(0))).unwrap();
            check(&reply.1.unwrap(), before, plain)?;
        }
        Step::SetSize(n) => {
            plain.cut(n.into());
            check(&now(file.set_size(n.into(), cx(0))).unwrap(), before, plain)?;
        }
        Step::Punch(at, n) => {
            plain.punch(at.into(), n.into());
            let range = u64::from(at)..u64::from(at) + u64::from(n);
            check(&now(file.deallocate(range, cx(0))).unwrap(), before, plain)?;
        }
        Step::Allocate(at, n, keep) => {
            let end = usize::from(at) + usize::from(n);
            plain.both(|p| p.resize(if keep { p.len() } else { p.len().max(end) }, 0));
            let reply = now(file.allocate(at.into()..end as u64, keep, cx(0))).unwrap();
            check(&reply, before, plain)?;
        }
        Step::Other(at, bytes) => {
            // On the disk at once, like everything a third party does.
            plain.write(at.into(), &bytes, true);
            fs.change("a").write(at.into(), bytes).unwrap();
        }
        Step::Restart => {
            fs.restart_server();
            if fs.snapshot("a").unwrap().version != plain.version {
                plain.version += 1;
            } else {
                prop_assert!(plain.now == plain.disk, "a restart lost bytes under one version");
            }
            plain.now.clone_from(&plain.disk);
            plain.pending.clear();
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn changes_by_clients_equal_the_reference(steps in vec(step(), 1..80)) {
        let fs = MemoryFs::builder().bytes("a", "").configure(|s| s.unstable = true).build().unwrap();
        let mut plain = Plain { version: 1, ..Plain::default() };
        let mut next = None;
        for step in steps {
            let shown = format!("{step:?}");
            apply(&fs, &mut plain, step, &mut next)?;
            let snapshot = fs.snapshot("a").unwrap();
            prop_assert_eq!(snapshot.version, plain.version, "{}", &shown);
            prop_assert_eq!(snapshot.content.size(), plain.now.len() as u64, "{}", &shown);
            prop_assert!(snapshot.content.read(0, plain.now.len()) == plain.now, "{}", &shown);
            prop_assert!(fs.has_uncommitted() || plain.now == plain.disk, "{}", &shown);
        }
        prop_assert!(fs.take_breaches().is_empty());
    }
}
