//! The byte budget: what counts in it, and where every byte of folio memory is accounted.
//!
//! Each piece of folio memory carries a [`Charge`], which says in which account it stands. The
//! accounts in flight, indexed and abandoned together never exceed the budget; memory that left the
//! index but is still held by slices (pinned) and memory that never was in it (transient) are shown
//! apart, because no eviction can get them back.

use crate::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU64, Ordering},
};

/// Estimated bookkeeping of one folio in bytes: itself, its memory's handle, its share of the index
/// and of the policy's queues and ghosts. Charged with the folio.
pub(crate) const FOLIO_OVERHEAD: u64 = 384;

/// Where a piece of folio memory is accounted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Account {
    /// Allocated for a fetch; counts in the budget.
    InFlight,
    /// Uptodate in an index; counts in the budget.
    Indexed,
    /// Its folio was failed or dropped while a fetch was still writing into it; counts in the budget
    /// until the fetch ends, so hung servers cannot make memory grow.
    Abandoned,
    /// Out of the index, still held by someone.
    Pinned,
    /// Never was in an index: the budget was exhausted or the read bypassed the cache.
    Transient,
}

const ACCOUNTS: usize = 5;

impl Account {
    fn from_u8(n: u8) -> Account {
        use Account::{Abandoned, InFlight, Indexed, Pinned, Transient};
        [InFlight, Indexed, Abandoned, Pinned, Transient][usize::from(n)]
    }

    fn in_budget(self) -> bool {
        matches!(self, Account::InFlight | Account::Indexed | Account::Abandoned)
    }
}

/// The accounts of one context.
#[derive(Debug)]
pub(crate) struct Accounts {
    budget: AtomicU64,
    /// Memory and overhead of everything in the budget, reservations included. Never above `budget`.
    charged: AtomicU64,
    bytes: [AtomicU64; ACCOUNTS],
    folios: AtomicU64,
}

impl Accounts {
    pub(crate) fn new(budget: u64) -> Arc<Accounts> {
        Arc::new(Accounts {
            budget: AtomicU64::new(budget),
            charged: AtomicU64::new(0),
            bytes: Default::default(),
            folios: AtomicU64::new(0),
        })
    }

    /// The budget in bytes.
    pub(crate) fn budget(&self) -> u64 {
        self.budget.load(Ordering::Relaxed)
    }

    /// Another budget. Reservations that were made under the one before stay.
    pub(crate) fn set_budget(&self, budget: u64) {
        self.budget.store(budget, Ordering::Relaxed);
    }

    /// Everything that counts in the budget now.
    pub(crate) fn charged(&self) -> u64 {
        self.charged.load(Ordering::Relaxed)
    }

    /// Memory in one account, without overhead.
    pub(crate) fn bytes(&self, account: Account) -> u64 {
        // Two moves of one charge may interleave and leave a sum below zero for an instant.
        i64::try_from(self.bytes[account as usize].load(Ordering::Relaxed))
            .map_or(0, i64::unsigned_abs)
    }

    /// Memory of fetches that have not ended, whether anybody waits for them or not.
    pub(crate) fn fetching(&self) -> u64 {
        self.bytes(Account::InFlight) + self.bytes(Account::Abandoned)
    }

    /// Folios that count in the budget.
    pub(crate) fn folios(&self) -> u64 {
        self.folios.load(Ordering::Relaxed)
    }

    /// Sets `bytes` (overhead included) aside; `None` if the budget has no room for them now.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        self.charged
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                now.checked_add(bytes).filter(|sum| *sum <= self.budget())
            })
            .ok()?;
        Some(Reservation { accounts: Arc::clone(self), left: bytes })
    }

    /// A charge outside the budget.
    pub(crate) fn transient(self: &Arc<Self>, bytes: u64) -> Charge {
        Charge::open(self, bytes, Account::Transient)
    }
}

/// What a folio of `len` bytes costs in the budget.
pub(crate) fn cost(len: u64) -> u64 {
    len + FOLIO_OVERHEAD
}

/// Budget set aside for folios about to be allocated. What is not used goes back on drop.
pub(crate) struct Reservation {
    accounts: Arc<Accounts>,
    left: u64,
}

impl Reservation {
    /// Turns part of the reservation into the charge of a folio of `len` bytes.
    ///
    /// # Panics
    /// If the reservation is too small: a bug of this crate.
    pub(crate) fn charge(&mut self, len: u64) -> Charge {
        self.left = self.left.checked_sub(cost(len)).expect("reserved before it was charged");
        self.accounts.folios.fetch_add(1, Ordering::Relaxed);
        Charge::open(&self.accounts, len, Account::InFlight)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.accounts.charged.fetch_sub(self.left, Ordering::Relaxed);
    }
}

/// The accounting of one piece of memory; ends with it.
#[derive(Debug)]
pub(crate) struct Charge {
    accounts: Arc<Accounts>,
    bytes: u64,
    account: AtomicU8,
}

impl Charge {
    fn open(accounts: &Arc<Accounts>, bytes: u64, account: Account) -> Charge {
        accounts.bytes[account as usize].fetch_add(bytes, Ordering::Relaxed);
        Charge { accounts: Arc::clone(accounts), bytes, account: AtomicU8::new(account as u8) }
    }

    /// Moves the memory to another account. Memory that has left the budget does not come back into
    /// it (a late move is ignored), so two parties may report the end of a folio in any order.
    pub(crate) fn move_to(&self, to: Account) {
        let moved = self.account.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |from| {
            let stays_out = !Account::from_u8(from).in_budget() && to.in_budget();
            (!stays_out).then_some(to as u8)
        });
        let Ok(from) = moved else { return };
        let from = Account::from_u8(from);
        // Added first, so that a concurrent snapshot may see the bytes twice but never not at all.
        self.accounts.bytes[to as usize].fetch_add(self.bytes, Ordering::Relaxed);
        self.accounts.bytes[from as usize].fetch_sub(self.bytes, Ordering::Relaxed);
        if from.in_budget() && !to.in_budget() {
            self.leave_budget();
        }
    }

    fn leave_budget(&self) {
        self.accounts.charged.fetch_sub(cost(self.bytes), Ordering::Relaxed);
        self.accounts.folios.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let account = Account::from_u8(self.account.load(Ordering::Relaxed));
        self.accounts.bytes[account as usize].fetch_sub(self.bytes, Ordering::Relaxed);
        if account.in_budget() {
            self.leave_budget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_never_pass_the_budget_and_return_what_is_unused() {
        let accounts = Accounts::new(3 * cost(4096));
        let mut all = accounts.reserve(3 * cost(4096)).expect("fits exactly");
        assert!(accounts.reserve(1).is_none());
        let charge = all.charge(4096);
        drop(all);
        assert_eq!(accounts.charged(), cost(4096));
        assert_eq!((accounts.bytes(Account::InFlight), accounts.folios()), (4096, 1));
        drop(charge);
        assert_eq!((accounts.charged(), accounts.folios()), (0, 0));
    }

    #[test]
    fn memory_that_left_the_budget_stays_out() {
        let accounts = Accounts::new(1 << 20);
        let charge = accounts.reserve(cost(4096)).expect("room").charge(4096);
        charge.move_to(Account::Pinned);
        charge.move_to(Account::Abandoned);
        assert_eq!((accounts.charged(), accounts.bytes(Account::Pinned)), (0, 4096));
        drop(charge);
        assert_eq!(accounts.bytes(Account::Pinned), 0);
    }
}
