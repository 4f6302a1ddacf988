//! A copy of one rank's part of the parameters and of the optimizer's memory, taken between two steps.

use std::ops::Range;

use crate::error::Error;
use crate::model::Placed;
use crate::optimizer::Optimizer;
use crate::tensors::{self, Entry};

/// What one rank writes. To take it is a copy in memory; all else happens later.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shard {
    /// From 0, and how many there are.
    number: (u32, u32),
    model: Vec<Entry>,
    memory: Vec<Entry>,
}

impl Shard {
    /// Takes the `ranges` of all values, and of the optimizer's memory, which holds at least these.
    pub(crate) fn take(
        number: (u32, u32),
        parameters: &[Placed],
        values: &[f32],
        optimizer: &Optimizer,
        ranges: &[Range<usize>],
    ) -> Self {
        let mut model = Vec::new();
        runs(parameters, ranges, |parameter, place| model.push(entry(parameter, "", &values[place.clone()], place)));
        let mut memory = Vec::new();
        for slot in &optimizer.slots {
            let suffix = format!(".{}", slot.name);
            runs(parameters, ranges, |parameter, place| {
                if let Some(start) = held(optimizer.owned(), place.start) {
                    memory.push(entry(parameter, &suffix, &slot.values[start..start + place.len()], place));
                }
            });
        }
        Shard { number, model, memory }
    }

    /// The files of this part with their contents.
    pub(crate) fn files(&self) -> Result<[(String, Vec<u8>); 2], Error> {
        let name = |kind: &str| match self.number {
            (_, 1) => format!("{kind}.safetensors"),
            (at, of) => format!("{kind}-{}-of-{of}.safetensors", at + 1),
        };
        Ok([(name("model"), tensors::to_bytes(&self.model)?), (name("optimizer"), tensors::to_bytes(&self.memory)?)])
    }
}

/// Calls `each` with every run of a parameter's values that lies in one of the ranges.
fn runs<'a>(parameters: &'a [Placed], ranges: &[Range<usize>], mut each: impl FnMut(&'a Placed, Range<usize>)) {
    for parameter in parameters {
        for range in ranges {
            let place = parameter.place.start.max(range.start)..parameter.place.end.min(range.end);
            if !place.is_empty() {
                each(parameter, place);
            }
        }
    }
}

/// Where the memory of a value lies.
fn held(owned: &[Range<usize>], value: usize) -> Option<usize> {
    let mut start = 0;
    for range in owned {
        if range.contains(&value) {
            return Some(start + value - range.start);
        }
        start += range.len();
    }
    None
}

fn entry(parameter: &Placed, suffix: &str, values: &[f32], place: Range<usize>) -> Entry {
    let name = format!("{}{suffix}", parameter.name);
    if place == parameter.place {
        return Entry::new(name, parameter.shape.clone(), values);
    }
    let first = place.start - parameter.place.start;
    Entry::new(format!("{name}@{first}"), vec![values.len()], values)
}
