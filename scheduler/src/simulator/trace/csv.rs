//! Comma-separated text with a head line: fields by the name of their column, and values with their bounds.

use super::faults::Faults;

/// A head and the lines below it. Empty lines are passed over, and so are lines that begin with `#`.
pub(crate) struct Csv<'a> {
    columns: Vec<String>,
    lines: Vec<(usize, &'a str)>,
}

/// One line's fields.
pub(crate) struct Row<'a> {
    /// 1-based.
    pub line: usize,
    columns: &'a [String],
    fields: Vec<String>,
}

impl<'a> Csv<'a> {
    /// Splits off the head.
    pub(crate) fn new(text: &'a str) -> Self {
        let is_content = |line: &&str| !line.trim().is_empty() && !line.starts_with('#');
        let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line)).filter(|(_, l)| is_content(l));
        let columns = lines.next().map_or_else(Vec::new, |(_, head)| split(head.trim_start_matches('\u{feff}')));
        Self { columns, lines: lines.collect() }
    }

    /// Is there such a column?
    pub(crate) fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|name| name == column)
    }

    /// Names of all columns, as written.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Notes each of these columns that is missing.
    pub(crate) fn require(&self, columns: &[&str], faults: &mut Faults) {
        for column in columns.iter().filter(|column| !self.has(column)) {
            faults.at(1, format!("the column `{column}` is missing"));
        }
    }

    /// The rows; those with more or fewer fields than the head are noted and left out.
    pub(crate) fn rows<'b>(&'b self, faults: &'b mut Faults) -> Vec<Row<'b>> {
        let mut rows = Vec::with_capacity(self.lines.len());
        for (line, text) in &self.lines {
            let fields = split(text);
            if fields.len() == self.columns.len() {
                rows.push(Row { line: *line, columns: &self.columns, fields });
            } else {
                faults.at(*line, format!("{} fields where the head has {}", fields.len(), self.columns.len()));
            }
        }
        rows
    }
}

impl Row<'_> {
    /// The field's text; empty when there is no such column.
    pub(crate) fn text(&self, column: &str) -> &str {
        let index = self.columns.iter().position(|name| name == column);
        index.and_then(|index| self.fields.get(index)).map_or("", String::as_str)
    }

    /// A whole number within bounds; 0 with a fault otherwise.
    pub(crate) fn number(&self, column: &str, bounds: std::ops::RangeInclusive<u64>, faults: &mut Faults) -> u64 {
        let text = self.text(column);
        match text.parse::<u64>() {
            Ok(value) if bounds.contains(&value) => value,
            _ => {
                let (low, high) = (bounds.start(), bounds.end());
                faults.at(self.line, format!("`{column}` is {text:?}, not a whole number from {low} to {high}"));
                0
            }
        }
    }

    /// As [`Row::number`], nothing when the field is empty.
    pub(crate) fn number_if(
        &self,
        column: &str,
        bounds: std::ops::RangeInclusive<u64>,
        faults: &mut Faults,
    ) -> Option<u64> {
        (!self.text(column).is_empty()).then(|| self.number(column, bounds, faults))
    }

    /// A decimal number of seconds, as a whole number of ticks; 0 with a fault otherwise.
    pub(crate) fn span(&self, column: &str, ticks_per_second: u64, faults: &mut Faults) -> u64 {
        let text = self.text(column);
        ticks(text, ticks_per_second).unwrap_or_else(|| {
            faults.at(self.line, format!("`{column}` is {text:?}, not a number of seconds from 0 to {SECONDS_MAX}"));
            0
        })
    }

    /// As [`Row::span`], nothing when the field is empty.
    pub(crate) fn span_if(&self, column: &str, ticks_per_second: u64, faults: &mut Faults) -> Option<u64> {
        (!self.text(column).is_empty()).then(|| self.span(column, ticks_per_second, faults))
    }
}

/// Longest time in a trace: 30 years. Sums of a million of them stay far from the end of 64 bits.
pub(crate) const SECONDS_MAX: u64 = 946_080_000;

/// A decimal number of seconds as ticks, rounded to the nearest; without floating point, so that no digit is lost.
pub(crate) fn ticks(text: &str, per_second: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let is_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let whole = whole.parse::<u64>().ok().filter(|whole| *whole <= SECONDS_MAX)?;
    let fraction = fraction.get(..fraction.len().min(12))?;
    let scale = 10_u128.pow(fraction.len() as u32);
    let parts = fraction.parse::<u128>().unwrap_or(0) * u128::from(per_second);
    let rounded = (2 * parts + scale) / (2 * scale);
    u64::try_from(rounded).ok().map(|part| whole * per_second + part)
}

/// Fields of one line; a field in double quotes may hold commas, and `""` for a quote.
fn split(line: &str) -> Vec<String> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut is_quoted = false;
    let mut characters = line.trim_end_matches('\r').chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(std::mem::take(&mut field).trim().to_owned()),
            other => field.push(other),
        }
    }
    fields.push(field.trim().to_owned());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_may_be_quoted() {
        assert_eq!(split("a, b ,\"c,d\",\"say \"\"x\"\"\","), ["a", "b", "c,d", "say \"x\"", ""]);
    }

    #[test]
    fn seconds_become_ticks_without_loss() {
        assert_eq!(ticks("4.709164", 1_000_000), Some(4_709_164));
        assert_eq!(ticks("4.7095", 1_000), Some(4_710));
        assert_eq!(ticks("66.0", 1_000), Some(66_000));
        assert_eq!(ticks("7", 1_000), Some(7_000));
        assert_eq!(ticks("946080000", 1_000_000), Some(946_080_000_000_000));
        for bad in ["", "-1", "1e3", "x", ".5", "946080001", "1.2.3", "99999999999999999999"] {
            assert_eq!(ticks(bad, 1_000), None, "{bad}");
        }
    }

    #[test]
    fn a_line_of_the_wrong_length_is_a_fault_and_no_row() {
        let mut faults = Faults::default();
        let csv = Csv::new("a,b\n1,2\n\n# note\n3\n4,5\n");
        let rows = csv.rows(&mut faults);
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 6]);
        assert_eq!(faults.to_string(), "5: 1 fields where the head has 2");
    }
}
