//! Where a rank is: what it tells the others before the first operation, so that ranks of one host are found by looking
//! and not by comparing addresses.
//!
//! Two ranks share memory where the kernel is the same (boot id), process numbers mean the same (PID namespace), and,
//! as the proof, one can open and map what the other announced.

use std::os::unix::fs::MetadataExt;

use super::segment::Segment;

const CPU_WORDS: usize = 16;
/// Words of the encoded form.
pub(super) const WORDS: usize = 11 + CPU_WORDS;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// False where this rank is to use TCP, or could make no segment.
    pub(super) shares: bool,
    boot: [u64; 2],
    namespace: [u64; 2],
    pub(super) process: u32,
    pub(super) descriptor: i32,
    pub(super) length: usize,
    pub(super) nonce: [u64; 2],
    /// How many processors this rank may use at a time.
    grant: u64,
    /// Those that it may run on, one bit each.
    cpus: [u64; CPU_WORDS],
}

impl Place {
    /// This process, with what it offers.
    pub(super) fn here(segment: Option<&Segment>, nonce: [u64; 2], label: u64) -> Self {
        let identity = boot().map(|boot| [boot[0], boot[1] ^ label]).zip(namespace());
        let (boot, namespace) = identity.unwrap_or_default();
        Place {
            shares: segment.is_some() && identity.is_some(),
            boot,
            namespace,
            process: std::process::id(),
            descriptor: segment.map_or(-1, Segment::descriptor),
            length: segment.map_or(0, |segment| segment.mapping.length()),
            nonce,
            grant: std::thread::available_parallelism().map_or(1, |grant| grant.get() as u64),
            cpus: cpus(),
        }
    }

    pub(super) fn same_host(&self, other: &Place) -> bool {
        self.boot == other.boot && self.namespace == other.namespace
    }

    pub(super) fn encode(&self) -> [i64; WORDS] {
        let mut to = [0; WORDS];
        let head = [
            u64::from(self.shares),
            self.boot[0],
            self.boot[1],
            self.namespace[0],
            self.namespace[1],
            u64::from(self.process),
            self.descriptor as u64,
            self.length as u64,
            self.nonce[0],
            self.nonce[1],
            self.grant,
        ];
        for (to, from) in to.iter_mut().zip(head.iter().chain(&self.cpus)) {
            *to = from.cast_signed();
        }
        to
    }

    pub(super) fn decode(from: &[i64; WORDS]) -> Self {
        let word = from.map(i64::cast_unsigned);
        let mut cpus = [0; CPU_WORDS];
        cpus.copy_from_slice(&word[11..]);
        Place {
            shares: word[0] == 1,
            boot: [word[1], word[2]],
            namespace: [word[3], word[4]],
            process: word[5] as u32,
            descriptor: word[6] as i32,
            length: word[7] as usize,
            nonce: [word[8], word[9]],
            grant: word[10],
            cpus,
        }
    }

    fn own(&self) -> u64 {
        self.cpus.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// Processors that these ranks have between them.
    pub(super) fn processors(all: &[Place]) -> usize {
        let union = |word: usize| all.iter().fold(0, |union, place| union | place.cpus[word]);
        let together = (0..CPU_WORDS).map(|word| union(word).count_ones() as usize).sum();
        // Who is pinned is granted those that it is pinned to, and ranks that are pinned apart have them together; less than the
        // processors that one may run on is what a control group lets all have between them.
        let is_quota = |place: &&Place| place.grant > 1 && place.grant < place.own();
        let granted = all.iter().filter(is_quota).map(|place| place.grant as usize).min();
        granted.map_or(together, |granted| granted.min(together))
    }
}

/// The kernel's number for this boot.
fn boot() -> Option<[u64; 2]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let half = |range| u64::from_str_radix(digits.get(range)?, 16).ok();
    Some([half(0..16)?, half(16..32)?])
}

fn namespace() -> Option<[u64; 2]> {
    let about = std::fs::metadata("/proc/self/ns/pid").ok()?;
    Some([about.dev(), about.ino()])
}

fn cpus() -> [u64; CPU_WORDS] {
    let mut words = [0; CPU_WORDS];
    if let Ok(set) = rustix::thread::sched_getaffinity(None) {
        for cpu in (0..CPU_WORDS * 64).filter(|cpu| *cpu < rustix::thread::CpuSet::MAX_CPU && set.is_set(*cpu)) {
            words[cpu / 64] |= 1 << (cpu % 64);
        }
    }
    words
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_the_wire() {
        let segment = Segment::create(0, [u64::MAX, 5]).unwrap();
        let place = Place::here(Some(&segment), [u64::MAX, 5], 0);
        assert!(place.shares && place.same_host(&place));
        assert_eq!(Place::decode(&place.encode()), place);
    }

    #[test]
    fn another_boot_or_namespace_is_another_host() {
        let here = Place::here(None, [0; 2], 0);
        let mut other = here.clone();
        other.boot[0] ^= 1;
        assert!(!here.same_host(&other));
        let mut other = here.clone();
        other.namespace[1] ^= 1;
        assert!(!here.same_host(&other));
    }

    #[test]
    fn ranks_pinned_apart_have_a_processor_each() {
        let mut places = [Place::here(None, [0; 2], 0), Place::here(None, [0; 2], 0)];
        (places[0].cpus, places[1].cpus) = ([0; CPU_WORDS], [0; CPU_WORDS]);
        (places[0].cpus[0], places[1].cpus[1]) = (1, 1);
        (places[0].grant, places[1].grant) = (1, 1);
        assert_eq!(Place::processors(&places), 2);
        places[1].cpus = places[0].cpus;
        assert_eq!(Place::processors(&places), 1);
        (places[0].cpus[0], places[1].cpus[0]) = (0b0011, 0b1100);
        (places[0].grant, places[1].grant) = (2, 2);
        assert_eq!(Place::processors(&places), 4, "two each");
        (places[0].cpus[0], places[1].cpus[0]) = (0b1111, 0b1111);
        assert_eq!(Place::processors(&places), 2, "a control group has a bound for both");
    }

    #[test]
    fn a_descriptor_that_is_not_the_segment_is_refused() {
        let segment = Segment::create(0, [1, 2]).unwrap();
        let (process, length) = (std::process::id(), segment.mapping.length());
        let open =
            |descriptor, length, nonce| super::super::segment::Mapping::of_peer(process, descriptor, length, nonce);
        assert!(open(segment.descriptor(), length, [1, 2]).is_ok());
        assert!(open(segment.descriptor(), length, [1, 3]).is_err());
        assert!(open(segment.descriptor(), length / 2, [1, 2]).is_err());
        assert!(open(0, length, [1, 2]).is_err());
    }
}
