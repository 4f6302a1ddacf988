//! Clusters for tests: one that all harmless tests share, and one of its own for each that breaks something.

use cluster_tests::{Cluster, Shape};
use std::path::Path;
use tokio::sync::OnceCell;

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

/// Is this process somebody's that still runs? A zombie is not.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Says in the test's output what could not be tested here, and why.
pub fn cannot_run(why: &str) {
    println!("not tested here: {why}");
}

/// Waits until a file is there and whole (its last byte is a line's end), and answers with its text.
pub async fn line_in(path: &Path) -> anyhow::Result<String> {
    cluster_tests::until(&format!("{}", path.display()), cluster_tests::PATIENCE, async || {
        std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n')).map(|text| text.trim().to_owned())
    })
    .await
}
