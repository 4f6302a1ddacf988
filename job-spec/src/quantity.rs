//! Amounts in a job file: bytes with a unit (`4GiB`), seconds with decimals (`0.5`); exact, without floating point.

/// Digits after the point that count.
const DECIMALS_MAX: usize = 6;

/// Parses `4GiB`, `1.5 GB`, `512MB`, `1048576` to bytes. The error says what is expected; the second part is what was
/// probably meant.
pub(crate) fn bytes(text: &str) -> Result<u64, (String, Option<String>)> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim();
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "kib" => 1_u64 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        short => return Err((UNITS.to_owned(), full_unit(short).map(|full| format!("{number}{full}")))),
    };
    scaled(number, factor).ok_or_else(|| (UNITS.to_owned(), None))
}

const UNITS: &str = "not an amount of memory: write bytes, or a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB";

fn full_unit(short: &str) -> Option<&'static str> {
    match short {
        "k" | "ki" => Some("KiB"),
        "m" | "mi" => Some("MiB"),
        "g" | "gi" => Some("GiB"),
        "t" | "ti" => Some("TiB"),
        _ => None,
    }
}

/// Parses `30` or `0.5` seconds to milliseconds; what is finer than a millisecond is cut off.
pub(crate) fn milliseconds(text: &str) -> Option<u64> {
    scaled(text, 1_000)
}

fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > DECIMALS_MAX {
        return None;
    }
    if number.contains('.') && fraction.is_empty() {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let tens = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let fraction: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let parts = u128::from(fraction) * u128::from(factor) / u128::from(tens);
    whole.checked_mul(factor)?.checked_add(u64::try_from(parts).ok()?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_memory_are_exact() {
        for (text, expected) in [
            ("0", 0),
            ("1048576", 1_048_576),
            ("512MB", 512_000_000),
            ("4GiB", 4 << 30),
            ("4 gib", 4 << 30),
            ("1.5GiB", 3 << 29),
            ("1B", 1),
            ("2tb", 2_000_000_000_000),
        ] {
            assert_eq!(bytes(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for text in ["", "GiB", "-1", "1e9", "4 giga", ".5GiB", "1.GiB", "1.2.3MB", "99999999999TiB", "1.1234567GB"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        assert_eq!(bytes("4Gi").unwrap_err().1.as_deref(), Some("4GiB"));
        assert_eq!(bytes("2g").unwrap_err().1.as_deref(), Some("2GiB"));
    }

    #[test]
    fn seconds_have_decimals() {
        assert_eq!(milliseconds("30"), Some(30_000));
        assert_eq!(milliseconds("0.25"), Some(250));
        assert_eq!(milliseconds("0.0001"), Some(0));
        for text in ["", "-1", "1m", "1e3", ".", "1.", u64::MAX.to_string().as_str()] {
            assert_eq!(milliseconds(text), None, "{text}");
        }
    }
}
