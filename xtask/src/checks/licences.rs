//! Every package that is compiled in has a licence that `deny.toml` allows.
//!
//! `cargo deny` looks at more (advisories, sources); this part of it runs everywhere and needs no network.

use crate::fault::Fault;
use crate::metadata::{Metadata, Package};
use crate::tree::Tree;

const POLICY: &str = "deny.toml";

/// Compares the packages with the list.
pub fn check(metadata: &Metadata, tree: &Tree) -> Vec<Fault> {
    let policy = Policy::read(tree.text(POLICY).unwrap_or_default());
    if policy.allowed.is_empty() {
        return vec![Fault::at(POLICY, 0, "has no `allow = [...]` under `[licenses]`")];
    }
    let lock = tree.text("Cargo.lock").unwrap_or_default();
    let faults = metadata.packages.iter().filter_map(|package| fault_of(package, &policy, lock));
    faults.collect()
}

fn fault_of(package: &Package, policy: &Policy, lock: &str) -> Option<Fault> {
    let named = format!("{} {}", package.name, package.version);
    let text = match &package.licence {
        None => format!("{named} names no licence"),
        Some(licence) => match satisfied(licence, &policy.allowed_for(&package.name)) {
            Some(true) => return None,
            Some(false) => format!("{named} is under {licence:?}, which {POLICY} does not allow"),
            None => format!("{named} has a licence that cannot be read: {licence:?}"),
        },
    };
    let entry = format!("name = \"{}\"", package.name);
    let line = lock.lines().position(|line| line == entry).map_or(0, |index| index + 1);
    Some(Fault::at("Cargo.lock", line, text))
}

/// What `[licenses]` says.
struct Policy<'a> {
    /// For every crate.
    allowed: Vec<&'a str>,
    /// Crates with further licences.
    exceptions: Vec<(&'a str, Vec<&'a str>)>,
}

impl<'a> Policy<'a> {
    /// Reads `allow = [...]` and the lines `{ crate = "name", allow = [...] }`, one exception a line.
    fn read(text: &'a str) -> Self {
        let section = text.split("\n[licenses]").nth(1).unwrap_or_default();
        let section = section.split("\n[").next().unwrap_or_default();
        let list = section.split("\nallow = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
        let allowed = list.lines().flat_map(quoted).collect();
        let exceptions = section.lines().filter(|line| line.trim_start().starts_with("{ crate = "));
        let split = |line| quoted(line).split_first().map(|(&name, licences)| (name, licences.to_vec()));
        Self { allowed, exceptions: exceptions.filter_map(split).collect() }
    }

    fn allowed_for(&self, package: &str) -> Vec<&'a str> {
        let exceptions = self.exceptions.iter().filter(|(name, _)| *name == package);
        self.allowed.iter().copied().chain(exceptions.flat_map(|(_, licences)| licences.clone())).collect()
    }
}

/// The quoted words of a line, up to its comment.
fn quoted(line: &str) -> Vec<&str> {
    line.split('#').next().unwrap_or_default().split('"').skip(1).step_by(2).collect()
}

/// Does the SPDX expression hold with these licences? Nothing when it cannot be read.
fn satisfied(expression: &str, allowed: &[&str]) -> Option<bool> {
    // Old manifests write `MIT/Apache-2.0` for a choice.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut reader = Reader { words: &words, allowed };
    let holds = reader.any_of()?;
    reader.words.is_empty().then_some(holds)
}

struct Reader<'a> {
    words: &'a [&'a str],
    allowed: &'a [&'a str],
}

impl Reader<'_> {
    fn take(&mut self, word: &str) -> bool {
        let found = self.words.first() == Some(&word);
        if found {
            self.words = &self.words[1..];
        }
        found
    }

    /// `a OR b`, which binds looser than `AND`.
    fn any_of(&mut self) -> Option<bool> {
        let mut holds = self.all_of()?;
        while self.take("OR") {
            holds |= self.all_of()?;
        }
        Some(holds)
    }

    fn all_of(&mut self) -> Option<bool> {
        let mut holds = self.one()?;
        while self.take("AND") {
            holds &= self.one()?;
        }
        Some(holds)
    }

    /// A licence, with its exception if it has one, or an expression in parentheses.
    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let holds = self.any_of()?;
            return self.take(")").then_some(holds);
        }
        let (&licence, rest) = self.words.split_first()?;
        self.words = rest;
        let is_name = !matches!(licence, "OR" | "AND" | "WITH" | ")");
        if !self.take("WITH") {
            // `X+` is X or a later one: X will do.
            let is_allowed = |name: &str| self.allowed.contains(&name);
            return is_name.then(|| is_allowed(licence) || licence.strip_suffix('+').is_some_and(is_allowed));
        }
        let (exception, rest) = self.words.split_first()?;
        self.words = rest;
        let whole = format!("{licence} WITH {exception}");
        is_name.then(|| self.allowed.contains(&whole.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DENY: &str = "[graph]\n\n[licenses]\nconfidence-threshold = 0.9\nallow = [\n    \"MIT\", # \"GPL-3.0\"\n    \
        \"Apache-2.0\",\n    \"Unicode-3.0\",\n]\nexceptions = [\n    { crate = \"odd\", allow = [\"MPL-2.0\"] },\n]\n[bans]\nallow = [\"AGPL-3.0\"]\n";

    fn faults(licence: Option<&str>) -> Vec<Fault> {
        faults_of("a", licence)
    }

    fn faults_of(name: &str, licence: Option<&str>) -> Vec<Fault> {
        let package = Package {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            licence: licence.map(str::to_owned),
            ..Package::default()
        };
        check(&Metadata { packages: vec![package] }, &Tree::sample(&[(POLICY, DENY)]))
    }

    #[test]
    fn the_list_is_read() {
        assert_eq!(Policy::read(DENY).allowed, ["MIT", "Apache-2.0", "Unicode-3.0"]);
        assert_eq!(check(&Metadata::default(), &Tree::sample(&[])).len(), 1);
    }

    #[test]
    fn allowed_licences_are_good() {
        for good in [
            "MIT",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "MIT AND (GPL-3.0 OR (Apache-2.0))",
            "Apache-2.0 WITH LLVM-exception OR Apache-2.0",
        ] {
            assert!(faults(Some(good)).is_empty(), "{good}");
        }
    }

    #[test]
    fn other_licences_are_faults() {
        for bad in ["GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0 WITH LLVM-exception", "", "MIT OR", "(MIT", "MIT)", "OR"]
        {
            assert_eq!(faults(Some(bad)).len(), 1, "{bad}");
        }
        assert_eq!(faults(None).len(), 1);
    }

    #[test]
    fn an_exception_holds_for_its_crate_alone() {
        assert!(faults_of("odd", Some("MPL-2.0+")).is_empty());
        assert!(faults_of("odd", Some("MIT")).is_empty());
        assert_eq!(faults_of("odd", Some("GPL-3.0")).len(), 1);
        assert_eq!(faults_of("a", Some("MPL-2.0+")).len(), 1);
    }

    #[test]
    fn and_binds_tighter_than_or() {
        assert_eq!(satisfied("MIT OR GPL-3.0 AND AGPL-3.0", &["MIT"]), Some(true));
        assert_eq!(satisfied("(MIT OR GPL-3.0) AND AGPL-3.0", &["MIT"]), Some(false));
    }
}
