//! The context of one call: who asks, with which open, until when.

use std::{any::Any, fmt, sync::Arc};

use crate::clock::BootTime;

/// Who asks. Rights are judged by the server (or its adapter), never by the core.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Cred {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// A protocol principal (a Kerberos name, an AFS key id) where uid and gid do not say it all.
    pub principal: Option<String>,
}

impl Cred {
    /// A credential of uid and gid alone.
    #[must_use]
    pub fn new(uid: u32, gid: u32) -> Cred {
        Cred { uid, gid, groups: Vec::new(), principal: None }
    }

    /// The credential of this process: effective uid, gid and supplementary groups.
    #[must_use]
    pub fn current() -> Cred {
        let groups = rustix::process::getgroups().unwrap_or_default();
        Cred {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            groups: groups.into_iter().map(|g| g.as_raw()).collect(),
            principal: None,
        }
    }

    /// Whether this is the superuser.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// Whether the credential is a member of `gid`.
    #[must_use]
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// What [`RemoteFs::open`](super::RemoteFs::open) returned: opaque to the core, handed back with
/// every call of that open, and dropped when the last of them has ended.
#[derive(Clone, Default)]
pub struct OpenToken(Option<Arc<dyn Any + Send + Sync>>);

impl OpenToken {
    /// No token: the protocol has no opens.
    #[must_use]
    pub fn none() -> OpenToken {
        OpenToken(None)
    }

    /// Wraps an adapter's own value.
    pub fn new<T: Any + Send + Sync>(token: T) -> OpenToken {
        OpenToken(Some(Arc::new(token)))
    }

    /// The adapter's value back.
    #[must_use]
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.0.as_ref().and_then(|t| t.downcast_ref())
    }
}

impl fmt::Debug for OpenToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "OpenToken(..)" } else { "OpenToken(none)" })
    }
}

/// Who asks, with which open, until when. Kept with a read for as long as it may have to be issued
/// again (row 162), so a failed cache read can still be sent to the server.
#[derive(Clone, Debug)]
pub struct Cx {
    cred: Arc<Cred>,
    token: OpenToken,
    deadline: Option<BootTime>,
}

impl Cx {
    /// A context without open or deadline.
    #[must_use]
    pub fn new(cred: impl Into<Arc<Cred>>) -> Cx {
        Cx { cred: cred.into(), token: OpenToken::none(), deadline: None }
    }

    /// The same with an open's token.
    #[must_use]
    pub fn with_token(mut self, token: OpenToken) -> Cx {
        self.token = token;
        self
    }

    /// The same with a deadline; the core gives up waiting then, the adapter may give up too.
    #[must_use]
    pub fn with_deadline(mut self, deadline: BootTime) -> Cx {
        self.deadline = Some(deadline);
        self
    }

    /// The same for work that outlasts whoever asked for it.
    pub(crate) fn without_deadline(&self) -> Cx {
        Cx { deadline: None, ..self.clone() }
    }

    /// Who asks.
    #[must_use]
    pub fn cred(&self) -> &Arc<Cred> {
        &self.cred
    }

    /// The open's token.
    #[must_use]
    pub fn token(&self) -> &OpenToken {
        &self.token
    }

    /// Until when the caller waits.
    #[must_use]
    pub fn deadline(&self) -> Option<BootTime> {
        self.deadline
    }
}
