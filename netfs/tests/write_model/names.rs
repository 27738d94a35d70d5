//! Names through the mount: made, linked, moved, removed, by us and by others; and what is in their files.
//!
//! A change that was done is on the server, that one and no other, and is shown at once. One that failed has an
//! error that a server with these names gives, or with names that may still be shown here, or a fault explains
//! it. If nobody knows whether it was done, whoever looks finds out. A listing is what the server has.

use bytes::Bytes;
use netfs::{
    Errno, Error, Mount, Node,
    remote::{FileKind, RenameHow, SetAttr},
};
use netfs_memory::{Effect, Fault, Op};

use crate::{
    modelling::cx,
    tree::{Change, Claim, Entry, Held, Key, Paths, split},
    world::World,
};

pub(crate) const TOP: &str = "t";
pub(crate) const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const TARGET: &[u8] = b"nowhere/special";

/// A directory as a mount has found it.
pub(crate) struct Place {
    pub(crate) node: Node,
    pub(crate) key: Key,
    claim: Claim,
}

impl World {
    pub(crate) fn make_tree(&mut self) {
        self.fs.change(TOP).mkdir().expect("it is new");
        self.fs.change("t/a").create(3000).expect("it is new");
        self.fs.change("t/d/b").create(100).expect("it is new");
        self.look_at_tree(true);
    }

    /// Takes over what names there are on the server.
    pub(crate) fn look_at_tree(&mut self, told: bool) {
        let mut paths = Paths::default();
        let all = NAMES.iter().flat_map(|a| {
            std::iter::once((*a).to_owned()).chain(NAMES.iter().map(move |b| format!("{a}/{b}")))
        });
        for path in all {
            let full = format!("{TOP}/{path}");
            let Ok(key) = self.fs.key(&full) else { continue };
            let kind = self.fs.kind(&full).expect("it is there");
            if kind == FileKind::File && !self.tree.held.contains_key(&key) {
                let held = Held { bytes: self.origin_bytes(&full), mode: None };
                self.tree.held.insert(key.clone(), held);
            }
            paths.0.insert(path, Entry { key, kind });
        }
        let (top, now) = (self.fs.key(TOP).expect("nobody removes it"), self.now());
        self.tree.is_now(&top, paths, told, now);
    }

    pub(crate) fn path(&mut self) -> String {
        let a = self.rng.pick(&NAMES);
        if self.rng.chance(40) { format!("{a}/{}", self.rng.pick(&NAMES)) } else { a.to_owned() }
    }

    /// Something with names.
    pub(crate) fn names(&mut self) {
        for _ in 0..self.rng.within(1..5) {
            match self.rng.within(0..100) {
                0..40 => self.change_names(),
                40..52 => self.names_of_others(),
                52..62 => self.list(),
                62..70 => self.look_up(),
                70..80 => self.write_named(),
                80..94 => self.read_named(),
                _ => self.set_mode(),
            }
        }
    }

    /// Looks a name up, and judges what is found.
    fn find(&mut self, mount: &Mount, dir: &Place, name: &str) -> Option<Node> {
        let claim = self.tree.claim(&dir.key, self.now());
        let found = self.drive(mount.lookup(&dir.node, name.as_bytes(), &cx()));
        match found {
            Ok(found) => {
                let key = found.as_ref().map(Node::key);
                let fits = |names: &crate::tree::Names| names.get(name).map(|e| &e.key[..]) == key;
                let judged = self.tree.judge(&dir.key, claim, fits);
                self.check(judged.map_err(|why| format!("lookup of {name} found {key:?}, {why}")));
                found
            }
            Err(e) => {
                self.name_error("lookup", dir, &e);
                None
            }
        }
    }

    /// An error of a call in a directory.
    fn name_error(&mut self, what: &str, dir: &Place, error: &Error) {
        if error.errno() != Errno::ESTALE || !self.tree.is_gone(&dir.key) {
            self.excuse(what, error);
        }
    }

    pub(crate) fn place(&mut self, mount: &Mount, path: &str) -> Option<Place> {
        let node = match self.drive(mount.walk(TOP, &cx())) {
            Ok(node) => node,
            Err(e) => {
                self.excuse("walk", &e);
                return None;
            }
        };
        let key = node.key().to_vec();
        let claim = self.tree.claim(&key, self.now());
        let top = Place { node, key, claim };
        let (dir, _) = split(path);
        if dir.is_empty() {
            return Some(top);
        }
        let node = self.find(mount, &top, dir).filter(|n| n.kind() == Some(FileKind::Dir))?;
        let key = node.key().to_vec();
        let claim = self.tree.claim(&key, self.now());
        Some(Place { node, key, claim })
    }

    /// The place of a path, and what is there.
    fn locate(&mut self, mount: &Mount, path: &str) -> Option<(Place, Option<Node>)> {
        let place = self.place(mount, path)?;
        let node = self.find(mount, &place, split(path).1);
        Some((place, node))
    }

    fn some_change(&mut self) -> Option<(Change, Op)> {
        let (a, b) = (self.path(), self.path());
        let kind = self.rng.pick(&[
            FileKind::File,
            FileKind::File,
            FileKind::Dir,
            FileKind::Dir,
            FileKind::Symlink,
        ]);
        Some(match self.rng.within(0..12) {
            0..4 => (Change::Make(a, kind), Op::Create),
            4 => (Change::Link(a, b), Op::Link),
            5 | 6 => (Change::Unlink(a), Op::Remove),
            7 => (Change::Rmdir(a), Op::Remove),
            _ => {
                let how = self.rng.pick(&[
                    RenameHow::Replace,
                    RenameHow::Replace,
                    RenameHow::NoReplace,
                    RenameHow::Exchange,
                ]);
                // Two names deep, and no directory in itself.
                let paths = &self.tree.paths;
                let is_dir = |path: &str| paths.kind(path) == Some(FileKind::Dir);
                let deep = |path: &str| path.contains('/');
                let inside = |a: &str, b: &str| split(a).0 == b;
                if is_dir(&a) && deep(&b)
                    || is_dir(&b) && deep(&a)
                    || inside(&a, &b)
                    || inside(&b, &a)
                {
                    return None;
                }
                (Change::Rename(a, b, how), Op::Rename)
            }
        })
    }

    fn name_trouble(&mut self) -> Option<Effect> {
        let effects = [Effect::Errno(Errno::EIO), Effect::LostReply, Effect::DoneBut(Errno::EIO)];
        self.rng.chance(15).then(|| self.rng.pick(&effects))
    }

    /// Changes names here.
    fn change_names(&mut self) {
        let Some((change, op)) = self.some_change() else { return };
        let mount = self.rng.pick(&self.mounts);
        let (first, second) = match &change {
            Change::Make(a, _) | Change::Unlink(a) | Change::Rmdir(a) => (a, None),
            Change::Link(a, b) | Change::Rename(a, b, _) => (a, Some(b)),
        };
        self.all_look(first, second);
        let Some(from) = self.place(&mount, first) else { return };
        let to = match second {
            Some(path) => match self.place(&mount, path) {
                Some(to) => Some(to),
                None => return,
            },
            None => None,
        };
        let linked = match &change {
            Change::Link(a, _) => match self.find(&mount, &from, split(a).1) {
                Some(node) => Some(node),
                None => return,
            },
            _ => None,
        };
        let trouble = self.name_trouble();
        let effect = trouble.clone();
        let fault = effect.map(|effect| self.fs.inject(Fault::on(op).effect(effect).times(1)));
        let work = apply(&mount, &change, &from, to.as_ref(), linked.as_ref());
        let result = self.drive(work);
        let hit = fault.as_ref().is_some_and(|fault| fault.hits() > 0);
        fault.iter().for_each(|fault| self.fs.remove_fault(fault));
        self.note(format!("{change:?}, {trouble:?} {hit}: {result:?}"));
        let trouble = trouble.filter(|_| hit);
        // A link is one of the file that was found, also if that has other names by now.
        let before = &self.tree.paths;
        let expected = match (&change, &linked) {
            (Change::Link(_, to), Some(file)) => before.linked(file.key(), to),
            _ => before.after(&change),
        };
        self.names_changed(&change, expected, (&from, to.as_ref()), trouble, result);
        self.all_look(first, second);
    }

    /// Perhaps every mount looks up what a change is about.
    fn all_look(&mut self, first: &str, second: Option<&String>) {
        if self.rng.chance(50) {
            return;
        }
        for mount in self.mounts.clone() {
            self.locate(&mount, first);
            if let Some(second) = second {
                self.locate(&mount, second);
            }
        }
    }

    fn names_changed(
        &mut self,
        change: &Change,
        expected: Result<Paths, Errno>,
        (from, to): (&Place, Option<&Place>),
        trouble: Option<Effect>,
        result: Result<Option<Node>, Error>,
    ) {
        let before = self.tree.paths.clone();
        let stale = self.may_be_stale(change, from, to);
        self.look_at_tree(false);
        let made = self.tree.paths != before;
        if made && !expected.as_ref().is_ok_and(|e| same(e, &self.tree.paths)) {
            self.fail(&format!("the server has {:?}, before it had {before:?}", self.tree.paths));
        }
        let places = [Some(from), to];
        let knows = |world: &mut World| {
            places.iter().flatten().for_each(|place| world.tree.is_known(&place.key));
        };
        match result {
            Ok(node) => {
                self.covered.note(format!("{}: done", what(change)));
                // Nothing happens to two names of one file.
                if expected.is_err() || !made && expected.as_ref().is_ok_and(|e| *e != before) {
                    self.fail("it was not done");
                }
                if let (Some(node), Change::Make(path, _)) = (&node, change)
                    && self.tree.paths.0[path].key != node.key()
                {
                    self.fail("another file was made");
                }
                knows(self);
            }
            Err(e) => {
                self.covered.note(format!("{}: an error", what(change)));
                let explained = match &trouble {
                    Some(Effect::Errno(errno)) => e.errno() == *errno && !made,
                    Some(Effect::DoneBut(errno)) => e.errno() == *errno,
                    Some(_) => e.errno() == Errno::ETIMEDOUT,
                    None => false,
                };
                let refused = !made && expected.as_ref().is_err_and(|errno| *errno == e.errno());
                if !explained && !refused && !stale.contains(&e.errno()) {
                    self.excuse(what(change), &e);
                }
                if explained && !matches!(trouble, Some(Effect::Errno(_))) {
                    self.covered.note(format!("{}: nobody knew", what(change)));
                    knows(self);
                }
            }
        }
    }

    /// What a call may answer because the names known here, or a directory, are not those of the server.
    fn may_be_stale(&self, change: &Change, from: &Place, to: Option<&Place>) -> Vec<Errno> {
        let places = [Some(from), to];
        let many = |place: &&Place| self.tree.states(&place.key, place.claim).len() > 1;
        let gone = |place: &&Place| self.tree.is_gone(&place.key);
        let mut errors = Vec::new();
        if places.iter().flatten().any(gone) {
            errors.extend([Errno::ESTALE, Errno::ENOENT]);
        }
        if places.iter().flatten().any(many) {
            errors.extend([Errno::ENOENT, Errno::EEXIST, Errno::EISDIR, Errno::ENOTDIR]);
        }
        if matches!(change, Change::Link(..)) {
            errors.push(Errno::ESTALE);
        }
        errors
    }

    /// Somebody else changes names.
    fn names_of_others(&mut self) {
        let (a, b) = (self.path(), self.path());
        let silent = self.rng.chance(50);
        let paths = self.tree.paths.clone();
        let full = |path: &str| format!("{TOP}/{path}");
        let parent = |path: &str| match split(path).0 {
            "" => true,
            dir => paths.kind(dir) == Some(FileKind::Dir),
        };
        if !parent(&a) || !parent(&b) {
            return;
        }
        // What was written must be there before: nobody could tell of its loss.
        if !self.tree.unsent.is_empty() {
            self.sync();
            if !self.tree.unsent.is_empty() {
                return;
            }
        }
        let kind = self.rng.within(0..5);
        let size = self.rng.within(0..5000);
        let other = self.fs.change(&full(&a));
        let other = if silent { other.silently() } else { other };
        let done = match (kind, paths.kind(&a)) {
            (0, None) => other.create(size),
            (1, None) => other.mkdir(),
            (2, None) => other.symlink(TARGET),
            (3, Some(_)) => other.remove(),
            (4, Some(FileKind::File)) if a != b && paths.kind(&b) != Some(FileKind::Dir) => {
                other.rename(full(&b))
            }
            _ => return,
        };
        self.note(format!("somebody else: {kind} {a} {b}, silently {silent}: {}", done.is_ok()));
        self.covered.note(format!("names of others: {kind}"));
        self.look_at_tree(!silent);
    }

    fn list(&mut self) {
        let (path, mount) = (self.path(), self.rng.pick(&self.mounts));
        let Some(place) = self.place(&mount, &path) else { return };
        let plus = self.rng.chance(50);
        let listed = self.drive(mount.readdir(&place.node, 0, plus, &cx()));
        let entries = match listed {
            Ok(entries) => entries,
            Err(e) => return self.name_error("readdir", &place, &e),
        };
        self.covered.note("readdir");
        let mut names: Vec<_> = entries
            .iter()
            .map(|e| (String::from_utf8_lossy(&e.name).into_owned(), e.kind))
            .collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        let now = self.tree.claim(&place.key, self.now());
        let newest =
            self.tree.states(&place.key, now).last().map(|names| {
                names.iter().map(|(name, e)| (name.clone(), e.kind)).collect::<Vec<_>>()
            });
        if newest.as_ref() != Some(&names) {
            self.fail(&format!("a listing of {names:?}, not {newest:?}"));
        }
        for entry in entries {
            let Some(node) = &entry.node else { continue };
            let name = String::from_utf8_lossy(&entry.name).into_owned();
            let states = self.tree.states(&place.key, now);
            if states.last().and_then(|names| names.get(&name)).map(|e| &e.key[..])
                != Some(node.key())
            {
                self.fail(&format!("a listing has another {name}"));
            }
        }
        self.tree.is_known(&place.key);
    }

    fn look_up(&mut self) {
        let (path, mount) = (self.path(), self.rng.pick(&self.mounts));
        let Some((_, Some(node))) = self.locate(&mount, &path) else { return };
        if node.kind() == Some(FileKind::Symlink) {
            let target = self.drive(mount.readlink(&node, &cx()));
            match target {
                Ok(target) if target == Bytes::from_static(TARGET) => self.covered.note("readlink"),
                Ok(target) => self.fail(&format!("a link to {target:?}")),
                Err(e) => self.file_error("readlink", node.key(), &e),
            }
        }
    }

    /// An error of a call on a file, which may be there no more.
    pub(crate) fn file_error(&mut self, what: &str, key: &[u8], error: &Error) {
        if error.errno() != Errno::ESTALE || self.tree.paths.has_key(key) {
            self.excuse(what, error);
        }
    }

    /// A regular file by some name.
    pub(crate) fn named(&mut self, mount: &Mount) -> Option<(String, Node)> {
        let path = self.path();
        let (_, node) = self.locate(mount, &path)?;
        node.filter(|n| n.kind() == Some(FileKind::File)).map(|node| (path, node))
    }

    fn write_named(&mut self) {
        let mount = self.rng.pick(&self.mounts);
        let Some((path, node)) = self.named(&mount) else { return };
        let (offset, len) = (self.rng.within(0..5000), self.rng.within(1..4000));
        let (bytes, flush) = (self.bytes(len), self.rng.chance(30));
        let key = node.key().to_vec();
        let taken = self.bytes_taken();
        let result = self.drive(async {
            let file = mount.open_rw(&node, &cx()).await?;
            file.write_at(offset, &bytes).await?;
            if flush { file.fsync().await } else { Ok(()) }
        });
        let n = (self.bytes_taken() - taken) as usize;
        self.note(format!("write to {path} {offset}+{len}, fsync {flush}: {result:?}"));
        if let Err(e) = &result {
            self.file_error("write to a name", &key, e);
        }
        let Some(held) = self.tree.held.get_mut(&key).filter(|_| n > 0) else { return };
        let offset = offset as usize;
        held.bytes.resize(held.bytes.len().max(offset + n), 0);
        held.bytes[offset..offset + n].copy_from_slice(&bytes[..n]);
        let whole = held.bytes.clone();
        self.tree.unsent.insert(key.clone());
        if flush && result.is_ok() {
            self.covered.note("write to a name: uploaded");
            self.tree.unsent.remove(&key);
            self.holds(&key, &whole);
        }
    }

    pub(crate) fn holds(&self, key: &[u8], bytes: &[u8]) {
        let Some((path, _)) = self.tree.paths.0.iter().find(|(_, e)| e.key == key) else { return };
        if self.origin_bytes(&format!("{TOP}/{path}")) != bytes {
            self.fail(&format!("the origin's {path} is not what was written"));
        }
    }

    /// All was uploaded.
    pub(crate) fn tree_is_uploaded(&mut self) {
        for key in std::mem::take(&mut self.tree.unsent) {
            self.holds(&key, &self.tree.held[&key].bytes);
        }
    }

    /// What could not be uploaded is lost.
    pub(crate) fn tree_as_on_server(&mut self) {
        self.tree.held.clear();
        self.tree.unsent.clear();
        self.tree.lost_some = false;
        self.tree.lost_others = false;
        self.look_at_tree(true);
        self.tree.ask_again();
    }

    fn read_named(&mut self) {
        let mount = self.rng.pick(&self.mounts);
        let Some((path, node)) = self.named(&mount) else { return };
        let key = node.key().to_vec();
        let mut buf = vec![0xaa; 10_000];
        let result = self.drive(async {
            let file = mount.open(&node, &cx()).await?;
            let n = file.read_at(0, &mut buf).await?;
            Ok::<_, Error>((n, mount.getattr(&node, &cx()).await?))
        });
        let (n, attr) = match result {
            Ok(read) => read,
            Err(e) => return self.file_error("read of a name", &key, &e),
        };
        self.covered.note("read of a name");
        buf.truncate(n);
        let Some(held) = self.tree.held.get(&key) else { return };
        if held.bytes != buf || attr.size != held.bytes.len() as u64 {
            self.fail(&format!("{path} has {} bytes, {n} read are other ones", held.bytes.len()));
        }
        if held.mode.is_some_and(|mode| mode != attr.mode & 0o7777) {
            self.fail(&format!("{path} has the mode {:o}, not {:?}", attr.mode, held.mode));
        }
    }

    fn set_mode(&mut self) {
        let mount = self.rng.pick(&self.mounts);
        let Some((path, node)) = self.named(&mount) else { return };
        let mode = self.rng.pick(&[0o644, 0o600, 0o755]);
        let trouble = self.name_trouble();
        let effect = trouble.clone();
        let fault = effect.map(|e| self.fs.inject(Fault::on(Op::SetAttr).effect(e).times(1)));
        let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
        let result = self.drive(mount.set_attr(&node, set, &cx()));
        let hit = fault.as_ref().is_some_and(|fault| fault.hits() > 0);
        fault.iter().for_each(|fault| self.fs.remove_fault(fault));
        self.note(format!("mode {mode:o} of {path}, {trouble:?} {hit}: {result:?}"));
        let done = result.is_ok() || hit && !matches!(trouble, Some(Effect::Errno(_)));
        match (&result, trouble.filter(|_| hit)) {
            (Ok(()), _) => self.covered.note("set_attr: done"),
            (Err(_), Some(_)) => {}
            (Err(e), None) => self.file_error("set_attr", node.key(), e),
        }
        let Some(held) = self.tree.held.get_mut(node.key()) else { return };
        if done {
            held.mode = Some(mode);
        }
        let held = held.mode;
        match self.drive(mount.getattr(&node, &cx())) {
            Ok(attr) if held.is_some_and(|mode| mode != attr.mode & 0o7777) => {
                self.fail(&format!("{path} has the mode {:o}, not {held:?}", attr.mode));
            }
            Ok(_) => {}
            Err(e) => self.file_error("getattr", node.key(), &e),
        }
    }
}

async fn apply(
    mount: &Mount,
    change: &Change,
    from: &Place,
    to: Option<&Place>,
    linked: Option<&Node>,
) -> Result<Option<Node>, Error> {
    let cx = &cx();
    let (from, to) = (&from.node, to.map(|to| &to.node));
    let name = |path: &str| split(path).1.as_bytes().to_vec();
    let unknown = || Error::new(Errno::EINVAL, "the test is wrong");
    match change {
        Change::Make(path, kind) => {
            let name = name(path);
            let made = match kind {
                FileKind::File => mount.create(from, &name, 0o644, cx).await?,
                FileKind::Dir => mount.mkdir(from, &name, 0o755, cx).await?,
                _ => mount.symlink(from, &name, TARGET, cx).await?,
            };
            Ok(Some(made))
        }
        Change::Link(_, path) => {
            let (to, file) = (to.ok_or_else(unknown)?, linked.ok_or_else(unknown)?);
            mount.link(file, to, &name(path), cx).await.map(|()| None)
        }
        Change::Unlink(path) => mount.unlink(from, &name(path), cx).await.map(|()| None),
        Change::Rmdir(path) => mount.rmdir(from, &name(path), cx).await.map(|()| None),
        Change::Rename(a, b, how) => {
            let to = to.ok_or_else(unknown)?;
            mount.rename((from, &name(a)), (to, &name(b)), *how, cx).await.map(|()| None)
        }
    }
}

/// Equal, but for the keys of what has just been made.
fn same(expected: &Paths, found: &Paths) -> bool {
    let alike = |((a, e), (b, f)): ((&String, &Entry), (&String, &Entry))| {
        a == b && e.kind == f.kind && (e.key.is_empty() || e.key == f.key)
    };
    expected.0.len() == found.0.len() && expected.0.iter().zip(&found.0).all(alike)
}

fn what(change: &Change) -> &'static str {
    match change {
        Change::Make(_, FileKind::File) => "create",
        Change::Make(_, FileKind::Dir) => "mkdir",
        Change::Make(..) => "symlink",
        Change::Link(..) => "link",
        Change::Unlink(_) => "unlink",
        Change::Rmdir(_) => "rmdir",
        Change::Rename(_, _, RenameHow::Replace) => "rename",
        Change::Rename(_, _, RenameHow::Exchange) => "rename, exchange",
        Change::Rename(..) => "rename, no replacing",
    }
}
