//! The owner's handle to a cookie that may not be there, and a user's handle to a cookie in use.

use super::Cookie;
#[cfg(test)]
use super::{Access, CookieInfo};
#[cfg(test)]
use crate::{clock::BootTime, fscache::Refusal};
use crate::{
    fscache::{Identity, Relinquish},
    sync::Arc,
};

/// A cookie, or none (row 98): every call on an empty slot is a no-op (N-C54). One owner (an inode)
/// has it; dropping it relinquishes the cookie, keeping what is stored.
#[derive(Default)]
pub(crate) struct CookieSlot(Option<Arc<Cookie>>);

impl CookieSlot {
    pub(crate) fn new(cookie: Arc<Cookie>) -> CookieSlot {
        CookieSlot(Some(cookie))
    }

    /// No cookie.
    pub(crate) fn none() -> CookieSlot {
        CookieSlot(None)
    }

    /// The cookie, if there is one.
    pub(crate) fn cookie(&self) -> Option<&Arc<Cookie>> {
        self.0.as_ref()
    }

    /// See [`Cookie::invalidate`].
    pub(crate) fn invalidate(&self, identity: Identity, dio: bool) {
        if let Some(cookie) = &self.0 {
            cookie.invalidate(identity, dio);
        }
    }

    /// See [`Cookie::relinquish`].
    pub(crate) fn relinquish(&self, how: Relinquish) {
        if let Some(cookie) = &self.0 {
            cookie.relinquish(how);
        }
    }
}

/// What only tests ask of a slot: the core has the cookie itself in hand where it does these.
#[cfg(test)]
impl CookieSlot {
    /// See [`Cookie::use_cookie`].
    pub(crate) fn use_cookie(&self, will_modify: bool) -> CookieUse {
        self.0.as_ref().map_or(CookieUse::none(), |c| c.use_cookie(will_modify))
    }

    /// See [`Cookie::try_begin`].
    #[must_use]
    pub(crate) fn try_begin(&self) -> Option<Access> {
        self.0.as_ref()?.try_begin()
    }

    /// See [`Cookie::begin`].
    pub(crate) async fn begin(&self, deadline: Option<BootTime>) -> Result<Access, Refusal> {
        match &self.0 {
            Some(cookie) => cookie.begin(deadline).await,
            None => Err(Refusal::Disabled),
        }
    }

    /// See [`Cookie::update`].
    pub(crate) fn update(&self, identity: Identity) {
        if let Some(cookie) = &self.0 {
            cookie.update(identity);
        }
    }

    /// See [`Cookie::modified`].
    pub(crate) fn modified(&self, identity: Identity, changed: &[std::ops::Range<u64>]) {
        if let Some(cookie) = &self.0 {
            cookie.modified(identity, changed);
        }
    }

    /// See [`Cookie::inval_counter`].
    pub(crate) fn inval_counter(&self) -> u64 {
        self.0.as_ref().map_or(0, |c| c.inval_counter())
    }

    /// See [`Cookie::describe`].
    pub(crate) fn describe(&self) -> Option<CookieInfo> {
        self.0.as_ref().map(|c| c.describe())
    }
}

impl Drop for CookieSlot {
    fn drop(&mut self) {
        if let Some(cookie) = self.0.take().filter(|c| !c.is_relinquished()) {
            cookie.relinquish(Relinquish::Keep);
        }
    }
}

/// A user of a cookie (an open file, a pin). Dropping it counts the user out (row 102).
#[must_use = "the cookie is in use only while this lives"]
pub(crate) struct CookieUse {
    cookie: Option<Arc<Cookie>>,
    modifying: bool,
}

impl CookieUse {
    pub(super) fn new(cookie: Arc<Cookie>, modifying: bool) -> CookieUse {
        CookieUse { cookie: Some(cookie), modifying }
    }

    #[cfg(test)]
    /// A use of no cookie.
    pub(crate) fn none() -> CookieUse {
        CookieUse { cookie: None, modifying: false }
    }

    /// Ends the use and states the content's identity as it is now (see [`Cookie::update`]).
    #[cfg(test)]
    pub(crate) fn unuse(mut self, identity: Option<Identity>) {
        if let Some(cookie) = self.cookie.take() {
            if let Some(identity) = identity {
                cookie.update(identity);
            }
            cookie.unuse(self.modifying);
        }
    }
}

impl Drop for CookieUse {
    fn drop(&mut self) {
        if let Some(cookie) = self.cookie.take() {
            cookie.unuse(self.modifying);
        }
    }
}
