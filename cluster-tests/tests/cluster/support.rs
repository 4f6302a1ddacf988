//! Clusters for tests: one that all harmless tests share, and one of its own for each that breaks something.

pub use cluster_tests::is_alive;
use cluster_tests::{Cluster, Shape, WorkerShape, spec};
use rustix::fs::{FileType as Kind, Mode};
use sha2::{Digest, Sha256};
use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use tokio::sync::OnceCell;
use types::{ContentHash, FileKind, JobSpec, Tree, TreeEntry};

/// The program, as cargo built it for these tests.
pub fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_muster-under-test"))
}

/// Never dropped: the janitor ends it with this process.
static SHARED: OnceCell<Cluster> = OnceCell::const_new();

/// Runs a test that harms nobody on the one cluster of three coordinators and four workers.
pub async fn shared(test: impl AsyncFnOnce(&Cluster) -> anyhow::Result<()>) {
    let cluster = SHARED.get_or_try_init(async || Cluster::start(program(), Shape::new(3, 4).cpus(16)).await).await;
    let cluster = cluster.unwrap();
    if let Err(error) = test(cluster).await {
        println!("{}", cluster.logs());
        panic!("{error:?}");
    }
}

/// Runs a test on a cluster of its own.
pub async fn alone(shape: Shape, test: impl AsyncFnOnce(&mut Cluster) -> anyhow::Result<()>) {
    let mut cluster = Cluster::start(program(), shape).await.unwrap();
    if let Err(error) = test(&mut cluster).await {
        println!("{}", cluster.logs());
        panic!("{error:?}");
    }
}

/// Coordinators with these options, and no workers yet.
pub fn shape(coordinators: u64, arguments: &[&str]) -> Shape {
    let mut shape = Shape::new(coordinators, 0);
    shape.coordinator_arguments = arguments.iter().map(Into::into).collect();
    shape
}

/// A worker of so many slots, with these options.
pub fn add_worker(cluster: &mut Cluster, name: &str, cpus: u32, arguments: &[&str]) -> anyhow::Result<()> {
    let arguments = arguments.iter().map(Into::into).collect();
    cluster.add_worker(name, &WorkerShape { cpus, arguments, ..WorkerShape::default() })
}

/// Runs until `open` is called with the same name: a shell that waits in a read of its own, so that no process of it
/// comes and goes.
pub fn held_by(cluster: &Cluster, gate: &str) -> JobSpec {
    let path = cluster.folder().join(gate);
    match rustix::fs::mknodat(rustix::fs::CWD, &path, Kind::Fifo, Mode::empty(), 0) {
        // Ranks may be of other users.
        Ok(()) => std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap(),
        Err(error) => assert_eq!(error, rustix::io::Errno::EXIST, "{}", path.display()),
    }
    spec(&format!("read -r go < {} || true", path.display()))
}

/// Lets those end that are held by this name, and those that come to it later.
pub fn open(cluster: &Cluster, gate: &str) -> anyhow::Result<()> {
    let path = cluster.folder().join(gate);
    // Open for both, which waits for nobody: who waits to open it does so now, and who reads is at its end once this is
    // closed, by when others find a file.
    let held = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
    let opened = cluster.folder().join(format!("{gate}.open"));
    std::fs::write(&opened, "")?;
    std::fs::rename(&opened, &path)?;
    drop(held);
    Ok(())
}

/// Says what could not be tested here, and why: in the test's output, which cargo shows of failed tests only, and in the
/// file that `MUSTER_TEST_SKIPS` names, for whoever ran the tests.
pub fn cannot_run(why: &str) {
    println!("not tested here: {why}");
    if let Some(path) = daemon::environment::text("MUSTER_TEST_SKIPS") {
        // One write of a whole line, so that tests side by side do not mix theirs.
        let line = format!("not tested here: {why}\n");
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// Hash of a folder of plain files, made here from its definition.
pub fn tree_hash(files: &[(&str, &[u8])]) -> String {
    let entries = files.iter().map(|(path, content)| TreeEntry {
        path: (*path).to_owned(),
        kind: FileKind::File,
        bytes: content.len() as u64,
        hash: ContentHash(Sha256::digest(content).into()),
    });
    hex(&serde_json::to_vec(&Tree::new(entries.collect()).unwrap()).unwrap())
}

/// SHA-256 as text.
pub fn hex(bytes: &[u8]) -> String {
    ContentHash(Sha256::digest(bytes).into()).to_string()
}

/// Waits until a file is there and whole (its last byte is a line's end), and answers with its text.
pub async fn line_in(path: &Path) -> anyhow::Result<String> {
    cluster_tests::until(&format!("{}", path.display()), cluster_tests::PATIENCE, async || {
        std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n')).map(|text| text.trim().to_owned())
    })
    .await
}

/// All files below that hold these bytes, as anybody would look for them.
pub fn files_with(folder: &Path, wanted: &str) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let found = std::process::Command::new("grep").args(["-rlaF", "-e", wanted]).arg(folder).output()?;
    let said = String::from_utf8_lossy(&found.stderr);
    // 1: there is none. 2: also where a daemon removed a file that was about to be read.
    let is_gone = said.lines().all(|line| line.ends_with("No such file or directory"));
    anyhow::ensure!(matches!(found.status.code(), Some(0 | 1)) || (folder.exists() && is_gone), "grep: {said}");
    Ok(String::from_utf8_lossy(&found.stdout).lines().map(Into::into).collect())
}
