//! Keeps a job's secrets out of what its ranks say: each way in which a value is usually printed becomes `[secret VARIABLE]`
//! before a byte is written anywhere.
//!
//! Bytes at the end of what came that may be the beginning of a secret are held back until more comes or the stream ends, so
//! that one which is split over two writes is found too. Everything else goes on at once.

use crate::secrets::Secrets;
use aho_corasick::{AhoCorasick, MatchKind};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use types::Limits;
use zeroize::Zeroizing;

/// What is looked for.
pub(super) struct Patterns {
    automaton: AhoCorasick,
    patterns: Vec<Zeroizing<Vec<u8>>>,
    /// What stands for each.
    words: Vec<String>,
    bytes_max: usize,
}

impl Patterns {
    /// None when there is nothing to look for.
    pub(super) fn of(secrets: &Secrets) -> io::Result<Option<Arc<Self>>> {
        if secrets.is_empty() {
            return Ok(None);
        }
        let mut forms = BTreeMap::new();
        for (variable, value) in secrets.iter() {
            for form in forms_of(value) {
                forms.entry(form).or_insert_with(|| format!("[secret {variable}]"));
            }
        }
        let (patterns, words): (Vec<_>, Vec<_>) =
            forms.into_iter().map(|(form, word)| (Zeroizing::new(form), word)).unzip();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(patterns.iter().map(|form| form.as_slice()));
        let automaton = automaton.map_err(io::Error::other)?;
        let bytes_max = patterns.iter().map(|form| form.len()).max().unwrap_or(0);
        Ok(Some(Arc::new(Self { automaton, patterns, words, bytes_max })))
    }

    /// Where the longest end of `text` begins that may be the beginning of a secret.
    fn held_from(&self, text: &[u8]) -> usize {
        let first = text.len().saturating_sub(self.bytes_max.saturating_sub(1));
        let may_begin = |at: &usize| {
            let end = &text[*at..];
            self.patterns.iter().any(|form| form.len() > end.len() && form.starts_with(end))
        };
        (first..text.len()).find(may_begin).unwrap_or(text.len())
    }
}

/// As it is, line by line, and as JSON, URLs, hexadecimal and base64 have it. Shorter ones than the shortest secret would
/// be found everywhere.
fn forms_of(value: &[u8]) -> Vec<Vec<u8>> {
    let mut forms = vec![value.to_vec(), value.trim_ascii().to_vec()];
    forms.extend(value.split(|byte| *byte == b'\n').map(|line| line.trim_ascii().to_vec()));
    if let Ok(text) = std::str::from_utf8(value) {
        let quoted = serde_json::to_string(text).unwrap_or_default();
        forms.push(quoted.trim_matches('"').as_bytes().to_vec());
        forms.push(quoted.trim_matches('"').replace('/', "\\/").into_bytes());
    }
    for value in [value, value.trim_ascii()] {
        forms.extend(in_urls(value));
        let hex = in_hex(value);
        forms.push(hex.to_uppercase().into_bytes());
        forms.push(hex.into_bytes());
        forms.extend((0..3).flat_map(|before| in_base64(value, before)));
    }
    forms.retain(|form| form.len() >= Limits::SECRET_BYTES_MIN);
    forms
}

fn in_hex(value: &[u8]) -> String {
    value.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Percent-encoded: by upper and lower case digits, all but the unreserved, or the slash too, as is; a space as `+`.
fn in_urls(value: &[u8]) -> [Vec<u8>; 4] {
    let encode = |kept: &[u8], space: bool, upper: bool| {
        let mut text = String::new();
        for byte in value {
            let _ = match byte {
                b' ' if space => write!(text, "+"),
                byte if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || kept.contains(byte) => {
                    write!(text, "{}", char::from(*byte))
                }
                byte if upper => write!(text, "%{byte:02X}"),
                byte => write!(text, "%{byte:02x}"),
            };
        }
        text.into_bytes()
    };
    [encode(b"", false, true), encode(b"", false, false), encode(b"/", false, true), encode(b"", true, true)]
}

/// The digits that are the value's own when `before` further bytes stand before it in what is encoded, and others after it.
fn in_base64(value: &[u8], before: usize) -> [Vec<u8>; 2] {
    let padded = Zeroizing::new([&[0; 2][..before], value].concat());
    let (from, to) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
    [&STANDARD_NO_PAD, &URL_SAFE_NO_PAD].map(|engine| {
        let text = Zeroizing::new(engine.encode(padded.as_slice()));
        text.as_bytes().get(from..to).unwrap_or_default().to_vec()
    })
}

/// Whole lines without the secrets that are looked for.
pub(super) fn clean(patterns: Option<&Arc<Patterns>>, lines: Vec<u8>) -> Vec<u8> {
    let Some(patterns) = patterns.filter(|_| !lines.is_empty()) else { return lines };
    let mut redactor = Redactor::new(patterns.clone());
    let begin = redactor.push(&lines);
    [begin, redactor.end()].concat()
}

/// One stream's filter.
pub(super) struct Redactor {
    patterns: Arc<Patterns>,
    held: Vec<u8>,
}

impl Redactor {
    pub(super) fn new(patterns: Arc<Patterns>) -> Self {
        Self { patterns, held: Vec::new() }
    }

    /// What may be written now of all that came.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.take(false)
    }

    /// The rest, when nothing more comes.
    pub(super) fn end(&mut self) -> Vec<u8> {
        self.take(true)
    }

    fn take(&mut self, is_end: bool) -> Vec<u8> {
        let text = std::mem::take(&mut self.held);
        let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
        loop {
            let rest = &text[at..];
            let hold = if is_end { rest.len() } else { self.patterns.held_from(rest) };
            // One that begins before what is held back cannot become a longer one.
            let found = self.patterns.automaton.find(rest).filter(|found| found.start() < hold);
            let Some(found) = found else {
                out.extend_from_slice(&rest[..hold]);
                self.held = rest[hold..].to_vec();
                return out;
            };
            out.extend_from_slice(&rest[..found.start()]);
            out.extend_from_slice(self.patterns.words[found.pattern().as_usize()].as_bytes());
            at += found.end();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    const CANARY: &str = "s3cr3t/Canary+\"key\" ä";

    fn redactor(values: &[(&str, &str)]) -> Redactor {
        Redactor::new(Patterns::of(&Secrets::of(values)).unwrap().unwrap())
    }

    fn whole(redactor: &mut Redactor, text: &[u8]) -> String {
        let mut out = redactor.push(text);
        out.extend(redactor.end());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn each_usual_form_is_found_wherever_it_stands() {
        let mut forms: Vec<String> = vec![CANARY.into(), serde_json::to_string(CANARY).unwrap()];
        let hex = in_hex(CANARY.as_bytes());
        forms.extend([hex.to_uppercase(), hex]);
        forms.extend(in_urls(CANARY.as_bytes()).map(|form| String::from_utf8(form).unwrap()));
        for around in ["", "a", "ab", "abc"] {
            forms.push(STANDARD.encode(format!("{around}{CANARY}{around}\n")));
            forms.push(URL_SAFE_NO_PAD.encode(format!("{around}{CANARY}")));
        }
        for form in forms {
            let text = whole(&mut redactor(&[("KEY", CANARY)]), format!("before {form} after").as_bytes());
            assert!(text.starts_with("before ") && text.ends_with(" after"), "{text}");
            assert!(
                text.contains("[secret KEY]") && text.len() < "before [secret KEY] after".len() + 12,
                "{form}: {text}"
            );
        }
    }

    #[test]
    fn what_is_no_secret_goes_on_at_once_and_unchanged() {
        let mut redactor = redactor(&[("KEY", "hunter2-hunter2")]);
        assert_eq!(redactor.push(b"step 1\n"), b"step 1\n");
        assert_eq!(redactor.push(b"step 2 h"), b"step 2 ", "the h may be the beginning");
        assert_eq!(redactor.push(b"unter"), b"");
        assert_eq!(redactor.push(b"-gatherer\n"), b"hunter-gatherer\n");
        assert_eq!(redactor.push(b"hunter2-hunter"), b"");
        assert_eq!(redactor.end(), b"hunter2-hunter", "cut short, it was none");
    }

    #[test]
    fn lines_of_a_longer_secret_are_found_by_themselves_and_the_longest_wins() {
        let key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG\nab\n-----END KEY-----\n";
        let mut redactor = redactor(&[("PEM", key), ("SHORT", "MIIEvQIB")]);
        assert_eq!(whole(&mut redactor, b"x MIIEvQIBADANBgkqhkiG y ab\n"), "x [secret PEM] y ab\n");
        assert_eq!(whole(&mut redactor, key.as_bytes()), "[secret PEM]");
        assert_eq!(whole(&mut redactor, b"MIIEvQIB!"), "[secret SHORT]!");
    }

    proptest! {
        #[test]
        fn however_it_is_split_nothing_of_a_secret_comes_out(
            text in proptest::collection::vec(prop_oneof![
                Just("hunter2-hunter2".to_owned()), Just("hunter2-".to_owned()), Just("h".to_owned()), "[a-z2 \n-]{0,12}"
            ], 0..12),
            cuts in proptest::collection::vec(1_usize..9, 1..40),
        ) {
            let text = text.concat();
            let whole = whole(&mut redactor(&[("KEY", "hunter2-hunter2")]), text.as_bytes());
            prop_assert_eq!(&whole, &text.replace("hunter2-hunter2", "[secret KEY]"));
            let (mut split, mut out, mut rest) = (redactor(&[("KEY", "hunter2-hunter2")]), Vec::new(), text.as_bytes());
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at((*cut).min(rest.len()));
                out.extend(split.push(now));
                rest = later;
            }
            out.extend(split.end());
            prop_assert_eq!(String::from_utf8(out).unwrap(), whole);
        }
    }
}
