//! Models as the configuration has them: their sizes, names and first values.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::buckets::Cut;
use crate::config::Config;

fn task(shape: &[usize], tokens: bool) -> Task {
    let positions = if tokens { shape[0] } else { 1 };
    Task { shape: shape.to_vec(), positions, classes: 10, tokens }
}

fn network(model: &str, task: Task, seed: u64) -> Network {
    let text = if task.tokens { "data: {source: text, path: a}\n" } else { "" };
    let config = Config::parse("t", &format!("{text}model: {model}"), &[]).unwrap();
    let mut network = Network::new(&*built_in(&config.model), task).unwrap();
    let layout = Layout::new(&network.unit_lengths(), Cut { first_bytes: 64, bytes: 1 << 12, parts: 1 });
    network.begin(&layout, seed);
    network
}

fn names(network: &Network) -> Vec<(String, Vec<usize>)> {
    network.parameters().into_iter().map(|placed| (placed.name, placed.shape)).collect()
}

#[test]
fn parameters_are_named_and_placed_once() {
    let mlp = network("{hidden: [8, 4]}", task(&[5], false), 1);
    let names_of_mlp: Vec<String> = names(&mlp).into_iter().map(|(name, shape)| format!("{name} {shape:?}")).collect();
    let wanted = [
        "layers.0.weight [8, 5]",
        "layers.0.bias [8]",
        "layers.1.weight [4, 8]",
        "layers.1.bias [4]",
        "layers.2.weight [10, 4]",
        "layers.2.bias [10]",
    ];
    assert_eq!(names_of_mlp, wanted);
    let conv = network("{kind: conv, channels: [4, 6], hidden: []}", task(&[3, 8, 9], false), 1);
    assert_eq!(names(&conv)[0], ("blocks.0.weight".to_owned(), vec![4, 3, 3, 3]));
    assert_eq!(names(&conv)[4], ("layers.0.weight".to_owned(), vec![10, 2 * 2 * 6]));
    let gpt = network("{layers: 2, heads: 2, width: 8}", task(&[7], true), 1);
    assert!(names(&gpt).contains(&("blocks.1.attention.query_key_value.weight".to_owned(), vec![24, 8])));
    for network in [mlp, conv, gpt] {
        let mut taken = vec![0; network.values.len()];
        for placed in network.parameters() {
            assert_eq!(placed.place.len(), placed.shape.iter().product::<usize>());
            taken[placed.place].iter_mut().for_each(|count| *count += 1);
        }
        assert!(taken.iter().all(|count| *count == 1));
    }
}

#[test]
fn the_same_seed_gives_the_same_model() {
    let values = |seed| network("{hidden: [4]}", task(&[3], false), seed).values;
    assert_eq!(values(1), values(1));
    assert_ne!(values(1), values(2));
    let biases = network("{hidden: [4]}", task(&[3], false), 1);
    for placed in biases.parameters().iter().filter(|placed| placed.name.ends_with("bias")) {
        assert!(biases.values[placed.place.clone()].iter().all(|value| *value == 0.0));
    }
}

#[test]
fn small_images_are_not_pooled_to_nothing() {
    let conv = network("{kind: conv, channels: [2, 2, 2, 2], hidden: []}", task(&[5, 4], false), 1);
    assert_eq!(names(&conv).last().unwrap().1, [10]);
}

/// TRAIN-2: what a batch gives does not depend on the batch before it, nor a sample's logits on those beside it.
#[test]
fn passes_leave_nothing_behind() {
    struct Sums(Vec<Vec<f32>>);
    impl Gradients for Sums {
        fn of(&mut self, unit: usize) -> &mut [f32] {
            &mut self.0[unit]
        }
        fn complete(&mut self, _unit: usize) -> Result<(), Error> {
            Ok(())
        }
    }
    for (model, shape, tokens) in
        [("{hidden: [9]}", vec![12], false), ("{kind: conv}", vec![6, 7], false), ("{layers: 1}", vec![6], true)]
    {
        let task = task(&shape, tokens);
        let (inputs, positions) = (task.inputs(), task.positions);
        let batch = |count: usize, from: usize| Batch {
            count,
            features: (0..count * inputs).map(|at| ((at + from) * 7 % 10) as f32).collect(),
            labels: (0..count * positions).map(|at| ((at + from) * 3 % 10) as u32).collect(),
        };
        let run = |network: &mut Network, batch: &Batch| {
            let mut sums = Sums(network.unit_lengths().iter().map(|length| vec![0.0; *length]).collect());
            let loss = network.learn(batch, 0.5, &mut sums).unwrap();
            (loss, sums.0)
        };
        let mut fresh = network(model, task.clone(), 1);
        let expected = run(&mut fresh, &batch(3, 0));
        let mut used = network(model, task.clone(), 1);
        run(&mut used, &batch(8, 5));
        used.look(&batch(2, 1));
        assert_eq!(run(&mut used, &batch(3, 0)), expected, "{model}");
        assert!(expected.1.iter().filter(|sums| !sums.is_empty()).all(|sums| sums.iter().any(|sum| *sum != 0.0)));
    }
}
