//! Opening files, and making those that are not there.

use super::mount::{Mount, Node, check_name, require_dir};
use crate::{
    error::{Errno, Error, Result},
    file::{File, Granted, OpenOptions},
    remote::{AccessMask, Cx, FileKind, NewFile, OpenIntent},
};

/// How often a name may come and go between our look and our making it.
const RACES_MAX: usize = 8;

impl Mount {
    /// Walks a path and opens the file it names, which is made first if `options` say so.
    ///
    /// # Errors
    /// `EINVAL` for options that contradict themselves; `ENOENT`; `EEXIST` with
    /// [`create_new`](OpenOptions::create_new); `EISDIR`, `ENOTDIR`; `EACCES`; `EROFS` if the adapter or
    /// the server cannot write; `ESTALE` if the file is deleted meanwhile; what the adapter returned.
    pub async fn open_with(
        &self,
        path: impl AsRef<[u8]>,
        options: &OpenOptions,
        cx: &Cx,
    ) -> Result<File> {
        options.check()?;
        let path = path.as_ref();
        let end = path.iter().rposition(|&b| b != b'/').map_or(0, |last| last + 1);
        if end == 0 {
            return self.open_node_with(&self.root(), options, cx).await;
        }
        let slash = path[..end].iter().rposition(|&b| b == b'/');
        let (dir, name) = path[..end].split_at(slash.map_or(0, |slash| slash + 1));
        let dir = self.walk(dir, cx).await?;
        if end == path.len() {
            return self.open_at(&dir, name, options, cx).await;
        }
        // What ends in a slash is a directory, which can only be read.
        let found = self.lookup(&dir, name, cx).await?.ok_or_else(|| no_file(name))?;
        require_dir(&found)?;
        self.open_node_with(&found, options, cx).await
    }

    /// The same for one name in a directory.
    ///
    /// # Errors
    /// As [`open_with`](Mount::open_with), and those of [`lookup`](Mount::lookup) for the name.
    pub async fn open_at(
        &self,
        dir: &Node,
        name: &[u8],
        options: &OpenOptions,
        cx: &Cx,
    ) -> Result<File> {
        options.check()?;
        check_name(name)?;
        for _ in 0..RACES_MAX {
            if !options.create_new
                && let Some(node) = self.lookup(dir, name, cx).await?
            {
                return self.open_found(&node, options, cx).await;
            }
            if !options.create && !options.create_new {
                return Err(no_file(name));
            }
            match self.make(dir, name, NewFile::File(options.mode), cx).await {
                Ok(node) => return self.open_any(&node, options, true, cx).await,
                // Somebody else made it since we looked: open theirs.
                Err(e) if e.errno() == Errno::EEXIST && !options.create_new => {}
                Err(e) => return Err(e),
            }
        }
        let told = "the name comes and goes faster than it can be opened; try again";
        Err(Error::new(Errno::ESTALE, told))
    }

    /// Opens a file that was looked up before.
    ///
    /// # Errors
    /// As [`open_with`](Mount::open_with); `EEXIST` with [`create_new`](OpenOptions::create_new).
    pub async fn open_node_with(
        &self,
        node: &Node,
        options: &OpenOptions,
        cx: &Cx,
    ) -> Result<File> {
        options.check()?;
        if options.create_new {
            return Err(Error::new(Errno::EEXIST, "what is to be made is there"));
        }
        self.open_found(node, options, cx).await
    }

    async fn open_found(&self, node: &Node, options: &OpenOptions, cx: &Cx) -> Result<File> {
        let file_only = options.writes() || options.create;
        match node.kind() {
            Some(FileKind::Dir) => {
                return Err(Error::new(Errno::EISDIR, "is a directory"));
            }
            Some(FileKind::Symlink) if file_only => {
                return Err(Error::new(Errno::ELOOP, "a symbolic link; it is not followed"));
            }
            kind if file_only && kind != Some(FileKind::File) => {
                let told = "only a regular file can be written to";
                return Err(Error::new(Errno::EINVAL, told));
            }
            _ => {}
        }
        let file = self.open_any(node, options, false, cx).await?;
        if options.truncate {
            file.set_len(0).await?;
        }
        Ok(file)
    }

    /// All of it in one trip to the driver: each call of its own would cost the caller two thread
    /// switches more. `made`: the caller has just made the file.
    pub(super) async fn open_any(
        &self,
        node: &Node,
        options: &OpenOptions,
        made: bool,
        cx: &Cx,
    ) -> Result<File> {
        let (mount, node, options, cx) = (self.clone(), node.clone(), *options, cx.clone());
        self.on_driver(async move { mount.open_here(node, options, made, cx).await }).await
    }

    /// The check comes last, because the open's own reply often makes it needless: what it says of the
    /// file is as fresh, and if it brings a promise the server need not be asked again.
    async fn open_here(
        &self,
        node: Node,
        options: OpenOptions,
        made: bool,
        cx: Cx,
    ) -> Result<File> {
        let inode = &node.inode;
        let intent = self.permitted(&node, options.intent(), made, &cx).await?;
        let epoch = self.sample();
        let opened = self.fs().open(&node.remote, intent, cx.clone()).await;
        let (token, facts) = opened.inspect_err(|e| {
            if e.errno() == Errno::ESTALE {
                inode.mark_deleted();
            }
        })?;
        if let Some(facts) = facts {
            inode.apply(&facts, &epoch, &[]);
        }
        inode.ensure_valid(&node.remote, &cx).await?;
        let granted = Granted { by: self.fs(), reads: intent.reads() };
        Ok(File::new(node, cx.with_token(token), options, granted))
    }

    /// Checks the caller's rights; returns what to ask the server for. A file that is only written is
    /// opened for reading too where that is allowed: a write may have to fetch what is around it. Whoever
    /// makes a file may open it once for anything, whatever its mode (`open(2)`), if the server agrees.
    async fn permitted(
        &self,
        node: &Node,
        intent: OpenIntent,
        made: bool,
        cx: &Cx,
    ) -> Result<OpenIntent> {
        let mut mask = if intent.writes() { AccessMask::WRITE } else { AccessMask::READ };
        if intent.reads() {
            mask = mask.union(AccessMask::READ);
        }
        if !made {
            self.require(node, mask, cx).await?;
        }
        if intent.reads() || !self.access(node, AccessMask::READ, cx).await? {
            return Ok(intent);
        }
        Ok(OpenIntent::ReadWrite)
    }
}

fn no_file(name: &[u8]) -> Error {
    let name = String::from_utf8_lossy(name).into_owned();
    Error::new(Errno::ENOENT, format!("no such file: {name:?}"))
}
