//! A text as samples: runs of tokens, of which each next one is to be told from those before it.
//!
//! The test part is the end of the text, so that no test token was seen in a training sample.

use std::path::Path;
use std::sync::Arc;

use super::{Dataset, Part, Transform, VALUES_MAX, fault, hash};
use crate::config::Tokens;
use crate::error::Error;
use crate::files;
use crate::model::Task;

/// More different characters make no small model.
const CHARACTERS_MAX: usize = 65_536;

/// Between text and token numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Vocabulary {
    /// In the order of their code.
    Characters(Vec<char>),
    Bytes,
}

impl Vocabulary {
    fn of(text: &str) -> Self {
        let set: std::collections::BTreeSet<char> = text.chars().collect();
        Vocabulary::Characters(set.into_iter().collect())
    }

    fn len(&self) -> usize {
        match self {
            Vocabulary::Characters(list) => list.len(),
            Vocabulary::Bytes => 256,
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Vocabulary::Characters(list) => list.iter().map(char::to_string).collect(),
            Vocabulary::Bytes => (0..256).map(|byte| format!("{byte:#04x}")).collect(),
        }
    }

    /// Token numbers of a text, or the first character that it has no number for.
    pub(crate) fn encode(&self, text: &str) -> Result<Vec<u32>, char> {
        match self {
            Vocabulary::Characters(list) => {
                text.chars().map(|one| list.binary_search(&one).map(|at| at as u32).map_err(|_| one)).collect()
            }
            Vocabulary::Bytes => Ok(text.bytes().map(u32::from).collect()),
        }
    }

    /// The text of token numbers; bytes that are no characters become replacement characters.
    pub(crate) fn decode(&self, tokens: &[u32]) -> String {
        match self {
            Vocabulary::Characters(list) => tokens.iter().filter_map(|at| list.get(*at as usize)).collect(),
            Vocabulary::Bytes => {
                let bytes: Vec<u8> = tokens.iter().map(|byte| *byte as u8).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
        }
    }
}

pub(super) fn load(
    name: String,
    path: &Path,
    tokens: Tokens,
    context: usize,
    test_fraction: f64,
) -> Result<Dataset, Error> {
    let place = path.display().to_string();
    let bytes = files::read_bounded(path, VALUES_MAX as u64 / 2)?;
    let (vocabulary, numbers) = match tokens {
        Tokens::Bytes => (Vocabulary::Bytes, bytes.iter().map(|byte| u32::from(*byte)).collect()),
        Tokens::Characters => {
            let text = String::from_utf8(bytes).map_err(|error| {
                let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
                let line = good.split(|byte| *byte == b'\n').count();
                fault(&place, Some(line), "is not UTF-8 text here: set data.tokens to bytes")
            })?;
            let vocabulary = Vocabulary::of(&text);
            let numbers = vocabulary.encode(&text).unwrap_or_default();
            (vocabulary, numbers)
        }
    };
    if vocabulary.len() > CHARACTERS_MAX {
        let message = format!("has {} different characters: set data.tokens to bytes", vocabulary.len());
        return Err(fault(&place, None, message));
    }
    let samples = numbers.len().saturating_sub(1) / context;
    let tests = (samples as f64 * test_fraction).round() as usize;
    if vocabulary.len() < 2 || tests == 0 || tests + 2 > samples {
        let count = numbers.len();
        let message = format!("{count} tokens make {samples} samples of {context} and leave {tests} for testing");
        return Err(fault(&place, None, message));
    }
    let cut = |from: usize, to: usize, slack: usize| Part {
        features: numbers[from * context..to * context].iter().map(|token| *token as f32).collect(),
        width: context,
        labels: numbers[from * context + 1..=to * context].to_vec(),
        positions: context,
        slack,
    };
    // One sample fewer, so that in each epoch the others can begin elsewhere: a model that sees the same runs again and again
    // learns them by their places.
    let (train, test) = (cut(0, samples - tests, context), cut(samples - tests, samples, 0));
    let classes = vocabulary.names();
    let transform = Transform { scale: 1.0, mean: Vec::new(), deviation: Vec::new() };
    let hash = hash(&classes, &train, &test);
    let task = Task { shape: vec![context], positions: context, classes: classes.len(), tokens: true };
    let (train, test, vocabulary) = (Arc::new(train), Arc::new(test), Some(vocabulary));
    Ok(Dataset { name, task, classes, train, test, vocabulary, transform, hash })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn load_text(text: &str, tokens: Tokens) -> Result<Dataset, Error> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, text).unwrap();
        load("text".to_owned(), &path, tokens, 4, 0.25)
    }

    #[test]
    fn each_answer_is_the_token_after_it() {
        let data = load_text("abcdefghijklmnopqrstuvwxyz", Tokens::Characters).unwrap();
        // 25 pairs make 6 runs of 4: 2 for testing, 1 to move the others.
        assert_eq!((data.train.len(), data.test.len(), data.train.slack()), (3, 2, 4));
        for offset in 0..=4 {
            let batch = data.train.gather_moved([2, 0].into_iter(), offset);
            let first = [8 + offset, offset].map(|at| at as f32);
            assert_eq!((batch.features[0], batch.features[4]), (first[0], first[1]));
            assert!(batch.features.iter().zip(&batch.labels).all(|(token, next)| *token as u32 + 1 == *next));
            assert!(batch.labels.iter().all(|next| *next <= 16), "the test part begins with token 16");
        }
        assert_eq!(data.test.gather([0].into_iter()).features, [16.0, 17.0, 18.0, 19.0]);
    }

    #[test]
    fn texts_and_tokens_are_the_same_both_ways() {
        let text = "zaöz €a";
        for tokens in [Tokens::Characters, Tokens::Bytes] {
            let data = load_text(&text.repeat(9), tokens).unwrap();
            let vocabulary = data.vocabulary.as_ref().unwrap();
            let numbers = vocabulary.encode(text).unwrap();
            assert!(numbers.iter().all(|number| (*number as usize) < data.task.classes));
            assert_eq!(vocabulary.decode(&numbers), text);
        }
        assert_eq!(load_text(&text.repeat(9), Tokens::Characters).unwrap().vocabulary.unwrap().encode("aq"), Err('q'));
    }

    #[test]
    fn too_short_a_text_is_said_so() {
        let error = load_text("abcdefgh", Tokens::Characters).unwrap_err().to_string();
        assert!(error.contains("8 tokens make 1 samples of 4 and leave 0 for testing"), "{error}");
    }
}
