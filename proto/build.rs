//! Compiles the `.proto` files with a protobuf compiler in Rust: nothing to install. A method that does not say what it needs
//! stops the build.

use protox::prost_reflect::{DescriptorPool, Value};
use std::fmt::Write as _;

const FILES: [&str; 11] = [
    "muster/v1/options.proto",
    "muster/v1/access.proto",
    "muster/v1/jobs.proto",
    "muster/v1/cluster.proto",
    "muster/v1/lineage.proto",
    "muster/v1/queues.proto",
    "muster/v1/secrets.proto",
    "muster/v1/blobs.proto",
    "muster/v1/telemetry.proto",
    "muster/internal/v1/session.proto",
    "muster/internal/v1/raft.proto",
];

#[allow(clippy::disallowed_methods)] // cargo tells a build script its output folder this way only
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(FILES)?;
    let descriptors = compiler.file_descriptor_set();
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("needs.rs"), needs(&compiler.descriptor_pool())?)?;
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .file_descriptor_set_path(out.join("muster.bin"))
        .compile_fds(descriptors.clone())?;
    // Reflection serves the public package; internal services are not advertised.
    let mut public = descriptors;
    public.file.retain(|file| file.package() == "muster.v1" || file.package() == "google.protobuf");
    std::fs::write(out.join("muster.bin"), prost::Message::encode_to_vec(&public))?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}

/// A table of all methods with what each needs, as Rust.
fn needs(pool: &DescriptorPool) -> Result<String, Box<dyn std::error::Error>> {
    let option = pool.get_extension_by_name("muster.v1.needs").ok_or("options.proto has no `needs`")?;
    let mut table = String::from("&[\n");
    for service in pool.services() {
        for descriptor in service.methods() {
            let method = &descriptor;
            let options = method.options();
            let text = match options.get_extension(&option).as_ref() {
                Value::String(text) if !text.is_empty() => text.clone(),
                _ => {
                    return Err(
                        format!("{} does not say what it needs: add `option (needs)`", method.full_name()).into()
                    );
                }
            };
            let (service, method) = (service.full_name(), method.name());
            let any =
                text.split_whitespace().map(|word| need(word).map_err(|why| format!("{service}/{method}: {why}")));
            let any = any.collect::<Result<Vec<_>, _>>()?.join(", ");
            let streams = descriptor.is_server_streaming();
            writeln!(table, "    Method {{ path: \"/{service}/{method}\", needs: &[{any}], streams: {streams} }},")?;
        }
    }
    table.push(']');
    Ok(table)
}

fn need(word: &str) -> Result<String, String> {
    Ok(match word {
        "anyone" => "Need::Anyone".into(),
        "known" => "Need::Known".into(),
        "coordinator" => "Need::Coordinator".into(),
        "worker" => "Need::Worker".into(),
        _ => {
            let permission: types::Permission = word.parse().map_err(|error: types::UnknownWord| error.to_string())?;
            format!("Need::May(types::Permission::{permission:?})")
        }
    })
}
