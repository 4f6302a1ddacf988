//! What is wrong with a file that was read: every fault with its line, in the order of the file.

use std::fmt;

/// One fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// 1-based line; 0 when the fault is of the whole file.
    pub line: usize,
    /// What is wrong, with the value.
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { f.write_str(&self.text) } else { write!(f, "{}: {}", self.line, self.text) }
    }
}

/// All faults of a file: never empty when it is an error.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            write!(f, "{}{fault}", if index > 0 { "\n" } else { "" })?;
        }
        Ok(())
    }
}

impl Faults {
    /// Notes a fault of one line.
    pub fn at(&mut self, line: usize, text: impl Into<String>) {
        self.0.push(Fault { line, text: text.into() });
    }

    /// Itself as an error, or `value` when nothing was wrong.
    pub fn or<T>(self, value: T) -> Result<T, Faults> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}
