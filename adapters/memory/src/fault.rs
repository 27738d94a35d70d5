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

pub use effect::{Conflict, Effect, Lie, OverLong};
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
    /// [`RemoteFile::write`](netfs::remote::RemoteFile::write).
    Write = "write",
    /// [`RemoteFile::commit`](netfs::remote::RemoteFile::commit).
    Commit = "commit",
    /// [`RemoteFile::set_size`](netfs::remote::RemoteFile::set_size).
    SetSize = "set_size",
    /// [`RemoteFile::allocate`](netfs::remote::RemoteFile::allocate).
    Allocate = "allocate",
    /// [`RemoteFile::deallocate`](netfs::remote::RemoteFile::deallocate).
    Deallocate = "deallocate",
    /// [`RemoteFile::release_promise`](netfs::remote::RemoteFile::release_promise).
    ReleasePromise = "release_promise",
    /// [`RemoteFs::set_attr`](netfs::remote::RemoteFs::set_attr).
    SetAttr = "set_attr",
    /// [`RemoteFs::create`](netfs::remote::RemoteFs::create).
    Create = "create",
    /// [`RemoteFs::link`](netfs::remote::RemoteFs::link).
    Link = "link",
    /// [`RemoteFs::remove`](netfs::remote::RemoteFs::remove).
    Remove = "remove",
    /// [`RemoteFs::rename`](netfs::remote::RemoteFs::rename).
    Rename = "rename",
}

impl Op {
    /// Calls with a sub.
    fn moves_data(self) -> bool {
        matches!(self, Op::Read | Op::Write)
    }

    /// Calls that change one file and say from which version to which.
    fn changes_file(self) -> bool {
        matches!(
            self,
            Op::Write | Op::Commit | Op::SetSize | Op::Allocate | Op::Deallocate | Op::SetAttr
        )
    }

    /// Calls that change names.
    fn changes_names(self) -> bool {
        matches!(self, Op::Create | Op::Link | Op::Remove | Op::Rename)
    }
}
