//! Were the changes of one round of uploads ours alone? The versions tell.
//!
//! Each reply says which version its call found and which it left. The server applied the calls in some
//! order that the replies' order says nothing about. If every change can be put in one chain that begins
//! at the version known before, nobody else wrote; whatever does not fit is a sign of somebody else.

use crate::remote::{Change, Facts, Version};

/// What the changes of a round come to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Nothing was changed.
    Nothing,
    /// Something was, and no reply said anything about versions.
    Silent,
    /// All ours: the file is as these facts say, with nothing in between by anybody else.
    Ours(Facts),
    /// Somebody else changed the file before, between or after: these are the newest facts there are.
    Others(Facts),
}

/// Collects a round's changes.
#[derive(Clone, Default, Debug)]
pub(crate) struct Chain {
    changes: Vec<(Option<Version>, Facts)>,
}

impl Chain {
    /// A reply of the round.
    pub(crate) fn add(&mut self, before: Option<Version>, after: Facts) {
        self.changes.push((before, after));
    }

    /// The versions that the changes led to.
    pub(crate) fn versions(&self) -> Vec<Version> {
        self.changes.iter().filter_map(|(_, after)| after.version.clone()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether every reply named the version its call found: only then a gap is a sign of somebody else.
    pub(crate) fn names_all(&self) -> bool {
        self.changes.iter().all(|(before, _)| before.is_some())
    }

    /// Nobody else has written, whatever the replies say: what they do not say can be told. False: of several
    /// changes without a version before the last one cannot be told; the server has to be asked.
    pub(crate) fn all_ours(&mut self, known: Option<&Version>) -> bool {
        if self.names_all() {
            return true;
        }
        match self.changes.as_mut_slice() {
            [(before, after)] if after.version.is_some() => {
                *before = known.cloned();
                true
            }
            _ => false,
        }
    }

    /// The same, where the file is as `facts` say after all of them.
    pub(crate) fn lead_to(&mut self, known: Option<&Version>, facts: Facts) {
        if facts.version.is_some() {
            self.changes = vec![(known.cloned(), facts)];
        }
    }

    /// The change, if there is exactly one.
    pub(crate) fn only(self) -> Option<Change> {
        let [(before, after)] = self.changes.try_into().ok()?;
        Some(Change::new(before, after))
    }

    /// Whether one of the changes led to `version`.
    pub(crate) fn leads_to(&self, version: Option<&Version>) -> bool {
        version.is_some() && self.changes.iter().any(|(_, after)| after.version.as_ref() == version)
    }

    /// Puts the changes in order, from the version known before the round.
    pub(crate) fn resolve(self, known: Option<&Version>) -> Outcome {
        let mut left = self.changes;
        // Calls that changed no version (nothing written, a commit, or the server does not count it).
        let idle = |(before, after): &mut (Option<Version>, Facts)| {
            before.is_some() && *before == after.version
        };
        let idle: Vec<_> = left.extract_if(.., idle).collect();
        let Some(last) = left.last().map(|(_, facts)| facts.clone()) else {
            return Outcome::Nothing;
        };
        if left.iter().all(|(before, after)| before.is_none() && after.version.is_none()) {
            return Outcome::Silent;
        }
        let (mut at, mut end) = (known.cloned(), None);
        let mut links = vec![at.clone()];
        while let Some(i) = left.iter().position(|(before, _)| before.is_some() && *before == at) {
            let (_, after) = left.swap_remove(i);
            at.clone_from(&after.version);
            links.push(at.clone());
            end = Some(after);
        }
        // One of them met a version that is not of this chain: somebody else's.
        let whole = left.is_empty() && idle.iter().all(|(before, _)| links.contains(before));
        match (end, whole) {
            (Some(facts), true) => Outcome::Ours(facts),
            _ => Outcome::Others(last),
        }
    }
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v(n: u64) -> Version {
        Version::from_u64(n)
    }

    fn chain(changes: &[(u64, u64)]) -> Chain {
        let mut chain = Chain::default();
        changes.iter().for_each(|(a, b)| chain.add(Some(v(*a)), Facts::version(v(*b))));
        chain
    }

    proptest! {
        #[test]
        fn replies_in_any_order_are_one_chain(order in Just((0u64..12).collect::<Vec<_>>()).prop_shuffle()) {
            let changes: Vec<_> = order.iter().map(|i| (*i, *i + 1)).collect();
            let outcome = chain(&changes).resolve(Some(&v(0)));
            prop_assert_eq!(outcome, Outcome::Ours(Facts::version(v(12))));
        }

        #[test]
        fn a_change_by_somebody_else_is_never_taken_for_ours(at in 0u64..12, order in Just((0u64..13).collect::<Vec<_>>()).prop_shuffle()) {
            // Change number `at` is theirs.
            let changes: Vec<_> = order.iter().filter(|i| **i != at).map(|i| (*i, *i + 1)).collect();
            let outcome = chain(&changes).resolve(Some(&v(0)));
            // Theirs may have come last, after all of ours: then nothing shows it yet.
            prop_assert_eq!(matches!(outcome, Outcome::Ours(_)), at == 12);
        }
    }

    #[test]
    fn a_commit_that_met_a_version_of_nobody_here_is_a_sign_of_somebody_else() {
        let mut c = chain(&[(0, 1), (1, 2), (2, 2)]);
        assert!(matches!(c.clone().resolve(Some(&v(0))), Outcome::Ours(_)));
        c.add(Some(v(3)), Facts::version(v(3)));
        assert!(matches!(c.resolve(Some(&v(0))), Outcome::Others(_)));
    }

    #[test]
    fn under_a_write_promise_a_reply_need_not_say_what_it_found() {
        let one = |after| {
            let mut c = Chain::default();
            c.add(None, after);
            c
        };
        let mut c = one(Facts::version(v(1)));
        assert!(c.all_ours(Some(&v(0))));
        assert_eq!(c.resolve(Some(&v(0))), Outcome::Ours(Facts::version(v(1))));
        let mut silent = one(Facts::default());
        assert!(!silent.all_ours(Some(&v(0))));
        let mut two = one(Facts::version(v(1)));
        two.add(None, Facts::version(v(2)));
        assert!(!two.all_ours(Some(&v(0))), "which came last?");
        two.lead_to(Some(&v(0)), Facts::version(v(2)));
        assert_eq!(two.resolve(Some(&v(0))), Outcome::Ours(Facts::version(v(2))));
    }

    #[test]
    fn a_reply_without_the_version_it_found_proves_nothing() {
        let mut c = chain(&[(0, 1)]);
        c.add(None, Facts::version(v(2)));
        assert_eq!(c.resolve(Some(&v(0))), Outcome::Others(Facts::version(v(2))));
        let mut c = Chain::default();
        c.add(None, Facts::default());
        assert_eq!(c.resolve(Some(&v(0))), Outcome::Silent);
        assert_eq!(Chain::default().resolve(None), Outcome::Nothing);
    }
}
