//! From dirty folios to the server.

pub(crate) mod chain;
