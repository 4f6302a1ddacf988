//! The command line of `muster train`: a configuration file and `--key value` pairs that go before it.

use std::path::PathBuf;

use crate::error::{Error, Fault};

/// What `muster train` was called with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrainArgs {
    /// The configuration file; none means all defaults, which train on the built-in digits.
    pub config: Option<PathBuf>,
    /// `key=value` with dotted keys, as in `training.epochs=5`; the last one of a key counts.
    pub overrides: Vec<String>,
}

impl TrainArgs {
    /// Reads `--config FILE`, `--key value` and `--key=value`, in any order; hyphens in keys stand for underscores.
    ///
    /// # Errors
    /// [`Error::Config`] with every argument that is neither.
    pub fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Self, Error> {
        let mut parsed = TrainArgs::default();
        let mut faults = Vec::new();
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let Some(option) = argument.strip_prefix("--").filter(|name| !name.is_empty()) else {
                faults.push(fault(&argument, "an option was expected, as --config FILE or --training.epochs 5"));
                continue;
            };
            let (key, value) = match option.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (option, arguments.next()),
            };
            match value {
                None => faults.push(fault(&argument, "the value is missing")),
                Some(value) if key == "config" => parsed.config = Some(PathBuf::from(value)),
                Some(value) => parsed.overrides.push(format!("{}={value}", key.replace('-', "_"))),
            }
        }
        if faults.is_empty() { Ok(parsed) } else { Err(Error::Config { faults }) }
    }
}

fn fault(argument: &str, message: &str) -> Fault {
    Fault { place: argument.to_owned(), line: None, field: String::new(), message: message.to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TrainArgs, Error> {
        TrainArgs::parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn both_spellings_of_a_value_are_read() {
        let parsed = parse("--config a.yml --training.epochs 5 --training.batch-size=7 --output /o").unwrap();
        assert_eq!(parsed.config, Some(PathBuf::from("a.yml")));
        assert_eq!(parsed.overrides, ["training.epochs=5", "training.batch_size=7", "output=/o"]);
    }

    #[test]
    fn every_bad_argument_is_named() {
        match parse("train.yml --x=1 -v --training.epochs") {
            Err(Error::Config { faults }) => {
                let places: Vec<_> = faults.iter().map(|fault| fault.place.as_str()).collect();
                assert_eq!(places, ["train.yml", "-v", "--training.epochs"]);
            }
            other => panic!("{other:?}"),
        }
    }
}
