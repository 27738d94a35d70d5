//! Files that are renamed, replaced, deleted and used again, with few descriptors.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::{MetadataExt, symlink},
    sync::Arc,
};

use netfs::{
    Errno,
    remote::{RemoteFile, RemoteFs},
};
use netfs_local::LocalFs;

use crate::bed::{Bed, check, failure, is_root, me, read, read_as};

#[test]
fn any_number_of_files_is_served_with_few_descriptors() {
    for by_handle in [true, false] {
        let bed = Bed::with(|b| b.descriptors(4).by_handle(by_handle));
        fs::create_dir_all(bed.path("a/b/c")).unwrap();
        let name = |i: usize| format!("a/b/c/f{i}");
        for i in 0..100 {
            bed.write(&name(i), i.to_string().as_bytes());
        }
        let files: Vec<_> = (0..100).map(|i| bed.walk(name(i)).unwrap()).collect();
        for _ in 0..2 {
            for (i, file) in files.iter().enumerate() {
                assert_eq!(read(file, 0, 10).1, i.to_string().as_bytes());
            }
        }
        assert!(bed.fs.usage().descriptors <= 4, "{:?}", bed.fs.usage());
    }
}

/// With two descriptors nothing but what is in use stays open.
fn frugal(by_handle: bool) -> Bed {
    let bed = Bed::with(|b| b.descriptors(2).by_handle(by_handle));
    bed.write("f", b"one");
    for name in ["x", "y", "z"] {
        bed.write(name, b"");
    }
    bed
}

fn close_everything(bed: &Bed) {
    for name in ["x", "y", "z"] {
        read(&bed.walk(name).unwrap(), 0, 1);
    }
}

#[test]
fn a_deleted_file_is_stale() {
    for by_handle in [true, false] {
        for closed in [true, false] {
            let bed = frugal(by_handle);
            let file = bed.walk("f").unwrap();
            assert_eq!(read(&file, 0, 3).1, b"one");
            fs::remove_file(bed.path("f")).unwrap();
            if closed {
                close_everything(&bed);
            }
            assert_eq!(check(&file).unwrap_err().errno(), Errno::ESTALE);
            assert_eq!(failure(&read(&file, 0, 3).0), Some(Errno::ESTALE));
            assert!(bed.walk("f").is_err_and(|e| e.errno() == Errno::ENOENT));
        }
    }
}

#[test]
fn a_file_replaced_by_rename_is_stale_and_the_name_is_another_file() {
    for by_handle in [true, false] {
        let bed = frugal(by_handle);
        let old = bed.walk("f").unwrap();
        bed.write("new", b"two");
        fs::rename(bed.path("new"), bed.path("f")).unwrap();
        close_everything(&bed);
        assert_eq!(failure(&read(&old, 0, 3).0), Some(Errno::ESTALE));
        assert_eq!(check(&old).unwrap_err().errno(), Errno::ESTALE);
        let new = bed.walk("f").unwrap();
        assert_ne!(new.key(), old.key());
        assert_eq!(read(&new, 0, 3).1, b"two");
    }
}

#[test]
fn a_renamed_file_is_found_by_its_handle_and_never_mistaken_for_another() {
    let bed = frugal(true);
    let file = bed.walk("f").unwrap();
    fs::rename(bed.path("f"), bed.path("g")).unwrap();
    bed.write("f", b"not it");
    close_everything(&bed);
    if is_root() {
        assert_eq!(read(&file, 0, 10).1, b"one");
    }
    let bed = frugal(false);
    let file = bed.walk("f").unwrap();
    fs::rename(bed.path("f"), bed.path("g")).unwrap();
    bed.write("f", b"not it");
    close_everything(&bed);
    assert_eq!(failure(&read(&file, 0, 10).0), Some(Errno::ESTALE));
    let again = bed.walk("g").unwrap();
    assert_eq!((again.key(), &read(&again, 0, 10).1[..]), (file.key(), &b"one"[..]));
}

#[test]
fn a_file_below_a_renamed_directory_is_found_or_stale() {
    for by_handle in [true, false] {
        let bed = frugal(by_handle);
        fs::create_dir_all(bed.path("d/e")).unwrap();
        bed.write("d/e/deep", b"deep");
        let file = bed.walk("d/e/deep").unwrap();
        fs::rename(bed.path("d"), bed.path("moved")).unwrap();
        close_everything(&bed);
        let (done, bytes) = read(&file, 0, 4);
        match failure(&done) {
            None => assert_eq!(bytes, b"deep"),
            Some(e) => assert_eq!(e, Errno::ESTALE),
        }
        assert_eq!(bed.walk("moved/e/deep").unwrap().key(), file.key());
    }
}

#[test]
fn an_open_file_is_readable_after_its_last_name_is_gone() {
    let bed = frugal(true);
    let file = bed.walk("f").unwrap();
    let token = bed.open(&file, &me()).unwrap();
    assert_eq!(bed.fs.usage().opens, 1);
    fs::remove_file(bed.path("f")).unwrap();
    close_everything(&bed);
    assert_eq!(read_as(&file, 0, 3, me().with_token(token.clone())).1, b"one");
    drop(token);
    assert_eq!(bed.fs.usage().opens, 0);
    assert_eq!(failure(&read(&file, 0, 3).0), Some(Errno::ESTALE));
}

/// Somebody else took the name, nobody asked about the file since, and no event tells of it.
#[test]
fn nothing_is_kept_of_a_file_without_a_name_after_its_last_close() {
    for by_handle in [true, false] {
        let bed = Bed::with(|b| b.by_handle(by_handle));
        bed.write("f", b"one");
        let file = bed.walk("f").unwrap();
        read(&file, 0, 3);
        let (first, last) = (bed.open(&file, &me()).unwrap(), bed.open(&file, &me()).unwrap());
        assert!(bed.fs.usage().descriptors > 0);
        fs::remove_file(bed.path("f")).unwrap();
        drop(first);
        assert!(bed.fs.usage().descriptors > 0, "it is still in use");
        drop(last);
        assert_eq!(bed.fs.usage().descriptors, 0);
        // What has a name is kept.
        bed.write("g", b"two");
        let file = bed.walk("g").unwrap();
        drop(bed.open(&file, &me()).unwrap());
        assert!(bed.fs.usage().descriptors > 0);
    }
}

#[test]
fn opens_past_their_share_of_descriptors_go_without() {
    let bed = frugal(true);
    let file = bed.walk("f").unwrap();
    let tokens: Vec<_> = (0..10).map(|_| bed.open(&file, &me()).unwrap()).collect();
    assert_eq!(bed.fs.usage().opens, 2);
    for token in &tokens {
        assert_eq!(read_as(&file, 0, 3, me().with_token(token.clone())).1, b"one");
    }
}

#[test]
fn a_key_is_never_given_to_the_next_file_with_the_number() {
    let bed = frugal(true);
    let (mut keys, mut numbers) = (HashSet::new(), HashSet::new());
    let mut reused = false;
    for _ in 0..200 {
        bed.write("g", b"x");
        reused |= !numbers.insert(fs::metadata(bed.path("g")).unwrap().ino());
        assert!(keys.insert(bed.walk("g").unwrap().key().to_vec()));
        fs::remove_file(bed.path("g")).unwrap();
        close_everything(&bed); // or the deleted file would keep its number
    }
    // A filesystem that counts its numbers up has nothing to show here.
    eprintln!("numbers were given again: {reused}");
}

#[test]
fn keys_and_volume_outlive_the_adapter_and_do_not_depend_on_the_path() {
    let bed = Bed::new();
    fs::create_dir(bed.path("tree")).unwrap();
    bed.write("tree/f", b"x");
    symlink(bed.path("tree"), bed.path("alias")).unwrap();
    let open = |p: &str| LocalFs::builder(bed.path(p)).open().unwrap();
    let key = |fs: &Arc<LocalFs>| {
        let root = pollster::block_on(Arc::clone(fs).root(me())).unwrap().file;
        let found = pollster::block_on(Arc::clone(fs).lookup(root, "f".into(), me()));
        found.unwrap().found.unwrap().file.key().to_vec()
    };
    let (first, second) = (open("tree"), open("alias"));
    assert_eq!(first.volume_id(), second.volume_id());
    assert_eq!(key(&first), key(&second));
    assert_ne!(first.volume_id(), bed.fs.volume_id(), "another directory is another volume");
    fs::rename(bed.path("tree"), bed.path("elsewhere")).unwrap();
    let third = open("elsewhere");
    assert_eq!((third.volume_id(), key(&third)), (first.volume_id(), key(&first)));
    assert!(third.volume_id().as_str().len() <= 255);
}

#[test]
fn a_very_deep_tree_is_walked_and_let_go_of_without_deep_recursion() {
    const DEPTH: usize = 3000;
    let bed = Bed::with(|b| b.descriptors(2).by_handle(false));
    // Paths of that length cannot be used from outside, so each level is made from its parent.
    let mut dir = rustix::fs::open(
        bed.dir.path(),
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    let mut file = bed.root();
    for _ in 0..DEPTH {
        rustix::fs::mkdirat(&dir, "d", rustix::fs::Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
        dir = rustix::fs::openat(&dir, "d", flags, rustix::fs::Mode::empty()).unwrap();
        file = bed.find(&file, b"d", &me()).unwrap().unwrap().0;
    }
    close_all(&bed);
    assert!(check(&file).is_ok());
    std::thread::Builder::new()
        .stack_size(64 * 1024)
        .spawn(move || drop(file))
        .unwrap()
        .join()
        .unwrap();
}

fn close_all(bed: &Bed) {
    for name in ["p", "q", "r"] {
        bed.write(name, b"");
        read(&bed.walk(name).unwrap(), 0, 1);
    }
}

#[test]
fn a_key_finds_its_file_without_a_name_and_never_another() {
    let bed = frugal(true);
    let file = bed.walk("f").unwrap();
    let by_key = |key: &[u8]| {
        let found = Arc::clone(&bed.fs).by_key(bytes::Bytes::copy_from_slice(key), me());
        pollster::block_on(found)
    };
    let key = file.key().to_vec();
    let found = match by_key(&key) {
        Err(e) if e.errno() == Errno::EOPNOTSUPP => {
            eprintln!("no handles here: nothing to test");
            return;
        }
        found => found.unwrap(),
    };
    assert_eq!((found.file.key(), found.facts.stated_size()), (&key[..], Some(3)));
    assert_eq!(by_key(bed.root().key()).unwrap().file.key(), bed.root().key());
    fs::rename(bed.path("f"), bed.path("g")).unwrap();
    close_everything(&bed);
    assert_eq!(read(&by_key(&key).unwrap().file, 0, 9).1, b"one");
    // Bytes that are no key, or no file's.
    for cut in 0..key.len() {
        assert!(by_key(&key[..cut]).is_err());
    }
    assert_eq!(by_key(b"").err().map(|e| e.errno()), Some(Errno::EINVAL));
    assert_eq!(by_key(&[0xff; 200]).err().map(|e| e.errno()), Some(Errno::EINVAL));
    let mut other = key.clone();
    other[7] ^= 1; // the number, but not in the handle
    assert_eq!(by_key(&other).err().map(|e| e.errno()), Some(Errno::ESTALE));
    // Who has it open goes on; a key is for those who come after.
    let token = bed.open(&file, &me()).unwrap();
    fs::remove_file(bed.path("g")).unwrap();
    assert_eq!(by_key(&key).err().map(|e| e.errno()), Some(Errno::ESTALE));
    drop(token);
    for n in 0..50 {
        bed.write(&n.to_string(), b"another");
        assert_eq!(by_key(&key).err().map(|e| e.errno()), Some(Errno::ESTALE));
    }
    let blind = Bed::with(|b| b.by_handle(false));
    let found = Arc::clone(&blind.fs).by_key(blind.root().key().to_vec().into(), me());
    let refused = pollster::block_on(found).err().map(|e| e.errno());
    assert_eq!(refused, Some(Errno::EOPNOTSUPP));
}
