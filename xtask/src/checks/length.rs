//! A Rust file has one subject and at most 400 lines.

use crate::fault::Fault;
use crate::tree::Tree;

const LINES_MAX: usize = 400;

/// Counts the lines of every Rust file.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let counted = tree.rust().iter().map(|file| (&file.path, file.text.lines().count()));
    counted
        .filter(|&(_, lines)| lines > LINES_MAX)
        .map(|(path, lines)| {
            let text = format!("{lines} lines, at most {LINES_MAX}: split it by subject");
            Fault::at(path, LINES_MAX + 1, text)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(lines: usize) -> usize {
        check(&Tree::sample(&[("a.rs", &"\n".repeat(lines))])).len()
    }

    #[test]
    fn four_hundred_lines_are_the_end() {
        assert_eq!(faults(400), 0);
        assert_eq!(faults(401), 1);
    }

    #[test]
    fn only_rust_files_are_counted() {
        assert!(check(&Tree::sample(&[("a.md", &"\n".repeat(900))])).is_empty());
    }
}
