//! Random events on a cookie, its cache and the clock, against a plain reference: the byte that is true
//! now. Everything the cache serves must be that byte.

use std::time::Duration;

use proptest::prelude::*;

use crate::{
    fscache::{
        Access, CookieSlot, CookieUse, FaultPoint, Identity, MemCache, Refusal, Relinquish,
        testing::*,
    },
    sync::Arc,
};

#[derive(Clone, Debug)]
enum Op {
    Use,
    Unuse,
    Fill {
        page: u64,
    },
    Read {
        page: u64,
    },
    /// An access that goes on while other things happen.
    KeepAccess,
    EndAccess,
    Invalidate {
        rename: bool,
        dio: bool,
    },
    Update,
    Pass {
        ms: u64,
    },
    Settle,
    Withdraw,
    Attach,
    Hold(FaultPoint),
    Release(FaultPoint),
    Refuse(FaultPoint, bool),
    Sick(bool),
    Replace(Relinquish),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let point = prop_oneof![Just(FaultPoint::Lookup), Just(FaultPoint::Close)];
    let refusable = prop_oneof![
        Just(FaultPoint::Lookup),
        Just(FaultPoint::CutOver),
        Just(FaultPoint::SetIdentity),
        Just(FaultPoint::Write)
    ];
    let op = prop_oneof![
        6 => Just(Op::Use),
        4 => Just(Op::Unuse),
        8 => (0..3u64).prop_map(|page| Op::Fill { page }),
        16 => (0..3u64).prop_map(|page| Op::Read { page }),
        2 => Just(Op::KeepAccess),
        2 => Just(Op::EndAccess),
        4 => any::<(bool, bool)>().prop_map(|(rename, d)| Op::Invalidate { rename, dio: d }),
        1 => Just(Op::Update),
        4 => prop_oneof![Just(20u64), Just(10_000)].prop_map(|ms| Op::Pass { ms }),
        20 => Just(Op::Settle),
        1 => Just(Op::Withdraw),
        4 => Just(Op::Attach),
        1 => point.clone().prop_map(Op::Hold),
        3 => point.prop_map(Op::Release),
        1 => (refusable, any::<bool>()).prop_map(|(p, on)| Op::Refuse(p, on)),
        1 => any::<bool>().prop_map(Op::Sick),
        2 => prop_oneof![Just(Relinquish::Keep), Just(Relinquish::Retire)].prop_map(Op::Replace),
    ];
    proptest::collection::vec(op, 1..300)
}

struct Model {
    rig: Rig,
    cache: Arc<MemCache>,
    attached: bool,
    slot: CookieSlot,
    users: Vec<CookieUse>,
    kept: Option<Access>,
    /// The byte every page of the file holds now.
    truth: u8,
    identity: Identity,
    served: usize,
}

impl Model {
    async fn new() -> Model {
        let rig = Rig::new().await;
        let slot = rig.cookie(ident(0));
        let cache = Arc::clone(&rig.cache);
        Model {
            rig,
            cache,
            attached: true,
            slot,
            users: Vec::new(),
            kept: None,
            truth: 1,
            identity: ident(0),
            served: 0,
        }
    }

    async fn apply(&mut self, op: Op) {
        let faults = self.cache.faults();
        match op {
            Op::Use => self.users.push(self.slot.use_cookie(false)),
            Op::Unuse => drop(self.users.pop()),
            Op::Fill { page } => {
                if let Some(access) = self.slot.try_begin() {
                    let _ = write(&access, page, self.truth);
                }
            }
            Op::Read { page } => self.read(page),
            Op::KeepAccess => self.kept = self.slot.try_begin(),
            Op::EndAccess => self.kept = None,
            Op::Invalidate { rename, dio } => {
                self.truth = self.truth.wrapping_add(1);
                if rename {
                    self.identity = ident(self.truth);
                }
                self.slot.invalidate(self.identity.clone(), dio);
                (0..3).for_each(|page| self.read(page));
            }
            Op::Update => {
                // The owner changes page 0 and writes it through, if there is anything to write to.
                self.truth = self.truth.wrapping_add(1);
                self.identity = ident(self.truth);
                if let Some(access) = self.slot.try_begin() {
                    access.object().forget(0..u64::MAX);
                }
                self.slot.update(self.identity.clone());
            }
            Op::Pass { ms } => self.rig.pass(Duration::from_millis(ms)).await,
            Op::Settle => settle().await,
            Op::Withdraw => {
                // A withdrawal that cannot end goes on in the background.
                let fscache = Arc::clone(&self.rig.fscache);
                drop(tokio::spawn(async move { fscache.withdraw(PATIENCE).await }));
                settle().await;
                self.attached = false;
            }
            Op::Attach if !self.attached => {
                self.attached = true;
                let fscache = Arc::clone(&self.rig.fscache);
                // The same store; a withdrawn cache is not used again.
                faults.release(FaultPoint::Close);
                faults.release(FaultPoint::Lookup);
                self.kept = None;
                settle().await;
                self.cache = self.cache.restart();
                let cache = backend(&self.cache);
                fscache.attach(cache, PATIENCE).await.expect("nothing holds it up");
            }
            Op::Attach => {}
            Op::Hold(point) => faults.hold(point),
            Op::Release(point) => faults.release(point),
            Op::Refuse(point, on) => faults.refuse(point, on.then_some(Refusal::NoSpace)),
            Op::Sick(on) => faults.sick(on.then_some(Refusal::IoError)),
            Op::Replace(how) => {
                self.users.clear();
                self.kept = None;
                self.slot.relinquish(how);
                self.slot = self.rig.cookie(self.identity.clone());
            }
        }
    }

    fn read(&mut self, page: u64) {
        let access = self.slot.try_begin();
        for access in access.iter().chain(&self.kept) {
            if let Some(byte) = read(access, page) {
                assert_eq!(byte, self.truth, "N-C48");
                self.served += 1;
            }
        }
    }

    /// With all faults gone, the cookie must serve again.
    async fn heal(mut self) -> usize {
        let old = Arc::clone(&self.cache);
        for point in [FaultPoint::Lookup, FaultPoint::Close] {
            old.faults().release(point);
        }
        self.users.clear();
        self.kept = None;
        settle().await;
        self.attached = false;
        self.apply(Op::Attach).await;
        let _user = self.slot.use_cookie(false);
        let access = self.slot.begin(None).await.expect("nothing is wrong any more");
        for page in 0..3 {
            assert!(read(&access, page).is_none_or(|byte| byte == self.truth), "N-C48");
        }
        assert_eq!(write(&access, 0, self.truth), Some(Ok(())));
        assert_eq!(read(&access, 0), Some(self.truth));
        self.served
    }
}

#[test]
fn n_c48_random_events_never_serve_a_byte_that_is_not_true_now() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().build().expect("a runtime can be built");
    let served = std::cell::Cell::new(0);
    let config = ProptestConfig { cases: 600, failure_persistence: None, ..Default::default() };
    proptest!(config, |(ops in ops())| {
        runtime.block_on(async {
            let mut model = Model::new().await;
            for op in ops {
                model.apply(op).await;
            }
            served.set(served.get() + model.heal().await);
        });
    });
    assert!(served.get() > 200, "the test must see bytes being served: {}", served.get());
}
