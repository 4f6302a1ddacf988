//! What people read while a rank trains: whole lines on standard output, each flushed, from rank 0.

use std::io::Write;

/// Writer of progress lines. A closed output is no reason to stop training, so errors are passed over.
pub(crate) struct Progress {
    out: Box<dyn Write + Send>,
    rank: u32,
}

impl Progress {
    pub(crate) fn new(rank: u32, out: Box<dyn Write + Send>) -> Self {
        Progress { out, rank }
    }

    /// Says something once for all ranks.
    pub(crate) fn line(&mut self, text: &str) {
        if self.rank == 0 {
            self.each(text);
        }
    }

    /// Says something of this rank.
    pub(crate) fn each(&mut self, text: &str) {
        let _ = self.out.write_all(format!("{text}\n").as_bytes()).and_then(|()| self.out.flush());
    }
}

/// A whole number with commas between thousands.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 rank`, `2 ranks`.
pub(crate) fn counted(number: u64, word: &str) -> String {
    format!("{} {word}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_parted() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
