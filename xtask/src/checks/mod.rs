//! The rules that a change must keep, cheapest first; each file holds one rule and its unit tests.

mod commands;
mod dashboards;
mod docs;
mod functions;
mod heads;
mod layers;
mod length;
mod licences;
mod manifests;
mod markers;
mod places;
mod purity;

use crate::fault::Fault;
use crate::metadata::Metadata;
use crate::tree::Tree;
use std::path::PathBuf;

/// What a check may look at.
pub struct Context {
    /// The folder of the workspace.
    pub root: PathBuf,
    /// Its files.
    pub tree: Tree,
}

impl Context {
    /// Reads the tree once for all checks.
    pub fn read(root: PathBuf) -> anyhow::Result<Self> {
        let tree = Tree::read(&root)?;
        Ok(Self { root, tree })
    }
}

/// What a check found.
#[derive(Default)]
pub struct Outcome {
    /// Empty = the rule is kept.
    pub faults: Vec<Fault>,
    /// Output of a command that helps to understand the faults.
    pub detail: String,
}

impl From<Vec<Fault>> for Outcome {
    fn from(faults: Vec<Fault>) -> Self {
        Self { faults, detail: String::new() }
    }
}

/// How much a check needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// Reads the tree: milliseconds.
    Text,
    /// Asks `cargo metadata`: a second, more when crates must be fetched.
    Metadata,
    /// Runs cargo on the whole workspace: minutes on a bare machine.
    Build,
}

/// One rule.
pub struct Check {
    /// Name on the command line.
    pub name: &'static str,
    /// The rule in a few words.
    pub rule: &'static str,
    /// How much it needs.
    pub cost: Cost,
    /// Looks for faults.
    pub run: fn(&Context) -> anyhow::Result<Outcome>,
}

macro_rules! text_check {
    ($module:ident) => {
        |context| Ok($module::check(&context.tree).into())
    };
}

/// Every check, in the order in which they run.
pub const ALL: [Check; 14] = [
    Check { name: "heads", rule: "files begin with a sentence", cost: Cost::Text, run: text_check!(heads) },
    Check { name: "length", rule: "files of at most 400 lines", cost: Cost::Text, run: text_check!(length) },
    Check { name: "functions", rule: "functions of at most 70 lines", cost: Cost::Text, run: text_check!(functions) },
    Check { name: "purity", rule: "pure crates stay pure", cost: Cost::Text, run: text_check!(purity) },
    Check { name: "places", rule: "some names have one place", cost: Cost::Text, run: text_check!(places) },
    Check { name: "markers", rule: "nothing is put off or ignored", cost: Cost::Text, run: text_check!(markers) },
    Check { name: "manifests", rule: "manifests inherit", cost: Cost::Text, run: text_check!(manifests) },
    Check { name: "docs", rule: "links and named files exist", cost: Cost::Text, run: text_check!(docs) },
    Check { name: "dashboards", rule: "Grafana's are up to date", cost: Cost::Text, run: text_check!(dashboards) },
    Check {
        name: "layers",
        rule: "only the allowed arrows",
        cost: Cost::Metadata,
        run: |context| Ok(layers::check(&Metadata::read(&context.root)?, &context.tree).into()),
    },
    Check {
        name: "licences",
        rule: "licences are on the list",
        cost: Cost::Metadata,
        run: |context| Ok(licences::check(&Metadata::read(&context.root)?, &context.tree).into()),
    },
    Check { name: "format", rule: "cargo fmt changes nothing", cost: Cost::Build, run: commands::format },
    Check { name: "clippy", rule: "no lint warns", cost: Cost::Build, run: commands::clippy },
    Check { name: "tests", rule: "every test passes", cost: Cost::Build, run: commands::tests },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_tests_come_last() {
        let names: std::collections::BTreeSet<&str> = ALL.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert_eq!(ALL.last().map(|check| check.name), Some("tests"));
    }
}
