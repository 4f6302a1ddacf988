//! What is there for slow links: several streams, 16 bits on the wire, factors of gradients, and updates that each rank makes by
//! itself. All keep TRAIN-1 (equal ranks), TRAIN-2 (the same again) and TRAIN-3 (exact resume).

use super::resume::steps_saved;
use super::*;

const FACTORS: &str = "communication: {power_sgd: {rank: 2}}";
/// The momentum from meeting to meeting makes the ways longer: half of the rate of learning would do as well.
const APART: &str = "communication: {local_steps: 4, outer_momentum: 0.5}";

fn config(communication: &str) -> String {
    format!(
        "
training: {{epochs: 8, batch_size: 96}}
model: {{hidden: [64]}}
optimizer: {{learning_rate: 0.01}}
schedule: {{warmup_steps: 3}}
{communication}
"
    )
}

fn trained(communication: &str, world: usize) -> (Summary, String) {
    let gang = Gang::new(&config(communication), world);
    let printed = gang.printed[0].clone();
    (gang.succeed(), printed.text())
}

#[test]
fn factors_and_meetings_learn_as_well_with_equal_ranks() {
    let whole = trained("", 3).0;
    for communication in [FACTORS, APART] {
        for world in [1, 2, 3] {
            let (summary, said) = trained(communication, world);
            assert!(summary.test_accuracy > 0.93, "{communication} {world}: {summary:?}");
            assert!(summary.test_loss < whole.test_loss + 0.15, "{communication} {world}: {summary:?} {whole:?}");
            assert_ne!(summary.parameters_sha256, whole.parameters_sha256, "{communication} does something");
            let word =
                if communication == FACTORS { "gradients as factors of rank 2" } else { "meeting every 4 steps" };
            assert!(said.contains(word), "{said}");
        }
        assert_eq!(trained(communication, 3).0, trained(communication, 3).0, "TRAIN-2");
    }
}

#[test]
fn factors_are_far_fewer_bytes() {
    let bytes = |said: &str| -> u64 {
        let (_, after) = said.split_once("gradients in ").unwrap();
        let words: Vec<&str> = after.split_whitespace().collect();
        words[3].replace(',', "").parse().unwrap()
    };
    let (whole, factors) = (bytes(&trained("", 1).1), bytes(&trained(FACTORS, 1).1));
    // 64 x 64 and 64 x 10 with their biases, and four numbers that go along.
    assert_eq!((whole, factors), (4 * (4096 + 64 + 640 + 10 + 4), 4 * (2 * 128 + 64 + 2 * 74 + 10 + 4)));
}

#[test]
fn sixteen_bits_and_several_streams_are_taken_from_the_configuration() {
    let wide = |communication: &str| {
        let text = config(communication).replace("[64]", "[512]").replace("epochs: 8", "steps: 40");
        let gang = Gang::new(&text, 3);
        let printed = gang.printed[0].clone();
        (gang.succeed(), printed.text())
    };
    let (native, _) = wide("");
    let (streams, said) = wide("communication: {streams: 2}");
    assert!(said.contains("3 ranks over tcp, 2 streams, "), "{said}");
    assert_eq!(streams.parameters_sha256, native.parameters_sha256, "streams change no bit");
    let (narrow, said) = wide("communication: {wire: bf16, bucket_bytes: 1048576, first_bucket_bytes: 1048576}");
    assert!(said.contains("3 ranks over tcp, bf16 on the wire of TCP, "), "{said}");
    assert_ne!(narrow.parameters_sha256, native.parameters_sha256, "16 bits round");
    assert!((narrow.test_loss - native.test_loss).abs() < 0.05, "{narrow:?} {native:?}");
}

/// TRAIN-3
#[test]
fn a_resumed_run_ends_with_the_same_bits_though_ranks_differ_between() {
    for communication in [FACTORS, APART] {
        for checkpoint in ["checkpoint: {every_steps: 10, keep: 100}", "checkpoint: {every_epochs: 1, keep: 100}"] {
            let text = format!("{}{checkpoint}", config(communication).replace("epochs: 8", "steps: 43"));
            let folder = tempfile::tempdir().unwrap();
            let whole = Gang::new(&text, 3).saving_to(folder.path()).succeed();
            let saved = steps_saved(folder.path());
            assert!(saved.len() >= 2, "{saved:?}");
            for step in saved {
                let from = folder.path().join(format!("step-{step}"));
                let resumed = Gang::new(&text, 3).resumed_from(&from).succeed();
                assert_eq!(resumed, Summary { resumed_from: Some(step), ..whole.clone() }, "{communication} {step}");
            }
        }
    }
}

#[test]
fn another_number_of_ranks_goes_on_from_what_they_left() {
    for communication in [FACTORS, APART] {
        let text = format!("{}checkpoint: {{every_steps: 20, keep: 100}}", config(communication));
        let folder = tempfile::tempdir().unwrap();
        Gang::new(&text, 3).saving_to(folder.path()).succeed();
        let resumed = Gang::new(&text, 2).resumed_from(&folder.path().join("step-60")).succeed();
        assert!(resumed.test_accuracy > 0.93, "{communication}: {resumed:?}");
    }
}

#[test]
fn a_checkpoint_of_another_way_is_refused() {
    let with = |communication| format!("{}checkpoint: {{every_steps: 20}}", config(communication));
    let folder = tempfile::tempdir().unwrap();
    Gang::new(&with(APART), 1).saving_to(folder.path()).succeed();
    for other in
        ["", FACTORS, "communication: {local_steps: 5, outer_momentum: 0.5}", "communication: {local_steps: 4}"]
    {
        let step = steps_saved(folder.path())[0];
        let gang = Gang::new(&with(other), 1).resumed_from(&folder.path().join(format!("step-{step}")));
        let error = gang.run().remove(0).unwrap_err();
        assert!(error.to_string().contains("another configuration"), "{other}: {error}");
    }
}

#[test]
fn a_rank_that_goes_astray_by_itself_ends_all_at_the_next_meeting() {
    let text =
        config("communication: {local_steps: 5}").replace("learning_rate: 0.01", "kind: sgd, learning_rate: 1.0e+30");
    for result in Gang::new(&text, 3).run() {
        assert!(matches!(result, Err(Error::NotFinite { step: 5, .. })), "{result:?}");
    }
}
