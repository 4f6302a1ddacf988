//! A lexer for no more than this: which bytes of a Rust file are code, which a comment, which inside a literal.
//!
//! It knows nested block comments, strings with escapes, raw strings with any number of `#`, the prefixes `b`, `c`, `r`,
//! and tells `'a'` from the lifetime `'a`. Offsets and lines of the masked texts are those of the file.

use super::is_word;

/// A file split into its code and its comments; both as long as the file, with blanks for the rest.
#[derive(Debug, PartialEq, Eq)]
pub struct Masked {
    /// Code only.
    pub code: String,
    /// Comments only, with their slashes.
    pub comments: String,
}

/// Splits a file. Never fails: what is not closed ends with the file.
pub fn mask(text: &str) -> Masked {
    let mut masker =
        Masker { bytes: text.as_bytes(), at: 0, code: blanks(text.as_bytes()), comments: blanks(text.as_bytes()) };
    while masker.at < masker.bytes.len() {
        masker.step();
    }
    let text_of = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Masked { code: text_of(masker.code), comments: text_of(masker.comments) }
}

fn blanks(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|&byte| if byte == b'\n' { b'\n' } else { b' ' }).collect()
}

struct Masker<'a> {
    bytes: &'a [u8],
    at: usize,
    code: Vec<u8>,
    comments: Vec<u8>,
}

impl Masker<'_> {
    /// Takes one comment, literal, word or other byte.
    fn step(&mut self) {
        let rest = &self.bytes[self.at..];
        let start = self.at;
        if let Some(length) = comment_length(rest) {
            self.at += length;
            self.comments[start..self.at].copy_from_slice(&self.bytes[start..self.at]);
        } else if let Some(length) = literal_length(rest) {
            self.at += length;
        } else {
            // A word is taken whole: the `r` at the end of `for` must not begin a raw string.
            self.at += rest.iter().take_while(|&&byte| is_word(byte)).count().max(1);
            self.code[start..self.at].copy_from_slice(&self.bytes[start..self.at]);
        }
    }
}

fn comment_length(rest: &[u8]) -> Option<usize> {
    if rest.starts_with(b"//") {
        return Some(rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with(b"/*") {
        return None;
    }
    let (mut depth, mut at) = (1, 2);
    while depth > 0 && at < rest.len() {
        let step = match &rest[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at += step;
    }
    Some(at)
}

fn literal_length(rest: &[u8]) -> Option<usize> {
    let prefix = match rest {
        [b'b' | b'c', b'r', b'"' | b'#', ..] => 2,
        [b'b' | b'c' | b'r', b'"', ..] | [b'r', b'#', ..] | [b'b', b'\'', ..] => 1,
        _ => 0,
    };
    let raw = prefix > 0 && rest[prefix - 1] == b'r';
    let body = &rest[prefix..];
    let length = match body.first()? {
        b'"' | b'#' if raw => raw_string_length(body)?,
        b'"' => string_length(body),
        b'\'' => char_length(body)?,
        _ => return None,
    };
    Some(prefix + length)
}

/// From the first `#` or `"` to the end; nothing for a raw identifier (`r#type`).
fn raw_string_length(body: &[u8]) -> Option<usize> {
    let hashes = body.iter().take_while(|&&byte| byte == b'#').count();
    if body.get(hashes) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let inside = &body[hashes + 1..];
    let end = inside.windows(close.len()).position(|window| window == close);
    Some(end.map_or(body.len(), |end| hashes + 1 + end + close.len()))
}

fn string_length(body: &[u8]) -> usize {
    let mut at = 1;
    while at < body.len() {
        match body[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    body.len()
}

/// The length of a character literal; nothing for a lifetime or label.
fn char_length(body: &[u8]) -> Option<usize> {
    if body.get(1) == Some(&b'\\') {
        // `'\''` and `'\u{1F600}'`: the byte after the backslash never closes.
        let end = body.iter().skip(3).position(|&byte| byte == b'\'')?;
        return Some(3 + end + 1);
    }
    let first = *body.get(1)?;
    let wide = 1 + body.iter().skip(2).take_while(|&&byte| first >= 0x80 && byte & 0xC0 == 0x80).count();
    (body.get(1 + wide) == Some(&b'\'')).then_some(wide + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of code that are left.
    fn code(text: &str) -> String {
        let masked = mask(text);
        assert_eq!(masked.code.len(), text.len(), "{text}");
        assert_eq!(masked.comments.len(), text.len(), "{text}");
        assert_eq!(masked.code.lines().count(), text.lines().count(), "{text}");
        masked.code.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_are_not_code() {
        assert_eq!(code("a // b { \n c"), "a c");
        assert_eq!(code("a /* b /* { */ c */ d"), "a d");
        assert_eq!(code("/// doc\n//! head\nx"), "x");
        assert_eq!(code("a /* never closed"), "a");
        assert_eq!(mask("a // why\nb").comments.trim(), "// why");
    }

    #[test]
    fn strings_are_not_code() {
        assert_eq!(code(r#"a "b { \" // c" d"#), "a d");
        assert_eq!(code(r#"a "\\" d"#), "a d");
        assert_eq!(code("a \"b\nc\" d"), "a d");
        assert_eq!(code(r#"f(b"}", c"}")"#), "f( , )");
        assert_eq!(code("a \"never closed"), "a");
    }

    #[test]
    fn raw_strings_end_at_their_own_mark() {
        assert_eq!(code("a r\"\\\" d"), "a d");
        assert_eq!(code("a r#\" \" } \"# d"), "a d");
        assert_eq!(code("a br##\" \"# } \"## d"), "a d");
        assert_eq!(code("let r#type = 1;"), "let r#type = 1;");
        assert_eq!(code("for r in var"), "for r in var");
    }

    #[test]
    fn characters_are_not_code_but_lifetimes_are() {
        assert_eq!(code("a '{' b"), "a b");
        assert_eq!(code(r"a '\'' b '\\' c '\u{7d}' d"), "a b c d");
        assert_eq!(code("a 'ä' b b'}' c"), "a b c");
        assert_eq!(code("fn f<'a>(x: &'a str) {}"), "fn f<'a>(x: &'a str) {}");
        assert_eq!(code("'outer: loop { break 'outer }"), "'outer: loop { break 'outer }");
    }

    #[test]
    fn a_quote_in_a_comment_opens_nothing() {
        assert_eq!(code("// don't\nlet a = '\"'; let b = \"x\";"), "let a = ; let b = ;");
    }
}
