//! Which lines are compiled for tests only: `#[cfg(test)]` items, files named so, and modules declared so elsewhere.

use super::{after_block, line_of};
use std::ops::Range;

/// The test lines of one file.
#[derive(Debug)]
pub enum TestLines {
    /// All of them.
    Whole,
    /// These ranges of lines, from 1.
    Parts(Vec<Range<usize>>),
}

impl TestLines {
    /// Finds the items behind `#[cfg(test)]` in masked code.
    pub fn of(code: &str) -> Self {
        if code.lines().any(|line| line.trim_start().starts_with("#![cfg(") && is_test_condition(line)) {
            return Self::Whole;
        }
        Self::Parts(test_items(code).map(|item| line_of(code, item.start)..line_of(code, item.end) + 1).collect())
    }

    /// Is this line one of them?
    pub fn contains(&self, line: usize) -> bool {
        match self {
            Self::Whole => true,
            Self::Parts(parts) => parts.iter().any(|part| part.contains(&line)),
        }
    }
}

/// Files that cargo compiles for tests only.
pub fn is_test_path(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let in_folder = path.contains("/tests/") || path.contains("/benches/") || path.starts_with("cluster-tests/");
    in_folder || name == "tests.rs" || name.ends_with("_tests.rs")
}

/// Paths, without `.rs`, of the modules that this file declares for tests only.
pub fn test_modules(path: &str, code: &str) -> Vec<String> {
    let stem = path.strip_suffix(".rs").unwrap_or(path);
    let (folder, name) = stem.rsplit_once('/').unwrap_or(("", stem));
    let home = if matches!(name, "lib" | "main" | "mod") { folder } else { stem };
    let declared = test_items(code).filter_map(|item| {
        let item = code[item].trim_end().strip_suffix(';')?;
        let (_, module) = item.rsplit_once("mod ")?;
        Some(format!("{home}/{}", module.trim()))
    });
    declared.collect()
}

/// Byte ranges from `#[cfg(test)]` to the end of the item behind it.
fn test_items(code: &str) -> impl Iterator<Item = Range<usize>> {
    code.match_indices("#[cfg(").filter_map(|(start, _)| {
        let attribute = start..start + code[start..].find(']')?;
        let open = attribute.end + code[attribute.end..].find(['{', ';'])?;
        let end = if code.as_bytes()[open] == b';' { open + 1 } else { after_block(code.as_bytes(), open) };
        is_test_condition(&code[attribute]).then_some(start..end)
    })
}

fn is_test_condition(attribute: &str) -> bool {
    let names_test = attribute.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|word| word == "test");
    names_test && !attribute.contains("not(test") && !attribute.contains("any(")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Firsts and ends of the parts; everything for a whole file.
    fn parts(code: &str) -> Vec<(usize, usize)> {
        match TestLines::of(code) {
            TestLines::Whole => vec![(0, usize::MAX)],
            TestLines::Parts(parts) => parts.into_iter().map(|part| (part.start, part.end)).collect(),
        }
    }

    #[test]
    fn a_test_module_ends_at_its_brace() {
        let code = "fn a() {}\n#[cfg(test)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n";
        assert_eq!(parts(code), vec![(2, 6)]);
    }

    #[test]
    fn other_conditions_are_not_tests() {
        assert!(parts("#[cfg(not(test))]\nfn a() {}\n").is_empty());
        assert!(parts("#[cfg(any(test, unix))]\nfn a() {}\n").is_empty());
        assert!(parts("#[cfg(latest)]\nfn a() {}\n").is_empty());
        assert_eq!(parts("#[cfg(all(test, unix))]\nuse x;\nfn a() {}\n"), vec![(1, 3)]);
    }

    #[test]
    fn a_whole_file_can_be_a_test() {
        assert!(TestLines::of("#![cfg(test)]\nfn a() {}\n").contains(2));
        assert!(is_test_path("worker/tests/ranks.rs"));
        assert!(is_test_path("worker/src/rank/tests.rs"));
        assert!(!is_test_path("worker/src/contests.rs"));
    }

    #[test]
    fn declared_test_modules_have_a_path() {
        assert_eq!(test_modules("a/src/lib.rs", "#[cfg(test)]\nmod proofs;\n"), ["a/src/proofs"]);
        assert_eq!(test_modules("a/src/b.rs", "#[cfg(test)]\npub mod proofs;\n"), ["a/src/b/proofs"]);
        assert!(test_modules("a/src/b.rs", "mod real;\n#[cfg(test)]\nmod inline { }\n").is_empty());
    }
}
