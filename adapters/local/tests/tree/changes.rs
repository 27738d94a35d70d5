//! Changes of names and attributes.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    sync::Arc,
};

use bytes::Bytes;
use netfs::{
    Errno, Result,
    remote::{
        Created, Cred, Cx, FileKind, NameChange, NewFile, RemoteFile, RemoteFs, RenameHow, SetAttr,
        SetTime, TimeSpec,
    },
};
use netfs_local::LocalFile;
use pollster::block_on;

use crate::{
    bed::{Bed, check, is_root, me, read},
    writes::{writable, write},
};

fn nobody() -> Cx {
    Cx::new(Cred::new(65534, 65534))
}

fn create(bed: &Bed, name: &str, what: NewFile, cx: Cx) -> Result<Created<LocalFile>> {
    let name = Bytes::copy_from_slice(name.as_bytes());
    block_on(Arc::clone(&bed.fs).create(bed.root(), name, what, cx))
}

fn link(bed: &Bed, file: &str, name: &'static str) -> Result<NameChange> {
    block_on(Arc::clone(&bed.fs).link(bed.walk(file)?, bed.root(), name.into(), me()))
}

fn remove(bed: &Bed, dir: &str, name: &'static str, is_dir: bool, cx: Cx) -> Result<NameChange> {
    block_on(Arc::clone(&bed.fs).remove(bed.walk(dir)?, name.into(), is_dir, cx))
}

fn rename(
    bed: &Bed,
    from: (&str, &'static str),
    to: (&str, &'static str),
    how: RenameHow,
    cx: Cx,
) -> Result<NameChange> {
    let from = (bed.walk(from.0)?, from.1.into());
    let to = (bed.walk(to.0)?, to.1.into());
    block_on(Arc::clone(&bed.fs).rename(from, to, how, cx))
}

fn set(bed: &Bed, name: &str, set: SetAttr, cx: Cx) -> Result<netfs::remote::Attr> {
    let change = block_on(Arc::clone(&bed.fs).set_attr(bed.walk(name)?, set, cx))?;
    Ok(change.after.attr.unwrap())
}

fn errno<T>(result: Result<T>) -> Option<Errno> {
    result.err().map(|e| e.errno())
}

fn chmod(bed: &Bed, name: &str, mode: u32) {
    fs::set_permissions(bed.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

/// The id that the kernel takes for "leave it as it is".
#[test]
fn nobody_is_neither_an_owner_nor_a_caller() {
    let bed = writable();
    chmod(&bed, "", 0o777);
    bed.write("f", b"");
    let before = fs::metadata(bed.path("f")).unwrap();
    for what in [
        SetAttr { uid: Some(u32::MAX), mode: Some(0o4755), ..SetAttr::default() },
        SetAttr { gid: Some(u32::MAX), mode: Some(0o4755), ..SetAttr::default() },
    ] {
        assert_eq!(errno(set(&bed, "f", what, me())), Some(Errno::EINVAL), "{what:?}");
    }
    assert_eq!(fs::metadata(bed.path("f")).unwrap().mode(), before.mode());
    for (uid, gid) in [(u32::MAX, 65534), (65534, u32::MAX), (u32::MAX, u32::MAX)] {
        let made = create(&bed, "new", NewFile::File(0o600), Cx::new(Cred::new(uid, gid)));
        assert_eq!(errno(made), Some(Errno::EINVAL), "{uid} {gid}");
        assert!(!bed.path("new").exists());
    }
}

/// The mode that was asked for, whatever this process's umask.
#[test]
fn what_is_made_is_there_as_it_was_asked_for() {
    let bed = writable();
    for (name, what, kind, mode) in [
        ("f", NewFile::File(0o6666), FileKind::File, 0o6666),
        ("d", NewFile::Dir(0o1777), FileKind::Dir, 0o1777),
        ("l", NewFile::Symlink("f".into()), FileKind::Symlink, 0o777),
    ] {
        let made = create(&bed, name, what, me()).unwrap();
        let attr = made.found.facts.attr.unwrap();
        assert_eq!((attr.kind, attr.mode), (kind, mode), "{name}");
        let found = bed.walk(name).unwrap();
        assert_eq!(found.key(), made.found.file.key());
        let st = fs::symlink_metadata(bed.path(name)).unwrap();
        assert_eq!((st.mode() & 0o7777, st.ino()), (mode, attr.ino));
        assert!(made.dir.unwrap().after.attr.is_some());
    }
    assert_eq!(fs::read_link(bed.path("l")).unwrap().to_str(), Some("f"));
    let again = create(&bed, "f", NewFile::File(0o600), me());
    assert_eq!(errno(again), Some(Errno::EEXIST));
    let through = create(&bed, "l", NewFile::File(0o600), me());
    assert_eq!(errno(through), Some(Errno::EEXIST), "links are not followed");
    assert_eq!(errno(create(&bed, "d", NewFile::Dir(0o700), me())), Some(Errno::EEXIST));
    for bad in ["", ".", "..", "a/b", "a\0"] {
        assert_eq!(
            errno(create(&bed, bad, NewFile::File(0), me())),
            Some(Errno::EINVAL),
            "{bad:?}"
        );
    }
    let long = create(&bed, &"x".repeat(256), NewFile::File(0), me());
    assert_eq!(errno(long), Some(Errno::ENAMETOOLONG));
    let file = bed.walk("f").unwrap();
    let inside = block_on(Arc::clone(&bed.fs).create(file, "x".into(), NewFile::File(0), me()));
    assert_eq!(errno(inside), Some(Errno::ENOTDIR));
    // What was made can be used at once.
    let made = create(&bed, "new", NewFile::File(0o600), me()).unwrap().found.file;
    assert_eq!(write(&made, 0, b"hello").written, 5);
    assert_eq!(read(&made, 0, 9).1, b"hello");
}

#[test]
fn a_tree_is_read_only_unless_it_is_said_otherwise() {
    let bed = Bed::new();
    bed.write("f", b"hello");
    let erofs = Some(Errno::EROFS);
    assert_eq!(errno(create(&bed, "n", NewFile::File(0o600), me())), erofs);
    assert_eq!(errno(link(&bed, "f", "n")), erofs);
    assert_eq!(errno(remove(&bed, "", "f", false, me())), erofs);
    assert_eq!(errno(rename(&bed, ("", "f"), ("", "n"), RenameHow::Replace, me())), erofs);
    let mode = SetAttr { mode: Some(0), ..SetAttr::default() };
    assert_eq!(errno(set(&bed, "f", mode, me())), erofs);
    assert_eq!(bed.list(&bed.root(), false).len(), 1);
}

#[test]
fn what_is_made_for_another_user_is_theirs() {
    if !is_root() {
        return;
    }
    let bed = writable();
    chmod(&bed, "", 0o777);
    let attr = |what| {
        let made = create(&bed, "n", what, nobody()).unwrap();
        let attr = made.found.facts.attr.unwrap();
        let is_dir = attr.kind == FileKind::Dir;
        remove(&bed, "", "n", is_dir, nobody()).unwrap();
        (attr.uid, attr.gid, attr.mode)
    };
    let me = 65534;
    assert_eq!(attr(NewFile::File(0o4755)), (me, me, 0o4755));
    assert_eq!(attr(NewFile::Dir(0o750)), (me, me, 0o750));
    assert_eq!(attr(NewFile::Symlink("x".into())), (me, me, 0o777));
    // A directory's group and its bit go down.
    chown(bed.path(""), None, Some(44)).unwrap();
    chmod(&bed, "", 0o2777);
    assert_eq!(attr(NewFile::Dir(0o750)), (me, 44, 0o2750));
    assert_eq!(attr(NewFile::File(0o640)), (me, 44, 0o640));
    chmod(&bed, "", 0o755);
    let refused = create(&bed, "n", NewFile::File(0o600), nobody());
    assert_eq!(errno(refused), Some(Errno::EACCES));
}

#[test]
fn links_are_counted_and_the_last_name_takes_the_file() {
    let bed = writable();
    bed.write("a", b"hello");
    fs::create_dir(bed.path("d")).unwrap();
    std::os::unix::fs::symlink("nowhere", bed.path("l")).unwrap();
    let key = bed.walk("a").unwrap().key().to_vec();
    assert_eq!(link(&bed, "a", "b").unwrap().file.unwrap().after.attr.unwrap().nlink, 2);
    assert_eq!(bed.walk("b").unwrap().key(), key);
    assert_eq!(errno(link(&bed, "a", "b")), Some(Errno::EEXIST));
    assert_eq!(errno(link(&bed, "d", "e")), Some(Errno::EPERM));
    link(&bed, "l", "m").unwrap();
    assert!(fs::symlink_metadata(bed.path("m")).unwrap().is_symlink(), "the link itself");
    let removed = remove(&bed, "", "a", false, me()).unwrap();
    assert_eq!((removed.gone, removed.file.unwrap().after.attr.unwrap().nlink), (None, 1));
    let file = bed.walk("b").unwrap();
    let removed = remove(&bed, "", "b", false, me()).unwrap();
    assert_eq!((removed.gone, removed.file), (Some(key.into()), None));
    assert_eq!(check(&file).unwrap_err().errno(), Errno::ESTALE);
    assert_eq!(errno(remove(&bed, "", "b", false, me())), Some(Errno::ENOENT));
}

#[test]
fn a_file_without_a_name_is_there_for_everybody_as_long_as_somebody_has_it_open() {
    let bed = writable();
    bed.write("a", b"hello");
    let file = bed.walk("a").unwrap();
    let tokens = [bed.open(&file, &me()).unwrap(), bed.open(&file, &me()).unwrap()];
    fs::remove_file(bed.path("a")).unwrap();
    bed.write("a", b"another");
    for token in tokens {
        // Without the token: the core asks once for all openers.
        assert_eq!(check(&file).unwrap().attr.unwrap().nlink, 0);
        assert_eq!(read(&file, 0, 9).1, b"hello");
        assert_eq!(write(&file, 4, b"!").written, 1);
        assert_eq!(read(&file, 0, 9).1, b"hell!");
        assert_eq!(write(&file, 4, b"o").written, 1);
        drop(token);
    }
    assert_eq!(check(&file).unwrap_err().errno(), Errno::ESTALE);
    assert_eq!(fs::read(bed.path("a")).unwrap(), b"another");
    assert_eq!(bed.fs.usage().opens, 0);
    let numbers = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let held = numbers.filter_map(|fd| fs::read_link(fd.path()).ok());
    let ours = format!("{} (deleted)", bed.path("a").display());
    // (Bytes that nobody has synced keep theirs.)
    block_on(Arc::clone(&file).commit(0..9, me())).unwrap();
    assert_eq!(held.filter(|path| path.as_os_str() == &*ours).count(), 0, "its blocks are free");
}

#[test]
fn directories_are_removed_as_such_and_only_empty() {
    let bed = writable();
    fs::create_dir_all(bed.path("d/e")).unwrap();
    bed.write("f", b"");
    let full = errno(remove(&bed, "", "d", true, me())).map(Errno::raw);
    assert_eq!(full, Some(libc::ENOTEMPTY));
    assert_eq!(errno(remove(&bed, "", "d", false, me())), Some(Errno::EISDIR));
    assert_eq!(errno(remove(&bed, "", "f", true, me())), Some(Errno::ENOTDIR));
    let key = bed.walk("d/e").unwrap().key().to_vec();
    assert_eq!(remove(&bed, "d", "e", true, me()).unwrap().gone, Some(key.into()));
    assert!(bed.path("f").exists() && !bed.path("d/e").exists());
}

#[test]
fn renames_replace_refuse_or_exchange() {
    let bed = writable();
    fs::create_dir_all(bed.path("d/sub")).unwrap();
    fs::create_dir(bed.path("e")).unwrap();
    bed.write("d/a", b"a");
    bed.write("e/b", b"b");
    let key = |name: &str| bed.walk(name).unwrap().key().to_vec();
    let (a, b) = (key("d/a"), key("e/b"));
    let (from, to) = (("d", "a"), ("e", "b"));
    assert_eq!(errno(rename(&bed, from, to, RenameHow::NoReplace, me())), Some(Errno::EEXIST));
    let nothing = rename(&bed, from, ("e", "none"), RenameHow::Exchange, me());
    assert_eq!(errno(nothing), Some(Errno::ENOENT));
    let done = rename(&bed, from, to, RenameHow::Exchange, me()).unwrap();
    assert_eq!((key("e/b"), key("d/a"), done.gone), (a.clone(), b.clone(), None));
    assert!(done.from.is_some() && done.dir.is_some());
    let done = rename(&bed, from, to, RenameHow::Replace, me()).unwrap();
    assert_eq!((done.gone, key("e/b")), (Some(a.into()), b.clone()));
    assert_eq!(
        done.file.unwrap().after.attr.unwrap().ino,
        fs::metadata(bed.path("e/b")).unwrap().ino()
    );
    let done = rename(&bed, to, ("e", "c"), RenameHow::NoReplace, me()).unwrap();
    assert_eq!((done.from, done.gone, key("e/c")), (None, None, b));
    let into_itself = rename(&bed, ("", "d"), ("d/sub", "x"), RenameHow::Replace, me());
    assert_eq!(errno(into_itself), Some(Errno::EINVAL));
    assert_eq!(errno(rename(&bed, from, to, RenameHow::Replace, me())), Some(Errno::ENOENT));
}

#[test]
fn names_are_taken_by_right() {
    if !is_root() {
        return;
    }
    let bed = writable();
    chmod(&bed, "", 0o755);
    for dir in ["t", "w"] {
        fs::create_dir(bed.path(dir)).unwrap();
        chmod(&bed, dir, 0o1777);
    }
    bed.write("t/root", b"");
    bed.write("t/mine", b"");
    chown(bed.path("t/mine"), Some(65534), Some(65534)).unwrap();
    fs::create_dir(bed.path("t/d")).unwrap();
    chown(bed.path("t/d"), Some(65534), Some(65534)).unwrap();
    let eperm = Some(Errno::EPERM);
    let how = RenameHow::Replace;
    assert_eq!(errno(remove(&bed, "t", "root", false, nobody())), eperm);
    assert_eq!(errno(rename(&bed, ("t", "root"), ("w", "x"), how, nobody())), eperm);
    assert_eq!(errno(rename(&bed, ("t", "mine"), ("t", "root"), how, nobody())), eperm);
    rename(&bed, ("t", "mine"), ("w", "mine"), how, nobody()).unwrap();
    chmod(&bed, "t/d", 0o555);
    let moved = rename(&bed, ("t", "d"), ("w", "d"), how, nobody());
    assert_eq!(errno(moved), Some(Errno::EACCES), "its `..` would change");
    rename(&bed, ("t", "d"), ("t", "e"), how, nobody()).unwrap();
    chmod(&bed, "w", 0o755);
    assert_eq!(errno(remove(&bed, "w", "mine", false, nobody())), Some(Errno::EACCES));
}

#[test]
fn attributes_are_changed_and_by_right() {
    let bed = writable();
    bed.write("f", b"hello");
    let at = |t| SetAttr { mtime: Some(t), ..SetAttr::default() };
    let day = TimeSpec { sec: 86_400, nsec: 7 };
    let old = set(&bed, "f", at(SetTime::To(day)), me()).unwrap();
    assert_eq!(old.mtime, day);
    let now = set(&bed, "f", at(SetTime::Now), me()).unwrap();
    assert!(now.mtime > day && now.atime == old.atime);
    let mode = |m| SetAttr { mode: Some(m), ..SetAttr::default() };
    assert_eq!(set(&bed, "f", mode(0o4701), me()).unwrap().mode, 0o4701);
    assert_eq!(set(&bed, "", mode(0o755), me()).unwrap().mode, 0o755, "the root too");
    if !is_root() {
        return;
    }
    let both =
        SetAttr { uid: Some(65534), gid: Some(77), mode: Some(0o4711), ..at(SetTime::To(day)) };
    let attr = set(&bed, "f", both, me()).unwrap();
    assert_eq!((attr.uid, attr.gid, attr.mode, attr.mtime), (65534, 77, 0o4711, day));
    // Now it is nobody's: only some things may they do.
    let eperm = Some(Errno::EPERM);
    let to = |uid, gid| SetAttr { uid, gid, ..SetAttr::default() };
    assert_eq!(errno(set(&bed, "f", to(Some(0), None), nobody())), eperm);
    assert_eq!(errno(set(&bed, "f", to(None, Some(78)), nobody())), eperm);
    assert_eq!(errno(set(&bed, "f", mode(0o2755), nobody())), eperm, "not a member of the group");
    assert_eq!(set(&bed, "f", to(None, Some(65534)), nobody()).unwrap().gid, 65534);
    assert_eq!(set(&bed, "f", mode(0o2757), nobody()).unwrap().mode, 0o2757);
    let other = Cx::new(Cred::new(5, 5));
    assert_eq!(errno(set(&bed, "f", mode(0), other.clone())), eperm);
    assert_eq!(errno(set(&bed, "f", at(SetTime::To(day)), other.clone())), eperm);
    assert!(set(&bed, "f", at(SetTime::Now), other.clone()).unwrap().mtime > day, "a writer may");
    set(&bed, "f", mode(0o755), me()).unwrap();
    assert_eq!(errno(set(&bed, "f", at(SetTime::Now), other)), eperm);
}

#[test]
fn row_61_what_somebody_without_privileges_changes_loses_its_set_id_bits() {
    if !is_root() {
        return;
    }
    let bed = writable();
    bed.write("f", b"0123456789");
    let mode = || std::fs::metadata(bed.path("f")).unwrap().permissions().mode() & 0o7777;
    let write = |cx| {
        let (sub, done) = netfs::remote::WriteSub::detached(0, b"x", cx);
        block_on(bed.walk("f").unwrap().write(sub));
        assert_eq!(done.wait().written, 1);
    };
    let cut = |cx| _ = block_on(bed.walk("f").unwrap().set_size(5, cx)).unwrap();
    for (before, after) in [(0o6777, 0o777), (0o4777, 0o777), (0o2767, 0o767)] {
        let changes: [&dyn Fn(Cx); 2] = [&write, &cut];
        for change in changes {
            chmod(&bed, "f", before);
            change(me());
            assert_eq!(mode(), before, "the superuser's own");
            change(nobody());
            assert_eq!(mode(), after);
        }
    }
}
