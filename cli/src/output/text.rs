//! Times, amounts and hashes as people read them.

use std::fmt::Write as _;
use types::{ContentHash, Millis, Timestamp};

/// `2026-03-01 14:05:09` in UTC; `-` for never.
pub fn instant(ms: u64) -> String {
    if ms == 0 {
        return "-".into();
    }
    daemon::clock::text(Timestamp(ms))
}

/// `2026-03-01T14:05:09Z`, or with a space and no `Z`, in UTC, as milliseconds.
pub fn parse_instant(text: &str) -> Result<u64, String> {
    let fault = || format!("{text:?} is no time in UTC such as 2026-03-01T14:05:09Z");
    let (date, time) = text.strip_suffix('Z').unwrap_or(text).split_once(['T', ' ']).ok_or_else(fault)?;
    let numbers = |text: &str, separator: char| -> Option<Vec<u64>> {
        let parts: Vec<&str> = text.split(separator).collect();
        (parts.len() == 3).then(|| parts.iter().map(|part| part.parse().ok()).collect()).flatten()
    };
    let (date, time) = (numbers(date, '-').ok_or_else(fault)?, numbers(time, ':').ok_or_else(fault)?);
    let [year, month, day] = date[..] else { return Err(fault()) };
    let [hour, minute, second] = time[..] else { return Err(fault()) };
    if hour > 23 || minute > 59 || second > 59 || !(1970..=9999).contains(&year) {
        return Err(fault());
    }
    // A date is right when it is the one that its number of days stands for.
    let days = days_of(year, month, day).filter(|days| daemon::clock::date(*days) == (year, month, day));
    let seconds = days.ok_or_else(fault)? * 86_400 + hour * 3_600 + minute * 60 + second;
    Ok(seconds * 1_000)
}

/// A calendar date as days since 1970 (H. Hinnant, `days_from_civil`); any month and day of at most two digits.
fn days_of(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = year - u64::from(month <= 2);
    let (era, of_era) = (year / 400, year % 400);
    let shifted = (month + 9) % 12;
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year).checked_sub(719_468)
}

/// A span such as `90s`, `30m`, `2h` or `1d`, in milliseconds.
pub fn parse_span(text: &str) -> Result<u64, String> {
    let fault = || format!("{text:?} is no span such as 90s, 30m, 2h or 1d");
    let units = [('s', 1_000), ('m', 60_000), ('h', 3_600_000), ('d', 86_400_000_u64)];
    let found = units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(*unit)?, *factor)));
    let (count, factor) =
        found.filter(|(count, _)| count.starts_with(|c: char| c.is_ascii_digit())).ok_or_else(fault)?;
    let count: u64 = count.parse().map_err(|_| fault())?;
    count.checked_mul(factor).filter(|ms| *ms <= types::Limits::TIMEOUT_MS_MAX).ok_or_else(fault)
}

/// How long ago; `-` for never.
pub fn age(ms: u64, now: Timestamp) -> String {
    if ms == 0 { "-".into() } else { short(now.since(Timestamp(ms))) }
}

/// From start to end, or to now while it lasts; `-` before the start.
pub fn duration(started_ms: u64, ended_ms: u64, now: Timestamp) -> String {
    if started_ms == 0 {
        return "-".into();
    }
    let end = if ended_ms == 0 { now } else { Timestamp(ended_ms) };
    short(end.since(Timestamp(started_ms)))
}

/// A span in one or two units: `850ms`, `12.3s`, `4m05s`, `3h10m`, `2d04h`.
pub fn short(span: Millis) -> String {
    match span.0 {
        ms @ 0..1_000 => format!("{ms}ms"),
        ms @ 1_000..60_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        ms @ 60_000..3_600_000 => format!("{}m{:02}s", ms / 60_000, ms % 60_000 / 1_000),
        ms @ 3_600_000..86_400_000 => format!("{}h{:02}m", ms / 3_600_000, ms % 3_600_000 / 60_000),
        ms => format!("{}d{:02}h", ms / 86_400_000, ms % 86_400_000 / 3_600_000),
    }
}

/// Bytes in binary units: `512 B`, `1.5 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1_024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1_024.0;
    let mut unit = 0;
    while value >= 1_023.95 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A hash from the wire, short; `-` when it is none.
/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Reads `hex`.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks_exact(2).map(|pair| Some(digit(pair[0])? * 16 + digit(pair[1])?)).collect()
}

pub fn hash(bytes: &[u8]) -> String {
    ContentHash::from_slice(bytes).map_or_else(|| "-".into(), |hash| hash.short())
}

/// Up to four significant digits, no needless zeros.
pub fn number(value: f64) -> String {
    if value == 0.0 || !value.is_finite() {
        return format!("{value}");
    }
    let magnitude = value.abs();
    if !(1e-4..1e6).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    let digits = (3 - magnitude.log10().floor() as i32).clamp(0, 8) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_calendar_dates() {
        assert_eq!(instant(951_782_400_000), "2000-02-29 00:00:00Z");
        assert_eq!(instant(1_767_225_599_999), "2025-12-31 23:59:59Z");
        assert_eq!(instant(0), "-");
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for ms in [0, 951_782_400_000, 1_767_225_599_000, 1_796_083_200_000, 253_402_300_799_000] {
            let written = if ms == 0 { "1970-01-01 00:00:00Z".to_owned() } else { instant(ms) };
            assert_eq!(parse_instant(&written), Ok(ms), "{written}");
            assert_eq!(parse_instant(&written.replace(' ', "T")), Ok(ms));
        }
        for bad in [
            "",
            "tomorrow",
            "2026-02-30T00:00:00Z",
            "2025-02-29 0:0:0",
            "2026-13-01T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00ZZ",
        ] {
            assert!(parse_instant(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_are_read_in_one_unit() {
        assert_eq!(
            ["90s", "30m", "2h", "1d"].map(|text| parse_span(text).unwrap_or(0)),
            [90_000, 1_800_000, 7_200_000, 86_400_000]
        );
        for bad in ["", "h", "5", "-1h", "1.5h", "99999999999d", "3é", "5ss", "+5s"] {
            assert!(parse_span(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn spans_and_amounts_read_well() {
        assert_eq!(short(Millis(850)), "850ms");
        assert_eq!(short(Millis(12_349)), "12.3s");
        assert_eq!(short(Millis(245_000)), "4m05s");
        assert_eq!(short(Millis(187_200_000)), "2d04h");
        assert_eq!(bytes(1_023), "1023 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(1 << 30), "1.0 GiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
    }

    #[test]
    fn numbers_keep_four_digits() {
        for (value, text) in
            [(0.975_31, "0.9753"), (123.456, "123.5"), (5.0, "5"), (0.0, "0"), (1e-7, "1.000e-7"), (100.0, "100")]
        {
            assert_eq!(number(value), text);
        }
        assert_eq!(number(f64::NAN), "NaN");
    }
}
