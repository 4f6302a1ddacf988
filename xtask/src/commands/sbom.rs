//! `cargo xtask sbom`: what the program is made of, as a bill of materials in the form of CycloneDX 1.5 (JSON).
//!
//! Of `cargo metadata`: what is linked into `muster` on this machine's platform and what builds it, each with its version, licence, the
//! checksum that `Cargo.lock` holds it to, and what it depends on. Tests' own dependencies are not in it. The same tree gives the same
//! text: no time and no random number is in it.

use crate::{process, tree};
use anyhow::Context as _;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The package whose program, `muster`, is shipped.
const PROGRAM: &str = "cli";

/// What is asked.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// Where it is written [default: standard output]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Writes it.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let root = tree::find_root()?;
    match &arguments.output {
        None => print!("{}", text(&root)?),
        Some(file) => {
            write(&root, file)?;
            println!("{}", file.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes it into a file.
pub(super) fn write(root: &Path, file: &Path) -> anyhow::Result<()> {
    std::fs::write(file, text(root)?).with_context(|| format!("cannot write {}", file.display()))
}

fn text(root: &Path) -> anyhow::Result<String> {
    let host = crate::metadata::host_platform()?;
    let asked = ["metadata", "--format-version", "1", "--locked", "--filter-platform", &host];
    let finished = process::cargo(root, &asked)?;
    anyhow::ensure!(finished.success, "cargo metadata failed: {}", process::tail(&finished.stderr, 20));
    let metadata = serde_json::from_str(&finished.stdout).context("cargo metadata is not JSON")?;
    let lock = std::fs::read_to_string(root.join("Cargo.lock")).context("cannot read Cargo.lock")?;
    Ok(serde_json::to_string_pretty(&bill(&metadata, &lock)?)? + "\n")
}

fn bill(metadata: &Value, lock: &str) -> anyhow::Result<Value> {
    let packages: BTreeMap<&str, &Value> =
        list(&metadata["packages"]).filter_map(|package| Some((package["id"].as_str()?, package))).collect();
    let needs: BTreeMap<&str, Vec<&str>> =
        list(&metadata["resolve"]["nodes"]).filter_map(|node| Some((node["id"].as_str()?, needed(node)))).collect();
    let of_program = packages.iter().find(|(_, package)| package["name"] == PROGRAM).map(|(id, _)| *id);
    let program = of_program.with_context(|| format!("there is no package {PROGRAM}"))?;
    let mut open = vec![program];
    let mut all = BTreeSet::new();
    while let Some(id) = open.pop() {
        if all.insert(id) {
            open.extend(needs.get(id).into_iter().flatten());
        }
    }
    let checksums = checksums(lock);
    let reference = |id: &str| packages.get(id).map(|package| purl(package)).unwrap_or_default();
    let by_reference: BTreeMap<String, &str> = all.iter().map(|id| (reference(id), *id)).collect();
    let component = |id: &&str| packages.get(*id).map(|package| component(package, &checksums));
    let libraries = by_reference.values().filter(|id| **id != program);
    let arrows = by_reference.iter().map(|(reference_of, id)| {
        let to: BTreeSet<String> = needs.get(id).into_iter().flatten().map(|id| reference(id)).collect();
        json!({ "ref": reference_of, "dependsOn": to })
    });
    let mut own = component(&program).unwrap_or_default();
    own["type"] = "application".into();
    own["name"] = "muster".into();
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": own },
        "components": libraries.filter_map(component).collect::<Vec<_>>(),
        "dependencies": arrows.collect::<Vec<_>>(),
    }))
}

/// What a package is linked with or built by.
fn needed(node: &Value) -> Vec<&str> {
    let is_shipped = |dependency: &&Value| list(&dependency["dep_kinds"]).any(|kind| kind["kind"] != "dev");
    list(&node["deps"]).filter(is_shipped).filter_map(|dependency| dependency["pkg"].as_str()).collect()
}

fn component(package: &Value, checksums: &BTreeMap<(String, String), String>) -> Value {
    let text = |name: &str| package[name].as_str().unwrap_or_default().to_owned();
    let (name, version, reference) = (text("name"), text("version"), purl(package));
    let mut component =
        json!({ "type": "library", "bom-ref": reference, "name": name, "version": version, "purl": reference });
    if let Some(licence) = package["license"].as_str() {
        component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
    }
    if let Some(checksum) = checksums.get(&(name, version)) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

/// Its address as a package (<https://github.com/package-url/purl-spec>).
fn purl(package: &Value) -> String {
    let text = |name: &str| package[name].as_str().unwrap_or_default();
    format!("pkg:cargo/{}@{}", text("name"), text("version").replace('+', "%2B"))
}

/// By name and version; our own packages have none.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let value = |entry: &str, name: &str| {
        let line = entry.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""))?;
        line.strip_suffix('"').map(str::to_owned)
    };
    let entries = lock.split("[[package]]").skip(1);
    entries
        .filter_map(|entry| Some(((value(entry, "name")?, value(entry, "version")?), value(entry, "checksum")?)))
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_is_in_it_with_its_checksum_and_what_is_for_tests_is_not() {
        let package =
            |name: &str, licence: &str| json!({"id": name, "name": name, "version": "1.0.0+b", "license": licence});
        let arrow = |to: &str, kind: Value| json!({"pkg": to, "dep_kinds": [{"kind": kind}]});
        let packages = ["cli", "a", "b", "c", "elsewhere"].map(|name| package(name, "MIT/Apache-2.0"));
        let metadata = json!({
            "packages": packages,
            "resolve": {"nodes": [
                {"id": "cli", "deps": [arrow("a", Value::Null), arrow("c", "dev".into())]},
                {"id": "a", "deps": [arrow("b", "build".into()), arrow("a", "dev".into())]},
            ]},
        });
        let lock = "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0+b\"\nchecksum = \"abc\"\n";
        let bill = bill(&metadata, lock).unwrap();
        let names: Vec<_> = list(&bill["components"]).map(|found| found["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(bill["components"][0]["hashes"][0]["content"], "abc");
        assert_eq!(bill["components"][0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["components"][0]["purl"], "pkg:cargo/a@1.0.0%2Bb");
        let program = &bill["metadata"]["component"];
        assert_eq!((&program["type"], &program["name"]), (&"application".into(), &"muster".into()));
        let of_program = list(&bill["dependencies"]).find(|arrow| arrow["ref"] == "pkg:cargo/cli@1.0.0%2Bb").unwrap();
        assert_eq!(of_program["dependsOn"], json!(["pkg:cargo/a@1.0.0%2Bb"]));
    }

    #[test]
    fn without_the_program_there_is_none() {
        assert!(bill(&json!({"packages": []}), "").is_err());
    }
}
