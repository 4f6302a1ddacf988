//! Which of a worker's free devices a member gets: within one island if that is possible, and so that the free rest stays
//! in large pieces.

/// Picks `count` of the `free` devices; nothing when there are not so many.
///
/// The island with the fewest free devices that are enough; else whole islands from the fullest supply down, and the rest from
/// the one that fits tightest. Within an island the lowest indexes, aligned to the count when an aligned run is free, so that
/// pairs and quads stay whole. Work: islands × devices, at most 64.
pub(crate) fn choose_devices(free: u64, islands: &[u64], count: u32) -> Option<u64> {
    if free.count_ones() < count {
        return None;
    }
    let mut chosen = 0;
    let mut left = count;
    while left > 0 {
        let supply = islands.iter().map(|island| island & free & !chosen).filter(|supply| *supply != 0);
        let enough = supply.clone().filter(|supply| supply.count_ones() >= left).min_by_key(|s| s.count_ones());
        if let Some(island) = enough {
            chosen |= run_of(island, left);
            return Some(chosen);
        }
        // Devices outside of all islands are an island of last resort.
        let outside = free & !chosen & !islands.iter().fold(0, |all, island| all | island);
        let largest = supply.max_by_key(|supply| supply.count_ones()).unwrap_or(outside);
        let taken = run_of(largest, left.min(largest.count_ones()));
        if taken == 0 {
            return None;
        }
        chosen |= taken;
        left -= taken.count_ones();
    }
    Some(chosen)
}

/// `count` bits of the set: an aligned run if there is one, else the lowest.
fn run_of(set: u64, count: u32) -> u64 {
    if count == 0 {
        return 0;
    }
    if count.is_power_of_two() && count < 64 {
        let run = (1_u64 << count) - 1;
        // The aligned run in the group of twice the size that has least else to give: a free pair is not broken for one.
        let best = (0..64 / count)
            .map(|at| at * count)
            .filter(|shift| set >> shift & run == run)
            .min_by_key(|shift| buddies(set, *shift, count));
        if let Some(shift) = best {
            return run << shift;
        }
    }
    let mut left = set;
    for _ in 0..count {
        left &= left.wrapping_sub(1);
    }
    set & !left
}

/// Free devices in each larger aligned group around the run, the nearest first: fewer is tighter (buddy allocation).
fn buddies(set: u64, shift: u32, count: u32) -> u64 {
    let mut size = count;
    let mut key = 0;
    while size < 64 {
        size *= 2;
        let group = if size == 64 { set } else { set >> (shift / size * size) & ((1 << size) - 1) };
        key = key * 65 + u64::from(group.count_ones());
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUADS: [u64; 2] = [0x0f, 0xf0];

    #[test]
    fn a_member_stays_within_an_island_if_it_can() {
        assert_eq!(choose_devices(0b1111_1110, &QUADS, 4), Some(0xf0));
        assert_eq!(choose_devices(0b1111_1110, &QUADS, 2), Some(0b1100));
        assert_eq!(choose_devices(0b0011_0111, &QUADS, 2), Some(0b0011_0000));
        assert_eq!(choose_devices(0b0111_0111, &QUADS, 4), Some(0b0111_0100));
    }

    #[test]
    fn a_free_pair_is_not_broken_for_one() {
        assert_eq!(choose_devices(0b0000_1101, &QUADS, 1), Some(0b0001));
        assert_eq!(choose_devices(0b1111_0100, &[0xff], 1), Some(0b0100));
    }

    #[test]
    fn too_few_is_nothing_and_all_is_all() {
        assert_eq!(choose_devices(0b0111, &QUADS, 4), None);
        assert_eq!(choose_devices(u64::MAX, &[u64::MAX], 64), Some(u64::MAX));
        assert_eq!(choose_devices(0xff, &[], 3).map(u64::count_ones), Some(3));
        assert_eq!(choose_devices(0xff, &[], 0), Some(0));
    }
}
