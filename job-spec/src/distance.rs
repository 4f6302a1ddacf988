//! Did-you-mean: the nearest known word to a mistyped one, by edit distance with neighbours swapped (optimal alignment).

/// Longest word that is compared; a longer one is no slip of a known field.
const WORD_MAX: usize = 64;

/// The known word that `word` was probably meant to be: at most one edit per three letters away (and not all letters),
/// the first of the nearest. Case, `-` for `_` and camelCase do not count as edits.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = plain(word);
    if plain.len() > WORD_MAX {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for candidate in known {
        let distance = distance(&plain, &self::plain(candidate));
        let allowed = plain.len().min(candidate.len()).div_ceil(3).min(4);
        if distance <= allowed && distance < plain.len() && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Lower-case letters with `_` between words.
pub(crate) fn plain(word: &str) -> Vec<char> {
    let mut letters = Vec::new();
    let mut after_small = false;
    for c in word.chars().take(WORD_MAX + 1) {
        if c.is_uppercase() && after_small {
            letters.push('_');
        }
        after_small = c.is_lowercase() || c.is_ascii_digit();
        letters.extend(if matches!(c, '-' | ' ') { '_' } else { c }.to_lowercase());
    }
    letters
}

fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let substituted = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = substituted.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: [&str; 5] = ["instance_count", "instance_type", "shm_size", "command", "code"];

    #[test]
    fn slips_of_the_finger_are_recognised() {
        for (slip, meant) in [
            ("instance_cout", "instance_count"),
            ("instanceCount", "instance_count"),
            ("instance-count", "instance_count"),
            ("Shm_Size", "shm_size"),
            ("comand", "command"),
            ("commadn", "command"),
            ("cdoe", "code"),
        ] {
            assert_eq!(nearest(slip, KNOWN), Some(meant), "{slip}");
        }
    }

    #[test]
    fn far_words_get_no_suggestion() {
        for word in ["", "banana", "priority", "x", &"y".repeat(10_000)] {
            assert_eq!(nearest(word, KNOWN), None, "{word}");
        }
    }

    #[test]
    fn swapped_neighbours_are_one_edit() {
        assert_eq!(distance(&plain("ab"), &plain("ba")), 1);
        assert_eq!(distance(&plain("kitten"), &plain("sitting")), 3);
        assert_eq!(distance(&plain(""), &plain("abc")), 3);
    }
}
