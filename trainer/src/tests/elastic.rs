//! Sharded optimizers, and checkpoints in parts: any number of ranks goes on from what any other has written.

use super::resume::steps_saved;
use super::*;

const PLAIN: &str = "
training: {steps: 30, batch_size: 120}
model: {hidden: [40, 16]}
checkpoint: {every_steps: 10, keep: 100}
communication: {bucket_bytes: 6000}
";

fn sharded() -> String {
    PLAIN.replace("training: {", "training: {shard_optimizer: true, ")
}

#[test]
fn a_sharded_optimizer_ends_with_the_bits_of_a_whole_one() {
    for more in ["", "optimizer: {kind: sgd}", "optimizer: {kind: adam, weight_decay: 0.1}"] {
        for clip in ["", "clip_norm: 0.3, "] {
            let config = |text: &str| format!("{}{more}", text.replace("steps: 30", &format!("{clip}steps: 12")));
            let whole = Gang::new(&config(PLAIN), 3).succeed();
            assert_eq!(Gang::new(&config(&sharded()), 3).succeed(), whole, "{more} {clip}");
        }
    }
}

#[test]
fn each_rank_writes_its_part_where_all_see_one_folder() {
    for config in [PLAIN.to_owned(), sharded()] {
        let folder = tempfile::tempdir().unwrap();
        let whole = Gang::new(&config, 3).saving_to(folder.path()).succeed();
        let from = folder.path().join("step-20");
        for name in ["model-1-of-3.safetensors", "optimizer-3-of-3.safetensors", "manifest.json", "state.json"] {
            assert!(from.join(name).is_file(), "{name}");
        }
        assert_eq!(std::fs::read_dir(&from).unwrap().count(), 8, "nothing but three parts of two kinds and two lists");
        let resumed = Gang::new(&config, 3).resumed_from(&from).succeed();
        assert_eq!(resumed, Summary { resumed_from: Some(20), ..whole });
    }
}

#[test]
fn rank_0_writes_everything_where_folders_differ() {
    for config in [PLAIN.to_owned(), sharded()] {
        let folder = tempfile::tempdir().unwrap();
        let mut gang = Gang::new(&config, 3);
        for (at, context) in gang.contexts.iter_mut().enumerate() {
            context.checkpoint_folder = Some(folder.path().join(at.to_string()));
        }
        let whole = gang.succeed();
        let from = folder.path().join("0/step-10");
        assert!(from.join("optimizer.safetensors").is_file());
        assert!(!folder.path().join("1").exists() && !folder.path().join("2").exists());
        let resumed = Gang::new(&config, 3).resumed_from(&from).succeed();
        assert_eq!(resumed, Summary { resumed_from: Some(10), ..whole });
    }
}

/// TRAIN-3, TRAIN-4: the global batch is the same, so the mathematics is; only the sums round otherwise.
#[test]
fn any_number_of_ranks_goes_on_from_any_other() {
    let folder = tempfile::tempdir().unwrap();
    let whole = Gang::new(&sharded(), 4).saving_to(folder.path()).succeed();
    let from = folder.path().join("step-10");
    for (world, config) in [(1, PLAIN.to_owned()), (2, sharded()), (3, PLAIN.to_owned()), (4, PLAIN.to_owned())] {
        let gang = Gang::new(&config, world).resumed_from(&from);
        let printed = gang.printed[0].clone();
        let resumed = gang.succeed();
        assert_eq!((resumed.steps, resumed.resumed_from), (30, Some(10)));
        assert!((resumed.test_loss - whole.test_loss).abs() < 1e-4, "{world}: {resumed:?} {whole:?}");
        if world == 4 {
            assert_eq!(resumed.parameters_sha256, whole.parameters_sha256);
        } else {
            assert!(printed.text().contains(&format!("saved by 4 ranks, goes on with {world}")), "{}", printed.text());
        }
    }
    // And back: 2 ranks save, 4 go on.
    let narrow = tempfile::tempdir().unwrap();
    Gang::new(&sharded(), 2).resumed_from(&from).saving_to(narrow.path()).succeed();
    let resumed = Gang::new(&sharded(), 4).resumed_from(&narrow.path().join("step-20")).succeed();
    assert!((resumed.test_loss - whole.test_loss).abs() < 1e-4);
    assert_eq!(steps_saved(narrow.path()), [20, 30]);
}

#[test]
fn an_earlier_attempt_cannot_write_where_a_later_one_has_begun() {
    let folder = tempfile::tempdir().unwrap();
    Gang::new(PLAIN, 1).saving_to(folder.path()).succeed();
    let mut gang = Gang::new(PLAIN, 1).saving_to(folder.path());
    gang.contexts[0].token = 2;
    match gang.run().remove(0) {
        Err(error @ Error::Io { .. }) => {
            assert!(error.to_string().contains("token 3 has it, this one has 2"), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(steps_saved(folder.path()), [10, 20, 30]);
}

#[test]
fn a_part_that_cannot_be_written_costs_the_checkpoint_and_not_the_training() {
    let folder = tempfile::tempdir().unwrap();
    // Where rank 1's part of step 10 is to be, stands a folder.
    let blocked = folder.path().join(".step-10.3.tmp/model-2-of-2.safetensors");
    let mut gang = Gang::new(&PLAIN.replace("steps: 30", "steps: 30, step_delay_ms: 1"), 2).saving_to(folder.path());
    let printed = gang.printed.clone();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    gang.contexts[0].metrics = Metrics::new(Some(std::fs::File::from(writer)));
    let running = std::thread::spawn(move || gang.succeed());
    // Begun: what was half-written before has been removed.
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(std::fs::File::from(reader)));
    lines.next().unwrap().unwrap();
    std::fs::create_dir_all(&blocked).unwrap();
    lines.for_each(drop);
    running.join().unwrap();
    assert!(printed[1].text().contains("rank 1: part of checkpoint at step 10 not written"), "{}", printed[1].text());
    let said = "checkpoint at step 10 not saved: internal fault: another rank could not write its part";
    assert!(printed[0].text().contains(said), "{}", printed[0].text());
    assert_eq!(steps_saved(folder.path()), [20, 30]);
}
