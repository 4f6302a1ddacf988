//! What a rank's stderr is told about metrics that came by other ways than its pipe, and how what these are called becomes a name.

use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::{Arguments, Write as _};
use types::RankIndex;

/// Longest name, as everywhere.
const NAME_BYTES_MAX: usize = 250;
/// What is told of one rank at most: damage of a thousand files must not fill its stderr.
const NOTICES_MAX: usize = 20;

pub(super) struct Notices {
    rank: RankIndex,
    /// What they are of, in words.
    of: &'static str,
    lines: String,
    count: usize,
    once: BTreeSet<&'static str>,
}

impl Notices {
    pub(super) fn new(rank: RankIndex, of: &'static str) -> Self {
        Self { rank, of, lines: String::new(), count: 0, once: BTreeSet::new() }
    }

    pub(super) fn say(&mut self, what: Arguments<'_>) {
        self.count += 1;
        let _ = match self.count {
            ..NOTICES_MAX => writeln!(self.lines, "muster: rank {}: {what}", self.rank),
            NOTICES_MAX => writeln!(self.lines, "muster: rank {}: {what}; no more is said of {}", self.rank, self.of),
            _ => Ok(()),
        };
    }

    /// Of several of a kind, the first.
    pub(super) fn say_once(&mut self, kind: &'static str, what: Arguments<'_>) {
        if self.once.insert(kind) {
            self.say(what);
        }
    }

    /// What was said since.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.lines).into_bytes()
    }
}

/// The name of a metric for a tag: the tag itself behind the folder of its file, or as much of it as a name may have, told once.
pub(super) fn name(run: &str, tag: &[u8], notices: &mut Notices) -> String {
    let tag_as_text = String::from_utf8_lossy(tag);
    let whole = format!("{run}{}", if tag.is_empty() { "unnamed" } else { &tag_as_text });
    let fits = whole.len() <= NAME_BYTES_MAX;
    let name = if fits { whole.clone() } else { shortened(&whole) };
    if !fits || tag.is_empty() || matches!(tag_as_text, std::borrow::Cow::Owned(_)) {
        let told = format_args!(
            "a name of a metric has 1 to {NAME_BYTES_MAX} bytes of UTF-8: tag {tag_as_text:.300?} is reported as {name:?}, and others in the same way"
        );
        notices.say_once("name", told);
    }
    name
}

/// Two that differ still do.
fn shortened(name: &str) -> String {
    let digest = Sha256::digest(name.as_bytes());
    let mut end = NAME_BYTES_MAX - 9;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let mut short = format!("{}~", &name[..end]);
    for byte in &digest[..4] {
        let _ = write!(short, "{byte:02x}");
    }
    short
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn text(notices: &mut Notices) -> String {
        String::from_utf8(notices.take()).unwrap()
    }

    #[test]
    fn a_tag_is_its_name_where_it_may_be() {
        let mut notices = Notices::new(RankIndex(1), "event files");
        assert_eq!(name("", b"loss/train", &mut notices), "loss/train");
        assert_eq!(name("validation/", "Verlust \u{3b1}".as_bytes(), &mut notices), "validation/Verlust \u{3b1}");
        assert_eq!(name("", &[b'x'; 250], &mut notices).len(), 250);
        assert_eq!(text(&mut notices), "");
    }

    #[test]
    fn other_tags_are_made_to_fit_and_it_is_told_once() {
        let mut notices = Notices::new(RankIndex(1), "event files");
        let long = [name("", &[b'x'; 251], &mut notices), name("", &[b'x'; 252], &mut notices)];
        assert!(long.iter().all(|name| name.len() == 250) && long[0] != long[1]);
        let told = text(&mut notices);
        assert!(told.starts_with("muster: rank 1: a name of a metric has 1 to 250 bytes") && told.contains(&long[0]));
        assert_eq!(name("", "\u{20ac}".repeat(100).as_bytes(), &mut notices).len(), 249);
        assert_eq!(name("a/", b"", &mut notices), "a/unnamed");
        assert_eq!(name("", b"\xff", &mut notices), "\u{fffd}");
        assert_eq!(text(&mut notices), "");
    }

    #[test]
    fn there_is_an_end_to_what_is_said() {
        let mut notices = Notices::new(RankIndex(0), "event files");
        for n in 0..1_000 {
            notices.say(format_args!("file {n}"));
        }
        let told = text(&mut notices);
        assert_eq!(told.lines().count(), NOTICES_MAX);
        assert!(told.ends_with("muster: rank 0: file 19; no more is said of event files\n"));
    }
}
