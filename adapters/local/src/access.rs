//! Who may do what. The kernel is asked about this process's own credentials; for anybody else (a
//! privileged process serving users) mode bits and POSIX ACLs are evaluated here, as `acl(5)` says.
//!
//! Not known here: security modules, and the ACLs of NFSv4 and SMB, which only their servers judge.
//! On such mounts serve each user from a process of their own.

use std::{
    os::fd::{AsRawFd, BorrowedFd},
    thread,
};

use netfs::{
    Error, Result,
    remote::{AccessMask, Cred, FileKind, SetAttr, SetTime},
};
use rustix::{
    fs::{Gid, Uid},
    io::Errno,
    process::{self, getegid, geteuid},
    thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid},
};

use crate::stat::Stat;

/// What this process may do by itself.
pub(crate) struct Own {
    cred: Cred,
    root: bool,
}

impl Own {
    pub(crate) fn current() -> Own {
        Own { cred: Cred::current(), root: process::geteuid().is_root() }
    }

    /// The credential is this process's.
    fn is(&self, cred: &Cred) -> bool {
        let same_groups = || {
            let all = |a: &Cred, b: &Cred| a.groups.iter().all(|g| b.in_group(*g));
            all(cred, &self.cred) && all(&self.cred, cred)
        };
        cred.uid == self.cred.uid && cred.gid == self.cred.gid && same_groups()
    }

    /// Whether the kernel, which judges this process, does not judge this caller.
    pub(crate) fn is_other(&self, cred: &Cred) -> bool {
        !self.is(cred)
    }

    /// Whether what is made for `cred` must be given to them: a privileged process serves another user.
    pub(crate) fn acts_for(&self, cred: &Cred) -> bool {
        self.root && !self.is(cred)
    }

    /// Does something that makes files as `cred`, if that is somebody else and this process may act for them: what
    /// it makes is theirs from the start, and it can do nothing that they could not do themselves.
    ///
    /// # Errors
    /// What `work` returns; `EINVAL` for what is nobody, `EPERM` and `EINVAL` if the kernel does not let this process
    /// be that user.
    pub(crate) fn act_for<T: Send>(
        &self,
        cred: &Cred,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        is_somebody(cred)?;
        if !self.acts_for(cred) {
            return work();
        }
        // By a thread of its own: the credentials end with it, so there are none to be put back.
        let job = || become_user(cred).and_then(|()| work());
        thread::scope(|s| {
            let worker =
                thread::Builder::new().name("netfs-local-user".into()).spawn_scoped(s, job);
            let worker = worker.map_err(|e| Error::io(e, "starting a thread for another user"))?;
            let panicked =
                |_| Error::new(netfs::Errno::ECANCELED, "a call for a user was abandoned");
            worker.join().map_err(panicked)?
        })
    }

    /// Whether `cred` has every right in `mask` on the file. `fd` may be `O_PATH`.
    ///
    /// # Errors
    /// Whatever the kernel says when it cannot find out.
    pub(crate) fn may(
        &self,
        fd: BorrowedFd<'_>,
        st: &Stat,
        cred: &Cred,
        mask: AccessMask,
    ) -> Result<bool> {
        let own = self.is(cred);
        if own || !self.root {
            // Someone else gets at most what this process has: it cannot do more for them.
            let kernel = crate::sys::access(fd, mask.bits().into())
                .map_err(|e| Error::io(e, "checking access"))?;
            if own || !kernel {
                return Ok(kernel);
            }
        }
        if self.root && cred.is_root() {
            return Ok(root_may(st, mask));
        }
        let acl = if st.attr.kind == FileKind::Symlink { None } else { read_acl(fd)? };
        Ok(match acl {
            Some(acl) => by_acl(st, cred, &acl, mask.bits()),
            None => by_mode(st, cred) & mask.bits() == mask.bits(),
        })
    }
}

/// The id that is nobody's: in `setresuid(2)` and `chown(2)` it stands for "leave it as it is", so a call that names it
/// succeeds and does nothing.
const NO_ID: u32 = u32::MAX;

/// Refuses an id that the kernel would take for no id at all.
pub(crate) fn is_id(id: u32) -> Result<()> {
    if id == NO_ID {
        return Err(Error::new(netfs::Errno::EINVAL, "4294967295 is nobody's user or group id"));
    }
    Ok(())
}

fn is_somebody(cred: &Cred) -> Result<()> {
    [cred.uid, cred.gid].iter().chain(&cred.groups).try_for_each(|id| is_id(*id))
}

/// Gives the calling thread (not the process) somebody's credentials. The real and saved ids stay: they say who
/// may send signals to it.
fn become_user(cred: &Cred) -> Result<()> {
    let groups: Vec<Gid> = cred.groups.iter().map(|gid| Gid::from_raw_unchecked(*gid)).collect();
    // The user last: the others take the privilege that goes with it.
    set_thread_groups(&groups)
        .and_then(|()| set_thread_res_gid(None, Gid::from_raw_unchecked(cred.gid), None))
        .and_then(|()| set_thread_res_uid(None, Uid::from_raw_unchecked(cred.uid), None))
        .map_err(|e| Error::io(e.into(), "taking on the credentials of a caller"))?;
    // Whatever the calls said: nothing goes on for a caller with the rights of this process.
    if (geteuid().as_raw(), getegid().as_raw()) != (cred.uid, cred.gid) {
        return Err(Error::new(
            netfs::Errno::EPERM,
            "the credentials of a caller were not taken on",
        ));
    }
    Ok(())
}

/// Whether `cred` may take a file's name from a directory that it may change: not somebody else's from a
/// sticky one.
pub(crate) fn may_take(dir: &Stat, file: &Stat, cred: &Cred) -> bool {
    let owner = cred.uid == dir.attr.uid || cred.uid == file.attr.uid || cred.is_root();
    dir.attr.mode & STICKY == 0 || owner
}

/// Whether `cred` may set these attributes: the owner, but only root gives a file away, and only to a group
/// of their own; "now" is for whoever may write.
pub(crate) fn may_set(
    st: &Stat,
    cred: &Cred,
    set: SetAttr,
    may_write: impl FnOnce() -> bool,
) -> bool {
    if cred.is_root() {
        return true;
    }
    let same_user = set.uid.is_none_or(|uid| uid == st.attr.uid);
    let own_group = set.gid.is_none_or(|gid| gid == st.attr.gid || cred.in_group(gid));
    // A set-group-id bit is for members.
    let gid = set.gid.unwrap_or(st.attr.gid);
    let own_bit = set.mode.is_none_or(|mode| mode & SETGID == 0 || cred.in_group(gid));
    if cred.uid == st.attr.uid {
        return same_user && own_group && own_bit;
    }
    let only_now = [set.atime, set.mtime].iter().flatten().all(|t| *t == SetTime::Now);
    let nothing_else = set.mode.is_none() && set.uid.is_none() && set.gid.is_none();
    only_now && nothing_else && may_write()
}

const SETGID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// `CAP_DAC_OVERRIDE`: everything, but a file must have an x bit to be executed.
fn root_may(st: &Stat, mask: AccessMask) -> bool {
    !mask.contains(AccessMask::EXEC) || st.attr.kind == FileKind::Dir || st.attr.mode & 0o111 != 0
}

/// The rights the mode bits give: those of the first class that fits, even if another gives more.
fn by_mode(st: &Stat, cred: &Cred) -> u8 {
    let shift = if cred.uid == st.attr.uid {
        6
    } else if cred.in_group(st.attr.gid) {
        3
    } else {
        0
    };
    ((st.attr.mode >> shift) & 7) as u8
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: u16,
    perm: u8,
    id: u32,
}

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Longest ACL read: 64 KiB is what an extended attribute can hold.
const ACL_MAX: usize = 64 * 1024;

/// The file's access ACL, `None` if it has only mode bits.
fn read_acl(fd: BorrowedFd<'_>) -> Result<Option<Vec<Entry>>> {
    // An O_PATH descriptor has no fgetxattr; its /proc link leads to the same inode.
    let path = crate::handles::proc_path(fd);
    let mut small = [0u8; 256];
    let got = match rustix::fs::getxattr(&path, c"system.posix_acl_access", &mut small) {
        Ok(n) => parse_acl(&small[..n]),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(None),
        Err(Errno::RANGE) => {
            let mut big = vec![0u8; ACL_MAX];
            let n = rustix::fs::getxattr(&path, c"system.posix_acl_access", &mut big)
                .map_err(|e| Error::io(e.into(), "reading a file's ACL"))?;
            parse_acl(&big[..n])
        }
        Err(e) => {
            let what = format!("reading the ACL of descriptor {}", fd.as_raw_fd());
            return Err(Error::io(e.into(), what));
        }
    };
    got.map(Some).ok_or_else(|| {
        Error::new(netfs::Errno::EACCES, "a file's ACL has a form that is not understood")
    })
}

/// Whether a directory says which ACL is given to what is made in it: then the kernel has gone by that instead of the
/// umask. `fd` may be `O_PATH`.
pub(crate) fn has_default_acl(fd: BorrowedFd<'_>) -> bool {
    let path = crate::handles::proc_path(fd);
    match rustix::fs::getxattr(&path, c"system.posix_acl_default", &mut [0u8; 0]) {
        Ok(_) => true,
        // What cannot be known is not overruled.
        Err(e) => !matches!(e, Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS),
    }
}

/// `struct posix_acl_xattr_header` and entries, little-endian.
fn parse_acl(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (version, entries) = bytes.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 2 || entries.len() % 8 != 0 {
        return None;
    }
    let entry = |c: &[u8]| Entry {
        tag: u16::from_le_bytes([c[0], c[1]]),
        perm: c[2] & 7,
        id: u32::from_le_bytes([c[4], c[5], c[6], c[7]]),
    };
    Some(entries.chunks_exact(8).map(entry).collect())
}

/// The access check algorithm of `acl(5)`.
fn by_acl(st: &Stat, cred: &Cred, acl: &[Entry], want: u8) -> bool {
    let find = |tag| acl.iter().find(|e| e.tag == tag);
    let perm = |tag| find(tag).map_or(0, |e| e.perm);
    let gives = |perm: u8| perm & want == want;
    let mask = find(MASK).map_or(7, |e| e.perm);
    if cred.uid == st.attr.uid {
        return gives(perm(USER_OBJ));
    }
    if let Some(e) = acl.iter().find(|e| e.tag == USER && e.id == cred.uid) {
        return gives(e.perm & mask);
    }
    let is_member = |e: &Entry| match e.tag {
        GROUP_OBJ => cred.in_group(st.attr.gid),
        GROUP => cred.in_group(e.id),
        _ => false,
    };
    let mut member = false;
    for e in acl.iter().filter(|e| is_member(e)) {
        if gives(e.perm & mask) {
            return true;
        }
        member = true;
    }
    // A member of a listed group is not "other", even if the groups give less.
    !member && gives(perm(OTHER))
}

#[cfg(test)]
mod tests {
    use netfs::remote::{Attr, TimeSpec};

    use super::*;

    fn st(mode: u32) -> Stat {
        let attr = Attr { mode, uid: 10, gid: 20, ..Attr::plain(FileKind::File, 0) };
        Stat { attr, dev: (0, 0), btime: Some(TimeSpec::default()) }
    }

    #[test]
    fn the_first_class_that_fits_decides_even_if_another_gives_more() {
        let mode = 0o047;
        assert_eq!(by_mode(&st(mode), &Cred::new(10, 20)), 0);
        assert_eq!(by_mode(&st(mode), &Cred::new(11, 20)), 4);
        let member = Cred { groups: vec![5, 20], ..Cred::new(11, 1) };
        assert_eq!(by_mode(&st(mode), &member), 4);
        assert_eq!(by_mode(&st(mode), &Cred::new(11, 21)), 7);
    }

    #[test]
    fn the_superuser_executes_only_what_somebody_may() {
        assert!(root_may(&st(0), AccessMask::READ.union(AccessMask::WRITE)));
        assert!(!root_may(&st(0o666), AccessMask::EXEC));
        assert!(root_may(&st(0o010), AccessMask::EXEC));
    }

    fn entry(tag: u16, perm: u8, id: u32) -> Entry {
        Entry { tag, perm, id }
    }

    #[test]
    fn an_acl_is_evaluated_as_the_kernel_does() {
        let acl = [
            entry(USER_OBJ, 6, u32::MAX),
            entry(USER, 0, 30),
            entry(USER, 7, 31),
            entry(GROUP_OBJ, 4, u32::MAX),
            entry(GROUP, 2, 40),
            entry(MASK, 6, u32::MAX),
            entry(OTHER, 5, u32::MAX),
        ];
        let may = |cred: &Cred, want| by_acl(&st(0), cred, &acl, want);
        assert!(may(&Cred::new(10, 0), 6) && !may(&Cred::new(10, 0), 1));
        assert!(!may(&Cred::new(30, 99), 4), "a named user is not other");
        assert!(may(&Cred::new(31, 99), 6) && !may(&Cred::new(31, 99), 1), "the mask limits");
        let both = Cred { groups: vec![20, 40], ..Cred::new(50, 99) };
        assert!(may(&both, 4) && may(&both, 2) && !may(&both, 6), "one entry must give it all");
        assert!(!may(&Cred::new(50, 40), 1), "a member is not other");
        assert!(may(&Cred::new(50, 99), 5) && !may(&Cred::new(50, 99), 2));
    }

    #[test]
    fn nothing_is_done_for_whom_the_kernel_takes_for_nobody() {
        let own = Own::current();
        let no_group = Cred { groups: vec![5, NO_ID], ..Cred::new(10, 20) };
        for cred in [Cred::new(NO_ID, 20), Cred::new(10, NO_ID), no_group] {
            let done = own.act_for(&cred, || Ok(geteuid()));
            assert_eq!(done.err().map(|e| e.errno()), Some(netfs::Errno::EINVAL), "{cred:?}");
        }
    }

    /// The calls succeed for these ids and change nothing.
    #[test]
    fn a_thread_that_is_not_who_it_should_be_does_not_go_on() {
        if !geteuid().is_root() {
            eprintln!("not root: nobody else's credentials can be taken on");
            return;
        }
        for (cred, wanted) in [
            (Cred::new(NO_ID, 20), Some(netfs::Errno::EPERM)),
            (Cred::new(10, NO_ID), Some(netfs::Errno::EPERM)),
            (Cred::new(10, 20), None),
        ] {
            let became = thread::scope(|s| s.spawn(|| become_user(&cred)).join().unwrap());
            assert_eq!(became.err().map(|e| e.errno()), wanted, "{cred:?}");
        }
        assert!(geteuid().is_root());
    }

    #[test]
    fn a_malformed_acl_is_not_understood() {
        assert_eq!(parse_acl(&[]), None);
        assert_eq!(parse_acl(&[3, 0, 0, 0]), None);
        assert_eq!(parse_acl(&[2, 0, 0, 0, 1]), None);
        let one = [2, 0, 0, 0, 2, 0, 7, 0, 30, 0, 0, 0];
        assert_eq!(parse_acl(&one), Some(vec![entry(USER, 7, 30)]));
    }
}
