//! The I/O mode lock (row 88, B10): buffered and direct I/O never overlap in time on one inode
//! (N-C39).
//!
//! Holders of one mode share; the other mode waits until they are gone. A waiter for the other mode
//! has precedence over new holders of the current one, so neither kind can starve the other. A
//! dropped waiter leaves nothing behind.

use std::{
    collections::VecDeque,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use crate::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

/// Which kind of I/O runs on an inode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Through the page cache.
    Buffered,
    /// Past the page cache (DIO, unbuffered).
    Direct,
}

#[derive(Default)]
struct State {
    direct: bool,
    holders: usize,
    next_ticket: u64,
    /// Waiters in order of arrival; neighbours of one mode are admitted together.
    queue: VecDeque<Waiter>,
}

struct Waiter {
    ticket: u64,
    direct: bool,
    waker: Option<Waker>,
}

/// The mode lock of one inode.
#[derive(Default)]
pub(crate) struct IoMode {
    state: Mutex<State>,
    /// Whether direct I/O holds or waits: the hit path's only look at the lock.
    direct_present: AtomicBool,
}

impl IoMode {
    /// Whether a memory hit may be served without taking the lock: no direct I/O is running or
    /// waiting. A hit that races with the start of one is ordered before it.
    pub(crate) fn buffered_now(&self) -> bool {
        !self.direct_present.load(Ordering::Acquire)
    }

    /// Takes the lock in a mode; wait-free if nobody holds or wants the other.
    pub(crate) fn enter(self: &Arc<Self>, mode: Mode) -> Enter {
        Enter { lock: Arc::clone(self), direct: mode == Mode::Direct, ticket: None, done: false }
    }

    /// Takes the lock for buffered I/O that waits for nothing while it has it; none if it would have to wait.
    pub(crate) fn try_buffered(&self) -> Option<Brief<'_>> {
        let mut state = self.state.lock();
        let free = state.queue.is_empty() && (state.holders == 0 || !state.direct);
        if free {
            state.direct = false;
            state.holders += 1;
        }
        // Not made before it is needed: its end gives the lock back.
        free.then(|| Brief(self))
    }

    fn publish(&self, state: &State) {
        let direct = (state.direct && state.holders > 0) || state.queue.iter().any(|w| w.direct);
        self.direct_present.store(direct, Ordering::Release);
    }

    fn leave(&self) {
        let wake = {
            let mut state = self.state.lock();
            state.holders -= 1;
            let wake = if state.holders == 0 { wake_front(&mut state) } else { Vec::new() };
            self.publish(&state);
            wake
        };
        wake.into_iter().for_each(Waker::wake);
    }
}

/// Wakers of the run of same-mode waiters at the front.
fn wake_front(state: &mut State) -> Vec<Waker> {
    let Some(direct) = state.queue.front().map(|w| w.direct) else { return Vec::new() };
    state
        .queue
        .iter_mut()
        .take_while(|w| w.direct == direct)
        .filter_map(|w| w.waker.take())
        .collect()
}

/// Future of [`IoMode::enter`].
pub(crate) struct Enter {
    lock: Arc<IoMode>,
    direct: bool,
    ticket: Option<u64>,
    done: bool,
}

impl Future for Enter {
    type Output = ModeGuard;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<ModeGuard> {
        let lock = Arc::clone(&self.lock);
        let mut state = lock.state.lock();
        let place = self.ticket.and_then(|t| state.queue.iter().position(|w| w.ticket == t));
        // Only waiters before us count; all of them must want our mode.
        let ahead = place.unwrap_or(state.queue.len());
        let first_in_line = state.queue.iter().take(ahead).all(|w| w.direct == self.direct);
        let free = state.holders == 0 || state.direct == self.direct;
        if first_in_line && free {
            if let Some(i) = place {
                state.queue.remove(i);
            }
            state.direct = self.direct;
            state.holders += 1;
            lock.publish(&state);
            drop(state);
            self.done = true;
            return Poll::Ready(ModeGuard { lock });
        }
        let waker = Some(cx.waker().clone());
        match place {
            Some(i) => state.queue[i].waker = waker,
            None => {
                let ticket = state.next_ticket;
                state.next_ticket += 1;
                let direct = self.direct;
                state.queue.push_back(Waiter { ticket, direct, waker });
                lock.publish(&state);
                drop(state);
                self.ticket = Some(ticket);
            }
        }
        Poll::Pending
    }
}

impl Drop for Enter {
    fn drop(&mut self) {
        let (Some(ticket), false) = (self.ticket, self.done) else { return };
        let wake = {
            let mut state = self.lock.state.lock();
            state.queue.retain(|w| w.ticket != ticket);
            // We may have been the obstacle for those behind us.
            let front_fits =
                state.queue.front().is_some_and(|w| state.holders == 0 || w.direct == state.direct);
            let wake = if front_fits { wake_front(&mut state) } else { Vec::new() };
            self.lock.publish(&state);
            wake
        };
        wake.into_iter().for_each(Waker::wake);
    }
}

/// Holds an inode in one mode.
pub(crate) struct ModeGuard {
    lock: Arc<IoMode>,
}

impl Drop for ModeGuard {
    fn drop(&mut self) {
        self.lock.leave();
    }
}

/// Holds an inode for buffered I/O, for a moment.
pub(crate) struct Brief<'a>(&'a IoMode);

impl Drop for Brief<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;
    use futures_util::{FutureExt, poll, task::noop_waker_ref};

    fn now(lock: &Arc<IoMode>, mode: Mode) -> Option<ModeGuard> {
        lock.enter(mode).now_or_never()
    }

    #[test]
    fn n_c39_p_d61_modes_exclude_each_other_and_share_within() {
        let lock = Arc::new(IoMode::default());
        let a = now(&lock, Mode::Buffered).expect("free");
        let b = now(&lock, Mode::Buffered).expect("shared");
        assert!(now(&lock, Mode::Direct).is_none());
        drop((a, b));
        let d = now(&lock, Mode::Direct).expect("free again");
        assert!(!lock.buffered_now());
        assert!(now(&lock, Mode::Buffered).is_none());
        drop(d);
        assert!(lock.buffered_now());
    }

    #[test]
    fn n_c39_a_waiting_switch_is_not_starved_by_new_readers() {
        pollster::block_on(async {
            let lock = Arc::new(IoMode::default());
            let a = now(&lock, Mode::Buffered).expect("free");
            let mut direct = lock.enter(Mode::Direct);
            assert!(poll!(&mut direct).is_pending());
            assert!(now(&lock, Mode::Buffered).is_none(), "queued behind the switch");
            drop(a);
            let guard = direct.await;
            drop(guard);
            assert!(now(&lock, Mode::Buffered).is_some());
        });
    }

    #[test]
    fn n_c39_an_interrupted_wait_leaves_the_mode_consistent() {
        let lock = Arc::new(IoMode::default());
        let a = now(&lock, Mode::Buffered).expect("free");
        let mut direct = Box::pin(lock.enter(Mode::Direct));
        let mut cx = Context::from_waker(noop_waker_ref());
        assert!(direct.as_mut().poll(&mut cx).is_pending());
        drop(direct);
        assert!(lock.buffered_now());
        assert!(now(&lock, Mode::Buffered).is_some());
        drop(a);
    }
}
