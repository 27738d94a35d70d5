//! What the tree keeps true.

use netfs::remote::{AccessMask, Cred};

use super::*;
use crate::content::Content;

fn file(tree: &mut Tree, path: &str) -> [u8; KEY_LEN] {
    let (_, id) =
        tree.create(path.as_bytes(), FileKind::File, |seed| Content::pattern(seed, 1, 10)).unwrap();
    tree.node(id).unwrap().key
}

#[test]
fn a_recreated_name_has_another_key_and_other_content() {
    let mut tree = Tree::new(1);
    let first = file(&mut tree, "d/a");
    let old = tree.at(b"d/a").unwrap().now.content.clone();
    tree.remove(b"d/a", false).unwrap();
    let second = file(&mut tree, "d/a");
    assert_ne!(first, second);
    assert_ne!(old, tree.at(b"d/a").unwrap().now.content);
}

#[test]
fn keys_do_not_depend_on_what_else_is_in_the_tree() {
    let (mut one, mut two) = (Tree::new(1), Tree::new(1));
    file(&mut two, "other");
    assert_eq!(file(&mut one, "d/a"), file(&mut two, "d/a"));
}

#[test]
fn a_rename_keeps_keys_and_moves_the_paths_below() {
    let mut tree = Tree::new(1);
    let key = file(&mut tree, "d/sub/a");
    file(&mut tree, "dx");
    tree.rename(b"d", b"e", false).unwrap();
    let node = tree.at(b"e/sub/a").unwrap();
    assert_eq!((node.key, &node.path[..]), (key, &b"e/sub/a"[..]));
    assert_eq!(&tree.at(b"dx").unwrap().path[..], b"dx");
    assert_eq!(tree.at(b"d").err().unwrap().errno(), Errno::ENOENT);
    let inside = tree.rename(b"e", b"e/sub/e", false).err().unwrap();
    assert_eq!(inside.errno(), Errno::EINVAL);
}

#[test]
fn a_rename_over_a_file_replaces_it() {
    let mut tree = Tree::new(1);
    let (a, b) = (file(&mut tree, "a"), file(&mut tree, "b"));
    let renamed = tree.rename(b"a", b"b", false).unwrap();
    assert_eq!(renamed.gone, [b]);
    assert_eq!(tree.at(b"b").unwrap().key, a);
}

#[test]
fn the_last_link_takes_the_file() {
    let mut tree = Tree::new(1);
    let key = file(&mut tree, "a");
    tree.link(b"a", b"b", false).unwrap();
    assert_eq!(tree.at(b"b").unwrap().nlink, 2);
    assert!(tree.remove(b"a", false).unwrap().gone.is_empty());
    assert_eq!(tree.at(b"b").unwrap().nlink, 1);
    assert_eq!(tree.remove(b"b", false).unwrap().gone, [key]);
}

#[test]
fn removing_a_directory_takes_everything_below() {
    let mut tree = Tree::new(1);
    let key = file(&mut tree, "d/sub/a");
    let before = tree.root().nlink;
    assert!(tree.remove(b"d", false).unwrap().gone.contains(&key));
    assert_eq!((tree.len(), tree.root().nlink), (1, before - 1));
    assert_eq!(tree.remove(b"", false).err().unwrap().errno(), Errno::EINVAL);
}

#[test]
fn rights_follow_owner_group_and_other() {
    let mut tree = Tree::new(1);
    file(&mut tree, "a");
    let id = tree.at(b"a").unwrap().id;
    tree.set_attr(id, false, |n| (n.mode, n.uid, n.gid) = (0o640, 10, 20)).unwrap();
    let node = tree.at(b"a").unwrap();
    let rw = AccessMask::READ.union(AccessMask::WRITE);
    assert!(node.allows(&Cred::new(10, 1), rw));
    assert!(node.allows(&Cred::new(11, 20), AccessMask::READ));
    assert!(!node.allows(&Cred::new(11, 20), rw));
    assert!(!node.allows(&Cred::new(11, 21), AccessMask::READ));
    assert!(node.allows(&Cred::new(0, 0), rw));
    assert!(!node.allows(&Cred::new(0, 0), AccessMask::EXEC));
}
