//! Hostile content (N-C56, N-C58): whatever is done to the files and attributes of a cache, a reader
//! gets the right bytes or a miss that is counted, and the object recovers.

mod common;

use std::{
    fs::{self, OpenOptions},
    os::unix::fs::FileExt,
    path::Path,
};

use common::*;
use netfs::fscache::{CacheBackend, Found, Identity};

const PAGE: u64 = 4096;
const SMALL: u64 = 3 * PAGE + 100;
/// Large enough for a side file on every file system.
const LARGE: u64 = 20 << 20;

/// One object: which pages are stored and which are known zeros.
struct Sample {
    key: &'static [u8],
    size: u64,
    seed: u64,
    data: &'static [u64],
    zero: &'static [u64],
}

const SAMPLES: [Sample; 4] = [
    Sample { key: b"small", size: SMALL, seed: 1, data: &[0, 3], zero: &[2] },
    Sample { key: b"twin", size: SMALL, seed: 2, data: &[0, 3], zero: &[2] },
    Sample { key: b"large", size: LARGE, seed: 3, data: &[0, 1030], zero: &[70] },
    Sample { key: b"largetwin", size: LARGE, seed: 4, data: &[0, 1030], zero: &[70] },
];

impl Sample {
    /// All have one version, so that only the bindings tell them apart.
    fn identity(&self) -> Identity {
        identity(b"version", self.size)
    }

    fn store(&self, bed: &Bed) {
        let (object, _) = bed.object(self.key, &self.identity());
        for page in self.data {
            fill(&object, self.seed, page * PAGE, 4096);
        }
        for page in self.zero {
            object.mark_zero(page * PAGE..(page + 1) * PAGE);
        }
        close(object);
    }

    /// Every answer is right or a miss; says whether all were right, and how it was found.
    fn check(&self, bed: &Bed, what: &str) -> (bool, Found) {
        let (object, found) = bed.object(self.key, &self.identity());
        let mut whole = true;
        for (pages, zero) in [(self.data, false), (self.zero, true)] {
            for page in pages {
                let len = PAGE.min(self.size - page * PAGE) as usize;
                let mut want = content(self.seed, page * PAGE, len, self.size);
                if zero {
                    want.fill(0);
                }
                match read_any(&object, page * PAGE, len) {
                    Ok(bytes) => assert!(bytes == want, "wrong bytes after {what}"),
                    Err(_) => whole = false,
                }
            }
        }
        close(object);
        (whole, found)
    }
}

struct Hostile {
    bed: Bed,
    _dir: tempfile::TempDir,
}

impl Hostile {
    fn new() -> Hostile {
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() };
        let dir = dir.expect("dir");
        let bed = Bed::open(dir.path());
        SAMPLES.iter().for_each(|s| s.store(&bed));
        Hostile { bed, _dir: dir }
    }

    fn file(&self, name: &str) -> Saved {
        Saved::new(find(self._dir.path(), name).expect("file"))
    }

    fn corruptions(&self) -> u64 {
        let stats = self.bed.cache.stats();
        stats.corrupt_pages + stats.corrupt_objects
    }

    /// Does something to a sample's files, checks, restores. `must_notice`: it has to be counted.
    fn attempt(
        &self,
        sample: &Sample,
        files: &[&Saved],
        must_notice: bool,
        what: &str,
        f: impl Fn(),
    ) {
        let before = self.corruptions();
        f();
        let (whole, found) = sample.check(&self.bed, what);
        let noticed = self.corruptions() > before;
        assert_eq!(noticed, must_notice, "counted after {what}; found {found:?}, whole {whole}");
        assert!(whole || noticed, "an uncounted miss after {what}");
        files.iter().for_each(|f| f.restore());
    }
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("open");
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).expect("read");
    file.write_all_at(&[byte[0] ^ (1 << (at % 8))], at).expect("write");
}

#[test]
fn every_changed_byte_of_the_data_is_noticed() {
    let h = Hostile::new();
    for (sample, name) in [(&SAMPLES[0], "Dsmall"), (&SAMPLES[2], "Dlarge")] {
        let (saved, side) =
            (h.file(name), find(h._dir.path(), &format!("m{name}")).map(Saved::new));
        let files: Vec<&Saved> = std::iter::once(&saved).chain(&side).collect();
        for at in sample.data.iter().flat_map(|p| p * PAGE..(p + 1) * PAGE) {
            let what = format!("{name} byte {at}");
            h.attempt(sample, &files, true, &what, || flip(&saved.path, at));
        }
    }
}

#[test]
fn every_truncation_of_the_data_is_noticed() {
    let h = Hostile::new();
    let (sample, saved) = (&SAMPLES[0], h.file("Dsmall"));
    for len in 0..saved.len {
        h.attempt(sample, &[&saved], true, &format!("cut at {len}"), || {
            OpenOptions::new()
                .write(true)
                .open(&saved.path)
                .and_then(|f| f.set_len(len))
                .expect("cut");
        });
    }
}

#[test]
fn every_changed_or_missing_byte_of_an_attribute_is_noticed() {
    let h = Hostile::new();
    for (sample, name) in [(&SAMPLES[0], "Dsmall"), (&SAMPLES[2], "Dlarge")] {
        let (saved, side) =
            (h.file(name), find(h._dir.path(), &format!("m{name}")).map(Saved::new));
        let files: Vec<&Saved> = std::iter::once(&saved).chain(&side).collect();
        for (attr, value) in &saved.xattrs {
            for i in 0..value.len() {
                let mut changed = value.clone();
                changed[i] ^= 1 << (i % 8);
                let what = format!("{name} {attr} byte {i}");
                h.attempt(sample, &files, true, &what, || {
                    xattr::set(&saved.path, attr, &changed).expect("set");
                });
                let what = format!("{name} {attr} cut at {i}");
                h.attempt(sample, &files, true, &what, || {
                    xattr::set(&saved.path, attr, &value[..i]).expect("set");
                });
            }
        }
        h.attempt(sample, &files, true, "header removed", || {
            xattr::remove(&saved.path, "user.netfs.hdr").expect("remove");
        });
    }
}

#[test]
fn every_changed_byte_of_a_side_file_is_noticed_if_it_matters() {
    let h = Hostile::new();
    let (sample, data, side) = (&SAMPLES[2], h.file("Dlarge"), h.file("mDlarge"));
    let map_len = 56 + 2 * 10 + 3 * 20;
    let crcs = 128 * 1024;
    for at in
        (0..map_len + 64).chain(crcs..crcs + 64).chain(crcs + 4 * 1030 - 8..crcs + 4 * 1031 + 8)
    {
        let used = at < map_len
            || sample.data.iter().any(|p| (crcs + 4 * p..crcs + 4 * p + 4).contains(&at));
        h.attempt(sample, &[&data, &side], used, &format!("side byte {at}"), || {
            flip(&side.path, at);
        });
    }
    for len in (1..200).chain(crcs - 4..crcs + 8).chain(crcs + 4 * 1030..crcs + 4 * 1031) {
        h.attempt(sample, &[&data, &side], true, &format!("side file cut at {len}"), || {
            let file = OpenOptions::new().write(true).open(&side.path).expect("open");
            file.set_len(len).expect("cut");
        });
    }
}

#[test]
fn swapped_and_missing_parts_are_never_believed() {
    let h = Hostile::new();
    for (a, b) in [("Dsmall", "Dtwin"), ("Dlarge", "Dlargetwin")] {
        let (first, second) = (h.file(a), h.file(b));
        let sides =
            find(h._dir.path(), &format!("m{a}")).zip(find(h._dir.path(), &format!("m{b}")));
        let sides = sides.map(|(x, y)| (Saved::new(x), Saved::new(y)));
        let check_both = |what: &str, swap: &dyn Fn()| {
            let before = h.corruptions();
            swap();
            for sample in SAMPLES
                .iter()
                .filter(|s| &a.as_bytes()[1..] == s.key || &b.as_bytes()[1..] == s.key)
            {
                let (whole, _) = sample.check(&h.bed, what);
                assert!(!whole, "{what} of {a} went unnoticed");
            }
            assert!(h.corruptions() > before, "{what} was not counted");
            for saved in [&first, &second].into_iter().chain(sides.iter().flat_map(|(x, y)| [x, y]))
            {
                saved.restore();
            }
        };
        let exchange = |x: &Path, y: &Path| {
            let temp = x.with_extension("t");
            fs::rename(x, &temp).and_then(|()| fs::rename(y, x)).expect("rename");
            fs::rename(temp, y).expect("rename");
        };
        check_both("swapping files with their attributes", &|| exchange(&first.path, &second.path));
        check_both("swapping data", &|| {
            for (to, from) in [(&first, &second), (&second, &first)] {
                let file = OpenOptions::new().write(true).open(&to.path).expect("open");
                from.pages.iter().for_each(|(at, b)| file.write_all_at(b, *at).expect("write"));
            }
        });
        for attr in ["user.netfs.hdr", "user.netfs.map"] {
            let get = |s: &Saved| s.xattrs.iter().find(|(n, _)| *n == attr).map(|(_, v)| v.clone());
            if let (Some(x), Some(y)) = (get(&first), get(&second)) {
                check_both("swapping an attribute", &|| {
                    xattr::set(&first.path, attr, &y).expect("set");
                    xattr::set(&second.path, attr, &x).expect("set");
                });
            }
        }
        if let Some((x, y)) = &sides {
            check_both("swapping side files", &|| exchange(&x.path, &y.path));
        }
    }
}

/// One object, cut over under the same identity: everything of the earlier generation has the right key,
/// place and version, and is wrong.
#[test]
fn parts_of_an_earlier_generation_are_never_believed() {
    for sample in [&SAMPLES[0], &SAMPLES[2]] {
        let h = Hostile::new();
        let name = format!("D{}", String::from_utf8_lossy(sample.key));
        let parts = || {
            let side = find(h._dir.path(), &format!("m{name}")).map(Saved::new);
            (h.file(&name), side)
        };
        let (old, old_side) = parts();
        let (object, _) = h.bed.object(sample.key, &sample.identity());
        let object = object.cut_over(sample.identity()).expect("cut over");
        let newer = Sample { seed: sample.seed + 100, ..*sample };
        for page in newer.data {
            fill(&object, newer.seed, page * PAGE, 4096);
        }
        for page in newer.zero {
            object.mark_zero(page * PAGE..(page + 1) * PAGE);
        }
        close(object);
        let (new, new_side) = parts();
        let files: Vec<&Saved> = std::iter::once(&new).chain(&new_side).collect();
        assert!(newer.check(&h.bed, "nothing").0, "the newer generation is stored");

        h.attempt(&newer, &files, true, "data of an earlier generation", || {
            let file = OpenOptions::new().write(true).open(&new.path).expect("open");
            old.pages.iter().for_each(|(at, b)| file.write_all_at(b, *at).expect("write"));
        });
        for (attr, value) in &old.xattrs {
            let what = format!("{attr} of an earlier generation");
            h.attempt(&newer, &files, true, &what, || {
                xattr::set(&new.path, attr, value).expect("set");
            });
        }
        if let (Some(old_side), Some(new_side)) = (&old_side, &new_side) {
            h.attempt(&newer, &files, true, "a side file of an earlier generation", || {
                std::fs::remove_file(&new_side.path).expect("remove");
                old_side.restore();
            });
            h.attempt(&newer, &files, true, "checksums of an earlier generation", || {
                let file = OpenOptions::new().write(true).open(&new_side.path).expect("open");
                let crcs = old_side.pages.iter().filter(|(at, _)| *at >= 128 * 1024);
                crcs.for_each(|(at, b)| file.write_all_at(b, *at).expect("write"));
            });
        }
    }
}

#[test]
fn a_missing_side_file_or_map_is_a_cold_object() {
    let h = Hostile::new();
    let (data, side) = (h.file("Dlarge"), h.file("mDlarge"));
    fs::remove_file(&side.path).expect("remove");
    assert_eq!(SAMPLES[2].check(&h.bed, "no side file"), (false, Found::Existing));
    SAMPLES[2].store(&h.bed);
    assert!(SAMPLES[2].check(&h.bed, "stored again").0, "it is made again");
    drop(data);
    let small = h.file("Dsmall");
    xattr::remove(&small.path, "user.netfs.map").expect("remove");
    assert_eq!(SAMPLES[0].check(&h.bed, "no map"), (false, Found::Existing));
}

#[test]
fn squatters_are_moved_out_of_the_way() {
    let h = Hostile::new();
    type Squat = fn(&Path);
    let squats: [(&str, Squat); 5] = [
        ("directory", |p| fs::create_dir_all(p.join("full/of/things")).expect("mkdir")),
        ("symlink", |p| std::os::unix::fs::symlink("/etc/passwd", p).expect("symlink")),
        ("dangling symlink", |p| std::os::unix::fs::symlink("nowhere", p).expect("symlink")),
        ("socket", |p| drop(std::os::unix::net::UnixListener::bind(p).expect("bind"))),
        ("fifo", |p| {
            let made = std::process::Command::new("mkfifo").arg(p).status();
            assert!(made.expect("mkfifo").success());
        }),
    ];
    for (sample, names) in
        [(&SAMPLES[0], &["Dsmall", "@"][..]), (&SAMPLES[2], &["Dlarge", "mDlarge"])]
    {
        for name in names {
            for (what, squat) in squats {
                let path = match *name {
                    "@" => h.file("Dsmall").path.parent().expect("fan-out").to_owned(),
                    name => h.file(name).path,
                };
                if path.is_dir() {
                    fs::remove_dir_all(&path).expect("remove");
                } else {
                    fs::remove_file(&path).expect("remove");
                }
                if *name == "@" && what == "directory" {
                    fs::create_dir(&path).expect("mkdir");
                } else {
                    squat(&path);
                }
                assert!(!sample.check(&h.bed, what).0, "{what} at {name}");
                sample.store(&h.bed);
                assert!(sample.check(&h.bed, "stored again").0, "{what} at {name} is in the way");
            }
        }
    }
    assert_eq!(fs::read("/etc/passwd").expect("untouched").iter().take(5).count(), 5);
}

#[test]
fn a_damaged_volume_starts_over() {
    let dir = tempfile::tempdir().expect("dir");
    let prepare = || {
        let bed = Bed::open(dir.path());
        SAMPLES[0].store(&bed);
        bed.end();
        let path = dir.path().join("cache/IDvol");
        let header = xattr::get(&path, "user.netfs.vol").expect("xattr").expect("header");
        (path, header)
    };
    let (_, header) = prepare();
    for i in (0..header.len()).step_by(3) {
        let (path, mut header) = prepare();
        header[i] ^= 0x10;
        xattr::set(&path, "user.netfs.vol", &header).expect("set");
        let bed = Bed::open(dir.path());
        assert_eq!(SAMPLES[0].check(&bed, "volume header"), (false, Found::Created));
        bed.end();
    }
    for squat in ["file", "symlink"] {
        for name in ["cache/IDvol", "cache", "graveyard"] {
            prepare();
            let path = dir.path().join(name);
            fs::remove_dir_all(&path).expect("remove");
            match squat {
                "file" => fs::write(&path, "x").expect("write"),
                _ => std::os::unix::fs::symlink("/etc", &path).expect("symlink"),
            }
            let bed = Bed::open(dir.path());
            let whole = SAMPLES[0].check(&bed, squat).0;
            assert_eq!(whole, name == "graveyard");
            bed.end();
        }
    }
}
