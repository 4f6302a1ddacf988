//! Whole trainings, with threads as ranks over loopback: what the crate promises as TRAIN-1 to TRAIN-5.

mod elastic;
mod faults;
mod models;
mod process;
mod resume;
mod slow;
mod worlds;

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use collectives::{Communicator, Options, Peer, Rendezvous, connect_with};

use crate::config::Config;
use crate::context::{self, Context};
use crate::error::Error;
use crate::metrics::Metrics;
use crate::model;
use crate::progress::Progress;
use crate::training::train;
use crate::{Summary, TrainArgs};

/// Generous: only an upper bound for a starved machine, never waited for in a passing test.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a rank printed.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Printed {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// Ranks of one training, before it begins.
struct Gang {
    contexts: Vec<Context>,
    configs: Vec<Config>,
    printed: Vec<Printed>,
}

impl Gang {
    fn new(config: &str, world: usize) -> Self {
        let config = Config::parse("test", config, &[]).unwrap();
        let printed: Vec<Printed> = (0..world).map(|_| Printed::default()).collect();
        let context = |(communicator, printed): (Arc<dyn Communicator>, &Printed)| Context {
            progress: Progress::new(communicator.rank(), Box::new(printed.clone())),
            communicator,
            metrics: Metrics::default(),
            token: 3,
            checkpoint_folder: None,
            resume_from: None,
            output: None,
        };
        let options = context::options(&config);
        let tcp_only = options.streams > 1 || options.wire != collectives::Wire::Native;
        let contexts =
            group_with(world, Options { tcp_only, ..options }).into_iter().zip(&printed).map(context).collect();
        Gang { contexts, configs: vec![config; world], printed }
    }

    fn saving_to(mut self, folder: &Path) -> Self {
        self.contexts.iter_mut().for_each(|context| context.checkpoint_folder = Some(folder.to_owned()));
        self
    }

    fn resumed_from(mut self, folder: &Path) -> Self {
        self.contexts.iter_mut().for_each(|context| context.resume_from = Some(folder.to_owned()));
        self
    }

    /// Results in rank order.
    fn run(self) -> Vec<Result<Summary, Error>> {
        let one = |(config, context): (Config, Context)| {
            std::thread::spawn(move || train(&config, &*model::built_in(&config.model), context))
        };
        let threads: Vec<_> = self.configs.into_iter().zip(self.contexts).map(one).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }

    /// Rank 0's summary of a training that succeeds on all ranks with the same result.
    fn succeed(self) -> Summary {
        let summaries: Vec<Summary> = self.run().into_iter().map(|result| result.unwrap()).collect();
        for summary in &summaries {
            assert_eq!(summary.parameters_sha256, summaries[0].parameters_sha256);
            assert_eq!((summary.test_accuracy, summary.steps), (summaries[0].test_accuracy, summaries[0].steps));
        }
        summaries.into_iter().next().unwrap()
    }
}

/// Connected communicators in rank order.
pub(crate) fn group(world: usize) -> Vec<Arc<dyn Communicator>> {
    group_with(world, Options::default())
}

fn group_with(world: usize, options: Options) -> Vec<Arc<dyn Communicator>> {
    let listeners: Vec<_> = (0..world).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let peer = |(listener, rank): (&TcpListener, u32)| Peer { rank, address: listener.local_addr().unwrap() };
    let peers: Vec<Peer> = listeners.iter().zip(0..).map(peer).collect();
    let one = |(listener, rank): (TcpListener, u32)| {
        let rendezvous = Rendezvous {
            rank,
            peers: peers.clone(),
            listener: (world > 1).then_some(listener),
            token: 3,
            secret: [5; 32],
            timeout: PATIENCE,
            op_timeout: PATIENCE,
        };
        std::thread::spawn(move || connect_with(rendezvous, options).unwrap())
    };
    let threads: Vec<_> = listeners.into_iter().zip(0..).map(one).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn a_run_outside_muster_is_a_world_of_one() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("model");
    let text = format!(
        "model.hidden=[8] training.steps=3 output={} checkpoint.every_steps=2 checkpoint.folder={}",
        output.display(),
        folder.path().join("saved").display()
    );
    let args = TrainArgs { config: None, overrides: text.split(' ').map(str::to_owned).collect() };
    let summary = crate::run(args).unwrap();
    assert_eq!((summary.rank, summary.world_size, summary.steps), (0, 1, 3));
    assert_eq!(summary.model, Some(output.clone()));
    assert!(folder.path().join("saved/step-2/manifest.json").is_file());
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(output.join("model.json")).unwrap()).unwrap();
    assert_eq!(json["layers"], serde_json::json!([64, 8, 10]));
    assert_eq!(json["test_accuracy"], summary.test_accuracy);
    assert_eq!(json["config"]["training"]["steps"], 3);
    assert!(!json.to_string().contains(&folder.path().display().to_string()), "the same anywhere: {json:#}");
    let file = std::fs::read(output.join("model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&file).unwrap();
    assert_eq!(tensors.tensor("layers.0.weight").unwrap().shape(), [8, 64]);
}
