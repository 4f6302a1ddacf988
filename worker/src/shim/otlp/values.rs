//! Attributes and other values of OpenTelemetry (`opentelemetry/proto/common/v1/common.proto`) as text.

use super::super::protobuf::{Field, Fields, Malformed};
use std::fmt::Write as _;

/// Lists within lists that are looked into.
const DEPTH_MAX: usize = 8;
/// Attributes of one point or record that are looked at.
pub(super) const ATTRIBUTES_MAX: usize = 64;

/// A `KeyValue`: its name and the `AnyValue` in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Attribute<'a> {
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let (mut key, mut value) = (&[][..], &[][..]);
        for field in Fields(bytes) {
            match field? {
                (1, Field::Bytes(bytes)) => key = bytes,
                (2, Field::Bytes(bytes)) => value = bytes,
                _ => {}
            }
        }
        Ok(Self { key, value })
    }

    /// `key=value`, on one line.
    pub(super) fn write(&self, text: &mut String) -> Result<(), Malformed> {
        write_word(text, &String::from_utf8_lossy(self.key));
        text.push('=');
        let mut value = String::new();
        write_value(&mut value, self.value, 0)?;
        write_word(text, &value);
        Ok(())
    }

    /// The whole number that it is, if it is one.
    pub(super) fn whole_number(&self) -> Option<u64> {
        match Fields(self.value).last()?.ok()? {
            (3, Field::Varint(number)) => u64::try_from(number.cast_signed()).ok(),
            _ => None,
        }
    }
}

/// As it is where nobody could take it for anything else; in quotes otherwise.
fn write_word(text: &mut String, word: &str) {
    let is_plain = |c: char| !(c.is_whitespace() || c.is_control() || "\"={},".contains(c));
    if !word.is_empty() && word.chars().all(is_plain) {
        text.push_str(word);
    } else {
        text.push_str(&serde_json::to_string(word).unwrap_or_default());
    }
}

/// The text of an `AnyValue`; of a string the very string.
pub(super) fn write_value(text: &mut String, value: &[u8], depth: usize) -> Result<(), Malformed> {
    for field in Fields(value) {
        // Text that has no end is no use to anybody; `write!` into text does not fail.
        let _ = match field? {
            (1, Field::Bytes(bytes)) => write!(text, "{}", String::from_utf8_lossy(bytes)),
            (2, Field::Varint(flag)) => write!(text, "{}", flag != 0),
            (3, Field::Varint(number)) => write!(text, "{}", number.cast_signed()),
            (4, Field::Fixed64(bits)) => write!(text, "{}", f64::from_bits(bits)),
            (5 | 6, Field::Bytes(_)) if depth >= DEPTH_MAX => write!(text, "…"),
            (5, Field::Bytes(list)) => {
                write_list(text, list, depth)?;
                Ok(())
            }
            (6, Field::Bytes(list)) => {
                write_pairs(text, list, depth)?;
                Ok(())
            }
            (7, Field::Bytes(bytes)) => bytes.iter().try_for_each(|byte| write!(text, "{byte:02x}")),
            _ => Ok(()),
        };
    }
    Ok(())
}

/// An `ArrayValue`.
fn write_list(text: &mut String, list: &[u8], depth: usize) -> Result<(), Malformed> {
    text.push('[');
    let mut is_first = true;
    for field in Fields(list) {
        if let (1, Field::Bytes(value)) = field? {
            text.push_str(if is_first { "" } else { ", " });
            is_first = false;
            write_value(text, value, depth + 1)?;
        }
    }
    text.push(']');
    Ok(())
}

/// A `KeyValueList`.
fn write_pairs(text: &mut String, list: &[u8], depth: usize) -> Result<(), Malformed> {
    text.push('{');
    let mut is_first = true;
    for field in Fields(list) {
        if let (1, Field::Bytes(pair)) = field? {
            let Attribute { key, value } = Attribute::read(pair)?;
            text.push_str(if is_first { "" } else { ", " });
            is_first = false;
            let _ = write!(text, "{}=", String::from_utf8_lossy(key));
            write_value(text, value, depth + 1)?;
        }
    }
    text.push('}');
    Ok(())
}
