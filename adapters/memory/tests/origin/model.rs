//! Random changes and reads against a plain reference: a map from paths to byte vectors.

use std::collections::{BTreeMap, HashSet};

use netfs::remote::Version;
use netfs_memory::{Effect, Fault, MemoryFs};
use proptest::{collection::vec, prelude::*};

use crate::common::*;

#[derive(Clone, Debug)]
enum Step {
    Create(u8, u16),
    Write(u8, u16, Vec<u8>),
    Truncate(u8, u16),
    Punch(u8, u16, u16),
    Rewrite(u8),
    Remove(u8),
    Rename(u8, u8),
    Read(u8, u16, u16),
}

fn step() -> impl Strategy<Value = Step> {
    let path = || 0u8..6;
    let pos = || 0u16..20_000;
    prop_oneof![
        (path(), pos()).prop_map(|(p, n)| Step::Create(p, n)),
        (path(), pos(), vec(any::<u8>(), 1..50)).prop_map(|(p, o, b)| Step::Write(p, o, b)),
        (path(), pos()).prop_map(|(p, n)| Step::Truncate(p, n)),
        (path(), pos(), pos()).prop_map(|(p, o, n)| Step::Punch(p, o, n)),
        path().prop_map(Step::Rewrite),
        path().prop_map(Step::Remove),
        (path(), path()).prop_map(|(a, b)| Step::Rename(a, b)),
        (path(), pos(), 1u16..9000).prop_map(|(p, o, n)| Step::Read(p, o, n)),
        (path(), pos(), 1u16..9000).prop_map(|(p, o, n)| Step::Read(p, o, n)),
    ]
}

/// Half of the paths are in a directory, so that renames cross directories.
fn path(n: u8) -> String {
    if n.is_multiple_of(2) { format!("d/{n}") } else { format!("{n}") }
}

type Plain = BTreeMap<String, Vec<u8>>;

/// Does the step to both; a step that the reference cannot do must fail at the origin too.
fn apply(fs: &MemoryFs, plain: &mut Plain, step: &Step) -> Result<(), TestCaseError> {
    let (name, result) = match step {
        Step::Create(p, n) => (path(*p), fs.change(path(*p)).create(u64::from(*n))),
        Step::Write(p, o, b) => (path(*p), fs.change(path(*p)).write(u64::from(*o), b.clone())),
        Step::Truncate(p, n) => (path(*p), fs.change(path(*p)).truncate(u64::from(*n))),
        Step::Punch(p, o, n) => {
            let start = u64::from(*o);
            (path(*p), fs.change(path(*p)).punch(start..start + u64::from(*n)))
        }
        Step::Rewrite(p) => (path(*p), fs.change(path(*p)).rewrite()),
        Step::Remove(p) => (path(*p), fs.change(path(*p)).remove()),
        Step::Rename(a, b) => (path(*a), fs.change(path(*a)).rename(path(*b))),
        Step::Read(..) => return Ok(()),
    };
    let exists = plain.contains_key(&name);
    let possible = if matches!(step, Step::Create(..)) { !exists } else { exists };
    prop_assert_eq!(result.is_ok(), possible, "{:?}: {:?}", step, result);
    if !possible {
        return Ok(());
    }
    let generated = || {
        let snapshot = fs.snapshot(&name).expect("it was just made");
        let (size, version) = (snapshot.content.size(), snapshot.version);
        let key = fs.key(&name).expect("it was just made");
        let seed = u64::from_be_bytes(key[..8].try_into().expect("8 bytes"));
        (0..size).map(|o| netfs_memory::content::byte(seed, version, o)).collect::<Vec<u8>>()
    };
    match step {
        Step::Create(..) | Step::Rewrite(_) => {
            let bytes = generated();
            if let Step::Create(_, n) = step {
                prop_assert_eq!(bytes.len(), usize::from(*n));
            }
            plain.insert(name, bytes);
        }
        Step::Remove(_) => drop(plain.remove(&name)),
        Step::Rename(_, to) => {
            let bytes = plain.remove(&name).unwrap_or_default();
            plain.insert(path(*to), bytes);
        }
        other => edit_plainly(plain.entry(name).or_default(), other),
    }
    Ok(())
}

fn edit_plainly(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(_, o, b) => {
            let (start, end) = (usize::from(*o), usize::from(*o) + b.len());
            bytes.resize(bytes.len().max(end), 0);
            bytes[start..end].copy_from_slice(b);
        }
        Step::Truncate(_, n) => bytes.resize(usize::from(*n), 0),
        Step::Punch(_, o, n) => {
            let end = (usize::from(*o) + usize::from(*n)).min(bytes.len());
            let start = usize::from(*o).min(end);
            bytes[start..end].fill(0);
        }
        other => unreachable!("{other:?} is not an edit"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn the_origin_equals_plain_bytes(
        steps in vec(step(), 1..60), seed: u64, rate in prop_oneof![Just(0.0), Just(0.5)]
    ) {
        let fs = MemoryFs::builder().seed(seed).dir("d").build().unwrap();
        fs.inject(Fault::random(seed, rate, Effect::recoverable()));
        let mut plain = Plain::new();
        let mut identities = HashSet::new();
        for step in &steps {
            apply(&fs, &mut plain, step)?;
            // No (key, version) ever stands for two contents.
            for (name, bytes) in &plain {
                let stated = validate(&fs, name).unwrap();
                prop_assert_eq!(stated.stated_size(), Some(bytes.len() as u64));
                identities.insert((fs.key(name).unwrap(), stated.version, bytes.clone()));
            }
            if let Step::Read(p, offset, len) = step {
                check_read(&fs, &plain, &path(*p), u64::from(*offset), usize::from(*len))?;
            }
        }
        let versions: HashSet<_> = identities.iter().map(|(key, v, _)| (key, v)).collect();
        prop_assert_eq!(versions.len(), identities.len());
        let listed: HashSet<_> = fs.files().into_iter().collect();
        let expected: HashSet<_> = plain.keys().map(|p| p.clone().into_bytes()).collect();
        prop_assert_eq!(listed, expected);
        prop_assert_eq!(fs.take_breaches(), Vec::<String>::new());
    }
}

/// Reads the whole range, going on after short replies as the core does.
fn check_read(
    fs: &MemoryFs,
    plain: &Plain,
    path: &str,
    offset: u64,
    len: usize,
) -> Result<(), TestCaseError> {
    let Some(bytes) = plain.get(path) else {
        prop_assert!(fs.file(path).is_err());
        return Ok(());
    };
    let from = usize::try_from(offset).unwrap().min(bytes.len());
    let expected = &bytes[from..bytes.len().min(from + len)];
    let mut got = Vec::new();
    while got.len() < expected.len() {
        let at = offset + got.len() as u64;
        let (finished, some) =
            read_file(fs.file(path).unwrap(), at, expected.len() - got.len(), cx(1));
        prop_assert!(failed_with(&finished.outcome).is_none(), "{:?}", finished);
        let now = fs.snapshot(path).unwrap().version;
        prop_assert_eq!(finished.facts.version, Some(Version::from_u64(now)));
        got.extend(some);
    }
    prop_assert_eq!(got, expected);
    Ok(())
}
