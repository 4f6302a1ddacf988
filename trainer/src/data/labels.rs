//! Class labels as they come, and their numbering: by value where all are whole numbers, else by text.

use std::collections::BTreeMap;

/// A classifier of more classes wants another kind of model.
const CLASSES_MAX: usize = 10_000;

/// Labels in sample order; every different text is kept once.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    index: BTreeMap<String, u32>,
    ids: Vec<u32>,
}

impl Labels {
    /// Adds the label of the next sample; the error says why it cannot be one.
    pub(crate) fn push(&mut self, text: &str) -> Result<(), String> {
        if let Some(id) = self.index.get(text) {
            self.ids.push(*id);
            return Ok(());
        }
        if text.is_empty() {
            return Err("the label is empty".to_owned());
        }
        let id = self.index.len();
        if id == CLASSES_MAX {
            return Err(format!("more than {CLASSES_MAX} different labels: is this the label column?"));
        }
        self.index.insert(text.to_owned(), id as u32);
        self.ids.push(id as u32);
        Ok(())
    }

    /// Number of samples so far.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Labels as class numbers, and the classes' names.
    pub(crate) fn finish(self) -> (Vec<u32>, Vec<String>) {
        let mut names: Vec<(String, u32)> = self.index.into_iter().collect();
        let numbers: Option<Vec<i64>> = names.iter().map(|(name, _)| name.parse().ok()).collect();
        if numbers.is_some() {
            names.sort_by_key(|(name, _)| name.parse::<i64>().unwrap_or_default());
        }
        let mut class = vec![0; names.len()];
        for (at, (_, id)) in names.iter().enumerate() {
            class[*id as usize] = at as u32;
        }
        let labels = self.ids.iter().map(|id| class[*id as usize]).collect();
        (labels, names.into_iter().map(|(name, _)| name).collect())
    }
}
