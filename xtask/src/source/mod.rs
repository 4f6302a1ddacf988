//! Rust sources as checks see them: code without literals and comments, comments without code, and where tests are.

mod functions;
mod mask;
mod paths;
mod tests_of;

pub use functions::functions;
pub use paths::{CodePath, code_paths};

use mask::mask;
use std::collections::BTreeSet;
use tests_of::TestLines;

/// One Rust file.
#[derive(Debug)]
pub struct RustFile {
    /// From the root of the workspace.
    pub path: String,
    /// As it is on disk.
    pub text: String,
    /// The same length, with comments and literals blanked: what is here is code.
    pub code: String,
    /// The same length, with everything but comments blanked.
    pub comments: String,
    test_lines: TestLines,
}

impl RustFile {
    /// Is this line (from 1) compiled for tests only?
    pub fn is_test(&self, line: usize) -> bool {
        self.test_lines.contains(line)
    }
}

/// Reads all files together, because `#[cfg(test)] mod name;` in one file makes another one a test.
pub fn read_all<'a>(files: impl Iterator<Item = (&'a String, &'a String)>) -> Vec<RustFile> {
    let mut read: Vec<RustFile> = files.map(|(path, text)| read_one(path, text)).collect();
    let test_modules: BTreeSet<String> =
        read.iter().flat_map(|file| tests_of::test_modules(&file.path, &file.code)).collect();
    for file in &mut read {
        if tests_of::is_test_path(&file.path) || test_modules.iter().any(|module| is_module(&file.path, module)) {
            file.test_lines = TestLines::Whole;
        }
    }
    read
}

fn read_one(path: &str, text: &str) -> RustFile {
    let masked = mask(text);
    RustFile {
        path: path.to_owned(),
        text: text.to_owned(),
        test_lines: TestLines::of(&masked.code),
        code: masked.code,
        comments: masked.comments,
    }
}

/// Is the file the module at this path without its ending, or below it?
fn is_module(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// The line (from 1) of a byte.
pub fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].split(|&byte| byte == b'\n').count()
}

/// The offset after the brace that closes the one at `open`; the end of the text when none does.
fn after_block(code: &[u8], open: usize) -> usize {
    let mut depth = 0_usize;
    for (offset, byte) in code.iter().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth <= 1 => return offset + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_declared_for_tests_is_a_test_file() {
        let lib = ("a/src/lib.rs".to_owned(), "#[cfg(test)]\nmod proofs;\nmod real;\n".to_owned());
        let proofs = ("a/src/proofs.rs".to_owned(), "fn f() {}\n".to_owned());
        let below = ("a/src/proofs/deep.rs".to_owned(), "fn f() {}\n".to_owned());
        let real = ("a/src/real.rs".to_owned(), "fn f() {}\n".to_owned());
        let files = read_all([&lib, &proofs, &below, &real].into_iter().map(|(path, text)| (path, text)));
        let tests: Vec<&str> = files.iter().filter(|file| file.is_test(1)).map(|file| &*file.path).collect();
        assert_eq!(tests, ["a/src/lib.rs", "a/src/proofs.rs", "a/src/proofs/deep.rs"]);
        assert!(!files[0].is_test(3));
    }

    #[test]
    fn lines_count_from_one() {
        assert_eq!(line_of("a\nb\n", 0), 1);
        assert_eq!(line_of("a\nb\n", 2), 2);
        assert_eq!(line_of("a", 99), 1);
    }
}
