//! Each Rust file begins with a `//!` sentence that says what the file is for.

use crate::fault::Fault;
use crate::source::RustFile;
use crate::tree::Tree;

/// Shorter than this, a head repeats the file's name at best.
const HEAD_CHARACTERS_MIN: usize = 15;

/// Looks at the first paragraph of every file.
pub fn check(tree: &Tree) -> Vec<Fault> {
    tree.rust().iter().filter_map(fault_of).collect()
}

fn fault_of(file: &RustFile) -> Option<Fault> {
    let mut lines = file.text.lines().map(|line| line.strip_prefix("//!"));
    if lines.clone().next().flatten().is_none() {
        return Some(Fault::at(&file.path, 1, "begins without `//!`: say in one sentence what the file is for"));
    }
    let paragraph: Vec<&str> =
        lines.by_ref().map_while(|line| line.map(str::trim)).take_while(|l| !l.is_empty()).collect();
    let head = paragraph.join(" ");
    if head.chars().count() < HEAD_CHARACTERS_MIN {
        return Some(Fault::at(&file.path, 1, format!("the head {head:?} says too little")));
    }
    // A colon is a fine end when a drawing or a list follows.
    let ends_well = head.ends_with(['.', ':', '!', '?']) || head.ends_with(".)") || head.ends_with(".`");
    (!ends_well).then(|| Fault::at(&file.path, paragraph.len(), "the head is not a whole sentence: it has no end"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<Fault> {
        check(&Tree::sample(&[("a/src/lib.rs", text)]))
    }

    #[test]
    fn a_sentence_is_a_head() {
        assert!(faults("//! Says what the file is for.\n\nfn main() {}\n").is_empty());
        assert!(
            faults("//! A sentence that is longer than the line\n//! and ends on the next.\n//!\n//! More\n")
                .is_empty()
        );
        assert!(faults("//! The flow from here to there:\n//!\n//! ```text\n//! ```\n").is_empty());
    }

    #[test]
    fn anything_else_is_a_fault() {
        assert_eq!(faults("use std::fs;\n").len(), 1);
        assert_eq!(faults("").len(), 1);
        assert_eq!(faults("\n//! Says what the file is for.\n").len(), 1);
        assert_eq!(faults("//! xtask\n").len(), 1);
        assert_eq!(faults("//! A head that has no end to it\n//!\n//! Really.\n").len(), 1);
    }
}
