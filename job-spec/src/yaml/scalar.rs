//! What an unquoted scalar is: YAML 1.2's core schema (specification, section 10.3.2), and where YAML 1.1 differs.

/// Types of the core schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// `null`, `~`, nothing.
    Null,
    /// `true`, `false`.
    Boolean,
    /// Decimal, `0o` octal or `0x` hexadecimal.
    Integer,
    /// With point or exponent, infinity, not-a-number.
    Float,
    /// All else.
    Text,
}

impl Core {
    /// Resolves an unquoted scalar.
    pub(crate) fn of(text: &str) -> Core {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Core::Null,
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Core::Boolean,
            ".nan" | ".NaN" | ".NAN" => Core::Float,
            _ if is_integer(text) => Core::Integer,
            _ if is_float(text) => Core::Float,
            _ => Core::Text,
        }
    }
}

/// True for an unquoted scalar that YAML 1.1 (and so Azure ML) reads as something else than YAML 1.2: `yes`, `0755`,
/// `1_000`, `12:30`.
pub(crate) fn surprises_yaml_1_1(text: &str) -> bool {
    let word = text.to_ascii_lowercase();
    if matches!(word.as_str(), "yes" | "no" | "on" | "off" | "y" | "n") {
        return true;
    }
    let digits = text.trim_start_matches(['+', '-']);
    let all = |allowed: &str| digits.chars().all(|c| c.is_ascii_digit() || allowed.contains(c));
    let starts = digits.starts_with(|c: char| c.is_ascii_digit());
    let octal = digits.len() > 1 && digits.starts_with('0') && all("");
    starts && (octal || (digits.contains('_') && all("_.")) || (digits.contains(':') && all(":.")))
}

fn is_integer(text: &str) -> bool {
    if let Some(octal) = text.strip_prefix("0o") {
        return !octal.is_empty() && octal.bytes().all(|b| (b'0'..=b'7').contains(&b));
    }
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        return !hexadecimal.is_empty() && hexadecimal.bytes().all(|b| b.is_ascii_hexdigit());
    }
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn is_float(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let exponent_ok = exponent.is_none_or(|e| {
        let digits = e.strip_prefix(['+', '-']).unwrap_or(e);
        !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
    });
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    exponent_ok && digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_resolve_by_the_core_schema() {
        for (text, core) in [
            ("", Core::Null),
            ("~", Core::Null),
            ("null", Core::Null),
            ("True", Core::Boolean),
            ("12", Core::Integer),
            ("-0", Core::Integer),
            ("010", Core::Integer),
            ("0o17", Core::Integer),
            ("0xFf", Core::Integer),
            ("1.", Core::Float),
            (".5", Core::Float),
            ("-1.5e+3", Core::Float),
            ("1e3", Core::Float),
            (".inf", Core::Float),
            (".NaN", Core::Float),
            ("yes", Core::Text),
            ("off", Core::Text),
            ("1_000", Core::Text),
            ("12:30", Core::Text),
            (".", Core::Text),
            ("e3", Core::Text),
            ("1e", Core::Text),
            ("0o8", Core::Text),
            ("1.2.3", Core::Text),
            ("tRue", Core::Text),
            ("-", Core::Text),
        ] {
            assert_eq!(Core::of(text), core, "{text:?}");
        }
    }

    #[test]
    fn what_yaml_1_1_reads_otherwise_is_known() {
        for text in ["yes", "No", "ON", "off", "y", "0755", "1_000", "1:30", "-012"] {
            assert!(surprises_yaml_1_1(text), "{text}");
        }
        for text in ["", "true", "0", "0.5", "10", "1.5", "name", "_1", "a:1", "0x10", "yes please", "08:00am"] {
            assert!(!surprises_yaml_1_1(text), "{text}");
        }
    }
}
