//! A function fits a screen: at most 70 lines from `fn` to its brace, in tests too.

use crate::fault::Fault;
use crate::source::functions;
use crate::tree::Tree;

const LINES_MAX: usize = 70;

/// Measures every function.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in tree.rust() {
        for function in functions(&file.code) {
            if function.lines > LINES_MAX {
                let text = format!("`{}` has {} lines, at most {LINES_MAX}: split it", function.name, function.lines);
                faults.push(Fault::at(&file.path, function.line, text));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(inner_lines: usize) -> Vec<Fault> {
        let text = format!("\nfn long() {{\n{}}}\n", "    // \"{\n".repeat(inner_lines));
        check(&Tree::sample(&[("a.rs", &text)]))
    }

    #[test]
    fn seventy_lines_are_the_end() {
        assert!(faults(68).is_empty());
        assert_eq!(faults(69), [Fault::at("a.rs", 2, "`long` has 71 lines, at most 70: split it")]);
    }
}
