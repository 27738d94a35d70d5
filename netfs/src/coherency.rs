//! Validity of cached data: one model for TTLs, etags, change attributes, delegations and callbacks.
//!
//! Adapters report what each reply said ([`Facts`](crate::remote::Facts)) and what their server told
//! them unasked ([`VolumeEvents`]); this module alone decides whether cached data may be served.
//!
//! - `model` decides: pure structs, stepped in tests. Its module text has the rules.
//! - `cell` is the concurrent shell around it: `InodeCell::valid_now` for the hit path,
//!   `InodeCell::apply` for replies.
//! - `events` is what adapters call; `zap` takes mapped pages away from the fronts.
//! - `recall` is how an adapter hears that a promise was given back; `writeback/recall.rs` gives it back.
//! - `gate` merges concurrent checks; `validate` is what a reader calls when the hit path said no.
//!
//! The life of a read that finds its file stale: `valid_now` says no; `validate` shares or starts a
//! flight; the flight samples an `Epoch`, asks the server, and applies the reply under that epoch. If the
//! version is the same the data stays (P-D15). If not, `apply` hands out a `DropToken`: the inode
//! stays stale while the core drops its pages and cuts its cookie over, without any lock, and the
//! new promise is published when the token is resolved.
//!
//! The life of a break: the event takes the next number of the volume's sequence, the file becomes
//! stale, fronts that map it are asked to zap, and the call returns. A reply to anything issued before
//! has a smaller epoch and installs no promise (P-D5, P-D7).

mod cell;
mod events;
mod gate;
mod model;
mod recall;
mod validate;
mod zap;

#[cfg(test)]
use cell::DropToken;
pub(crate) use cell::{InodeCell, VolumeCell, Writing};
pub(crate) use events::InodeTable;
pub use events::{BreakReason, VolumeEvents};
#[cfg(test)]
use model::StaleReason;
pub(crate) use model::{Action, Epoch, ReplyKind, Validity};
pub(crate) use recall::RecallEnd;
pub use recall::{LocalState, RecallTicket, Recalled};
pub use zap::{Origin, Ticket, ZapDone, ZapRegistration, Zapper};

#[cfg(test)]
mod tests;
