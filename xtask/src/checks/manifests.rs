//! Member manifests inherit: versions stand in the root only, and no crate slips out of the workspace's lints.

use crate::fault::Fault;
use crate::tree::Tree;

/// Looks at every manifest but the root's.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let manifests = tree.texts("/Cargo.toml");
    manifests.flat_map(|(path, text)| faults_of(path, text)).collect()
}

fn faults_of(path: &str, text: &str) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut section = "";
    let mut has_lints = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if section == "lints" {
            has_lints |= line.replace(' ', "") == "workspace=true";
        } else if is_dependencies(section) && names_version(line) {
            faults.push(Fault::at(path, index + 1, "versions stand in the root: write `name.workspace = true`"));
        }
    }
    if !has_lints {
        faults.push(Fault::at(path, 0, "has no `[lints]` with `workspace = true`: the lints would not hold here"));
    }
    faults
}

fn is_dependencies(section: &str) -> bool {
    section.ends_with("dependencies")
}

fn names_version(line: &str) -> bool {
    let Some((_, value)) = line.split_once('=') else { return false };
    !line.starts_with('#') && (value.trim().starts_with(['"', '\'']) || value.contains("version"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<Fault> {
        check(&Tree::sample(&[("a/Cargo.toml", text)]))
    }

    #[test]
    fn an_inheriting_manifest_is_good() {
        let text = "[package]\nname = \"a\"\n[lints]\nworkspace = true\n[dependencies]\ntypes.workspace = true\n\
            tokio = { workspace = true, features = [\"net\"] }\n[features]\ncuda = [\"x\"]\n";
        assert!(faults(text).is_empty());
    }

    #[test]
    fn a_version_of_its_own_is_a_fault() {
        let good = "[lints]\nworkspace = true\n";
        let version = Fault::at("a/Cargo.toml", 4, "versions stand in the root: write `name.workspace = true`");
        assert_eq!(faults(&format!("{good}[dev-dependencies]\nrand = \"1\"\n")), std::slice::from_ref(&version));
        assert_eq!(faults(&format!("{good}[build-dependencies]\nrand = {{ version = \"1\" }}\n")), [version]);
    }

    #[test]
    fn a_crate_without_the_lints_is_a_fault() {
        assert_eq!(faults("[package]\nname = \"a\"\n").len(), 1);
    }
}
