//! Names and attributes changed by clients, judged as a POSIX server does.

use std::sync::Arc;

use netfs::{
    Errno, Result,
    coherency::VolumeEvents,
    remote::{
        Cred, Cx, FileKind, NameChange, NewFile, RemoteFile, RemoteFs, RenameHow, SetAttr, SetTime,
        TimeSpec,
    },
};
use netfs_memory::{Event, MemoryFs};

use crate::common::*;

fn create(fs: &Arc<MemoryFs>, dir: &str, name: &'static str, what: NewFile, cx: Cx) -> Result<u32> {
    let made = now(Arc::clone(fs).create(fs.file(dir)?, name.into(), what, cx))?;
    assert_eq!(made.dir.map(|c| c.after), Some(now(fs.file(dir)?.validate(super::common::cx(0)))?));
    Ok(made.found.facts.attr.unwrap().mode)
}

fn link(fs: &Arc<MemoryFs>, file: &str, dir: &str, name: &'static str) -> Result<NameChange> {
    now(Arc::clone(fs).link(fs.file(file)?, fs.file(dir)?, name.into(), cx(0)))
}

fn remove(fs: &Arc<MemoryFs>, dir: &str, name: &str, is_dir: bool, uid: u32) -> Result<NameChange> {
    let name = bytes::Bytes::copy_from_slice(name.as_bytes());
    now(Arc::clone(fs).remove(fs.file(dir)?, name, is_dir, cx(uid)))
}

fn rename(
    fs: &Arc<MemoryFs>,
    from: (&str, &'static str),
    to: (&str, &'static str),
    how: RenameHow,
    uid: u32,
) -> Result<NameChange> {
    let from = (fs.file(from.0)?, from.1.into());
    let to = (fs.file(to.0)?, to.1.into());
    now(Arc::clone(fs).rename(from, to, how, cx(uid)))
}

fn set(fs: &Arc<MemoryFs>, path: &str, set: SetAttr, cx: Cx) -> Result<netfs::remote::Attr> {
    let change = now(Arc::clone(fs).set_attr(fs.file(path)?, set, cx))?;
    Ok(change.after.attr.unwrap())
}

#[test]
fn what_is_made_is_there_and_the_callers() {
    let fs = MemoryFs::builder().dir("d").mode("d", 0o777).build().unwrap();
    assert_eq!(create(&fs, "d", "f", NewFile::File(0o100_640), cx(5)).unwrap(), 0o640);
    assert_eq!(create(&fs, "d", "s", NewFile::Dir(0o700), cx(5)).unwrap(), 0o700);
    create(&fs, "d", "l", NewFile::Symlink("f".into()), cx(5)).unwrap();
    let facts = now(fs.file("d/f").unwrap().validate(cx(5))).unwrap().attr.unwrap();
    assert_eq!((facts.uid, facts.gid, facts.size, facts.kind), (5, 5, 0, FileKind::File));
    let target = now(Arc::clone(&fs).readlink(fs.file("d/l").unwrap(), cx(5))).unwrap().0;
    assert_eq!(&target[..], b"f");
    assert_eq!(write_errno(&write_file(fs.file("d/f").unwrap(), 3, b"x", cx(5))), None);
    assert_eq!(fs.expected("d/f", 0, 4).unwrap(), b"\0\0\0x");
    // A file of the same name later is another file.
    let key = fs.key("d/f").unwrap();
    remove(&fs, "d", "f", false, 5).unwrap();
    create(&fs, "d", "f", NewFile::File(0o600), cx(5)).unwrap();
    assert_ne!(fs.key("d/f").unwrap(), key);
    // A directory's group and its bit go down.
    fs.change("d").chmod(0o2777).unwrap();
    fs.change("d").chown(0, 44).unwrap();
    assert_eq!(create(&fs, "d", "g", NewFile::Dir(0o700), cx(5)).unwrap(), 0o2700);
    let gid = now(fs.file("d/g").unwrap().validate(cx(5))).unwrap().attr.unwrap().gid;
    assert_eq!(gid, 44);
}

#[test]
fn what_cannot_be_made() {
    let build = MemoryFs::builder().file("d/f", 1).dir("o").mode("o", 0o777);
    let fs = build.build().unwrap();
    let fails = |dir, name, uid| errno(create(&fs, dir, name, NewFile::File(0o600), cx(uid)));
    assert_eq!(fails("d", "f", 0), Some(Errno::EEXIST));
    assert_eq!(fails("d", "f", 5), Some(Errno::EEXIST), "before rights");
    assert_eq!(fails("d", "n", 5), Some(Errno::EACCES));
    assert_eq!(fails("d/f", "n", 0), Some(Errno::ENOTDIR));
    for bad in ["", ".", "..", "a/b", "a\0"] {
        assert_eq!(fails("o", bad, 5), Some(Errno::EINVAL), "{bad:?}");
    }
    let long: &'static str = String::leak("x".repeat(256));
    assert_eq!(fails("o", long, 5), Some(Errno::ENAMETOOLONG));
    let to = |target: String| NewFile::Symlink(target.into());
    assert_eq!(errno(create(&fs, "o", "l", to(String::new()), cx(5))), Some(Errno::ENOENT));
    let long = errno(create(&fs, "o", "l", to("x".repeat(4096)), cx(5)));
    assert_eq!(long, Some(Errno::ENAMETOOLONG));
    fs.configure(|s| s.read_only = true);
    assert_eq!(fails("o", "n", 5), Some(Errno::EROFS));
    assert_eq!(errno(remove(&fs, "d", "f", false, 0)), Some(Errno::EROFS));
    assert_eq!(errno(link(&fs, "d/f", "o", "n")), Some(Errno::EROFS));
    let moved = rename(&fs, ("d", "f"), ("o", "n"), RenameHow::Replace, 0);
    assert_eq!(errno(moved), Some(Errno::EROFS));
    let mode = SetAttr { mode: Some(0), ..SetAttr::default() };
    assert_eq!(errno(set(&fs, "d/f", mode, cx(0))), Some(Errno::EROFS));
    assert!(fs.file("o/n").is_err());
}

#[test]
fn links_are_counted_and_the_last_name_takes_the_file() {
    let fs = MemoryFs::builder().file("a", 10).dir("d").build().unwrap();
    let key = fs.key("a").unwrap();
    let linked = link(&fs, "a", "d", "b").unwrap();
    assert_eq!(linked.file.unwrap().after.attr.unwrap().nlink, 2);
    assert_eq!(
        linked.dir.map(|c| c.after),
        Some(now(fs.file("d").unwrap().validate(cx(0))).unwrap())
    );
    assert_eq!(fs.key("d/b").unwrap(), key);
    assert_eq!(errno(link(&fs, "a", "d", "b")), Some(Errno::EEXIST));
    assert_eq!(errno(link(&fs, "d", "", "e")), Some(Errno::EPERM));
    let removed = remove(&fs, "", "a", false, 0).unwrap();
    assert_eq!((removed.gone, removed.file.unwrap().after.attr.unwrap().nlink), (None, 1));
    let removed = remove(&fs, "d", "b", false, 0).unwrap();
    assert_eq!((removed.gone, removed.file), (Some(key.into()), None));
    assert_eq!(errno(remove(&fs, "d", "b", false, 0)), Some(Errno::ENOENT));
}

#[test]
fn directories_are_removed_as_such_and_only_empty() {
    let fs = MemoryFs::builder().file("d/f", 1).dir("e").build().unwrap();
    assert_eq!(errno(remove(&fs, "", "d", true, 0)).map(Errno::raw), Some(libc::ENOTEMPTY));
    assert_eq!(errno(remove(&fs, "", "e", false, 0)), Some(Errno::EISDIR));
    assert_eq!(errno(remove(&fs, "d", "f", true, 0)), Some(Errno::ENOTDIR));
    let key = fs.key("e").unwrap();
    assert_eq!(remove(&fs, "", "e", true, 0).unwrap().gone, Some(key.into()));
    assert!(fs.file("d/f").is_ok() && fs.file("e").is_err());
}

#[test]
fn renames_replace_refuse_or_exchange() {
    let fs = MemoryFs::builder().file("d/a", 1).file("e/b", 2).file("x/f", 3).build().unwrap();
    let (a, b) = (fs.key("d/a").unwrap(), fs.key("e/b").unwrap());
    let (from, to) = (("d", "a"), ("e", "b"));
    assert_eq!(errno(rename(&fs, from, to, RenameHow::NoReplace, 0)), Some(Errno::EEXIST));
    let nothing = rename(&fs, from, ("e", "none"), RenameHow::Exchange, 0);
    assert_eq!(errno(nothing), Some(Errno::ENOENT));
    let fact = |path: &str| Some(now(fs.file(path).unwrap().validate(cx(0))).unwrap());
    let version = |path: &str| fact(path).unwrap().version;
    let before = [version("e"), version("d"), version("d/a"), version("e/b")];
    let done = rename(&fs, from, to, RenameHow::Exchange, 0).unwrap();
    assert_eq!((fs.key("e/b").unwrap(), fs.key("d/a").unwrap()), (a.clone(), b.clone()));
    let told = [done.dir, done.from, done.file, done.other].map(Option::unwrap);
    assert_eq!(told.clone().map(|c| c.before), before);
    assert_eq!(told.map(|c| Some(c.after)), [fact("e"), fact("d"), fact("e/b"), fact("d/a")]);
    assert_eq!(done.gone, None);
    let done = rename(&fs, from, to, RenameHow::Replace, 0).unwrap();
    assert_eq!((done.gone, fs.key("e/b").unwrap()), (Some(a.into()), b));
    assert!(fs.file("d/a").is_err());
    // Directories: onto an empty one, exchanged with a file, never into themselves.
    let how = RenameHow::Replace;
    assert_eq!(errno(rename(&fs, ("", "e"), ("x", "f"), how, 0)), Some(Errno::ENOTDIR));
    assert_eq!(errno(rename(&fs, ("x", "f"), ("", "e"), how, 0)), Some(Errno::EISDIR));
    let full = errno(rename(&fs, ("", "e"), ("", "x"), how, 0));
    assert_eq!(full.map(Errno::raw), Some(libc::ENOTEMPTY));
    assert_eq!(errno(rename(&fs, ("", "x"), ("x", "y"), how, 0)), Some(Errno::EINVAL));
    let swallowed = rename(&fs, ("x", "f"), ("", "x"), RenameHow::Exchange, 0);
    assert_eq!(errno(swallowed), Some(Errno::EINVAL));
    rename(&fs, ("", "x"), ("", "d"), how, 0).unwrap();
    assert_eq!(fs.size("d/f").unwrap(), 3);
    rename(&fs, ("", "d"), ("e", "b"), RenameHow::Exchange, 0).unwrap();
    assert_eq!((fs.size("d").unwrap(), fs.size("e/b/f").unwrap()), (2, 3));
    let nlink = |path: &str| fact(path).unwrap().attr.unwrap().nlink;
    assert_eq!((nlink(""), nlink("e")), (3, 3));
}

#[test]
fn a_rename_onto_the_same_file_does_nothing() {
    let fs = MemoryFs::builder().file("a", 1).build().unwrap();
    link(&fs, "a", "", "b").unwrap();
    let version = fs.snapshot("").unwrap().version;
    let done = rename(&fs, ("", "a"), ("", "b"), RenameHow::Replace, 0).unwrap();
    assert_eq!((done.gone, fs.snapshot("").unwrap().version), (None, version));
    assert!(fs.file("a").is_ok() && fs.file("b").is_ok());
}

#[test]
fn names_are_taken_by_right() {
    let build = MemoryFs::builder().file("t/mine", 1).owner("t/mine", 5, 5).file("t/other", 1);
    let build = build.mode("t", 0o1777).dir("t/d").owner("t/d", 6, 6).dir("w").mode("w", 0o777);
    let fs = build.build().unwrap();
    assert_eq!(errno(remove(&fs, "t", "other", false, 5)), Some(Errno::EPERM), "sticky");
    let how = RenameHow::Replace;
    assert_eq!(errno(rename(&fs, ("t", "other"), ("w", "x"), how, 5)), Some(Errno::EPERM));
    assert_eq!(errno(rename(&fs, ("t", "mine"), ("t", "other"), how, 5)), Some(Errno::EPERM));
    rename(&fs, ("t", "mine"), ("w", "mine"), how, 5).unwrap();
    // Moving a directory changes what `..` in it is.
    fs.change("t/d").chmod(0o500).unwrap();
    assert_eq!(errno(rename(&fs, ("t", "d"), ("w", "d"), how, 6)), Some(Errno::EACCES));
    rename(&fs, ("t", "d"), ("t", "e"), how, 6).unwrap();
    fs.change("w").chmod(0o755).unwrap();
    assert_eq!(errno(remove(&fs, "w", "mine", false, 5)), Some(Errno::EACCES));
    fs.configure(|s| s.check_access = false);
    remove(&fs, "w", "mine", false, 5).unwrap();
    remove(&fs, "t", "other", false, 5).unwrap();
}

#[test]
fn attributes_are_changed_by_right() {
    let build = MemoryFs::builder().file("a", 1).owner("a", 5, 50).mode("a", 0o6755);
    let fs = build.build().unwrap();
    let owner = || Cx::new(Cred { groups: vec![51], ..Cred::new(5, 50) });
    let mode = |m| SetAttr { mode: Some(m), ..SetAttr::default() };
    let (uid, gid) = (
        |u| SetAttr { uid: Some(u), ..SetAttr::default() },
        |g| SetAttr { gid: Some(g), ..SetAttr::default() },
    );
    let (to, at) = (SetTime::To(TimeSpec { sec: 7, nsec: 8 }), |t| SetAttr {
        mtime: Some(t),
        ..SetAttr::default()
    });
    assert_eq!(errno(set(&fs, "a", mode(0o777), cx(6))), Some(Errno::EPERM));
    assert_eq!(errno(set(&fs, "a", uid(6), owner())), Some(Errno::EPERM));
    assert_eq!(errno(set(&fs, "a", gid(52), owner())), Some(Errno::EPERM));
    assert_eq!(errno(set(&fs, "a", at(to), cx(6))), Some(Errno::EPERM));
    assert_eq!(errno(set(&fs, "a", at(SetTime::Now), cx(6))), Some(Errno::EACCES));
    assert_eq!(fs.snapshot("a").unwrap().version, 1);
    let attr = set(&fs, "a", gid(51), owner()).unwrap();
    assert_eq!((attr.gid, attr.mode), (51, 0o755), "the set-id bits go");
    assert_eq!(set(&fs, "a", mode(0o2666), owner()).unwrap().mode, 0o2666, "a group of the owner");
    assert_eq!(
        set(&fs, "a", mode(0o2666), cx(5)).unwrap().mode,
        0o666,
        "not a group of the caller"
    );
    let before = set(&fs, "a", mode(0o666), owner()).unwrap();
    let attr = set(&fs, "a", at(SetTime::Now), cx(6)).unwrap();
    assert!(attr.mtime > before.mtime && attr.ctime > before.ctime && attr.atime == before.atime);
    let attr = set(&fs, "a", at(to), owner()).unwrap();
    assert_eq!(attr.mtime, TimeSpec { sec: 7, nsec: 8 });
    let attr = set(&fs, "a", uid(6), cx(0)).unwrap();
    assert_eq!((attr.uid, attr.gid), (6, 51));
}

/// An NFS change attribute moves with each change of names and attributes, a data version does not.
#[test]
fn versions_move_with_attributes_and_names_only_if_told() {
    for (moves, version) in [(false, 1), (true, 5)] {
        let fs =
            MemoryFs::builder().file("a", 1).configure(|s| s.attr_moves_version = moves).build();
        let fs = fs.unwrap();
        link(&fs, "a", "", "b").unwrap();
        rename(&fs, ("", "b"), ("", "c"), RenameHow::Replace, 0).unwrap();
        remove(&fs, "", "c", false, 0).unwrap();
        let mode = SetAttr { mode: Some(0), ..SetAttr::default() };
        let change = now(Arc::clone(&fs).set_attr(fs.file("a").unwrap(), mode, cx(0))).unwrap();
        assert_eq!(fs.snapshot("a").unwrap().version, version);
        assert_eq!(versions(&change), from_to(if moves { version - 1 } else { 1 }, version));
    }
}

/// Every file and directory that a change of names touches, and those that are gone.
#[test]
fn other_clients_hear_of_every_file_that_changed() {
    let fs = MemoryFs::builder().file("d/a", 1).file("e/b", 1).build().unwrap();
    let other = fs.client();
    other.attach(VolumeEvents::detached());
    fs.attach(VolumeEvents::detached());
    let key = |path: &str| bytes::Bytes::from(fs.key(path).unwrap());
    let broken = |path: &str| Event::Break { key: key(path) };
    create(&fs, "d", "n", NewFile::File(0o600), cx(0)).unwrap();
    assert_eq!(fs.take_events(), [broken("d")]);
    let gone = Event::Deleted { key: key("e/b") };
    rename(&fs, ("d", "a"), ("e", "b"), RenameHow::Replace, 0).unwrap();
    assert_eq!(fs.take_events(), [gone, broken("e"), broken("d"), broken("e/b")]);
    rename(&fs, ("d", "n"), ("e", "b"), RenameHow::Exchange, 0).unwrap();
    assert_eq!(fs.take_events(), [broken("e"), broken("d"), broken("e/b"), broken("d/n")]);
    link(&fs, "d/n", "e", "l").unwrap();
    assert_eq!(fs.take_events(), [broken("e"), broken("d/n")]);
    remove(&fs, "e", "l", false, 0).unwrap();
    assert_eq!(fs.take_events(), [broken("d/n"), broken("e")]);
    let gone = Event::Deleted { key: key("d/n") };
    remove(&fs, "d", "n", false, 0).unwrap();
    assert_eq!(fs.take_events(), [gone, broken("d")]);
    set(&fs, "e/b", SetAttr { mode: Some(0), ..SetAttr::default() }, cx(0)).unwrap();
    assert_eq!(fs.take_events(), [broken("e/b")]);
}
