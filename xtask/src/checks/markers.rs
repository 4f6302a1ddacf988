//! Nothing is put off without an issue that remembers it, and no test is switched off.
//!
//! A comment may name a `TODO`, `FIXME` or `XXX` when `#` and the issue's number stand on the same line.

use crate::fault::Fault;
use crate::source::line_of;
use crate::tree::Tree;

const MARKERS: [&str; 3] = ["TODO", "FIXME", "XXX"];
/// Text files besides Rust whose lines are looked at.
const OTHER_TEXTS: [&str; 8] = [".proto", ".toml", ".sh", ".yml", ".yaml", ".py", ".md", ".ci/run"];

/// Looks at the comments of Rust files, at the lines of other texts, and at test attributes.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in tree.rust() {
        faults.extend(markers(&file.path, &file.comments));
        faults.extend(ignored_tests(&file.path, &file.code));
    }
    for (path, text) in OTHER_TEXTS.iter().flat_map(|ending| tree.texts(ending)) {
        faults.extend(markers(path, text));
    }
    faults
}

fn markers<'a>(path: &'a str, text: &'a str) -> impl Iterator<Item = Fault> + 'a {
    let numbered = text.lines().enumerate();
    numbered.filter_map(move |(index, line)| {
        let marker = open_marker(line)?;
        Some(Fault::at(path, index + 1, format!("`{marker}` without an issue: write `{marker}(#n)` or do it now")))
    })
}

/// The marker of a line that names one outside of backticks and names no issue.
fn open_marker(line: &str) -> Option<&'static str> {
    let spoken: String = line.split('`').step_by(2).collect::<Vec<_>>().join(" ");
    let mut words = spoken.split(|c: char| !c.is_alphanumeric() && c != '_');
    let marker = words.find_map(|word| MARKERS.into_iter().find(|marker| *marker == word))?;
    let names_issue = line.split('#').skip(1).any(|after| after.starts_with(|c: char| c.is_ascii_digit()));
    (!names_issue).then_some(marker)
}

fn ignored_tests<'a>(path: &'a str, code: &'a str) -> impl Iterator<Item = Fault> + 'a {
    let attributes = code.match_indices("#[").map(move |(start, _)| {
        let length = code[start..].find(']').unwrap_or(code.len() - start);
        (start, &code[start..start + length])
    });
    let ignoring = attributes.filter(|(_, attribute)| {
        let conditional = attribute.trim_start_matches("#[").trim_start().starts_with("cfg_attr");
        let mut words = attribute.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        if conditional { words.any(|word| word == "ignore") } else { words.next() == Some("ignore") }
    });
    ignoring.map(move |(start, _)| {
        Fault::at(path, line_of(code, start), "an ignored test protects nothing: make it run or delete it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> usize {
        check(&Tree::sample(&[(path, text)])).len()
    }

    #[test]
    fn a_marker_needs_an_issue() {
        assert_eq!(faults("a.rs", "// TODO(#12): later\n// FIXME see #3\n"), 0);
        assert_eq!(faults("a.rs", "// TODO: later\nfn f() {} // XXX\n/* FIXME */\n"), 3);
        assert_eq!(faults("a.proto", "// TODO: later\n"), 1);
        assert_eq!(faults("a/Cargo.toml", "# FIXME\n"), 1);
        assert_eq!(faults(".ci/run", "# FIXME\n"), 1);
        assert_eq!(faults("docs/a.md", "TODO write this\n"), 1);
    }

    #[test]
    fn other_words_are_no_markers() {
        assert_eq!(faults("a.rs", "// the word `TODO` itself\nlet s = \"TODO\"; // TODOS\n"), 0);
        assert_eq!(faults(".ci/run", "mktemp -d /tmp/muster.XXXXXX\n"), 0);
    }

    #[test]
    fn no_test_is_ignored() {
        assert_eq!(faults("a.rs", "#[test]\n#[ignore]\nfn f() {}\n"), 1);
        assert_eq!(faults("a.rs", "#[ignore = \"slow\"]\nfn f() {}\n"), 1);
        assert_eq!(faults("a.rs", "#[cfg_attr(not(linux), ignore)]\nfn f() {}\n"), 1);
        assert_eq!(faults("a.rs", "// #[ignore]\n#[serde(ignore)]\nfn f() {}\n"), 0);
    }
}
