//! LINEAGE-1: whatever of a job that has ended is altered, in the tables or in a copy of them, is found.

use super::*;
use crate::LineageRecord;

fn records(state: &State) -> Vec<LineageRecord> {
    (1..=state.lineage_head().0).map(|number| state.lineage_record(number).unwrap()).collect()
}

/// Three jobs that ended, the second with a GPU, a checkpoint and an output; a fourth that waits.
fn some() -> State {
    let mut log = Log::with_workers(2);
    for gpus in [0, 1, 0, 0] {
        log.submit(&spec(1, 1, gpus, 0));
    }
    for job in [2, 1, 3].map(JobId) {
        log.place(job, &[1], 0);
        let attempt = log.state.job(job).unwrap().live_attempt().unwrap().clone();
        let key = attempt.key(job, 0);
        let checkpoint = CheckpointRef { step: 40, tree: ContentHash([7; 32]) };
        log.apply(Command::RecordCheckpoint { key, token: attempt.token, checkpoint });
        assert_eq!(log.state.job(job).unwrap().sealed(), None);
        let mut end = ended(RankExit::Code(0));
        if let MemberEnd::Exited { ranks, outputs } = &mut end {
            ranks[0].final_metrics = vec![("loss".into(), "0.25".into())];
            outputs.push(types::OutputTree { name: "model".into(), tree: ContentHash([9; 32]), bytes: 5 });
        }
        log.end(job, 0, end);
    }
    log.state
}

#[test]
fn jobs_are_sealed_in_the_order_in_which_they_end() {
    let state = some();
    let all = records(&state);
    assert_eq!(all.iter().map(|record| record.job.0).collect::<Vec<_>>(), [2, 1, 3]);
    assert!(all.iter().all(LineageRecord::is_true));
    assert!(all.windows(2).all(|pair| pair[0].hash == pair[1].previous) && all[0].previous == [0; 32]);
    assert_eq!((state.job(JobId(2)).unwrap().sealed(), state.job(JobId(4)).unwrap().sealed()), (Some(1), None));
    assert_eq!(state.lineage_fault(), None);
    let said = |part: &str| assert!(all[0].text.contains(part), "{part} in {}", all[0].text);
    said(r#""phase":"Completed","command":"true""#);
    said(r#""devices":[{"index":0,"uuid":"GPU-1-0","name":"x"}]"#);
    said(r#""metrics":{"loss":"0.25"}"#);
    said(&format!(r#""checkpoints":[{{"step":40,"tree":"{}","attempt":1"#, "07".repeat(32)));
    said(&format!(r#""outputs":[{{"node_rank":0,"name":"model","tree":"{}","bytes":5}}]"#, "09".repeat(32)));
}

#[test]
fn whatever_is_altered_of_a_job_is_found() {
    type Change = fn(&mut crate::Job);
    let changes: [Change; 10] = [
        |job| Arc::make_mut(&mut job.spec).command.push(' '),
        |job| drop(Arc::make_mut(&mut job.spec).environment_variables.insert("A".into(), "1".into())),
        |job| Arc::make_mut(&mut job.spec).gang.per_rank.memory_bytes += 1,
        |job| job.submitter = Some("eve".into()),
        |job| job.phase = JobPhase::Failed,
        |job| job.checkpoints[0].checkpoint.tree.0[0] ^= 1,
        |job| job.outputs[0].output.tree.0[31] ^= 1,
        |job| job.outputs.clear(),
        |job| Arc::make_mut(&mut job.attempts[0]).devices[0].1.uuid.push('x'),
        |job| {
            let attempt = Arc::make_mut(&mut job.attempts[0]);
            let Some(MemberEnd::Exited { ranks, .. }) = &mut attempt.ends[0] else { panic!("it ended") };
            ranks[0].final_metrics[0].1 = "0.24".into();
        },
    ];
    for (index, change) in changes.into_iter().enumerate() {
        let mut state = some();
        change(Arc::make_mut(state.jobs.get_mut(&JobId(2)).unwrap()));
        let fault = state.lineage_fault().map(|record| (record.number, record.job));
        assert_eq!(fault, Some((1, JobId(2))), "change {index}");
    }
}

#[test]
fn a_job_or_a_seal_that_is_gone_or_exchanged_is_found() {
    let mut state = some();
    state.jobs.remove(&JobId(1));
    assert_eq!(state.lineage_fault().map(|record| (record.job, record.text.is_empty())), Some((JobId(1), true)));
    // The seals of a copy of the tables, as a file holds them: each flipped bit of a hash is found at it or behind it.
    let bytes = postcard::to_allocvec(&some()).unwrap();
    let hash = records(&some())[0].hash;
    let at = bytes.windows(32).position(|window| window == hash).unwrap();
    for byte in at..at + 32 {
        let mut altered = bytes.clone();
        altered[byte] ^= 0x10;
        let altered: State = postcard::from_bytes(&altered).unwrap();
        assert_eq!(altered.lineage_fault().map(|record| record.number), Some(1));
    }
}

#[test]
fn an_environment_is_sealed_without_its_values() {
    let mut log = Log::with_workers(1);
    let mut spec = spec(1, 1, 0, 0);
    Arc::make_mut(&mut spec).environment_variables.insert("TOKEN".into(), "hunter2".into());
    let job = log.submit(&spec);
    log.apply(Command::CancelJob { job });
    let record = log.state.lineage_record(1).unwrap();
    assert!(record.text.contains("TOKEN") && !record.text.contains("hunter2"), "{}", record.text);
}
