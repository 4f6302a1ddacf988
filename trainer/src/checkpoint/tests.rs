//! A checkpoint comes back whole or is refused with the name of the file that is wrong.

use super::*;
use crate::config;

const SHAPES: [(&str, &[usize]); 2] = [("layers.0.weight", &[3, 2]), ("layers.0.bias", &[3])];

fn parameters() -> Vec<(String, Vec<usize>)> {
    SHAPES.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
}

fn fresh_optimizer() -> Optimizer {
    let rule =
        config::Optimizer::AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
    Optimizer::new(rule, &[6, 3])
}

fn state(step: u64) -> State {
    State {
        format: FORMAT,
        step,
        updates: step,
        position: Position { epoch: 1, batch: 2 },
        random: RandomState { seed: u64::MAX, shuffle: 1 },
        epoch_so_far: EpochSoFar { loss_bits: 0.1_f64.to_bits(), samples: 7 },
        course: ContentHash([1; 32]),
        data: ContentHash([2; 32]),
        world_size: 4,
    }
}

fn save_one(folder: &Path, step: u64, keep: u64) -> (Optimizer, Vec<Vec<f32>>) {
    let mut optimizer = fresh_optimizer();
    let mut values = vec![vec![0.1, -2.0, 3.0, f32::MIN_POSITIVE, -0.0, 1e30], vec![1.0, 2.0, 3.0]];
    let gradients = values.clone();
    optimizer.update(&mut values, &gradients, 0.01);
    optimizer.updates = step;
    let (state, parameters) = (state(step), parameters());
    let snapshot = Snapshot { state: &state, parameters: &parameters, values: &values, optimizer: &optimizer };
    assert_eq!(save(folder, &snapshot, keep).unwrap(), format!("step-{step}"));
    (optimizer, values)
}

fn load_one(folder: &Path) -> Result<(State, Vec<Vec<f32>>, Optimizer), Error> {
    let mut optimizer = fresh_optimizer();
    let parameters = parameters();
    let wanted = Wanted { course: ContentHash([1; 32]), data: ContentHash([2; 32]), parameters: &parameters };
    load(folder, &wanted, &mut optimizer).map(|(state, values)| (state, values, optimizer))
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn bits(lists: &[Vec<f32>]) -> Vec<Vec<u32>> {
    lists.iter().map(|list| list.iter().map(|value| value.to_bits()).collect()).collect()
}

#[test]
fn everything_comes_back_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let (optimizer, values) = save_one(folder.path(), 12, 3);
    let (loaded, loaded_values, loaded_optimizer) = load_one(&folder.path().join("step-12")).unwrap();
    assert_eq!((loaded, bits(&loaded_values)), (state(12), bits(&values)));
    assert_eq!(loaded_optimizer.updates, 12);
    for (loaded, saved) in loaded_optimizer.slots.iter().zip(&optimizer.slots) {
        assert_eq!(bits(&loaded.values), bits(&saved.values));
    }
}

#[test]
fn any_damaged_byte_is_refused_with_the_files_name() {
    let folder = tempfile::tempdir().unwrap();
    save_one(folder.path(), 1, 3);
    let whole = folder.path().join("step-1");
    for name in [MODEL, OPTIMIZER, STATE, MANIFEST] {
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
                other => panic!("{name}: {:?}", other.map(|loaded| loaded.0)),
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
    let whole = folder.path().join("step-1");
    let load_with = |course, data, parameters: &[(String, Vec<usize>)]| {
        let wanted = Wanted { course: ContentHash([course; 32]), data: ContentHash([data; 32]), parameters };
        load(&whole, &wanted, &mut fresh_optimizer()).unwrap_err().to_string()
    };
    assert!(load_with(9, 2, &parameters()).contains("another configuration"));
    assert!(load_with(1, 9, &parameters()).contains("other samples"));
    let mut other = parameters();
    other[0].1 = vec![2, 3];
    assert!(load_with(1, 2, &other).contains("layers.0.weight has shape [3, 2]"));
    other[0].0 = "layers.7.weight".to_owned();
    assert!(load_with(1, 2, &other).contains("lacks layers.7.weight"));
}

#[test]
fn only_the_newest_are_kept_and_nothing_half_written_stays() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(".step-7.tmp")).unwrap();
    fs::write(folder.path().join("notes"), "mine").unwrap();
    remove_half_written(folder.path()).unwrap();
    for step in [9, 10, 100] {
        save_one(folder.path(), step, 2);
    }
    assert_eq!(names(folder.path()), ["notes", "step-10", "step-100"]);
    // Written again, as after a restart from an older one.
    save_one(folder.path(), 100, 2);
    assert_eq!(names(&folder.path().join("step-100")), [MANIFEST, MODEL, OPTIMIZER, STATE]);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_that_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let not_a_folder = folder.path().join("file");
    fs::write(&not_a_folder, "").unwrap();
    let (state, parameters, optimizer) = (state(1), parameters(), fresh_optimizer());
    let values = vec![vec![0.0; 6], vec![0.0; 3]];
    let snapshot = Snapshot { state: &state, parameters: &parameters, values: &values, optimizer: &optimizer };
    assert!(matches!(save(&not_a_folder, &snapshot, 1), Err(Error::Io { .. })));
    assert_eq!(names(folder.path()), ["file"]);
}
