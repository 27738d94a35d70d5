//! The same life on every file system the cache is meant for: ext4, xfs and btrfs in loop-mounted
//! images, tmpfs and overlayfs; and copies made by `cp -a` and `tar`.
//!
//! Mounting needs root, and `mkfs.ext4`, `mkfs.xfs`, `mkfs.btrfs` (Debian: e2fsprogs, xfsprogs,
//! btrfs-progs). What cannot be mounted is said on stderr and left out, unless the environment has
//! `NETFS_FS_MATRIX=required`.

mod common;

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use cachefiles::{KernelCache, LinkMethod, Probe};
use common::*;
use netfs::fscache::{CacheBackend, CacheMiss, ExtentKind, Found};

const GIB: u64 = 1 << 30;
/// Sizes around every border: empty tail, one page, a block, inline and side maps.
const SIZES: [u64; 7] = [1, 4096, 4097, 256 * 1024, 900_000, 40 << 20, 9 * GIB + 1];

/// Runs a program; what it said if it failed.
fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let out = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    if out.status.success() { Ok(()) } else { Err(format!("{program} {args:?}: {text}")) }
}

/// A mount that is undone at the end.
struct Mounted {
    at: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let at = self.at.display().to_string();
        // Busy while a child that another test has just forked still holds copies of our files.
        if !(0..20).any(|_| run("umount", &[&at]).is_ok())
            && let Err(e) = run("umount", &["-l", &at])
        {
            eprintln!("left mounted: {e}");
        }
    }
}

impl Mounted {
    fn image(mkfs: &str, options: &[&str]) -> Result<Mounted, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let (image, at) = (dir.path().join("image"), dir.path().join("mnt"));
        let file = std::fs::File::create(&image).map_err(|e| e.to_string())?;
        file.set_len(400 << 20).map_err(|e| e.to_string())?;
        std::fs::create_dir(&at).map_err(|e| e.to_string())?;
        let (image, target) = (image.display().to_string(), at.display().to_string());
        run(mkfs, &[options, &[&image]].concat())?;
        run("mount", &["-o", "loop", &image, &target])?;
        Ok(Mounted { at, _dir: dir })
    }

    fn tmpfs() -> Result<Mounted, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let at = dir.path().join("mnt");
        std::fs::create_dir(&at).map_err(|e| e.to_string())?;
        run("mount", &["-t", "tmpfs", "-o", "size=256m", "tmpfs", &at.display().to_string()])?;
        Ok(Mounted { at, _dir: dir })
    }

    fn overlay() -> Result<Mounted, String> {
        let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = |name: &str| dir.path().join(name);
        for name in ["lower", "upper", "work", "mnt"] {
            std::fs::create_dir(path(name)).map_err(|e| e.to_string())?;
        }
        let show = |name: &str| path(name).display().to_string();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            show("lower"),
            show("upper"),
            show("work")
        );
        run("mount", &["-t", "overlay", "-o", &options, "overlay", &show("mnt")])?;
        Ok(Mounted { at: path("mnt"), _dir: dir })
    }
}

/// The places of an object that are filled: start, a middle, the tail.
fn places(size: u64) -> Vec<u64> {
    let pages = size.div_ceil(4096);
    let mut places = vec![0, pages / 2, pages - 1];
    places.dedup();
    places
}

fn store(bed: &Bed) {
    for (i, size) in SIZES.iter().enumerate() {
        let (object, _) = bed.object(format!("key{i}").as_bytes(), &identity(b"v", *size));
        for page in places(*size) {
            fill(&object, i as u64, page * 4096, 4096);
        }
        if *size > GIB {
            object.mark_zero(2 * GIB..3 * GIB);
        }
        close(object);
    }
}

fn verify(bed: &Bed) {
    for (i, size) in SIZES.iter().enumerate() {
        let (object, found) = bed.object(format!("key{i}").as_bytes(), &identity(b"v", *size));
        assert_eq!(found, Found::Existing, "object of {size} bytes");
        for page in places(*size) {
            let len = 4096.min(size - page * 4096) as usize;
            let got = read_any(&object, page * 4096, len);
            assert!(got == Ok(content(i as u64, page * 4096, len, *size)), "{size} page {page}");
        }
        if *size > GIB {
            assert_eq!(read_any(&object, 3 * GIB - 5, 5), Ok(vec![0; 5]));
            assert_eq!(read_any(&object, 3 * GIB, 5), Err(CacheMiss::Absent));
        }
        let data = object.extents(0..4096.min(*size)).iter().all(|e| e.kind == ExtentKind::Data);
        assert!(data, "{size}: the start is known");
        close(object);
    }
    assert_eq!(bed.cache.stats().corrupt_pages + bed.cache.stats().corrupt_objects, 0);
}

/// The whole life on one file system, and its copies there.
fn suite(root: &Path, kernel_cache: KernelCache) -> Probe {
    let original = root.join("cache");
    let bed = Bed::with(builder(&original).kernel_cache(kernel_cache));
    let probe = *bed.cache.probe();
    store(&bed);
    verify(&bed);
    bed.end();
    let (from, to) = (original.display().to_string(), root.join("copy").display().to_string());
    run("cp", &["-a", &from, &to]).expect("cp");
    check_copy(Path::new(&to));
    let tar = root.join("cache.tar").display().to_string();
    let unpacked = root.join("unpacked");
    std::fs::create_dir(&unpacked).expect("mkdir");
    run("tar", &["--xattrs", "-S", "-cf", &tar, "-C", &from, "."]).expect("tar -c");
    run("tar", &["--xattrs", "-S", "-xf", &tar, "-C", &unpacked.display().to_string()])
        .expect("tar -x");
    check_copy(&unpacked);
    // The original is as it was.
    let bed = Bed::open(&original);
    verify(&bed);
    bed.end();
    probe
}

fn check_copy(path: &Path) {
    let bed = Bed::open(path);
    verify(&bed);
    bed.end();
    std::fs::remove_dir_all(path).expect("remove");
}

/// Runs the suite on what could be mounted; says why if not.
fn on(name: &str, mounted: Result<Mounted, String>) -> Option<Probe> {
    match mounted {
        Ok(mounted) => {
            let probes = [KernelCache::Keep, KernelCache::Drop].map(|mode| {
                let probe = suite(&mounted.at, mode);
                std::fs::remove_dir_all(mounted.at.join("cache")).expect("remove");
                probe
            });
            eprintln!("{name}: {:?}", probes[0]);
            Some(probes[0])
        }
        Err(e) => {
            let required = std::env::var("NETFS_FS_MATRIX").is_ok_and(|v| v == "required");
            assert!(!required, "{name}: {e}");
            eprintln!("{name}: left out: {e}");
            None
        }
    }
}

#[test]
fn the_temporary_directory() {
    let dir = tempfile::tempdir().expect("dir");
    suite(dir.path(), KernelCache::Keep);
}

#[test]
fn ext4() {
    let image = Mounted::image("mkfs.ext4", &["-q", "-b", "4096"]);
    let Some(probe) = on("ext4", image) else { return };
    assert_eq!(probe.inline_map_max, 3 * 1024, "4040 bytes for all attributes of a file");
    assert_eq!((probe.link, probe.nowait), (LinkMethod::TempFile, true));
}

/// Attributes of 1 KiB in all: nearly every content map needs a side file.
#[test]
fn ext4_with_small_blocks() {
    let image = Mounted::image("mkfs.ext4", &["-q", "-b", "1024"]);
    let Some(probe) = on("ext4, 1 KiB blocks", image) else { return };
    assert!(probe.inline_map_max < 1024);
}

#[test]
fn xfs() {
    let Some(probe) = on("xfs", Mounted::image("mkfs.xfs", &["-q"])) else { return };
    assert!(probe.inline_map_max > 3 * 1024);
}

#[test]
fn btrfs() {
    on("btrfs", Mounted::image("mkfs.btrfs", &["-q"]));
}

#[test]
fn tmpfs() {
    on("tmpfs", Mounted::tmpfs());
}

#[test]
fn overlayfs() {
    on("overlayfs", Mounted::overlay());
}
