//! Who may: this process by the kernel's word, others (tried as root) by bits and ACLs.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
    sync::Arc,
};

use netfs::{
    Errno,
    remote::{AccessMask, Cred, Cx, RemoteFs},
};

use crate::bed::{Bed, failure, is_root, me, read_as};

const NOBODY: u32 = 65534;

fn nobody() -> Cx {
    Cx::new(Cred::new(NOBODY, NOBODY))
}

fn chmod(bed: &Bed, name: &str, mode: u32) {
    fs::set_permissions(bed.path(name), fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_another_user_may_not_read_is_not_read_for_them() {
    if !is_root() {
        return;
    }
    let bed = Bed::new();
    bed.write("f", b"secret");
    chmod(&bed, "f", 0o600);
    let file = bed.walk("f").unwrap();
    assert!(!bed.access(&file, AccessMask::READ, &nobody()).unwrap());
    let eacces = libc::EACCES;
    assert_eq!(bed.open(&file, &nobody()).unwrap_err().errno().raw(), eacces);
    let (done, bytes) = read_as(&file, 0, 6, nobody());
    assert_eq!((failure(&done).map(Errno::raw), bytes.len()), (Some(eacces), 0));
    assert!(bed.access(&file, AccessMask::READ, &me()).unwrap());

    chmod(&bed, "f", 0o604);
    assert!(bed.access(&file, AccessMask::READ, &nobody()).unwrap());
    assert!(!bed.access(&file, AccessMask::WRITE, &nobody()).unwrap());
    assert_eq!(read_as(&file, 0, 6, nobody()).1, b"secret");
    // What was permitted at the open stays permitted for the open.
    let token = bed.open(&file, &nobody()).unwrap();
    chmod(&bed, "f", 0o600);
    assert_eq!(read_as(&file, 0, 6, nobody().with_token(token)).1, b"secret");
}

#[test]
fn directories_are_searched_and_listed_by_right() {
    if !is_root() {
        return;
    }
    let bed = Bed::new();
    chmod(&bed, "", 0o755);
    fs::create_dir(bed.path("d")).unwrap();
    bed.write("d/f", b"");
    let list = |dir| {
        let page = Arc::clone(&bed.fs).readdir(dir, 0, true, nobody());
        pollster::block_on(page).map(|p| p.entries)
    };
    for (mode, search, read) in [(0o700, false, false), (0o711, true, false), (0o744, false, true)]
    {
        chmod(&bed, "d", mode);
        let dir = bed.walk("d").unwrap();
        assert_eq!(bed.walk_as("d/f", &nobody()).is_ok(), search, "{mode:o}");
        let listed = list(dir);
        assert_eq!(listed.is_ok(), read, "{mode:o}");
        // Names without the right to search come without files.
        assert!(listed.unwrap_or_default().iter().all(|e| e.plus.is_none()));
    }
}

#[test]
fn groups_count_primary_and_supplementary() {
    if !is_root() {
        return;
    }
    let bed = Bed::new();
    bed.write("f", b"");
    chown(bed.path("f"), Some(0), Some(1234)).unwrap();
    chmod(&bed, "f", 0o640);
    let file = bed.walk("f").unwrap();
    let may = |cred: Cred| bed.access(&file, AccessMask::READ, &Cx::new(cred)).unwrap();
    assert!(may(Cred::new(NOBODY, 1234)));
    assert!(may(Cred { groups: vec![7, 1234], ..Cred::new(NOBODY, NOBODY) }));
    assert!(!may(Cred { groups: vec![7], ..Cred::new(NOBODY, NOBODY) }));
}

#[test]
fn an_acl_decides_where_there_is_one() {
    if !is_root() {
        return;
    }
    let bed = Bed::new();
    bed.write("f", b"");
    chmod(&bed, "f", 0o604);
    let entry = |tag: u16, perm: u16, id: u32| {
        [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    // user::rw- user:65534:--- group::--- mask::r-- other::r--
    let acl = [
        2u32.to_le_bytes().to_vec(),
        entry(1, 6, none),
        entry(2, 0, NOBODY),
        entry(4, 0, none),
        entry(16, 4, none),
        entry(32, 4, none),
    ]
    .concat();
    let flags = rustix::fs::XattrFlags::empty();
    let path = bed.path("f");
    if rustix::fs::setxattr(&path, "system.posix_acl_access", &acl, flags).is_err() {
        return; // a filesystem without ACLs
    }
    let file = bed.walk("f").unwrap();
    let may = |uid| bed.access(&file, AccessMask::READ, &Cx::new(Cred::new(uid, uid))).unwrap();
    assert!(!may(NOBODY), "named, with nothing");
    assert!(may(NOBODY - 1), "other");
}

#[test]
fn the_kernels_answer_is_passed_on_for_our_own_credentials() {
    let bed = Bed::new();
    bed.write("f", b"");
    chmod(&bed, "f", 0o600);
    let file = bed.walk("f").unwrap();
    let rw = AccessMask::READ.union(AccessMask::WRITE);
    assert!(bed.access(&file, rw, &me()).unwrap());
    assert!(!bed.access(&file, AccessMask::EXEC, &me()).unwrap(), "no x bit, not even for root");
}
