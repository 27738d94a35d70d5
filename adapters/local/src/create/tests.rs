//! What somebody does to the name between our call and our second look.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::PathBuf,
};

use netfs::remote::Cred;

use super::*;
use crate::LocalFs;

struct Bed {
    dir: tempfile::TempDir,
    fs: Arc<LocalFs>,
    parent: Parent,
}

impl Bed {
    fn new() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let fs = LocalFs::builder(dir.path()).writable(true).open().unwrap();
        let me = Cx::new(Cred::current());
        let parent = Parent::open(&fs.tree, &fs.root, b"new", &me).unwrap();
        Bed { dir, fs, parent }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Mode, owner and number of what stands under a name.
    fn what(&self, name: &str) -> (u32, u32, u64) {
        let st = fs::symlink_metadata(self.path(name)).unwrap();
        (st.mode() & 0o7777, st.uid(), st.ino())
    }
}

fn chmod(path: PathBuf, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn m2_what_takes_the_place_of_a_new_file_is_neither_given_away_nor_removed() {
    let bed = Bed::new();
    fs::write(bed.path("foreign"), b"secret").unwrap();
    chmod(bed.path("foreign"), 0o600);
    let foreign = bed.what("foreign");
    let made = open_new(&bed.parent, b"new", 0o666).unwrap();
    let ours = rustix::fs::fstat(&made).unwrap().st_ino;
    fs::rename(bed.path("foreign"), bed.path("new")).unwrap();
    let new = adopt(&bed.fs.tree, &bed.parent, &made, 0o666).unwrap();
    assert_eq!(new.st.attr.ino, ours);
    assert_eq!(bed.what("new"), foreign);
    assert_eq!(fs::read(bed.path("new")).unwrap(), b"secret");
    assert_eq!(rustix::fs::fstat(&made).unwrap().st_mode & 0o7777, 0o666, "whatever the umask");
}

#[test]
fn m3_a_directory_that_was_there_before_keeps_its_mode() {
    let bed = Bed::new();
    fs::create_dir(bed.path("foreign")).unwrap();
    chmod(bed.path("foreign"), 0o700);
    let me = geteuid().as_raw();
    // The clock that stamps births must have moved on.
    let old = bed.parent.find(&bed.fs.tree, b"foreign").unwrap().unwrap().st.btime;
    let Some(old) = old else {
        eprintln!("no times of birth here: nothing to test");
        return;
    };
    while Moment::now().wall <= old {
        std::thread::yield_now();
    }
    let begun = Moment::now().wall;
    let made = make(&bed.fs.tree, &bed.parent, b"new", &NewFile::Dir(0o777)).unwrap();
    assert!(is_new_dir(&bed.fs.tree, &made, me, begun));
    assert!(!is_new_dir(&bed.fs.tree, &made, me + 1, begun), "somebody else's");
    fs::rename(bed.path("foreign"), bed.path("new")).unwrap();
    let found = look(&bed.fs.tree, &bed.parent, b"new", FileKind::Dir).unwrap();
    assert!(!is_new_dir(&bed.fs.tree, &found, me, begun), "older than the call");
}

#[test]
fn m5_a_name_of_another_kind_is_left_alone() {
    let bed = Bed::new();
    fs::write(bed.path("new"), b"theirs").unwrap();
    let found = look(&bed.fs.tree, &bed.parent, b"new", FileKind::Dir);
    assert_eq!(found.err().map(|e| e.errno()), Some(Errno::ESTALE));
    assert_eq!(fs::read(bed.path("new")).unwrap(), b"theirs");
}

/// An extended attribute of an ACL: user, group, mask and others with these rights, and a named user.
fn acl(perms: [u16; 4]) -> Vec<u8> {
    let entry = |tag: u16, perm: u16, id: u32| {
        [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let entries = [
        entry(1, perms[0], none),
        entry(2, 7, 12345),
        entry(4, perms[1], none),
        entry(16, perms[2], none),
        entry(32, perms[3], none),
    ];
    [&2u32.to_le_bytes()[..], &entries.concat()].concat()
}

/// A missing file system with ACLs (the temporary directory's) is a failure, so that this is tried somewhere.
#[test]
fn m4_what_a_default_acl_takes_from_a_new_file_is_not_given_back() {
    let bed = Bed::new();
    let (own, default) = (acl([7, 7, 7, 7]), acl([7, 5, 5, 0]));
    let cx = Cx::new(Cred::current());
    let make = |name: &'static str, what: NewFile| {
        let made = create(&bed.fs.tree, &bed.fs.root, name.into(), &what, &cx).unwrap();
        assert_eq!(made.found.facts.attr.unwrap().mode, bed.what(name).0);
        bed.what(name).0
    };
    let set = |name: &str, acl: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(bed.path(""), name, acl, flags)
            .expect("ACLs in the temporary directory");
    };
    // An ACL of the directory's own says nothing of what is made in it.
    set("system.posix_acl_access", &own);
    assert_eq!(make("f0", NewFile::File(0o666)), 0o666, "whatever the umask");
    assert_eq!(make("d0", NewFile::Dir(0o777)), 0o777, "whatever the umask");
    set("system.posix_acl_default", &default);
    assert_eq!(make("f", NewFile::File(0o666)), 0o640);
    assert_eq!(make("d", NewFile::Dir(0o1777)), 0o1750);
    assert_eq!(make("s", NewFile::File(0o4755)), 0o4750, "the other bits are as asked for");
}

#[test]
fn m1_what_is_made_for_another_user_is_made_with_their_rights() {
    if !geteuid().is_root() {
        return;
    }
    let bed = Bed::new();
    chmod(bed.path(""), 0o755);
    let nobody = Cred::new(65534, 65534);
    let own = &bed.fs.tree.own;
    let make = |name: &[u8]| {
        own.act_for(&nobody, || make(&bed.fs.tree, &bed.parent, name, &NewFile::File(0o600)))
    };
    // The check of ours is not asked here: the kernel's is.
    let refused = make(b"new").err().map(|e| e.errno());
    assert_eq!(refused, Some(Errno::EACCES));
    chmod(bed.path(""), 0o777);
    assert_eq!(make(b"new").unwrap().st.attr.uid, 65534);
    assert!(geteuid().is_root(), "nobody else's credentials have changed");
}
