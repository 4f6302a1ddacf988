//! A checkpoint comes back whole or is refused with the name of the file that is wrong.

use std::fs;
use std::ops::Range;
use std::path::Path;

use super::*;
use crate::config;
use crate::error::Error;
use crate::model::Placed;
use crate::optimizer::Optimizer;

const FILES: [&str; 4] = ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"];

const KEEP: u64 = 3;

/// Two parameters, which lie the other way round than they are named, with a gap.
fn parameters() -> Vec<Placed> {
    let one = |name: &str, shape: &[usize], place| Placed { name: name.to_owned(), shape: shape.to_vec(), place };
    vec![one("layers.0.weight", &[3, 2], 5..11), one("layers.0.bias", &[3], 0..3)]
}

const LENGTH: usize = 12;

fn rule() -> config::Optimizer {
    config::Optimizer::AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }
}

fn whole() -> Vec<Range<usize>> {
    [0..LENGTH].to_vec()
}

fn state(step: u64) -> State {
    State {
        format: FORMAT,
        step,
        updates: step,
        position: Position { epoch: 1, batch: 2 },
        random: RandomState { seed: u64::MAX, shuffle: 1 },
        epoch_so_far: EpochSoFar { loss_bits: 0.1_f64.to_bits(), samples: 7 },
        improvement: Improvement { best_bits: Some(0.3_f64.to_bits()), looks_since: 4 },
        course: ContentHash([1; 32]),
        data: ContentHash([2; 32]),
        world_size: 4,
        token: 7,
    }
}

/// Saves with `cuts` parts; returns the optimizer and all values.
fn save_parts(folder: &Path, step: u64, keep: u64, cuts: &[Vec<Range<usize>>]) -> (Optimizer, Vec<f32>) {
    let mut optimizer = Optimizer::new(rule(), whole());
    let mut values = vec![1.0, 2.0, 3.0, 0.0, 0.0, 0.1, -2.0, 3.0, f32::MIN_POSITIVE, -0.0, 1e30, 0.0];
    let gradients = values.clone();
    optimizer.update(&mut values, [gradients.as_slice()].into_iter(), 1.0, 0.01);
    optimizer.updates = step;
    let place = Place::new(folder, step, &Fence::take(folder, 7, 1).unwrap());
    for (rank, ranges) in (0..).zip(cuts) {
        let shard = Shard::take((rank, cuts.len() as u32), &parameters(), &values, &optimizer, ranges);
        place.write_shard(rank, &shard).unwrap();
    }
    let written = place.publish(&state(step), cuts.len() as u32, keep).unwrap();
    assert_eq!(written, Written { name: format!("step-{step}"), step });
    (optimizer, values)
}

fn save_one(folder: &Path, step: u64, keep: u64) -> (Optimizer, Vec<f32>) {
    save_parts(folder, step, keep, &[whole()])
}

fn load_into(folder: &Path, owned: Vec<Range<usize>>) -> Result<(Loaded, Optimizer), Error> {
    let mut optimizer = Optimizer::new(rule(), owned);
    let parameters = parameters();
    let (course, data) = (ContentHash([1; 32]), ContentHash([2; 32]));
    let wanted = Wanted { course, data, parameters: &parameters, length: LENGTH };
    load(folder, &wanted, &mut optimizer).map(|loaded| (loaded, optimizer))
}

fn load_one(folder: &Path) -> Result<(Loaded, Optimizer), Error> {
    load_into(folder, whole())
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Of the parameters alone: what lies between them is not saved.
fn bits(values: &[f32]) -> Vec<u32> {
    parameters().into_iter().flat_map(|parameter| &values[parameter.place]).map(|value| value.to_bits()).collect()
}

#[test]
fn everything_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    // Whole; cut within parameters; a part that has nothing.
    let one = |range: Range<usize>| [range].to_vec();
    let cuts = [vec![whole()], vec![vec![0..2, 3..7], vec![2..3, 7..12]], vec![vec![0..1, 1..8], vec![], one(8..12)]];
    for (step, cut) in (12..).zip(cuts) {
        let (optimizer, values) = save_parts(folder.path(), step, KEEP, &cut);
        let (loaded, loaded_optimizer) = load_one(&folder.path().join(format!("step-{step}"))).unwrap();
        assert_eq!((loaded.state, bits(&loaded.values)), (state(step), bits(&values)));
        assert_eq!(loaded_optimizer.updates, step);
        for (loaded, saved) in loaded_optimizer.slots.iter().zip(&optimizer.slots) {
            assert_eq!(bits(&loaded.values), bits(&saved.values));
        }
        // One that holds a part of the memory takes only that.
        let (_, part) = load_into(&folder.path().join(format!("step-{step}")), vec![2..3, 6..9]).unwrap();
        for (loaded, saved) in part.slots.iter().zip(&optimizer.slots) {
            assert_eq!(loaded.values, [&saved.values[2..3], &saved.values[6..9]].concat());
        }
    }
}

#[test]
fn a_part_that_is_missing_or_twice_there_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (step, cut) in (1..).zip([&[0..6, 7..12][..], &[0..8, 7..12], &[0..5]]) {
        let parts: Vec<Vec<Range<usize>>> = cut.iter().map(|range| [range.clone()].to_vec()).collect();
        save_parts(folder.path(), step, KEEP, &parts);
        let error = load_one(&folder.path().join(format!("step-{step}"))).unwrap_err().to_string();
        assert!(error.contains("lacks") && error.contains("layers.0.weight"), "{error}");
    }
}

#[test]
fn an_attempt_that_has_lost_the_folder_gives_no_name() {
    let folder = tempfile::tempdir().unwrap();
    save_one(folder.path(), 1, KEEP);
    let mine = Fence::take(folder.path(), 7, 1).unwrap();
    let place = Place::new(folder.path(), 2, &mine);
    let optimizer = Optimizer::new(rule(), whole());
    let shard = Shard::take((0, 1), &parameters(), &[0.0; LENGTH], &optimizer, &whole());
    place.write_shard(0, &shard).unwrap();
    let later = Fence::take(folder.path(), 8, 2).unwrap();
    assert!(Fence::is_shared(folder.path(), 2) && !Fence::is_shared(folder.path(), 1));
    // Whether before the list or just before the name, nothing of it appears.
    assert!(place.publish(&state(2), 1, KEEP).is_err());
    place.write_shard(0, &shard).unwrap();
    let error = place.publish(&state(2), 1, KEEP).unwrap_err().to_string();
    assert!(error.contains("token 8 has it, this one has 7"), "{error}");
    assert!(Fence::take(folder.path(), 7, 3).is_err());
    drop(later);
    assert!(
        names(folder.path()).contains(&"step-1".to_owned()) && !names(folder.path()).contains(&"step-2".to_owned())
    );
}

#[test]
fn any_damaged_byte_is_refused_with_the_files_name() {
    let folder = tempfile::tempdir().unwrap();
    save_one(folder.path(), 1, 3);
    let whole = folder.path().join("step-1");
    for name in FILES {
        let path = whole.join(name);
        let good = fs::read(&path).unwrap();
        let mut damages = vec![good[..good.len() / 2].to_vec(), Vec::new(), [good.as_slice(), b"x"].concat()];
        // A sample of single flipped bits over the whole file.
        for at in (0..good.len()).step_by(good.len() / 40 + 1) {
            let mut flipped = good.clone();
            flipped[at] ^= 1;
            damages.push(flipped);
        }
        for damaged in damages {
            fs::write(&path, &damaged).unwrap();
            match load_one(&whole) {
                // A changed blank or hash in the manifest shows as another file not being as listed.
                Err(Error::Checkpoint { path: refused, .. }) => assert!(refused == path || name == MANIFEST),
                // The manifest is text: a flipped bit in a blank can leave its meaning as it was.
                Ok(_) if name == MANIFEST => {}
                other => panic!("{name}: {:?}", other.map(|loaded| loaded.0.state)),
            }
        }
        fs::remove_file(&path).unwrap();
        let error = load_one(&whole).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        fs::write(&path, &good).unwrap();
    }
    load_one(&whole).unwrap();
}

#[test]
fn a_checkpoint_of_another_training_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    save_one(folder.path(), 1, 3);
    let from = folder.path().join("step-1");
    let load_with = |course, data, parameters: &[Placed]| {
        let (course, data) = (ContentHash([course; 32]), ContentHash([data; 32]));
        let wanted = Wanted { course, data, parameters, length: LENGTH };
        load(&from, &wanted, &mut Optimizer::new(rule(), whole())).unwrap_err().to_string()
    };
    assert!(load_with(9, 2, &parameters()).contains("another configuration"));
    assert!(load_with(1, 9, &parameters()).contains("other samples"));
    let mut other = parameters();
    other[0].shape = vec![2, 3];
    assert!(load_with(1, 2, &other).contains("layers.0.weight has shape [3, 2]"));
    other[0].name = "layers.7.weight".to_owned();
    assert!(load_with(1, 2, &other).contains("lacks layers.7.weight"));
}

#[test]
fn only_the_newest_are_kept_and_nothing_half_written_stays() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(".step-7.3.tmp")).unwrap();
    fs::write(folder.path().join("notes"), "mine").unwrap();
    for step in [9, 10, 100] {
        save_one(folder.path(), step, 2);
    }
    assert_eq!(names(folder.path()), [".attempt.json", "notes", "step-10", "step-100"]);
    // Written again, as after a restart from an older one.
    save_one(folder.path(), 100, 2);
    assert_eq!(names(&folder.path().join("step-100")), FILES);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_that_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let not_a_folder = folder.path().join("file");
    fs::write(&not_a_folder, "").unwrap();
    assert!(matches!(Fence::take(&not_a_folder, 1, 1), Err(Error::Io { .. })));
    assert_eq!(names(folder.path()), ["file"]);
}
