//! Files that are open when their last name goes: whoever has them open goes on, and nobody else is bothered.

use std::{sync::Arc, time::Duration};

use netfs::{
    Errno, File, Mount, Netfs,
    remote::{Cred, Cx, Promise, RenameHow},
};
use netfs_local::LocalFs;
use netfs_memory::{MemoryFs, Op};

const OLD: &[u8] = b"0123456789";

fn cx() -> Cx {
    Cx::new(Cred::current())
}

/// A server with the files `f` and `other`, and a way past the client.
enum Server {
    Local(tempfile::TempDir),
    Memory(Arc<MemoryFs>),
}

impl Server {
    fn all() -> [Server; 2] {
        let dir = tempfile::tempdir().expect("a directory");
        for name in ["f", "other"] {
            std::fs::write(dir.path().join(name), OLD).expect("written");
        }
        let fs = MemoryFs::builder().bytes("f", OLD).bytes("other", OLD);
        let fs = fs.configure(|s| (s.keep_opened, s.check_access) = (true, false));
        [Server::Local(dir), Server::Memory(fs.build().expect("built"))]
    }

    /// Somebody else takes the name away.
    fn remove(&self) {
        match self {
            Server::Local(dir) => std::fs::remove_file(dir.path().join("f")).expect("removed"),
            Server::Memory(fs) => _ = fs.change("f").remove().expect("removed"),
        }
    }

    /// Somebody else makes another file of that name.
    fn make(&self, bytes: &'static [u8]) {
        match self {
            Server::Local(dir) => std::fs::write(dir.path().join("f"), bytes).expect("made"),
            Server::Memory(fs) => _ = fs.change("f").create_bytes(bytes).expect("made"),
        }
    }

    /// What stands under the name.
    fn named(&self) -> Vec<u8> {
        match self {
            Server::Local(dir) => std::fs::read(dir.path().join("f")).expect("it is there"),
            Server::Memory(fs) => {
                let size = fs.size("f").expect("it is there");
                fs.expected("f", 0, size as usize).expect("it is there")
            }
        }
    }
}

/// A client that asks the server before each use.
struct Client {
    netfs: Netfs,
    mount: Mount,
}

impl Client {
    fn new(server: &Server) -> Client {
        let netfs = Netfs::builder().memory_bytes(8 << 20).build().expect("built");
        let mounted = match server {
            Server::Local(dir) => {
                let local = LocalFs::builder(dir.path()).writable(true).promise(Duration::ZERO);
                netfs.blocking_mount(local.open().expect("opened"), &cx())
            }
            Server::Memory(fs) => {
                fs.configure(|s| s.promise = Promise::None);
                netfs.blocking_mount(Arc::clone(fs), &cx())
            }
        };
        Client { netfs, mount: mounted.expect("mounted") }
    }

    fn open(&self) -> File {
        self.mount.blocking().open_rw("f", &cx()).expect("opened")
    }

    /// Takes the name away by a call of its own.
    fn remove(&self, by_rename: bool) {
        let names = self.mount.blocking();
        let root = names.walk("", &cx()).expect("root");
        if by_rename {
            let to = (&root, &b"f"[..]);
            names.rename((&root, b"other"), to, RenameHow::Replace, &cx()).expect("renamed");
        } else {
            names.unlink(&root, b"f", &cx()).expect("unlinked");
        }
    }

    fn shutdown(self) {
        drop(self.mount);
        assert!(self.netfs.blocking_shutdown(Duration::from_secs(60)).is_nothing());
    }
}

fn read(file: &File) -> Vec<u8> {
    let mut buf = vec![0; 100];
    let n = file.blocking().read_at(0, &mut buf).expect("read");
    buf.truncate(n);
    buf
}

/// Reads what the server has.
fn read_anew(file: &File) -> Vec<u8> {
    file.blocking().evict(0, 1 << 20).expect("evicted");
    read(file)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Unlink,
    Replace,
    Others,
    OtherClient,
}

#[test]
fn an_open_file_goes_on_when_its_last_name_goes() {
    for how in [How::Unlink, How::Replace, How::Others, How::OtherClient] {
        for server in Server::all() {
            let client = Client::new(&server);
            let file = client.open();
            let node = file.node();
            file.blocking().write_at(0, b"dirty").expect("write");
            match how {
                How::Unlink | How::Replace => client.remove(how == How::Replace),
                How::Others => server.remove(),
                How::OtherClient => {
                    let other = Client::new(&server);
                    other.remove(false);
                    other.shutdown();
                }
            }
            if how != How::Replace {
                server.make(b"another file");
            }
            let named = server.named();
            // Whoever asks without the open's token does not spoil it for the opener.
            let attr = client.mount.blocking().getattr(&node, &cx()).expect("getattr");
            assert_eq!((attr.size, attr.nlink), (10, 0), "{how:?}");
            file.blocking().write_at(5, b"more").expect("write");
            assert_eq!(read(&file), b"dirtymore9", "{how:?}");
            file.blocking().fsync().expect("fsync");
            assert_eq!(read_anew(&file), b"dirtymore9", "{how:?}: on the server");
            file.blocking().set_len(7).expect("cut");
            file.blocking().write_at(6, b"x").expect("write");
            pollster::block_on(file.close()).expect("close");
            assert_eq!(server.named(), named, "{how:?}: it is another file");
            let stats = client.netfs.stats();
            assert_eq!((stats.write_removed_bytes, client.netfs.memory().dirty), (0, 0));
            let other = client.open();
            assert_eq!(read(&other), named, "{how:?}");
            drop(other);
            client.shutdown();
        }
    }
}

#[test]
fn the_last_one_to_close_it_takes_it_along() {
    for server in Server::all() {
        let client = Client::new(&server);
        let (first, second) = (client.open(), client.open());
        first.blocking().write_at(0, b"dirty").expect("write");
        client.remove(false);
        // Whoever opened it first was not who keeps it.
        drop(first);
        second.blocking().fsync().expect("fsync");
        assert_eq!(read_anew(&second), b"dirty56789");
        let node = second.node();
        second.blocking().write_at(0, b"DIRTY").expect("write");
        drop(second);
        let gone = client.mount.blocking().getattr(&node, &cx()).expect_err("gone");
        assert_eq!(gone.errno(), Errno::ESTALE);
        let stats = client.netfs.stats();
        assert_eq!((stats.write_removed_bytes, client.netfs.memory().dirty), (5, 0));
        drop(node);
        client.shutdown();
    }
}

/// As NFSv3: the server keeps nothing for who has it open.
#[test]
fn a_server_that_lets_nobody_go_on_says_so_at_once() {
    let fs = MemoryFs::builder().bytes("f", OLD).configure(|s| s.check_access = false);
    let server = Server::Memory(fs.build().expect("built"));
    let client = Client::new(&server);
    let file = client.open();
    file.blocking().write_at(0, b"dirty").expect("write");
    client.remove(false);
    let refused = file.blocking().write_at(0, b"more").expect_err("gone");
    assert_eq!(refused.errno(), Errno::ESTALE);
    let Server::Memory(fs) = &server else { unreachable!("made above") };
    assert_eq!(fs.counts().calls(Op::Write), 0);
    drop(file);
    client.shutdown();
}
