//! What the documents point at exists: relative links in every Markdown file, and each file that the path of a job names.

use crate::fault::Fault;
use crate::tree::Tree;

/// The document that walks through the code; every file it names is checked.
const WALK: &str = "docs/path-of-a-job.md";
/// Endings that make a word in backticks a file.
const FILE_ENDINGS: [&str; 9] = [".rs", ".proto", ".md", ".toml", ".yml", ".yaml", ".sh", ".py", ".json"];

/// Looks at every Markdown file.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let mut faults: Vec<Fault> = tree.texts(".md").flat_map(|(path, text)| dead_links(tree, path, text)).collect();
    match tree.text(WALK) {
        Some(text) => faults.extend(missing_files(tree, text)),
        None => faults.push(Fault::at(WALK, 0, "is missing: it leads a reader through the code")),
    }
    faults
}

fn dead_links(tree: &Tree, path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (number, line) in spoken_lines(text) {
        for target in links(&without_code(line)) {
            let is_dead = relative(path, &target).is_some_and(|file| file.is_none_or(|file| !tree.exists(&file)));
            if is_dead {
                faults.push(Fault::at(path, number, format!("the link to {target:?} leads nowhere")));
            }
        }
    }
    faults
}

/// Lines outside of fenced code, numbered from 1.
fn spoken_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```") || line.trim_start().starts_with("~~~");
        fenced ^= is_fence;
        (!fenced && !is_fence).then_some((index + 1, line))
    })
}

fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// Targets of `[text](target)`, `[text](<target> "title")` and `[name]: target`.
fn links(line: &str) -> Vec<String> {
    let inline = line.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let reference = line.trim_start().strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, rest)| rest);
    let targets = inline.chain(reference).filter_map(|target| target.split_whitespace().next());
    targets.map(|target| target.trim_matches(['<', '>']).to_owned()).collect()
}

/// Where a relative link leads, from the root: nothing for other links, and an inner nothing when it leaves the tree.
#[allow(clippy::option_option)]
fn relative(from: &str, target: &str) -> Option<Option<String>> {
    let file = target.split(['#', '?']).next().unwrap_or_default();
    if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = if file.starts_with('/') { Vec::new() } else { folder.split('/').collect() };
    for part in file.split('/') {
        match part {
            "" | "." => {}
            ".." => match parts.pop() {
                Some(left) if !left.is_empty() => {}
                _ => return Some(None),
            },
            name => parts.push(name),
        }
    }
    parts.retain(|part| !part.is_empty());
    Some(Some(parts.join("/")))
}

fn missing_files(tree: &Tree, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut named = 0;
    for (index, line) in text.lines().enumerate() {
        for word in line.split('`').skip(1).step_by(2) {
            let Some(file) = as_file(tree, word) else { continue };
            named += 1;
            if !tree.exists(file) {
                faults.push(Fault::at(WALK, index + 1, format!("names `{file}`, which is not there (from the root)")));
            }
        }
    }
    if named == 0 {
        faults.push(Fault::at(WALK, 0, "names no file in backticks"));
    }
    faults
}

/// The path in a word like `worker/src/lib.rs:12`; nothing for words that name no file or folder.
fn as_file<'a>(tree: &Tree, word: &'a str) -> Option<&'a str> {
    let path = word.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches(':');
    let path = if path.len() < word.len() && !word.contains(':') { word } else { path };
    let is_plain = path.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'));
    let has_ending = FILE_ENDINGS.iter().any(|ending| path.len() > ending.len() && path.ends_with(ending));
    let is_below_a_folder = path.split_once('/').is_some_and(|(first, _)| !first.is_empty() && tree.exists(first));
    let is_absolute = path.starts_with(['/', '~']);
    (is_plain && !is_absolute && (has_ending || is_below_a_folder)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD_WALK: &str = "Begins in `cli/src/main.rs`.\n";

    fn faults(path: &str, text: &str) -> Vec<String> {
        let files = [("cli/src/main.rs", ""), ("docs/cli.md", ""), (WALK, GOOD_WALK), (path, text)];
        check(&Tree::sample(&files)).into_iter().map(|fault| format!("{}:{}", fault.path, fault.line)).collect()
    }

    #[test]
    fn living_links_are_good() {
        let text = "[a](docs/cli.md#top) [b](./docs/) [c](https://x.y/z) [d](#here) [e](</docs/cli.md> \"t\")\n\
            `[f](nowhere.md)`\n```\n[g](nowhere.md)\n```\n[h]: docs/cli.md\n";
        assert!(faults("README.md", text).is_empty());
        assert!(faults("docs/adr/0001.md", "[up](../cli.md) [root](../../cli/src/main.rs)\n").is_empty());
    }

    #[test]
    fn dead_links_are_faults() {
        assert_eq!(faults("README.md", "\n[a](docs/clu.md) [b](../x.md)\n"), ["README.md:2", "README.md:2"]);
        assert_eq!(faults("docs/a.md", "[a](docs/cli.md)\n"), ["docs/a.md:1"]);
        assert_eq!(faults("README.md", "[a]: docs/clu.md\n"), ["README.md:1"]);
    }

    #[test]
    fn the_walk_names_only_files_that_exist() {
        assert!(
            faults(WALK, "`cli/src/main.rs:12` `cli/src/` `stdout/stderr` `types::Wish` `a.b` `/bin/sh`\n").is_empty()
        );
        assert_eq!(faults(WALK, "`cli/src/main.rs`\n`cli/src/gone.rs` `cli/gone`\n").len(), 2);
        assert_eq!(faults(WALK, "`cli/src/main.rs` `main.rs`\n").len(), 1);
    }

    #[test]
    fn a_walk_without_files_or_no_walk_is_a_fault() {
        assert_eq!(faults(WALK, "Words only.\n").len(), 1);
        assert_eq!(check(&Tree::sample(&[("README.md", "")])).len(), 1);
    }
}
