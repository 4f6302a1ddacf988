//! The Grafana dashboards in the tree are those that the tables in `xtask/src/dashboards` make.

use crate::dashboards::files;
use crate::fault::Fault;
use crate::tree::Tree;
use serde_json::Value;

/// Compares every file by its meaning: the order of keys is the JSON library's.
pub fn check(tree: &Tree) -> Vec<Fault> {
    let differs = |path: &str, wanted: &Value| {
        let found = tree.text(path).and_then(|text| serde_json::from_str::<Value>(text).ok());
        found.as_ref() != Some(wanted)
    };
    let stale = files().filter(|(path, wanted)| differs(path, wanted));
    stale.map(|(path, _)| Fault::at(&path, 0, "is not what the tables make: run `cargo xtask dashboards`")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dashboard_that_was_changed_by_hand_or_is_missing_is_named() {
        let made: Vec<(String, String)> = files().map(|(path, value)| (path, value.to_string())).collect();
        let sample = |files: &[(String, String)]| {
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
            check(&Tree::sample(&files))
        };
        assert!(sample(&made).is_empty());
        assert_eq!(sample(&made[1..]).len(), 1);
        let mut changed = made;
        changed[0].1 = changed[0].1.replace("Muster: cluster", "Ours");
        assert_eq!(sample(&changed).len(), 1);
    }
}
