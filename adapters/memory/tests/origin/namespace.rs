//! Lookup, readdir, attributes, opens, and the books that are kept about them.

use std::sync::Arc;

use netfs::{
    Errno,
    remote::{AccessMask, FileKind, OpenIntent, RemoteFile, RemoteFs},
};
use netfs_memory::{MemoryFs, Op};

use crate::common::*;

#[test]
fn lookup_finds_or_says_that_there_is_no_such_name() {
    let fs = MemoryFs::builder().file("d/a", 10).build().unwrap();
    let reply = lookup(&fs, "d", "a", 1).unwrap();
    let found = reply.found.unwrap();
    assert_eq!(found.file.key(), fs.key("d/a").unwrap());
    assert_eq!(found.facts.attr.unwrap().kind, FileKind::File);
    assert_eq!(reply.dir.unwrap().attr.unwrap().kind, FileKind::Dir);
    assert!(lookup(&fs, "d", "b", 1).unwrap().found.is_none());
    assert_eq!(errno(lookup(&fs, "d/a", "b", 1)), Some(Errno::ENOTDIR));
    let long = now(Arc::clone(&fs).lookup(fs.file("d").unwrap(), vec![b'x'; 256].into(), cx(1)));
    assert_eq!(errno(long), Some(Errno::ENAMETOOLONG));
}

#[test]
fn directories_are_protected_by_their_mode() {
    let fs = MemoryFs::builder().file("d/a", 10).mode("d", 0o744).build().unwrap();
    assert_eq!(errno(lookup(&fs, "d", "a", 1)), Some(Errno::EACCES));
    assert_eq!(errno(lookup(&fs, "d", "a", 0)), None);
    let page = |uid| now(Arc::clone(&fs).readdir(fs.file("d").unwrap(), 0, true, cx(uid)));
    // Listing is allowed; attributes of entries take the right to search.
    assert!(page(1).unwrap().entries[0].plus.is_none());
    assert!(page(0).unwrap().entries[0].plus.is_some());
    fs.change("d").chmod(0o711).unwrap();
    assert_eq!(errno(page(1)), Some(Errno::EACCES));
    assert_eq!(errno(lookup(&fs, "d", "a", 1)), None);
}

#[test]
fn access_is_the_servers_word() {
    let fs = MemoryFs::builder().file("a", 1).mode("a", 0o604).owner("a", 7, 8).build().unwrap();
    let may =
        |uid, mask| now(Arc::clone(&fs).access(fs.file("a").unwrap(), mask, cx(uid))).unwrap();
    let rw = AccessMask::READ.union(AccessMask::WRITE);
    assert!(may(7, rw));
    assert!(!may(8, AccessMask::READ), "the group class has no rights");
    assert!(may(9, AccessMask::READ) && !may(9, rw));
}

#[test]
fn readdir_continues_where_it_stopped_though_names_change() {
    let build = MemoryFs::builder().files("d", 10, 1).configure(|s| s.readdir_page = 3);
    let fs = build.build().unwrap();
    let dir = fs.file("d").unwrap();
    let page =
        |cookie| now(Arc::clone(&fs).readdir(Arc::clone(&dir), cookie, false, cx(1))).unwrap();
    let mut names = Vec::new();
    let mut cookie = 0;
    loop {
        let page = page(cookie);
        assert!(page.entries.len() <= 3 && page.entries.iter().all(|e| e.cookie != 0));
        names.extend(page.entries.iter().map(|e| e.name.clone()));
        cookie = page.entries.last().map_or(cookie, |e| e.cookie);
        if names.len() == 3 {
            fs.change("d/0").remove().unwrap();
            fs.change("d/5").remove().unwrap();
            fs.change("d/new").create(1).unwrap();
        }
        if page.eof {
            break;
        }
    }
    assert_eq!(names, ["0", "1", "2", "3", "4", "6", "7", "8", "9", "new"]);
    assert!(page(u64::MAX).eof);
}

#[test]
fn names_may_be_any_bytes() {
    let name: &[u8] = &[0xff, b' ', b'\n', 1];
    let fs = MemoryFs::builder().file(name, 10).build().unwrap();
    let page = now(Arc::clone(&fs).readdir(root(&fs).file, 0, true, cx(1))).unwrap();
    assert_eq!(&page.entries[0].name[..], name);
    assert_eq!(page.entries[0].ino, page.entries[0].plus.as_ref().unwrap().facts.attr.unwrap().ino);
    let found = now(Arc::clone(&fs).lookup(root(&fs).file, name.to_vec().into(), cx(1))).unwrap();
    assert_eq!(found.found.unwrap().file.key(), fs.key(name).unwrap());
    assert_eq!(fs.files(), [name]);
}

#[test]
fn links_statfs_and_coherency_data() {
    let build = MemoryFs::builder().symlink("l", "to/there").file("a", 4096).volume_id("v");
    let fs = build.configure(|s| s.volume_coherency = "gen 1".into()).build().unwrap();
    let readlink = |path| now(Arc::clone(&fs).readlink(fs.file(path).unwrap(), cx(1)));
    let (target, facts) = readlink("l").unwrap();
    assert_eq!(&target[..], b"to/there");
    assert_eq!(facts.unwrap().attr.unwrap().kind, FileKind::Symlink);
    assert_eq!(errno(readlink("a")), Some(Errno::EINVAL));
    let statfs = now(Arc::clone(&fs).statfs(cx(1))).unwrap();
    assert_eq!(statfs.bytes_total - statfs.bytes_free, 4096 + 8);
    assert_eq!(statfs.files_total - statfs.files_free, 3);
    assert_eq!(fs.volume_id().as_str(), "v");
    assert_eq!(&fs.volume_coherency()[..], b"gen 1");
}

#[test]
fn opens_are_counted_until_their_token_is_dropped() {
    let fs = MemoryFs::builder().file("a", 10).mode("a", 0o600).build().unwrap();
    let open = |uid| now(Arc::clone(&fs).open(fs.file("a").unwrap(), OpenIntent::Read, cx(uid)));
    assert_eq!(errno(open(1)), Some(Errno::EACCES));
    let (token, facts) = open(0).unwrap();
    assert!(facts.unwrap().version.is_some());
    assert_eq!((fs.opens().opened, fs.opens().held()), (1, 1));
    let rides = cx(0).with_token(token.clone());
    drop(token);
    let _ = fs.take_calls();
    let _ = read_file(fs.file("a").unwrap(), 0, 10, rides);
    assert_eq!(fs.take_calls()[0].open, Some(1));
    assert_eq!((fs.opens().dropped, fs.opens().held()), (1, 0));
}

#[test]
fn calls_are_counted_and_logged() {
    let fs = MemoryFs::builder().file("d/a", 10_000).file("d/b", 10_000).build().unwrap();
    let before = fs.counts();
    let _ = lookup(&fs, "d", "a", 5);
    let _ = read(&fs, "d/a", 4096, 100);
    let _ = read(&fs, "d/b", 0, 50);
    let counts = fs.counts().since(&before);
    assert_eq!((counts.calls(Op::Lookup), counts.calls(Op::Read)), (1, 2));
    assert_eq!((counts.total(), counts.bytes()), (3, 150));
    assert_eq!(fs.file_counts("d/a").unwrap().bytes(), 100);
    assert_eq!(fs.file_counts("d").unwrap().calls(Op::Lookup), 1);
    fs.change("d/a").rename("moved").unwrap();
    assert_eq!(fs.file_counts("moved").unwrap().bytes(), 100, "counts follow the file");
    let calls = fs.take_calls();
    assert_eq!(calls.len(), 3);
    assert_eq!((calls[0].name.as_deref(), calls[0].uid), (Some("a"), 5));
    assert_eq!((&calls[1].path[..], calls[1].range.clone()), ("d/a", Some(4096..4196)));
    assert_eq!(fs.take_calls(), []);
}
