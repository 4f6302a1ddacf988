//! The tree of queues: bounds hold at every level, shares are exact.

use super::*;
use crate::model::UNLIMITED;

fn tree(queues: &[(&str, u32, Quota)]) -> Tree {
    let mut tree = Tree::new();
    for (name, weight, quota) in queues {
        let quotas = BTreeMap::from([(String::from("gpu"), *quota)]);
        tree.set(&QueueSpec { name: (*name).into(), weight: *weight, quotas }, |_| 1).unwrap();
    }
    tree
}

fn own(guaranteed: u64) -> Quota {
    Quota { guaranteed, ..Quota::default() }
}

#[test]
fn a_ceiling_holds_at_every_level() {
    let top = Quota { ceiling: 6, ..Quota::default() };
    let mut tree = tree(&[("a", 1, top), ("a/x", 1, own(0)), ("a/y", 1, own(0))]);
    let (x, y) = (tree.leaf("a/x").unwrap(), tree.leaf("a/y").unwrap());
    tree.charge(x, 1, 4, true);
    assert_eq!(tree.allows(y, 1, 2, 100), Ok(()));
    let over = tree.allows(y, 1, 3, 100).unwrap_err();
    assert_eq!((over.limit, over.is_for_good), (6, false));
    assert!(tree.allows(y, 1, 7, 100).unwrap_err().is_for_good);
    assert!(tree.leaf("a").is_err());
}

#[test]
fn what_is_not_lent_cannot_be_borrowed() {
    let lender = Quota { guaranteed: 10, ceiling: UNLIMITED, lend: 4 };
    let mut tree = tree(&[("a", 1, lender), ("b", 1, own(6))]);
    let (a, b) = (tree.leaf("a").unwrap(), tree.leaf("b").unwrap());
    assert_eq!(tree.allows(b, 1, 10, 16), Ok(()));
    assert_eq!(tree.allows(b, 1, 11, 16).unwrap_err().limit, 10);
    // What the lender uses itself is not kept back twice.
    tree.charge(a, 1, 6, true);
    assert_eq!(tree.allows(b, 1, 10, 16), Ok(()));
    tree.charge(a, 1, 6, false);
    tree.charge(b, 1, 10, true);
    assert_eq!(tree.allows(a, 1, 6, 16), Ok(()));
}

#[test]
fn shares_are_exact_and_dominant() {
    let mut tree = tree(&[("a", 3, own(0)), ("b", 1, own(0))]);
    let (a, b) = (tree.leaf("a").unwrap(), tree.leaf("b").unwrap());
    let capacity = [u64::MAX >> 2, 1_000_003];
    tree.charge(a, 1, 3, true);
    tree.charge(b, 1, 1, true);
    assert_eq!(tree.share(a, &capacity), tree.share(b, &capacity));
    tree.charge(a, 0, u64::MAX >> 3, true);
    assert!(tree.share(a, &capacity) > tree.share(b, &capacity));
}

#[test]
fn a_queue_in_use_is_not_removed_or_split() {
    let mut tree = tree(&[("a", 1, own(0))]);
    let a = tree.leaf("a").unwrap();
    tree.count_gang(a, true);
    assert_eq!(tree.remove("a"), Err(Refused::QueueInUse("a".into())));
    let below = QueueSpec { name: "a/b".into(), weight: 1, quotas: BTreeMap::new() };
    assert_eq!(tree.set(&below, |_| 1), Err(Refused::QueueInUse("a".into())));
    tree.count_gang(a, false);
    tree.set(&below, |_| 1).unwrap();
    assert!(tree.remove("a").is_err());
    tree.remove("a/b").unwrap();
    tree.remove("a").unwrap();
}
