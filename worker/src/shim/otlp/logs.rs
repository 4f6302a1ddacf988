//! Log records of an `ExportLogsServiceRequest` (`opentelemetry/proto/logs/v1/logs.proto`) as lines of stderr.
//!
//! ```text
//! 2026-11-27 23:40:01.250Z WARN data.loader: 3 samples are empty file=train.csv
//! ```
//!
//! Time, severity, the logger's name, the message, attributes, and the ids of trace and span where there are any. Lines of a message
//! stay lines of their own, and so does the traceback of an exception.

use super::super::protobuf::{Field, Fields, Malformed};
use super::values::{ATTRIBUTES_MAX, Attribute, write_value};
use std::fmt::Write as _;
use types::Timestamp;

/// Records of one request that are taken.
const RECORDS_MAX: u64 = 10_000;
/// Bytes of lines that one request may become, but for its last record.
const LINES_BYTES_MAX: usize = 8 << 20;
/// Semantic convention for an exception's traceback.
const TRACEBACK: &[u8] = b"exception.stacktrace";

/// Adds what the request has to `lines`; returns how many records were not taken.
pub(super) fn read(request: &[u8], lines: &mut Vec<u8>) -> Result<u64, Malformed> {
    let (mut records, mut rejected) = (0, 0);
    for resource in Fields(request) {
        let (1, Field::Bytes(resource)) = resource? else { continue };
        for scope in Fields(resource) {
            let (2, Field::Bytes(scope)) = scope? else { continue };
            let name = scope_name(scope)?;
            for record in Fields(scope) {
                let (2, Field::Bytes(record)) = record? else { continue };
                records += 1;
                if records > RECORDS_MAX || lines.len() > LINES_BYTES_MAX {
                    rejected += 1;
                } else {
                    let line = Record::read(record)?.text(name)?;
                    lines.extend_from_slice(line.as_bytes());
                }
            }
        }
    }
    Ok(rejected)
}

fn scope_name(scope_logs: &[u8]) -> Result<&[u8], Malformed> {
    let mut name = &[][..];
    for field in Fields(scope_logs) {
        let (1, Field::Bytes(scope)) = field? else { continue };
        for field in Fields(scope) {
            if let (1, Field::Bytes(bytes)) = field? {
                name = bytes;
            }
        }
    }
    Ok(name)
}

#[derive(Default)]
struct Record<'a> {
    /// Nanoseconds since 1970; 0 = not known.
    time: u64,
    observed: u64,
    severity: u64,
    severity_text: &'a [u8],
    event: &'a [u8],
    body: &'a [u8],
    attributes: Vec<Attribute<'a>>,
    trace: &'a [u8],
    span: &'a [u8],
}

impl<'a> Record<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut record = Self::default();
        for field in Fields(bytes) {
            match field? {
                (1, Field::Fixed64(time)) => record.time = time,
                (11, Field::Fixed64(time)) => record.observed = time,
                (2, Field::Varint(number)) => record.severity = number,
                (3, Field::Bytes(text)) => record.severity_text = text,
                (5, Field::Bytes(body)) => record.body = body,
                (6, Field::Bytes(attribute)) if record.attributes.len() < ATTRIBUTES_MAX => {
                    record.attributes.push(Attribute::read(attribute)?);
                }
                (9, Field::Bytes(id)) => record.trace = id,
                (10, Field::Bytes(id)) => record.span = id,
                (12, Field::Bytes(name)) => record.event = name,
                _ => {}
            }
        }
        Ok(record)
    }

    fn text(&self, scope: &[u8]) -> Result<String, Malformed> {
        let mut text = String::new();
        let time = if self.time > 0 { self.time } else { self.observed };
        let millis = time / 1_000_000;
        let seconds = daemon::clock::text(Timestamp(millis));
        let _ = write!(text, "{}.{:03}Z {}", seconds.trim_end_matches('Z'), millis % 1_000, self.severity());
        for name in [scope, self.event].into_iter().filter(|name| !name.is_empty()) {
            let _ = write!(text, " {}", String::from_utf8_lossy(name).replace(char::is_control, " "));
        }
        text.push_str(": ");
        write_value(&mut text, self.body, 0)?;
        let plain = self.attributes.iter().filter(|attribute| attribute.key != TRACEBACK);
        for attribute in plain {
            text.push(' ');
            attribute.write(&mut text)?;
        }
        for (what, id) in [("trace_id", self.trace), ("span_id", self.span)] {
            if (1..=16).contains(&id.len()) && id.iter().any(|byte| *byte != 0) {
                let _ = write!(text, " {what}=");
                let _ = id.iter().try_for_each(|byte| write!(text, "{byte:02x}"));
            }
        }
        for attribute in self.attributes.iter().filter(|attribute| attribute.key == TRACEBACK) {
            text.push('\n');
            write_value(&mut text, attribute.value, 0)?;
        }
        let end = text.trim_end_matches('\n').len();
        text.truncate(end);
        text.push('\n');
        Ok(text)
    }

    fn severity(&self) -> String {
        if !self.severity_text.is_empty() {
            return String::from_utf8_lossy(self.severity_text).replace(char::is_control, " ");
        }
        let name = match self.severity {
            1..=4 => "TRACE",
            5..=8 => "DEBUG",
            13..=16 => "WARN",
            17..=20 => "ERROR",
            21..=24 => "FATAL",
            _ => "INFO",
        };
        name.to_owned()
    }
}
