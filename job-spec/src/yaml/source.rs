//! The text of a file by line, to turn a place inside a value into a place in the file.

use crate::faults::Mark;

/// A text and where its lines start.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    text: &'a str,
    line_starts: Vec<usize>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let mut line_starts = vec![0];
        for (i, byte) in bytes.iter().enumerate() {
            // \r\n is one break, \r alone one too: as YAML counts.
            if *byte == b'\n' || (*byte == b'\r' && bytes.get(i + 1) != Some(&b'\n')) {
                line_starts.push(i + 1);
            }
        }
        Self { text, line_starts }
    }

    /// Where `pattern` occurs for the (n + 1)-th time between two places; nothing when it does not (it was written
    /// with an escape).
    pub(crate) fn nth(&self, span: (Mark, Mark), pattern: &str, n: usize) -> Option<Mark> {
        let (start, end) = (self.offset(span.0)?, self.offset(span.1)?);
        let (at, _) = self.text.get(start..end)?.match_indices(pattern).nth(n)?;
        Some(self.mark(start + at))
    }

    fn offset(&self, mark: Mark) -> Option<usize> {
        let Some(start) = self.line_starts.get(mark.line.checked_sub(1)?) else {
            return Some(self.text.len());
        };
        let line = self.text.get(*start..)?;
        Some(start + line.char_indices().nth(mark.column.checked_sub(1)?).map_or(line.len(), |(at, _)| at))
    }

    fn mark(&self, offset: usize) -> Mark {
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts.get(line.saturating_sub(1)).copied().unwrap_or(0);
        let column = self.text.get(start..offset).map_or(1, |before| before.chars().count() + 1);
        Mark { line, column }
    }
}

/// The place that follows a text.
pub(crate) fn mark_after(text: &str) -> Mark {
    Source::new(text).mark(text.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        assert_eq!(mark_after(""), Mark { line: 1, column: 1 });
        assert_eq!(mark_after("ab"), Mark { line: 1, column: 3 });
        assert_eq!(mark_after("a\nöb"), Mark { line: 2, column: 3 });
        assert_eq!(mark_after("a\r\nb\rc"), Mark { line: 3, column: 2 });
    }

    #[test]
    fn occurrences_are_found_within_the_span() {
        let source = Source::new("x: ${{ö\n  ${{\n${{");
        let span = (Mark { line: 1, column: 4 }, Mark { line: 3, column: 1 });
        assert_eq!(source.nth(span, "${{", 0).unwrap(), Mark { line: 1, column: 4 });
        assert_eq!(source.nth(span, "${{", 1).unwrap(), Mark { line: 2, column: 3 });
        assert_eq!(source.nth(span, "${{", 2), None);
    }
}
