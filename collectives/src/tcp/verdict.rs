//! Whom to blame where ranks called different things: the one that stands against most of the group.

use super::frame::Call;

/// What a rank called, and as which number.
pub(crate) type Called = (u64, Call);

/// The rank to name beside `me`, and the culprit: whoever differs from more than half of all ranks. With two ranks, or with no
/// majority, there is none. `None` where all agree.
pub(crate) fn odd_one(
    world: usize,
    me: usize,
    mine: &Called,
    others: &[(usize, Called)],
) -> Option<(usize, Option<usize>)> {
    // Rather one at the same place: over TCP a receiver of a broadcast goes on before others have compared theirs.
    let differing = others.iter().filter(|(_, called)| called != mine);
    let (first, _) = differing.min_by_key(|(_, (sequence, _))| *sequence != mine.0)?;
    let votes = |called: &Called| others.iter().filter(|(_, other)| other == called).count();
    if 2 * (votes(mine) + 1) > world {
        return Some((*first, Some(*first)));
    }
    let most = others.iter().find(|(_, called)| called != mine && 2 * votes(called) > world);
    Some(most.map_or((*first, None), |(other, _)| (*other, Some(me))))
}

#[cfg(test)]
mod tests {
    use super::super::{Operation, call};
    use super::*;
    use crate::buffer::{DType, Op};

    fn called(count: usize) -> Called {
        (3, call(Operation::AllReduce, Op::Sum, DType::F32, count))
    }

    fn verdict(counts: &[usize], me: usize) -> Option<(usize, Option<usize>)> {
        let others: Vec<_> =
            (0..counts.len()).filter(|rank| *rank != me).map(|rank| (rank, called(counts[rank]))).collect();
        odd_one(counts.len(), me, &called(counts[me]), &others)
    }

    #[test]
    fn the_majority_is_right_whoever_looks() {
        for me in [0, 1, 3] {
            assert_eq!(verdict(&[5, 5, 6, 5], me), Some((2, Some(2))));
        }
        assert_eq!(verdict(&[5, 5, 6, 5], 2), Some((0, Some(2))));
        assert_eq!(verdict(&[5, 6, 5], 1), Some((0, Some(1))));
    }

    #[test]
    fn without_a_majority_nobody_is_blamed() {
        assert_eq!(verdict(&[5, 6], 0), Some((1, None)));
        assert_eq!(verdict(&[5, 6, 5, 6], 0), Some((1, None)));
        assert_eq!(verdict(&[5, 6, 7], 2), Some((0, None)));
    }

    #[test]
    fn those_who_agree_are_not_judged() {
        assert_eq!(verdict(&[5, 5, 5], 1), None);
    }

    #[test]
    fn another_number_is_another_call() {
        let others = [(1, (4, called(5).1)), (2, called(5))];
        assert_eq!(odd_one(3, 0, &called(5), &others), Some((1, Some(1))));
    }
}
