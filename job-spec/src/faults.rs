//! Faults of a job file: each says where, what, and if possible what was meant; all of one file are reported together.

use std::fmt;

/// Most faults reported for one file: more help no one.
const FAULTS_MAX: usize = 100;

/// A place in a job file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    /// 1-based.
    pub(crate) line: usize,
    /// 1-based, in characters.
    pub(crate) column: usize,
}

impl Mark {
    /// The first character of the file.
    pub(crate) const START: Mark = Mark { line: 1, column: 1 };
}

/// One thing wrong in a job file (or, among warnings, one thing without effect). Sorts by place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// Name of the job file.
    pub file: String,
    /// 1-based line.
    pub line: usize,
    /// 1-based column in characters.
    pub column: usize,
    /// The field (`resources.instance_count`); empty when the file as a whole is meant.
    pub path: String,
    /// What is wrong: lower case, one line, no full stop.
    pub message: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.suggestion {
            Some(suggestion) => write!(f, "; did you mean {suggestion:?}?"),
            None => Ok(()),
        }
    }
}

/// All faults of one job file, in the order of the file; never empty. Shown one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Collects the faults and warnings of one file while it is read.
#[derive(Debug)]
pub(crate) struct Report {
    file: String,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
    omitted: usize,
}

impl Report {
    pub(crate) fn new(file: &str) -> Self {
        Self { file: file.to_owned(), faults: Vec::new(), warnings: Vec::new(), omitted: 0 }
    }

    /// Notes a fault.
    pub(crate) fn fault(&mut self, mark: Mark, path: &str, message: impl Into<String>) {
        self.fault_with(mark, path, message, None);
    }

    /// Notes a fault and what was probably meant.
    pub(crate) fn fault_with(&mut self, mark: Mark, path: &str, message: impl Into<String>, meant: Option<String>) {
        if self.faults.len() < FAULTS_MAX {
            let fault = self.note(mark, path, message.into(), meant);
            self.faults.push(fault);
        } else {
            self.omitted += 1;
        }
    }

    /// Notes something that is accepted but has no effect or may surprise.
    pub(crate) fn warn(&mut self, mark: Mark, path: &str, message: impl Into<String>) {
        if self.warnings.len() < FAULTS_MAX {
            let warning = self.note(mark, path, message.into(), None);
            self.warnings.push(warning);
        }
    }

    /// True when no fault was noted.
    pub(crate) fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// All faults in file order; call only when there are some.
    pub(crate) fn into_faults(mut self) -> Faults {
        self.faults.sort();
        if self.omitted > 0 {
            let place = self.faults.last().map_or(Mark::START, |f| Mark { line: f.line, column: f.column });
            let rest = self.note(place, "", format!("and {} more faults", self.omitted), None);
            self.faults.push(rest);
        }
        Faults(self.faults)
    }

    /// All warnings in file order.
    pub(crate) fn into_warnings(mut self) -> Vec<Fault> {
        self.warnings.sort();
        self.warnings
    }

    fn note(&self, mark: Mark, path: &str, message: String, suggestion: Option<String>) -> Fault {
        let file = self.file.clone();
        Fault { file, line: mark.line, column: mark.column, path: path.to_owned(), message, suggestion }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_as_file_line_column_path_message_suggestion() {
        let mut report = Report::new("job.yml");
        let mark = Mark { line: 7, column: 3 };
        report.fault_with(mark, "resources.instance_cout", "unknown field", Some("instance_count".into()));
        report.fault(Mark { line: 2, column: 1 }, "", "the file is empty");
        let text = report.into_faults().to_string();
        let expected = "job.yml:2:1: the file is empty\n\
                        job.yml:7:3: resources.instance_cout: unknown field; did you mean \"instance_count\"?";
        assert_eq!(text, expected);
    }

    #[test]
    fn faults_past_the_bound_are_counted() {
        let mut report = Report::new("job.yml");
        for line in 1..=FAULTS_MAX + 5 {
            report.fault(Mark { line, column: 1 }, "", "wrong");
        }
        let faults = report.into_faults();
        assert_eq!(faults.0.len(), FAULTS_MAX + 1);
        assert!(faults.to_string().ends_with("and 5 more faults"));
    }
}
