//! Faults on purpose: which calls they hit ([`Fault`]) and what they do ([`Effect`]).
//!
//! A [`Fault`] is a matcher, a count and effects. For each call the plan's faults are tried in the
//! order they were added and the **first that matches** is applied and counted down, so one-shot
//! faults added one after another are a script:
//!
//! ```
//! use netfs::Errno;
//! use netfs_memory::{Fault, FaultPlan, Op};
//! let plan = FaultPlan::new()
//!     .with(Fault::on(Op::Read).file("a").short(100))         // first read of "a"
//!     .with(Fault::on(Op::Read).file("a").errno(Errno::EIO)); // second
//! ```

mod effect;
mod gate;
mod plan;
mod rule;

pub use effect::{Effect, Lie, OverLong};
pub use gate::Gate;
pub(crate) use gate::WATCHDOG;
pub(crate) use plan::Verdict;
pub use plan::{FaultPlan, Injected};
pub use rule::Fault;

macro_rules! ops {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)*) => {
        /// A kind of call.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[non_exhaustive]
        pub enum Op { $($(#[doc = $doc])+ $name,)* }

        impl Op {
            /// Every kind of call.
            pub const ALL: &'static [Op] = &[$(Op::$name,)*];

            /// The name, for tables.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Op::$name => $text,)* }
            }
        }
    };
}

ops! {
    /// [`RemoteFs::root`](netfs::remote::RemoteFs::root).
    Root = "root",
    /// [`RemoteFs::lookup`](netfs::remote::RemoteFs::lookup).
    Lookup = "lookup",
    /// [`RemoteFs::readdir`](netfs::remote::RemoteFs::readdir).
    Readdir = "readdir",
    /// [`RemoteFs::getattr`](netfs::remote::RemoteFs::getattr).
    Getattr = "getattr",
    /// [`RemoteFs::readlink`](netfs::remote::RemoteFs::readlink).
    Readlink = "readlink",
    /// [`RemoteFs::access`](netfs::remote::RemoteFs::access).
    Access = "access",
    /// [`RemoteFs::open`](netfs::remote::RemoteFs::open).
    Open = "open",
    /// [`RemoteFs::statfs`](netfs::remote::RemoteFs::statfs).
    Statfs = "statfs",
    /// [`RemoteFile::read`](netfs::remote::RemoteFile::read).
    Read = "read",
    /// [`RemoteFile::validate`](netfs::remote::RemoteFile::validate).
    Validate = "validate",
}
