//! Counting another process's system calls with `ptrace(2)`: exact, all threads, no tool needed.

#![allow(unsafe_code, reason = "ptrace and waitpid, which no crate of this workspace wraps")]

use std::{
    io, mem, ptr,
    time::{Duration, Instant},
};

use super::MicroError;

/// Calls that cannot touch a file: waiting, time, memory, threads. Everything else counts.
const HARMLESS: &[libc::c_long] = &[
    libc::SYS_futex,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_clock_gettime,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_brk,
    libc::SYS_exit,
];

/// How often the threads are asked for news.
const PAUSE: Duration = Duration::from_millis(2);
/// Stopping a thread that waits makes it begin its call once more; that is over by then.
const SETTLE: Duration = Duration::from_millis(500);

/// Counts the system calls that threads of the child `pid` begin within `time` and that may touch a file.
///
/// # Errors
/// [`MicroError::Unsupported`] if this system does not allow tracing; [`MicroError::NotDone`] if the
/// child ended meanwhile.
pub(super) fn count_calls(pid: i32, time: Duration) -> Result<u64, MicroError> {
    let mut traced = Traced::attach(pid)?;
    traced.watch(SETTLE)?;
    let count = traced.watch(time)?;
    traced.detach()?;
    Ok(count)
}

/// A process all of whose threads are traced by this thread.
struct Traced {
    pid: i32,
    threads: Vec<i32>,
}

impl Traced {
    fn attach(pid: i32) -> Result<Traced, MicroError> {
        let mut traced = Traced { pid, threads: Vec::new() };
        // New threads of a seized one are traced by themselves; those there were at the beginning may
        // have started others before they were seized: look until there is none left.
        loop {
            let fresh: Vec<i32> =
                traced.list()?.into_iter().filter(|t| !traced.threads.contains(t)).collect();
            if fresh.is_empty() {
                return Ok(traced);
            }
            for thread in fresh {
                let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_TRACECLONE;
                ptrace(libc::PTRACE_SEIZE, thread, options as usize).map_err(|e| {
                    MicroError::Unsupported(format!(
                        "cannot trace a child process to count its system calls ({e}): allow ptrace, \
                         or leave this case out"
                    ))
                })?;
                // Into the first stop, from which calls are traced.
                ptrace(libc::PTRACE_INTERRUPT, thread, 0).map_err(refused)?;
                traced.threads.push(thread);
            }
        }
    }

    fn list(&self) -> Result<Vec<i32>, MicroError> {
        let path = format!("/proc/{}/task", self.pid);
        let entries = std::fs::read_dir(&path).map_err(MicroError::io("list", &path))?;
        Ok(entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
    }

    /// Counts for so long.
    fn watch(&mut self, time: Duration) -> Result<u64, MicroError> {
        let end = Instant::now() + time;
        let mut count = 0;
        while Instant::now() < end {
            match self.next_stop()? {
                Some((thread, status)) => count += self.go_on(thread, status)?,
                None => std::thread::sleep(PAUSE),
            }
        }
        Ok(count)
    }

    /// A thread that stopped, if any has.
    fn next_stop(&mut self) -> Result<Option<(i32, i32)>, MicroError> {
        for thread in self.threads.clone() {
            if let Some(status) = wait(thread, libc::WNOHANG)? {
                return Ok(Some((thread, status)));
            }
        }
        // A clone is reported by its parent's stop; the thread itself is found in the list.
        for thread in self.list()? {
            if !self.threads.contains(&thread) {
                self.threads.push(thread);
            }
        }
        Ok(None)
    }

    /// Lets a stopped thread go on to its next call. One, if it stopped at the beginning of a call that
    /// counts.
    fn go_on(&mut self, thread: i32, status: i32) -> Result<u64, MicroError> {
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            if thread == self.pid {
                return Err(MicroError::NotDone("the idle process ended".to_owned()));
            }
            self.threads.retain(|t| *t != thread);
            return Ok(0);
        }
        let signal = libc::WSTOPSIG(status);
        let at_call = signal == libc::SIGTRAP | 0x80;
        let counts = at_call && begins_call(thread)?.is_some_and(|nr| !HARMLESS.contains(&nr));
        // A stop of ptrace's own has an event, or is a trap; all else is a signal for the thread.
        let own = at_call || status >> 16 != 0 || signal == libc::SIGTRAP;
        ptrace(libc::PTRACE_SYSCALL, thread, if own { 0 } else { signal as usize })
            .map_err(refused)?;
        Ok(u64::from(counts))
    }

    /// Lets all threads run untraced.
    fn detach(self) -> Result<(), MicroError> {
        for thread in self.threads {
            // A thread must be stopped to be let go; it is in a wait or about to enter one.
            if ptrace(libc::PTRACE_INTERRUPT, thread, 0).is_err() {
                continue; // it has ended
            }
            wait(thread, 0)?;
            ptrace(libc::PTRACE_DETACH, thread, 0).map_err(refused)?;
        }
        Ok(())
    }
}

fn refused(source: io::Error) -> MicroError {
    MicroError::Io { what: "trace", path: "the idle process".into(), source }
}

/// The call a thread that stopped at one is about to make; `None` if it comes back from one.
fn begins_call(thread: i32) -> Result<Option<libc::c_long>, MicroError> {
    // SAFETY: plain old data; all zeros is a value of it.
    let mut info: libc::ptrace_syscall_info = unsafe { mem::zeroed() };
    let size = mem::size_of_val(&info);
    // SAFETY: the kernel writes at most `size` bytes to `info`, which is that large and ours.
    let done = unsafe {
        libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size, ptr::from_mut(&mut info))
    };
    if done < 0 {
        return Err(refused(io::Error::last_os_error()));
    }
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: `op` says that `entry` is the member the kernel has written.
    let number = unsafe { info.u.entry.nr };
    Ok(libc::c_long::try_from(number).ok())
}

/// The status of a thread that changed state; `None` (with `WNOHANG`) if it has not.
fn wait(thread: i32, flags: i32) -> Result<Option<i32>, MicroError> {
    let mut status = 0;
    // SAFETY: `status` is ours and outlives the call.
    match unsafe { libc::waitpid(thread, &raw mut status, flags | libc::__WALL) } {
        0 => Ok(None),
        n if n > 0 => Ok(Some(status)),
        _ => match io::Error::last_os_error() {
            e if e.raw_os_error() == Some(libc::ECHILD) => Ok(None), // it has ended
            e if e.kind() == io::ErrorKind::Interrupted => Ok(None),
            e => Err(refused(e)),
        },
    }
}

/// A request without an address.
fn ptrace(request: libc::c_uint, thread: i32, data: usize) -> io::Result<()> {
    // SAFETY: these requests take no address, and data that is a number: they touch no memory of ours.
    let done = unsafe { libc::ptrace(request, thread, ptr::null_mut::<libc::c_void>(), data) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    struct Killed(Child);

    impl Drop for Killed {
        fn drop(&mut self) {
            // Gone already: then there is nothing to end.
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// Once it runs `name` and, if it is to, waits for something in there.
    fn calls_of(script: &str, name: &str, states: &[char]) -> u64 {
        let child = Killed(Command::new("sh").args(["-c", script]).spawn().expect("a shell"));
        let status = format!("/proc/{}/stat", child.0.id());
        let began = |stat: String| {
            let (_, after) = stat.split_once('(')?;
            let (comm, rest) = after.split_once(") ")?;
            Some(comm == name && rest.starts_with(states))
        };
        while !std::fs::read_to_string(&status).ok().and_then(began).expect("it lives") {
            std::thread::yield_now();
        }
        let pid = i32::try_from(child.0.id()).expect("small");
        count_calls(pid, Duration::from_millis(300)).expect("traced")
    }

    #[test]
    fn a_process_that_touches_files_is_seen_and_one_that_waits_is_not() {
        assert!(calls_of("while :; do : </dev/null; done", "sh", &['R', 'S']) > 10);
        assert_eq!(calls_of("exec sleep 100", "sleep", &['S']), 0);
    }
}
