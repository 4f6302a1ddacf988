//! Start and stop of whole coordinators: what is refused before anything is served, and that a stop is orderly and quick.

use crate::support::{cluster, leader, submit, within};
use coordinator::{Config, Error, Start, run};
use daemon::Shutdown;
use std::time::Duration;
use types::CoordinatorId;

fn config(folder: &std::path::Path) -> Config {
    let mut config = Config::new(CoordinatorId(7), folder);
    config.listen.set_port(0);
    config.http_listen.set_port(0);
    config.start = Start::Wait;
    config
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_and_a_folder_in_use_are_told() {
    let members = cluster(1).await;
    let folder = tempfile::tempdir().unwrap();
    let mut taken = config(folder.path());
    taken.listen = members[0].grpc.parse().unwrap();
    let error = within(run(taken, Shutdown::new())).await.unwrap_err();
    assert!(matches!(&error, Error::Bind { what: "gRPC", .. }), "{error}");
    let error = within(run(config(members[0].folder.path()), Shutdown::new())).await.unwrap_err();
    assert!(error.to_string().contains("in use by another running process"), "{error}");
    let nowhere = tempfile::tempdir().unwrap();
    let error = within(run(config(nowhere.path()), Shutdown::new())).await.unwrap_err();
    assert!(matches!(error, Error::Nowhere), "{error}");
    // The one that runs was not disturbed.
    assert!(members[0].folder.path().join("addresses").exists());
    submit(&members[0], 1, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_and_the_others_go_on() {
    let mut members = cluster(3).await;
    let at = leader(&members).await;
    let stopping = tokio::time::Instant::now();
    let (_folder, stopped) = members.remove(at).stop().await;
    stopped.unwrap();
    assert!(stopping.elapsed() < Duration::from_secs(8), "{:?}", stopping.elapsed());
    assert_eq!(submit(&members[0], 1, 0).await.0, 1);
    assert_eq!(submit(&members[1], 1, 0).await.0, 2);
}
