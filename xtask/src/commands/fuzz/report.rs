//! What libFuzzer said of one target, and the table of all.

/// What one target came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) target: String,
    runs: u64,
    runs_per_second: u64,
    /// Branches that were reached.
    coverage: u64,
    /// Branches by how often, and values that were compared.
    features: u64,
    /// Inputs that each reach something of their own.
    corpus: u64,
    pub(super) fault: Option<Fault>,
}

/// An input that brought it down, or why it did not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) what: String,
    /// Where the input is kept.
    input: Option<String>,
}

impl Outcome {
    /// Out of all that libFuzzer wrote.
    pub(super) fn read(target: &str, is_success: bool, said: &str) -> Self {
        let mut outcome = Self { target: target.to_owned(), ..Self::default() };
        for line in said.lines() {
            if let Some(statistic) = line.strip_prefix("stat::") {
                let (name, value) = statistic.split_once(':').unwrap_or_default();
                let value = value.trim().parse().unwrap_or(0);
                match name {
                    "number_of_executed_units" => outcome.runs = value,
                    "average_exec_per_sec" => outcome.runs_per_second = value,
                    _ => {}
                }
            } else if line.starts_with('#') {
                let after = |name| number_after(line, name);
                outcome.coverage = after(" cov: ").unwrap_or(outcome.coverage);
                outcome.features = after(" ft: ").unwrap_or(outcome.features);
                outcome.corpus = after(" corp: ").unwrap_or(outcome.corpus);
            }
        }
        outcome.fault = (!is_success).then(|| Fault::read(said));
        outcome
    }

    fn row(&self) -> [String; 6] {
        let numbers = [self.runs, self.runs_per_second, self.coverage, self.features, self.corpus];
        let [runs, per_second, coverage, features, corpus] = numbers.map(|number| number.to_string());
        [self.target.clone(), runs, per_second, coverage, features, corpus]
    }
}

impl Fault {
    fn read(said: &str) -> Self {
        let mut lines = said.lines();
        let mut what = None;
        while let Some(line) = lines.next() {
            if line.contains("panicked at ") {
                what = Some(format!("{} {}", line.trim(), lines.next().unwrap_or_default().trim()));
            } else if line.contains("ERROR: libFuzzer:") {
                what = what.or_else(|| Some(line.trim().to_owned()));
            }
        }
        let last = said.lines().last().unwrap_or("it said nothing");
        let input = said.lines().find_map(|line| Some(line.split_once("Test unit written to ")?.1.trim().to_owned()));
        Self { what: what.unwrap_or_else(|| format!("it does not run: {last}")), input }
    }
}

fn number_after(line: &str, name: &str) -> Option<u64> {
    let (_, rest) = line.split_once(name)?;
    rest.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}

/// A line for each target, then each fault with the command that shows it again.
pub(super) fn print(outcomes: &[Outcome], seconds: u64) {
    println!(
        "\n{:<12} {:>10} {:>8} {:>9} {:>9} {:>7}  faults",
        "target", "runs", "runs/s", "branches", "features", "corpus"
    );
    for outcome in outcomes {
        let [target, runs, per_second, coverage, features, corpus] = outcome.row();
        let faults = u8::from(outcome.fault.is_some());
        println!("{target:<12} {runs:>10} {per_second:>8} {coverage:>9} {features:>9} {corpus:>7}  {faults:>6}");
    }
    let runs: u64 = outcomes.iter().map(|outcome| outcome.runs).sum();
    println!("{} targets, {seconds} s each, {runs} runs", outcomes.len());
    for (target, fault) in outcomes.iter().filter_map(|outcome| Some((&outcome.target, outcome.fault.as_ref()?))) {
        println!("\n{target}: {}", fault.what);
        if let Some(input) = &fault.input {
            println!("  again: cargo xtask fuzz {target} --replay {input}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "INFO: Running with entropic power schedule (0xFF, 100).\n\
        #2\tINITED cov: 10 ft: 11 corp: 1/1b exec/s: 0 rss: 30Mb\n\
        #524288\tpulse  cov: 120 ft: 345 corp: 67/3141b lim: 4096 exec/s: 87381 rss: 60Mb\n\
        Done 600000 runs in 7 second(s)\n\
        stat::number_of_executed_units: 600000\n\
        stat::average_exec_per_sec:     85714\n";

    #[test]
    fn what_was_done_is_read() {
        let outcome = Outcome::read("job-file", true, CLEAN);
        assert_eq!(outcome.row(), ["job-file", "600000", "85714", "120", "345", "67"]);
        assert_eq!(outcome.fault, None);
    }

    #[test]
    fn a_fault_is_told_with_its_input() {
        let said = "thread '<unnamed>' (7) panicked at fuzz/src/wire.rs:3:9:\nnot the same\nnote: run with\n\
            ==7== ERROR: libFuzzer: deadly signal\n\
            artifact_prefix='/w/'; Test unit written to /w/crash-0a\n";
        let fault = Outcome::read("call", false, said).fault;
        let what = "thread '<unnamed>' (7) panicked at fuzz/src/wire.rs:3:9: not the same".to_owned();
        assert_eq!(fault, Some(Fault { what, input: Some("/w/crash-0a".to_owned()) }));
    }

    #[test]
    fn a_program_that_does_not_run_is_a_fault() {
        let fault = Outcome::read("call", false, "error while loading shared libraries").fault;
        assert_eq!(fault.map(|fault| fault.what), Some("it does not run: error while loading shared libraries".into()));
        assert!(Outcome::read("call", false, "ERROR: libFuzzer: timeout after 5 seconds\n").fault.is_some());
    }
}
