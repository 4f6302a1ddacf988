//! The paths that code names: `std::fs::read` where it stands, and each leaf of a `use` tree written out in full.

use super::is_word;

/// One path.
#[derive(Debug, PartialEq, Eq)]
pub struct CodePath {
    /// `["std", "fs", "read"]`; a glob ends in `*`.
    pub segments: Vec<String>,
    /// From 1.
    pub line: usize,
    /// Stands in a `use`.
    pub is_import: bool,
}

impl CodePath {
    /// Does it begin with this path (`std::fs`)? A glob begins with everything that it may bring in.
    pub fn begins_with(&self, path: &str) -> bool {
        let mut wanted = path.split("::");
        for segment in &self.segments {
            match wanted.next() {
                None => return true,
                Some(_) if segment == "*" => return true,
                Some(name) if name != segment => return false,
                Some(_) => {}
            }
        }
        wanted.next().is_none()
    }

    /// The path as code.
    pub fn text(&self) -> String {
        self.segments.join("::")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Colons,
    Other(u8),
}

/// All paths in masked code, in order; a lone word is a path of one segment.
pub fn code_paths(code: &str) -> Vec<CodePath> {
    let mut reader = Reader { tokens: tokens(code), at: 0, found: Vec::new() };
    while let Some(&(token, _)) = reader.tokens.get(reader.at) {
        match token {
            Token::Word("use") => {
                reader.at += 1;
                reader.import(&[]);
            }
            Token::Word(_) => reader.path(),
            _ => reader.at += 1,
        }
    }
    reader.found
}

struct Reader<'a> {
    /// With the line of each.
    tokens: Vec<(Token<'a>, usize)>,
    at: usize,
    found: Vec<CodePath>,
}

impl<'a> Reader<'a> {
    fn next_is(&self, token: Token<'a>) -> bool {
        self.tokens.get(self.at).is_some_and(|&(found, _)| found == token)
    }

    fn word(&mut self) -> Option<(&'a str, usize)> {
        let &(Token::Word(word), line) = self.tokens.get(self.at)? else { return None };
        self.at += 1;
        Some((word.strip_prefix("r#").unwrap_or(word), line))
    }

    /// A path outside of `use`.
    fn path(&mut self) {
        let mut segments = Vec::new();
        let mut first = None;
        while let Some((word, line)) = self.word() {
            first = first.or(Some(line));
            segments.push(word.to_owned());
            if !self.next_is(Token::Colons) {
                break;
            }
            self.at += 1;
        }
        self.push(segments, first, false);
    }

    /// One branch of a `use` tree, behind `prefix`.
    fn import(&mut self, prefix: &[String]) {
        let mut segments = prefix.to_vec();
        let mut place = self.tokens.get(self.at).map(|&(_, line)| line);
        if self.next_is(Token::Colons) {
            self.at += 1;
        }
        loop {
            if self.next_is(Token::Other(b'{')) {
                self.at += 1;
                return self.branches(&segments);
            }
            if self.next_is(Token::Other(b'*')) {
                self.at += 1;
                segments.push("*".to_owned());
                break;
            }
            let Some((word, line)) = self.word() else { break };
            place = Some(line);
            if word != "self" || segments.is_empty() {
                segments.push(word.to_owned());
            }
            if !self.next_is(Token::Colons) {
                break;
            }
            self.at += 1;
        }
        self.push(segments, place, true);
    }

    /// The branches after `{`, up to its `}`.
    fn branches(&mut self, prefix: &[String]) {
        loop {
            let before = self.at;
            if self.next_is(Token::Other(b'}')) {
                self.at += 1;
                return;
            }
            self.import(prefix);
            // `as name` is the only thing that may follow a branch before its comma.
            while self.at < self.tokens.len() && !self.next_is(Token::Other(b',')) && !self.next_is(Token::Other(b'}'))
            {
                self.at += 1;
            }
            if self.next_is(Token::Other(b',')) {
                self.at += 1;
            }
            if self.at == before {
                return;
            }
        }
    }

    fn push(&mut self, segments: Vec<String>, line: Option<usize>, is_import: bool) {
        if let (false, Some(line)) = (segments.is_empty(), line) {
            self.found.push(CodePath { segments, line, is_import });
        }
    }
}

fn tokens(code: &str) -> Vec<(Token<'_>, usize)> {
    let bytes = code.as_bytes();
    let mut tokens = Vec::new();
    // Counted on the way: asking for the line of each offset would read the file once a word.
    let mut line = 1;
    let mut at = 0;
    while at < bytes.len() {
        let raw = usize::from(bytes[at..].starts_with(b"r#")) * 2;
        let length = bytes[at + raw..].iter().take_while(|&&byte| is_word(byte)).count();
        if length > 0 {
            tokens.push((Token::Word(&code[at..at + raw + length]), line));
            at += raw + length;
        } else if bytes[at..].starts_with(b"::") {
            tokens.push((Token::Colons, line));
            at += 2;
        } else {
            line += usize::from(bytes[at] == b'\n');
            if !bytes[at].is_ascii_whitespace() {
                tokens.push((Token::Other(bytes[at]), line));
            }
            at += 1;
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(code: &str) -> Vec<String> {
        code_paths(code).iter().map(CodePath::text).collect()
    }

    #[test]
    fn a_use_tree_is_written_out() {
        let code = "use std::{fs, time::{self, Duration, SystemTime as Wall}, collections::*};";
        let expected = ["std::fs", "std::time", "std::time::Duration", "std::time::SystemTime", "std::collections::*"];
        assert_eq!(texts(code), expected);
        assert!(code_paths(code).iter().all(|path| path.is_import));
    }

    #[test]
    fn paths_in_code_are_found_with_their_lines() {
        let paths = code_paths("fn f() {\n  ::std::fs::read(x.tokio)\n}\n");
        let read = paths.iter().find(|path| path.text() == "std::fs::read");
        assert_eq!(read.map(|path| (path.line, path.is_import)), Some((2, false)));
    }

    #[test]
    fn a_path_broken_over_lines_is_one_path() {
        assert!(texts("std::time\n    ::SystemTime\n    ::now()").contains(&"std::time::SystemTime::now".to_owned()));
    }

    #[test]
    fn odd_code_does_not_hang() {
        for code in ["use {", "use ;", "use a::{b, ", "impl Trait + use<'a>", "use a::{,}", "::", "r#", "use a::{b c}"]
        {
            code_paths(code);
        }
    }

    #[test]
    fn beginnings_are_whole_segments() {
        let path = |text: &str| CodePath {
            segments: text.split("::").map(str::to_owned).collect(),
            line: 1,
            is_import: false,
        };
        assert!(path("std::fs::read").begins_with("std::fs"));
        assert!(path("std::fs").begins_with("std::fs"));
        assert!(path("std::*").begins_with("std::fs"));
        assert!(!path("std").begins_with("std::fs"));
        assert!(!path("std::fsx").begins_with("std::fs"));
    }
}
