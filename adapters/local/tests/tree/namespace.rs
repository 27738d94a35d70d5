//! Names, links and listings.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink},
    sync::Arc,
};

use netfs::{
    Errno,
    remote::{FileKind, RemoteFile, RemoteFs},
};
use netfs_local::LocalFs;
use pollster::block_on;

use crate::bed::{Bed, me, read, version};

#[test]
fn names_are_any_bytes() {
    let bed = Bed::new();
    let names: [&[u8]; 5] = [b"\xff\xfe", b"with\nnewline", b" ", &[b'x'; 255], b"..."];
    for name in names {
        fs::write(bed.path(OsStr::from_bytes(name)), name).unwrap();
        let file = bed.find(&bed.root(), name, &me()).unwrap().unwrap().0;
        assert_eq!(read(&file, 0, 300).1, name);
    }
    let listed: BTreeSet<_> = bed.list(&bed.root(), false).into_iter().map(|e| e.name).collect();
    assert_eq!(listed, names.iter().map(|n| bytes::Bytes::copy_from_slice(n)).collect());
}

#[test]
fn a_name_that_does_not_exist_is_an_answer_with_the_directorys_facts() {
    let bed = Bed::new();
    version(&bed.root());
    let reply = Arc::clone(&bed.fs).lookup(bed.root(), "nothing".into(), me());
    let reply = block_on(reply).unwrap();
    assert!(reply.found.is_none());
    assert_eq!(reply.dir.unwrap().version, Some(version(&bed.root())));
}

#[test]
fn nothing_leads_out_of_the_tree() {
    let bed = Bed::new();
    fs::create_dir(bed.path("d")).unwrap();
    symlink("/etc", bed.path("d/abs")).unwrap();
    symlink("../..", bed.path("d/up")).unwrap();
    for name in [&b".."[..], b".", b"", b"d/abs", b"/etc", b"a\0b"] {
        let e = bed.find(&bed.root(), name, &me()).unwrap_err();
        assert_eq!(e.errno(), Errno::EINVAL, "{name:?}");
    }
    for link in ["d/abs", "d/up"] {
        let link = bed.walk(link).unwrap();
        assert_eq!(link.kind(), FileKind::Symlink);
        let through = bed.find(&link, b"passwd", &me()).unwrap_err();
        assert_eq!(through.errno(), Errno::ENOTDIR);
    }
    let e = bed.find(&bed.root(), &[b'x'; 256], &me()).unwrap_err();
    assert_eq!(e.errno(), Errno::ENAMETOOLONG);
}

#[test]
fn links_are_reported_never_followed_loops_included() {
    let bed = Bed::new();
    for (name, target) in [("a", "b"), ("b", "a"), ("self", "self"), ("abs", "/etc/passwd")] {
        symlink(target, bed.path(name)).unwrap();
        let link = bed.walk(name).unwrap();
        let (read, facts) =
            block_on(Arc::clone(&bed.fs).readlink(Arc::clone(&link), me())).unwrap();
        assert_eq!(read, target.as_bytes());
        assert_eq!(facts.unwrap().attr.unwrap().kind, FileKind::Symlink);
    }
    let long = "x".repeat(4000);
    symlink(&long, bed.path("long")).unwrap();
    let link = bed.walk("long").unwrap();
    assert_eq!(block_on(Arc::clone(&bed.fs).readlink(link, me())).unwrap().0, long.as_bytes());
    bed.write("f", b"");
    let e = block_on(Arc::clone(&bed.fs).readlink(bed.walk("f").unwrap(), me())).unwrap_err();
    assert_eq!(e.errno(), Errno::EINVAL);
}

#[test]
fn a_mount_point_is_not_crossed() {
    let Ok(fs) = LocalFs::builder("/").open() else { return };
    let root = block_on(Arc::clone(&fs).root(me())).unwrap().file;
    let e = block_on(Arc::clone(&fs).lookup(root, "proc".into(), me())).err().unwrap();
    assert_eq!(e.errno().raw(), libc::EXDEV);
}

#[test]
fn a_large_directory_is_listed_once_and_in_full_from_any_position() {
    for bed in Bed::each_filesystem() {
        let names: BTreeSet<String> = (0..4500).map(|i| format!("file-{i:05}")).collect();
        names.iter().for_each(|n| bed.write(n, b""));
        let all = bed.list(&bed.root(), false);
        let order: Vec<_> = all.iter().map(|e| e.name.clone()).collect();
        assert_eq!(order.len(), names.len(), "each once");
        assert!(order.iter().all(|n| names.contains(std::str::from_utf8(n).unwrap())));
        for i in [0, 1, 17, 4095, 4096, 4498, 4499] {
            let (rest, _) = bed.page(&bed.root(), all[i].cookie, false);
            assert_eq!(rest.first().map(|e| &e.name), order.get(i + 1), "after entry {i}");
        }
        let (rest, eof) = bed.page(&bed.root(), all[4499].cookie, false);
        assert!(rest.is_empty() && eof);
    }
}

#[test]
fn a_position_stays_good_while_other_entries_come_and_go() {
    let bed = Bed::new();
    (0..3000).for_each(|i| bed.write(&format!("f{i}"), b""));
    let all = bed.list(&bed.root(), false);
    let middle = all[1500].cookie;
    for e in &all[..1500] {
        fs::remove_file(bed.path(OsStr::from_bytes(&e.name))).unwrap();
    }
    let (rest, _) = bed.page(&bed.root(), middle, false);
    let got: BTreeSet<_> = rest.into_iter().map(|e| e.name).collect();
    let want: BTreeSet<_> = all[1501..].iter().map(|e| e.name.clone()).collect();
    assert_eq!(got, want);
}

#[test]
fn a_listing_with_files_gives_what_lookup_gives() {
    let bed = Bed::new();
    (0..700).for_each(|i| bed.write(&format!("f{i}"), i.to_string().as_bytes()));
    fs::create_dir(bed.path("d")).unwrap();
    symlink("d", bed.path("l")).unwrap();
    let all: BTreeMap<_, _> =
        bed.list(&bed.root(), true).into_iter().map(|e| (e.name.clone(), e)).collect();
    assert_eq!(all.len(), 702);
    for (name, e) in all {
        let found = e.plus.expect("asked for");
        let (file, facts) = bed.find(&bed.root(), &name, &me()).unwrap().unwrap();
        assert_eq!(found.file.key(), file.key());
        let attr = found.facts.attr.unwrap();
        assert_eq!(Some(attr), facts.attr);
        assert_eq!((attr.kind, attr.ino), (e.kind, e.ino));
        assert_eq!(file.kind(), e.kind);
    }
}

#[test]
fn an_empty_and_a_wrong_directory() {
    let bed = Bed::new();
    assert!(bed.list(&bed.root(), true).is_empty());
    bed.write("f", b"");
    let f = bed.walk("f").unwrap();
    let e = block_on(Arc::clone(&bed.fs).readdir(f, 0, false, me())).err().unwrap();
    assert_eq!(e.errno(), Errno::ENOTDIR);
    assert_eq!(LocalFs::builder(bed.path("f")).open().err().unwrap().errno(), Errno::ENOTDIR);
    assert_eq!(LocalFs::builder(bed.path("no")).open().err().unwrap().errno(), Errno::ENOENT);
}

#[test]
fn a_removed_directory_is_stale() {
    let bed = Bed::new();
    fs::create_dir(bed.path("d")).unwrap();
    let dir = bed.walk("d").unwrap();
    fs::remove_dir(bed.path("d")).unwrap();
    let e = block_on(Arc::clone(&bed.fs).readdir(dir, 0, false, me())).err().unwrap();
    assert_eq!(e.errno(), Errno::ESTALE);
}

#[test]
fn statfs_is_the_filesystems_own() {
    let bed = Bed::new();
    let s = block_on(Arc::clone(&bed.fs).statfs(me())).unwrap();
    let want = rustix::fs::statvfs(bed.dir.path()).unwrap();
    assert_eq!(s.bytes_total, want.f_blocks * want.f_frsize);
    assert_eq!((s.files_total, u64::from(s.name_max)), (want.f_files, want.f_namemax));
}
