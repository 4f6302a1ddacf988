//! TRAIN-5: one rank's trouble is every rank's end, with the culprit named; and what spoils a training is said.

use super::*;

#[test]
fn a_rank_without_data_ends_the_others() {
    let mut gang = Gang::new("", 3);
    let broken = "data: {source: csv, path: /nowhere/data.csv}";
    gang.configs[1] = Config::parse("test", broken, &[]).unwrap();
    let results = gang.run();
    assert!(matches!(&results[1], Err(Error::Io { .. })), "{:?}", results[1]);
    for at in [0, 2] {
        match &results[at] {
            Err(Error::Collective(error)) => {
                assert_eq!(error.culprit(), Some(1));
                assert!(error.to_string().contains("/nowhere/data.csv"), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn ranks_with_other_configurations_or_samples_are_named() {
    for (odd, what) in
        [("training: {seed: 2}", "configurations"), ("data: {split_seed: 0, scale: 8}", "configurations")]
    {
        let mut gang = Gang::new("", 3);
        gang.configs[2] = Config::parse("test", odd, &[]).unwrap();
        for result in gang.run() {
            assert!(matches!(&result, Err(Error::Unequal { what: found, ranks }) if *found == what && *ranks == [2]));
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let mut gang = Gang::new("", 2);
    for (at, config) in gang.configs.iter_mut().enumerate() {
        let path = folder.path().join(format!("{at}.csv"));
        let rows: Vec<String> = (0..20).map(|row| format!("{},{}", row + at, row % 2)).collect();
        std::fs::write(&path, rows.join("\n")).unwrap();
        let text = format!("data: {{source: csv, path: {}}}", path.display());
        *config = Config::parse("test", &text, &[]).unwrap();
    }
    for result in gang.run() {
        assert!(matches!(result, Err(Error::Unequal { what: "samples", .. })));
    }
}

#[test]
fn a_loss_that_is_no_number_ends_the_training_before_it_is_saved() {
    let folder = tempfile::tempdir().unwrap();
    let config = "
training: {steps: 50}
optimizer: {kind: sgd, learning_rate: 1e30}
schedule: {kind: constant, warmup_steps: 0}
checkpoint: {every_steps: 1, keep: 100}
";
    for result in Gang::new(config, 2).saving_to(folder.path()).run() {
        assert!(matches!(&result, Err(Error::NotFinite { step, .. }) if *step < 50), "{result:?}");
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_does_not_end_the_training() {
    let folder = tempfile::tempdir().unwrap();
    let saved = folder.path().join("saved");
    let config = "training: {steps: 4}\nmodel: {hidden: []}\ncheckpoint: {every_steps: 2}";
    let gang = Gang::new(config, 1).saving_to(&saved);
    // A plain file stands where the temporary folder is to be.
    std::fs::create_dir(&saved).unwrap();
    std::fs::write(saved.join(".step-2.tmp.d"), "").unwrap();
    std::fs::write(saved.join("step-2"), "a plain file").unwrap();
    let printed = gang.printed[0].clone();
    assert_eq!(gang.succeed().steps, 4);
    assert!(printed.text().contains("checkpoint at step 2 not saved"), "{}", printed.text());
    assert!(printed.text().contains("checkpoint step-4 saved"), "{}", printed.text());
}

#[test]
fn a_model_that_cannot_be_written_ends_all_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let blocked = folder.path().join("file");
    std::fs::write(&blocked, "").unwrap();
    let mut gang = Gang::new("training: {steps: 2}\nmodel: {hidden: []}", 2);
    gang.contexts[0].output = Some(blocked.join("model"));
    let results = gang.run();
    assert!(matches!(&results[0], Err(Error::Io { action: "make", .. })), "{:?}", results[0]);
    assert!(matches!(&results[1], Err(Error::Collective(_))), "{:?}", results[1]);
}
