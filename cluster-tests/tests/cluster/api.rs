//! The API with stock clients of another language: reflection and health, and no generated code of ours.

use crate::support::{cannot_run, shared};
use tokio::process::Command;

#[tokio::test]
async fn stock_python_clients_find_and_use_everything_by_reflection() {
    let Some(python) = daemon::environment::text("MUSTER_TEST_PYTHON") else {
        return cannot_run("stock gRPC clients: MUSTER_TEST_PYTHON names no Python with grpcio, reflection and health");
    };
    shared(async |cluster| {
        for id in 1..=3 {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/stock.py");
            let mut command = Command::new(&python);
            command.arg(script).arg(&cluster.addresses_of(id)?.0).arg(cluster.authorities());
            let output = command.env("MUSTER_ACCESS_TOKEN", cluster.credentials()?.token.expose()).output().await?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{said}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "all good\n");
        }
        Ok(())
    })
    .await;
}
