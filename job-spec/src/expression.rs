//! Expressions in commands and environment variables: `${{inputs.x}}` and `${{outputs.y}}`; found, checked, replaced.
//!
//! ```text
//! expression = "${{" blank* kind "." name blank* "}}"      blank = space | tab
//! kind       = "inputs" | "outputs"
//! name       = [A-Za-z_] [A-Za-z0-9_]*                     at most 255 bytes
//! ```
//!
//! Every `${{` begins an expression: there is no escape. What an expression stands for is not looked at again, so a
//! literal that holds `${{` stays as it is. Uses nothing but the standard library.

/// Longest name of an input or output in bytes: what a folder name may have.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// What an expression refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `inputs`
    Input,
    /// `outputs`
    Output,
}

impl Kind {
    /// The word in the job file: `inputs` or `outputs`.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Input => "inputs",
            Kind::Output => "outputs",
        }
    }
}

/// Why a text could not be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// Not of the form `${{inputs.name}}` or `${{outputs.name}}`.
    #[error("{0}")]
    Malformed(String),
    /// The job has nothing of that name.
    #[error("the job has no {} named {name:?}", kind.word())]
    Unknown {
        /// Input or output.
        kind: Kind,
        /// The name in the expression.
        name: String,
    },
}

/// One `${{...}}` of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    /// Byte offset of `${{`.
    pub(crate) start: usize,
    /// Byte offset after `}}`; after `${{` when it is malformed.
    pub(crate) end: usize,
    /// What it refers to, or what is wrong with it.
    pub(crate) target: Result<(Kind, &'a str), String>,
}

/// All expressions of a text, in order.
pub(crate) fn find(text: &str) -> Vec<Found<'_>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find("${{").map(|at| from + at) {
        let inside = start + 3;
        let (end, target) = match closing(&text[inside..]) {
            Some(length) => match read_target(&text[inside..inside + length]) {
                Ok(target) => (inside + length + 2, Ok(target)),
                Err(reason) => (inside, Err(reason)),
            },
            None => (inside, Err("the expression is not closed with }} on its line".to_owned())),
        };
        found.push(Found { start, end, target });
        from = end;
    }
    found
}

/// Replaces each expression by what `value` gives for it; `value` answers `None` for a name it does not know.
pub fn expand(text: &str, value: &dyn Fn(Kind, &str) -> Option<String>) -> Result<String, ExpandError> {
    let mut expanded = String::with_capacity(text.len());
    let mut copied = 0;
    for found in find(text) {
        let (kind, name) = found.target.map_err(ExpandError::Malformed)?;
        let Some(value) = value(kind, name) else {
            return Err(ExpandError::Unknown { kind, name: name.to_owned() });
        };
        expanded.push_str(&text[copied..found.start]);
        expanded.push_str(&value);
        copied = found.end;
    }
    expanded.push_str(&text[copied..]);
    Ok(expanded)
}

/// True for what may be the name of an input or output.
pub(crate) fn is_name(text: &str) -> bool {
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts_well && text.len() <= NAME_BYTES_MAX && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn closing(text: &str) -> Option<usize> {
    let length = text.find("}}")?;
    let inner = &text[..length];
    if inner.contains(['\n', '\r']) || inner.contains("${{") { None } else { Some(length) }
}

fn read_target(inner: &str) -> Result<(Kind, &str), String> {
    let inner = inner.trim_matches([' ', '\t']);
    let shown = || format!("{:?}", inner.chars().take(60).collect::<String>());
    if inner.is_empty() {
        return Err("the expression is empty: write ${{inputs.NAME}} or ${{outputs.NAME}}".to_owned());
    }
    let (root, name) = inner.split_once('.').unwrap_or((inner, ""));
    let kind = match root {
        "inputs" => Kind::Input,
        "outputs" => Kind::Output,
        "search_space" => return Err("search_space belongs to sweep jobs: Muster runs command jobs".to_owned()),
        "parent" => return Err("parent belongs to pipeline jobs: Muster runs command jobs".to_owned()),
        _ => return Err(format!("expression {} does not start with inputs. or outputs.", shown())),
    };
    if name.contains('.') && name.split('.').all(is_name) {
        return Err(format!("expression {} names a group, and Muster has no groups of inputs", shown()));
    }
    if is_name(name) {
        Ok((kind, name))
    } else {
        Err(format!("expression {} needs one name of letters, digits and _ after the dot", shown()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn lookup(kind: Kind, name: &str) -> Option<String> {
        match (kind, name) {
            (Kind::Input, "data") => Some("/in/data".into()),
            (Kind::Input, "tricky") => Some("${{inputs.data}}".into()),
            (Kind::Output, "model") => Some("/out/model".into()),
            _ => None,
        }
    }

    #[test]
    fn expressions_are_replaced() {
        for (text, expected) in [
            ("", ""),
            ("no expressions, ${HOME} $(date) {{x}}", "no expressions, ${HOME} $(date) {{x}}"),
            ("a ${{inputs.data}} b", "a /in/data b"),
            ("${{ inputs.data }}${{\toutputs.model }}", "/in/data/out/model"),
            ("ä${{inputs.data}}ö", "ä/in/dataö"),
            ("${{inputs.data}}}}", "/in/data}}"),
        ] {
            assert_eq!(expand(text, &lookup).unwrap(), expected);
        }
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        assert_eq!(expand("${{inputs.tricky}}", &lookup).unwrap(), "${{inputs.data}}");
    }

    #[test]
    fn malformed_expressions_are_refused() {
        for bad in [
            "${{",
            "${{}}",
            "${{ }}",
            "${{inputs}}",
            "${{inputs.}}",
            "${{inputs.a b}}",
            "${{inputs.1a}}",
            "${{inputs. data}}",
            "${{inputs.group.data}}",
            "${{input.data}}",
            "${{INPUTS.data}}",
            "${{search_space.lr}}",
            "${{parent.inputs.data}}",
            "${{inputs.data}",
            "${{inputs.data\n}}",
            "${{inputs.${{inputs.data}}",
        ] {
            assert!(matches!(expand(bad, &lookup), Err(ExpandError::Malformed(_))), "{bad}");
        }
    }

    #[test]
    fn unknown_names_are_named() {
        let error = expand("${{outputs.data}}", &lookup).unwrap_err();
        assert_eq!(error.to_string(), "the job has no outputs named \"data\"");
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_expanded_or_refused(text in "[ ${}a-z.\n]{0,60}") {
            let found = find(&text);
            proptest::prop_assert_eq!(found.is_empty(), !text.contains("${{"));
            let _ = expand(&text, &lookup);
        }
    }
}
