//! Compiles the `.proto` files with a protobuf compiler in Rust: nothing to install.

#[allow(clippy::disallowed_methods)] // cargo tells a build script its output folder this way only
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/muster/v1/jobs.proto",
        "proto/muster/v1/cluster.proto",
        "proto/muster/v1/lineage.proto",
        "proto/muster/v1/queues.proto",
        "proto/muster/v1/blobs.proto",
        "proto/muster/v1/telemetry.proto",
        "proto/muster/internal/v1/session.proto",
        "proto/muster/internal/v1/raft.proto",
    ];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .file_descriptor_set_path(out.join("muster.bin"))
        .compile_fds(descriptors.clone())?;
    // Reflection serves the public package; internal services are not advertised.
    let mut public = descriptors;
    public.file.retain(|file| file.package() == "muster.v1");
    std::fs::write(out.join("muster.bin"), prost::Message::encode_to_vec(&public))?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}
