//! A framework's own rendezvous that fails is made again once with other ports, then reported by name.

use super::{PATIENCE, PYTORCH, TURN};
use crate::support::{cannot_run, shared};
use cluster_tests::{Cluster, gang};
use types::{Distribution, JobSpec};

/// As PyTorch 2 says it.
const SAID: &str = "torch.distributed.DistNetworkError: The server socket has failed to listen on any local network address. \
                    port: $MASTER_PORT, useIpv6: false, code: -98, name: EADDRINUSE, message: address already in use";

/// A PyTorch gang over four workers without restarts of its own.
fn pytorch(command: &str) -> JobSpec {
    let mut spec = gang(4, command);
    spec.gang.distribution = Distribution::PyTorch;
    spec
}

/// Rank 0 cannot bind in the attempts that this shell condition names; the others wait for it, as they would.
fn failing_while(condition: &str) -> JobSpec {
    pytorch(&format!(
        "if {condition}; then test $RANK = 0 || exec sleep 1000; echo \"{SAID}\" >&2; exit 1; fi; echo rank $RANK is done"
    ))
}

async fn ended(cluster: &Cluster, spec: &JobSpec) -> anyhow::Result<(String, String, Vec<String>)> {
    let job = cluster.client().submit(spec).await?;
    let ended = cluster.ended_within(job, PATIENCE).await?;
    let summary = ended.summary.unwrap_or_default();
    let kinds = ended.attempts.iter().map(|attempt| attempt.cause_kind.clone()).collect();
    Ok((summary.phase, summary.reason, kinds))
}

#[tokio::test]
async fn a_rendezvous_that_fails_once_costs_no_restart_of_the_job() {
    shared(async |cluster| {
        let (phase, reason, kinds) = ended(cluster, &failing_while("test $MUSTER_ATTEMPT = 1")).await?;
        assert_eq!((phase.as_str(), kinds), ("Completed", vec!["rendezvous".into(), "success".into()]), "{reason}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_rendezvous_that_fails_twice_is_reported_by_name() {
    shared(async |cluster| {
        let (phase, reason, kinds) = ended(cluster, &failing_while("true")).await?;
        assert_eq!((phase.as_str(), kinds), ("Failed", vec!["rendezvous".to_owned(); 2]), "{reason}");
        for part in ["PyTorch's rendezvous could not bind port ", " (address in use), twice: rank 0 on ", "EADDRINUSE"]
        {
            assert!(reason.contains(part), "{part:?} in {reason:?}");
        }
        Ok(())
    })
    .await;
}

/// Takes the port that Muster has let go, before PyTorch comes to it, and keeps it as long as its rank lives.
const TAKE: &str = "\
import os, socket, time
taken = socket.socket()
taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
taken.bind((os.environ['MASTER_ADDR'], int(os.environ['MASTER_PORT'])))
taken.listen()
open('taken', 'w').close()
time.sleep(1000)
";
const MEET: &str = "import torch.distributed as d; d.init_process_group('gloo'); d.barrier()";

#[tokio::test]
async fn pytorchs_own_words_of_an_address_in_use_are_understood() {
    let _turn = TURN.lock().await;
    let python = match PYTORCH.python() {
        Ok(python) => python,
        Err(why) => return cannot_run(&format!("a rendezvous that fails: {why}")),
    };
    shared(async |cluster| {
        let command = format!(
            "if test $MUSTER_ATTEMPT$RANK = 10; then {python} -c \"{TAKE}\" & while test ! -e taken; do sleep 0.05; done; \
             fi; exec {python} -c \"{MEET}\""
        );
        let (phase, reason, kinds) = ended(cluster, &pytorch(&command)).await?;
        assert_eq!((phase.as_str(), kinds), ("Completed", vec!["rendezvous".into(), "success".into()]), "{reason}");
        Ok(())
    })
    .await;
}
