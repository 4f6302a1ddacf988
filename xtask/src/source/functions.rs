//! The functions of a file with their first and last lines, nested ones too.

use super::{after_block, is_word, line_of};

/// One function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Line of `fn`, from 1.
    pub line: usize,
    /// Lines from `fn` to the closing brace.
    pub lines: usize,
}

/// Finds every function with a body in masked code. Function pointer types and trait methods without body are none.
pub fn functions(code: &str) -> Vec<Function> {
    code.match_indices("fn").filter_map(|(start, _)| function_at(code, start)).collect()
}

fn function_at(code: &str, start: usize) -> Option<Function> {
    let bytes = code.as_bytes();
    let is_inside_word = start > 0 && is_word(bytes[start - 1]);
    let after = code[start + 2..].trim_start();
    if is_inside_word || after.len() == code.len() - start - 2 {
        return None;
    }
    let name: String = after.chars().take_while(|c| c.is_alphanumeric() || matches!(c, '_' | '#')).collect();
    if name.is_empty() {
        return None;
    }
    let end = after_block(bytes, body_at(bytes, code.len() - after.len())?);
    let line = line_of(code, start);
    Some(Function { name, line, lines: line_of(code, end - 1) - line + 1 })
}

/// The brace that opens the body: the first one outside parentheses and brackets, unless a `;` comes before it.
fn body_at(code: &[u8], from: usize) -> Option<usize> {
    let mut depth = 0_isize;
    for (offset, byte) in code.iter().enumerate().skip(from) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b'{' if depth == 0 => return Some(offset),
            b';' if depth == 0 => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(code: &str) -> Vec<(String, usize, usize)> {
        functions(code).into_iter().map(|function| (function.name, function.line, function.lines)).collect()
    }

    #[test]
    fn a_function_runs_from_fn_to_its_brace() {
        let code = "struct A;\nimpl A {\n  pub async fn long(\n    x: [u8; 4],\n  ) -> B\n  where B: C,\n  {\n    if x {}\n  }\n}\n";
        assert_eq!(found(code), [("long".to_owned(), 3, 7)]);
    }

    #[test]
    fn a_nested_function_counts_for_itself_too() {
        let code = "fn outer() {\n  fn inner() {\n  }\n}\n";
        assert_eq!(found(code), [("outer".to_owned(), 1, 4), ("inner".to_owned(), 2, 2)]);
    }

    #[test]
    fn what_has_no_body_is_not_counted() {
        assert!(found("trait A { fn b(&self); }\n").is_empty());
        assert!(found("type F = fn(u8) -> u8;\nstruct G { f: fn (u8), often: u8 }\n").is_empty());
        assert!(found("let define = 1; { fnord }\n").is_empty());
    }

    #[test]
    fn one_line_is_one_line() {
        assert_eq!(found("fn a() {}"), [("a".to_owned(), 1, 1)]);
    }
}
