//! The system calls that no safe crate wraps: file handles, leases, `faccessat2`, filesystem UUIDs.

#![allow(unsafe_code, reason = "raw system calls; every buffer is a local of the calling function")]

use std::{
    ffi::c_int,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

use parking_lot::Mutex;

/// `F_SETSIG` of every architecture Rust runs Linux on; libc does not name it.
const F_SETSIG: c_int = 10;

/// Most bytes of a file handle (`MAX_HANDLE_SZ`).
const HANDLE_MAX: usize = 128;

/// `struct file_handle` with room for the longest handle.
#[repr(C)]
struct RawHandle {
    bytes: u32,
    kind: c_int,
    handle: [u8; HANDLE_MAX],
}

/// What the filesystem itself calls a file: for a local filesystem the inode number and its
/// generation. Stable across reboots and never reused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct FileHandle {
    kind: c_int,
    bytes: Box<[u8]>,
}

impl FileHandle {
    /// Type and bytes, for use in a file's key.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut v = self.kind.to_be_bytes().to_vec();
        v.extend_from_slice(&self.bytes);
        v
    }

    /// The handle that [`to_bytes`](FileHandle::to_bytes) made these bytes of. `None` if they are of none.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<FileHandle> {
        let (kind, handle) = bytes.split_first_chunk::<4>()?;
        let fits = (1..=HANDLE_MAX).contains(&handle.len());
        fits.then(|| FileHandle { kind: c_int::from_be_bytes(*kind), bytes: handle.into() })
    }
}

fn check(ret: c_int) -> io::Result<c_int> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret) }
}

/// The handle of an open file (`name_to_handle_at(2)`); needs no privilege.
pub(crate) fn name_to_handle(fd: BorrowedFd<'_>) -> io::Result<FileHandle> {
    let mut raw = RawHandle { bytes: HANDLE_MAX as u32, kind: 0, handle: [0; HANDLE_MAX] };
    let mut mount_id: c_int = 0;
    // SAFETY: `raw` is a file_handle with `bytes` bytes of room, the name is a C string, and both
    // outlive the call.
    check(unsafe {
        libc::name_to_handle_at(
            fd.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut raw).cast(),
            &raw mut mount_id,
            libc::AT_EMPTY_PATH,
        )
    })?;
    let len = (raw.bytes as usize).min(HANDLE_MAX);
    Ok(FileHandle { kind: raw.kind, bytes: raw.handle[..len].into() })
}

/// Opens a file by its handle (`open_by_handle_at(2)`); needs `CAP_DAC_READ_SEARCH`. `ESTALE` if the
/// file is gone. `mount` is any open file (not `O_PATH`) of the filesystem.
pub(crate) fn open_by_handle(mount: BorrowedFd<'_>, handle: &FileHandle) -> io::Result<OwnedFd> {
    let mut raw =
        RawHandle { bytes: handle.bytes.len() as u32, kind: handle.kind, handle: [0; HANDLE_MAX] };
    raw.handle[..handle.bytes.len()].copy_from_slice(&handle.bytes);
    let flags = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: `raw` is a file_handle of `bytes` bytes that outlives the call.
    let fd =
        check(unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut raw).cast(), flags) })?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One asker at a time for each open file (descriptors are not duplicated, so its number will do).
static ASKERS: [Mutex<()>; 16] = [const { Mutex::new(()) }; 16];

/// Whether at this instant nobody has the file open for writing or mapped shared and writable.
///
/// The kernel grants a read lease exactly then; it is given back at once. Errors mean "not known":
/// not the owner and no `CAP_LEASE`, leases switched off, a filesystem without them. `fd` must be a
/// regular file opened for reading.
///
/// Whoever opens the file for writing meanwhile makes the kernel tell the holder, by default with
/// `SIGIO`, which kills the process. It is told to use `SIGURG`, which is ignored by default. The
/// choice belongs to the open file and is forgotten when the lease ends: so it is made each time, and no
/// other thread may end a lease of the same open file in between.
pub(crate) fn no_writers(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let fd = fd.as_raw_fd();
    let _alone = ASKERS[fd as usize % ASKERS.len()].lock();
    // SAFETY: F_SETSIG takes an integer; no memory is involved.
    check(unsafe { libc::fcntl(fd, F_SETSIG, libc::SIGURG) })?;
    // SAFETY: F_SETLEASE takes an integer; no memory is involved.
    let taken = check(unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) });
    match taken {
        Ok(_) => {}
        Err(e) if e.raw_os_error() == Some(libc::EAGAIN) => return Ok(false),
        Err(e) => return Err(e),
    }
    // SAFETY: as above. The lease is ours, so giving it back cannot fail.
    let _ = unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_UNLCK) };
    Ok(true)
}

/// Whether this process's effective credentials have `mode` (`R_OK | W_OK | X_OK`) on an open file,
/// as the kernel judges it: ACLs, capabilities, read-only mounts, a network server's word.
pub(crate) fn access(fd: BorrowedFd<'_>, mode: c_int) -> io::Result<bool> {
    // SAFETY: the name is a C string that outlives the call.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            fd.as_raw_fd(),
            c"".as_ptr(),
            mode,
            libc::AT_EACCESS | libc::AT_EMPTY_PATH,
        )
    };
    if ret == 0 {
        return Ok(true);
    }
    let e = io::Error::last_os_error();
    match e.raw_os_error() {
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => Ok(false),
        _ => Err(e),
    }
}

/// `struct fsuuid2`.
#[repr(C)]
struct FsUuid {
    len: u8,
    uuid: [u8; 16],
}

/// `FS_IOC_GETFSUUID`, `_IOR(0x15, 0, struct fsuuid2)`.
const FS_IOC_GETFSUUID: libc::c_ulong = (2 << 30) | (17 << 16) | (0x15 << 8);

/// The UUID of the filesystem (Linux 6.9); `fd` must not be `O_PATH`.
pub(crate) fn fs_uuid(fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let mut out = FsUuid { len: 0, uuid: [0; 16] };
    // SAFETY: the kernel writes at most one `fsuuid2`, which `out` is, and it outlives the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_GETFSUUID as _, &raw mut out) })?;
    let len = usize::from(out.len).min(out.uuid.len());
    Ok(out.uuid[..len].to_vec())
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{File, OpenOptions},
        os::{fd::AsFd, unix::fs::OpenOptionsExt},
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use super::*;

    /// The default action of `SIGIO` would have ended the process.
    #[test]
    fn a_writer_who_comes_while_we_ask_never_makes_the_kernel_send_sigio() {
        let killed = Arc::new(AtomicBool::new(false));
        let handler =
            signal_hook::flag::register(libc::SIGIO, Arc::clone(&killed)).expect("a handler");
        let (dir, over) = (tempfile::tempdir().expect("a directory"), AtomicBool::new(false));
        let path = dir.path().join("file");
        std::fs::write(&path, b"content").expect("a file");
        let reader = File::open(&path).expect("open");
        if no_writers(reader.as_fd()).is_err() {
            eprintln!("no leases here: nothing to test");
            return;
        }
        std::thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        no_writers(reader.as_fd()).expect("leases work here");
                    }
                });
            }
            let mut met = 0;
            while met < 200 {
                let write =
                    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path);
                met += u32::from(write.is_err_and(|e| e.raw_os_error() == Some(libc::EWOULDBLOCK)));
            }
            over.store(true, Ordering::Relaxed);
        });
        assert!(!killed.load(Ordering::Relaxed), "SIGIO was sent");
        signal_hook::low_level::unregister(handler);
    }
}
