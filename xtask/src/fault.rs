//! One broken rule at one place, printed so that an editor or terminal can jump there.

use std::fmt;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// File from the root of the workspace; empty when the fault has no place.
    pub path: String,
    /// From 1; 0 when only the file is known.
    pub line: usize,
    /// What is wrong and what to do about it.
    pub text: String,
}

impl Fault {
    /// A fault at a line (from 1) of a file.
    pub fn at(path: impl Into<String>, line: usize, text: impl Into<String>) -> Self {
        Self { path: path.into(), line, text: text.into() }
    }

    /// A fault of no single place.
    pub fn general(text: impl Into<String>) -> Self {
        Self::at("", 0, text)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.path.as_str(), self.line) {
            ("", _) => f.write_str(&self.text),
            (path, 0) => write!(f, "{path}: {}", self.text),
            (path, line) => write!(f, "{path}:{line}: {}", self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_names_its_place() {
        assert_eq!(Fault::at("a/b.rs", 3, "too long").to_string(), "a/b.rs:3: too long");
        assert_eq!(Fault::at("a/b.rs", 0, "missing").to_string(), "a/b.rs: missing");
        assert_eq!(Fault::general("cargo failed").to_string(), "cargo failed");
    }
}
