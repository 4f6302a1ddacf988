//! What `cargo metadata` says of the workspace, cut down to names, arrows and licences.

use crate::process;
use anyhow::Context;
use serde_json::Value;
use std::path::Path;

/// The workspace as cargo resolves it on this machine's platform.
#[derive(Debug, Default)]
pub struct Metadata {
    /// Every package that is compiled in, members too.
    pub packages: Vec<Package>,
}

/// One package.
#[derive(Debug, Default)]
pub struct Package {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SPDX expression of its manifest.
    pub licence: Option<String>,
    /// Belongs to this workspace.
    pub is_member: bool,
    /// Its manifest from the root, for a member.
    pub manifest: String,
    /// What its manifest asks for.
    pub dependencies: Vec<Dependency>,
}

/// One line of a manifest's dependencies.
#[derive(Debug, Default)]
pub struct Dependency {
    /// Name of the package.
    pub name: String,
    /// For tests, examples and benchmarks only.
    pub is_dev: bool,
}

impl Metadata {
    /// Asks cargo, for the host's platform only: a product for Linux need not fetch what Windows would compile.
    pub fn read(root: &Path) -> anyhow::Result<Self> {
        let host = host_platform()?;
        let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", &host];
        let finished = process::cargo(root, &arguments)?;
        anyhow::ensure!(finished.success, "cargo metadata failed: {}", process::tail(&finished.stderr, 20));
        Self::parse(root, &finished.stdout)
    }

    fn parse(root: &Path, json: &str) -> anyhow::Result<Self> {
        let json: Value = serde_json::from_str(json).context("cargo metadata is not JSON")?;
        let members: Vec<&str> = list(&json["workspace_members"]).filter_map(Value::as_str).collect();
        let packages = list(&json["packages"]).map(|package| read_package(root, package, &members)).collect();
        Ok(Self { packages })
    }

    /// The workspace's own packages.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| package.is_member)
    }
}

fn read_package(root: &Path, package: &Value, members: &[&str]) -> Package {
    let dependency = |dependency: &Value| Dependency {
        name: text(&dependency["name"]),
        is_dev: dependency["kind"].as_str() == Some("dev"),
    };
    Package {
        name: text(&package["name"]),
        version: text(&package["version"]),
        licence: package["license"].as_str().map(str::to_owned),
        is_member: package["id"].as_str().is_some_and(|id| members.contains(&id)),
        manifest: process::from_root(root, &text(&package["manifest_path"])),
        dependencies: list(&package["dependencies"]).map(dependency).collect(),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The triple that `rustc -vV` calls host.
pub fn host_platform() -> anyhow::Result<String> {
    let output = std::process::Command::new("rustc").arg("-vV").output().context("cannot run rustc")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV does not name its host")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn members_and_their_arrows_are_read() {
        let json = r#"{"workspace_members":["path+file:///w/a#0.1.0"],"packages":[
            {"id":"path+file:///w/a#0.1.0","name":"a","version":"0.1.0","license":"Apache-2.0",
             "manifest_path":"/w/a/Cargo.toml",
             "dependencies":[{"name":"b","kind":null},{"name":"c","kind":"dev"}]},
            {"id":"registry#b@1.0.0","name":"b","version":"1.0.0","license":null,
             "manifest_path":"/r/b/Cargo.toml","dependencies":[]}]}"#;
        let metadata = Metadata::parse(Path::new("/w"), json).unwrap();
        let member = metadata.members().next().unwrap();
        assert_eq!((member.name.as_str(), member.manifest.as_str()), ("a", "a/Cargo.toml"));
        assert_eq!(member.dependencies.iter().map(|found| found.is_dev).collect::<Vec<_>>(), [false, true]);
        assert_eq!(metadata.members().count(), 1);
        assert_eq!(metadata.packages[1].licence, None);
    }

    #[test]
    fn text_that_is_not_json_is_refused() {
        assert!(Metadata::parse(Path::new("/w"), "error: no").is_err());
    }
}
