//! The arrows between crates: who may use whom, and which outside crates stay in one place.
//!
//! ```text
//! tests     cluster-tests, fuzz                            may use all; used by none
//! programs  cli -> coordinator, worker, trainer, client    one binary
//! edges     client, proto, daemon, identity, stores, collectives
//! pure      scheduler, cluster-state, job-spec
//! words     types                                          used by all; uses none
//! ```
//!
//! A new arrow is a change of the architecture: it needs a decision in `docs/adr`, then a word in this table.

use crate::fault::Fault;
use crate::metadata::{Metadata, Package};
use crate::tree::Tree;

/// Each crate with the crates of ours that it may use.
const ARROWS: [(&str, &[&str]); 15] = [
    ("types", &[]),
    ("job-spec", &["types"]),
    ("scheduler", &["types"]),
    ("cluster-state", &["types"]),
    ("proto", &["types"]),
    ("daemon", &["types"]),
    ("stores", &["types", "daemon"]),
    ("collectives", &["types"]),
    ("identity", &["types", "proto", "daemon"]),
    ("client", &["types", "proto", "identity", "job-spec"]),
    ("coordinator", &["types", "scheduler", "cluster-state", "proto", "daemon", "identity", "stores"]),
    ("worker", &["types", "proto", "daemon", "identity", "stores", "collectives"]),
    ("trainer", &["types", "collectives", "proto", "daemon"]),
    (
        "cli",
        &[
            "types",
            "job-spec",
            "scheduler",
            "proto",
            "daemon",
            "identity",
            "client",
            "coordinator",
            "worker",
            "trainer",
            "collectives",
        ],
    ),
    ("xtask", &[]),
];

/// May use every crate, and no crate may use it.
const TESTS: &str = "cluster-tests";
/// The same: apart, for fuzzers are built with flags of their own, and of as few crates as may be.
const FUZZ: &str = "fuzz";

/// Outside crates (by the beginning of their names) with the only crates of ours that may use them, and why.
const CONFINED: [(&str, &[&str], &str); 8] = [
    ("rcgen", &["identity"], "because only an authority signs"),
    ("rustls", &["identity", TESTS], "because TLS is set up in one place"),
    ("sled", &["coordinator"], "so that it can be left"),
    ("openraft", &["coordinator"], "because each crate that instantiates it costs a minute to build"),
    ("matrixmultiply", &["trainer"], "because nothing else computes"),
    ("cudarc", &["collectives", "trainer"], "because a machine without a GPU must not need it"),
    ("nvml-wrapper", &["worker"], "because only a worker looks at devices"),
    ("anyhow", &["cli", "xtask", TESTS], "because libraries give errors that callers can tell apart"),
];

/// Looks at the manifests of all members.
pub fn check(metadata: &Metadata, tree: &Tree) -> Vec<Fault> {
    let ours: Vec<&str> = metadata.members().map(|member| member.name.as_str()).collect();
    metadata.members().flat_map(|member| faults_of(member, &ours, tree)).collect()
}

fn faults_of(member: &Package, ours: &[&str], tree: &Tree) -> Vec<Fault> {
    let allowed = ARROWS.iter().find(|(name, _)| *name == member.name).map(|&(_, allowed)| allowed);
    if allowed.is_none() && ![TESTS, FUZZ].contains(&member.name.as_str()) {
        let text = format!("`{}` is not in the table of `xtask/src/checks/layers.rs`", member.name);
        return vec![Fault::at(&member.manifest, 0, text)];
    }
    let mut faults = Vec::new();
    for dependency in &member.dependencies {
        let name = dependency.name.as_str();
        let problem = match allowed {
            _ if !ours.contains(&name) => confined(member, name),
            _ if [TESTS, FUZZ].contains(&name) => Some(format!("`{name}` may be used by none")),
            Some(allowed) if !allowed.contains(&name) => {
                let kind = if dependency.is_dev { ", for tests neither" } else { "" };
                Some(format!("`{}` may not use `{name}`{kind}: it may use {allowed:?}", member.name))
            }
            _ => None,
        };
        faults.extend(problem.map(|text| Fault::at(&member.manifest, line_in(tree, &member.manifest, name), text)));
    }
    faults
}

fn confined(member: &Package, outside: &str) -> Option<String> {
    let (_, homes, why) = CONFINED.iter().find(|(start, ..)| outside.starts_with(start))?;
    let is_home = homes.contains(&member.name.as_str());
    (!is_home).then(|| format!("`{outside}` may be used by {homes:?} only, {why}"))
}

/// The line of the manifest that asks for the crate; 0 when it is not found.
fn line_in(tree: &Tree, manifest: &str, name: &str) -> usize {
    let text = tree.text(manifest).unwrap_or_default();
    let asks = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['.', ' ', '=']));
    text.lines().position(asks).map_or(0, |index| index + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::Dependency;

    fn member(name: &str, uses: &[&str]) -> Package {
        let dependency = |name: &&str| Dependency { name: (*name).to_owned(), is_dev: false };
        Package {
            name: name.to_owned(),
            is_member: true,
            manifest: format!("{name}/Cargo.toml"),
            dependencies: uses.iter().map(dependency).collect(),
            ..Package::default()
        }
    }

    fn faults(packages: Vec<Package>) -> Vec<Fault> {
        let tree = Tree::sample(&[("worker/Cargo.toml", "[dependencies]\ntypes.workspace = true\nsled = \"1\"\n")]);
        check(&Metadata { packages }, &tree)
    }

    #[test]
    fn allowed_arrows_are_good() {
        let tests = member(TESTS, &["types", "worker", "coordinator", "anyhow"]);
        let worker = member("worker", &["types", "tokio"]);
        assert!(faults(vec![member("types", &[]), worker, member("coordinator", &["sled"]), tests]).is_empty());
    }

    #[test]
    fn other_arrows_are_faults() {
        let found = faults(vec![member("worker", &["coordinator"]), member("coordinator", &[])]);
        assert_eq!(found.len(), 1);
        assert!(found[0].text.contains("`worker` may not use `coordinator`"));
    }

    #[test]
    fn tests_are_held_to_the_same_arrows() {
        let mut trainer = member("trainer", &["worker"]);
        trainer.dependencies[0].is_dev = true;
        assert_eq!(faults(vec![trainer, member("worker", &[])]).len(), 1);
        assert_eq!(faults(vec![member("cli", &[TESTS]), member(TESTS, &[])]).len(), 1);
        assert_eq!(faults(vec![member(FUZZ, &["types"]), member(TESTS, &[FUZZ]), member("types", &[])]).len(), 1);
    }

    #[test]
    fn an_unknown_crate_and_a_stray_dependency_are_faults() {
        assert_eq!(faults(vec![member("helpers", &[])]).len(), 1);
        assert_eq!(faults(vec![member("worker", &["sled"])])[0].line, 3);
        assert_eq!(faults(vec![member("proto", &["matrixmultiply"])]).len(), 1);
    }

    /// Arrows on the longest way down from a crate; endless when the table has a circle.
    fn longest_way(name: &str, steps: usize) -> usize {
        assert!(steps <= ARROWS.len(), "the table has a circle at {name}");
        let allowed = ARROWS.iter().find(|(from, _)| *from == name).map_or(&[][..], |&(_, allowed)| allowed);
        allowed.iter().map(|to| 1 + longest_way(to, steps + 1)).max().unwrap_or(0)
    }

    #[test]
    fn the_table_has_no_circle_and_short_ways() {
        for (name, allowed) in ARROWS {
            assert!(longest_way(name, 0) <= 4, "{name}");
            assert!(allowed.iter().all(|to| ARROWS.iter().any(|(from, _)| from == to)), "{name}");
        }
    }
}
