//! Puts local paths and literals in the place of `${{inputs.x}}` and `${{outputs.y}}`, as Azure ML does: plain text, no
//! quoting, so that a job file means the same here and there.

use std::collections::BTreeMap;

/// What expressions stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// `inputs.NAME`
    pub(crate) inputs: BTreeMap<String, String>,
    /// `outputs.NAME`
    pub(crate) outputs: BTreeMap<String, String>,
}

/// Why a text could not be expanded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpandError {
    #[error("expression ${{{{{0}}}}} names nothing of this job")]
    Unknown(String),
    #[error("an expression that begins with ${{{{ does not end with }}}}")]
    Open,
}

/// Replaces every expression of `text`. What an expression stands for is not expanded again.
pub(crate) fn expand(text: &str, names: &Names) -> Result<String, ExpandError> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("${{") {
        out.push_str(&rest[..start]);
        let after = &rest[start + 3..];
        let end = after.find("}}").ok_or(ExpandError::Open)?;
        out.push_str(value(after[..end].trim(), names)?);
        rest = &after[end + 2..];
    }
    out.push_str(rest);
    Ok(out)
}

fn value<'a>(expression: &str, names: &'a Names) -> Result<&'a str, ExpandError> {
    let found = match expression.split_once('.') {
        Some(("inputs", name)) => names.inputs.get(name),
        Some(("outputs", name)) => names.outputs.get(name),
        _ => None,
    };
    found.map(String::as_str).ok_or_else(|| ExpandError::Unknown(expression.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names {
            inputs: [("x".to_owned(), "3".to_owned()), ("tricky".to_owned(), "${{inputs.x}}".to_owned())].into(),
            outputs: [("model".to_owned(), "/out/model".to_owned())].into(),
        }
    }

    #[test]
    fn expressions_become_values() {
        let text = "train --x ${{inputs.x}} --to ${{ outputs.model }}/a $HOME {{}}";
        assert_eq!(expand(text, &names()).unwrap(), "train --x 3 --to /out/model/a $HOME {{}}");
    }

    #[test]
    fn a_value_is_not_expanded_again() {
        assert_eq!(expand("${{inputs.tricky}}", &names()).unwrap(), "${{inputs.x}}");
    }

    #[test]
    fn unknown_and_open_expressions_are_faults() {
        assert_eq!(expand("${{inputs.y}}", &names()), Err(ExpandError::Unknown("inputs.y".into())));
        assert_eq!(expand("${{search_space.x}}", &names()), Err(ExpandError::Unknown("search_space.x".into())));
        assert_eq!(expand("a ${{inputs.x", &names()), Err(ExpandError::Open));
        assert_eq!(ExpandError::Open.to_string(), "an expression that begins with ${{ does not end with }}");
        assert_eq!(ExpandError::Unknown("a".into()).to_string(), "expression ${{a}} names nothing of this job");
    }
}
