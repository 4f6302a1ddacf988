//! No input makes the parser panic, hang or refuse without a place: arbitrary bytes, YAML-like text, damaged good files.
#![allow(clippy::unwrap_used)]

use job_spec::{Faults, expand, parse, parse_bytes};
use proptest::prelude::*;

fn check(faults: &Faults, bytes: &[u8]) -> Result<(), TestCaseError> {
    prop_assert!(!faults.0.is_empty());
    // One more line than breaks, and one for an error reported at the end.
    let lines = bytes.iter().filter(|b| matches!(**b, b'\n' | b'\r')).count() + 2;
    for fault in &faults.0 {
        prop_assert!(fault.line >= 1 && fault.line <= lines && fault.column >= 1, "{}", fault);
        prop_assert!(!fault.message.is_empty() && !fault.to_string().contains('\n'), "{}", fault);
    }
    prop_assert!(faults.0.windows(2).all(|pair| pair[0].line <= pair[1].line));
    Ok(())
}

fn checked(bytes: &[u8]) -> Result<(), TestCaseError> {
    match parse_bytes(bytes, "f") {
        Err(faults) => check(&faults, bytes),
        Ok(draft) => {
            // What was accepted can be expanded, whatever its values are.
            let value = |_, name: &str| Some(name.to_owned());
            prop_assert!(expand(&draft.spec.command, &value).is_ok());
            for text in draft.spec.environment_variables.values() {
                prop_assert!(expand(text, &value).is_ok());
            }
            prop_assert!(!draft.spec.command.trim().is_empty() && draft.spec.gang.world_size() >= 1);
            Ok(())
        }
    }
}

const WORDS: [&str; 45] = [
    "command",
    "code",
    "inputs",
    "outputs",
    "resources",
    "instance_count",
    "distribution",
    "type",
    "pytorch",
    "mpi",
    "tensorflow",
    "worker_count",
    "limits",
    "timeout",
    "x-muster",
    "memory_per_rank",
    "4GiB",
    "spread",
    "away_from",
    "true",
    "yes",
    "null",
    "~",
    "1",
    "-1",
    "99999999999999999999",
    "1.5",
    "${{inputs.a}}",
    "${{",
    "}}",
    ": ",
    ":",
    "- ",
    "\n",
    "\n  ",
    "\n    ",
    "{",
    "}",
    "[",
    "]",
    ", ",
    "&a ",
    "*a",
    "<<: ",
    "|\n",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        checked(&bytes)?;
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,120}") {
        checked(text.as_bytes())?;
    }

    #[test]
    fn yaml_like_text_never_panics(words in proptest::collection::vec(proptest::sample::select(WORDS.to_vec()), 0..40)) {
        checked(words.concat().as_bytes())?;
    }

    #[test]
    fn damaged_files_never_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0_usize..8, any::<u8>()), 1..6),
    ) {
        let mut bytes = include_bytes!("files/full.yml").to_vec();
        for (at, cut, byte) in edits {
            let at = at.index(bytes.len());
            let end = (at + cut).min(bytes.len());
            bytes.splice(at..end, [byte]);
        }
        checked(&bytes)?;
    }

    #[test]
    fn a_literal_is_kept_as_written(text in "[a-zA-Z0-9 _./-]{1,40}") {
        let yaml = format!("command: run\ninputs: {{a: '{text}'}}");
        let draft = parse(&yaml, "f").unwrap();
        prop_assert_eq!(&draft.spec.inputs["a"], &types::Input::Literal(text));
    }
}
