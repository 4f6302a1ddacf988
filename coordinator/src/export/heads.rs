//! Signed heads of the audit trail as log records of OTLP (`opentelemetry/proto/collector/logs/v1`, version 1): the body of each is the
//! line that `muster audit verify --head` takes.

use super::otlp::{AnyValue, KeyValue, Resource, Scope, resource, text, text_value};
use bytes::Bytes;
use prost::Message;
use proto::v1::SignedAuditHead;
use types::CoordinatorId;

/// What a record is called; its body has the form that the name stands for.
const EVENT: &str = "muster.audit.head";
const INFO: i32 = 9;

/// One `ExportLogsServiceRequest` of all these.
pub(super) fn request(heads: &[SignedAuditHead], coordinator: CoordinatorId) -> Bytes {
    let scope = Scope { name: "muster.audit".into(), version: env!("CARGO_PKG_VERSION").into() };
    let scoped = ScopeLogs { scope: Some(scope), records: heads.iter().map(record).collect() };
    let all = ResourceLogs { resource: Some(resource(coordinator)), scope_logs: vec![scoped] };
    Request { resource_logs: vec![all] }.encode_to_vec().into()
}

fn record(head: &SignedAuditHead) -> LogRecord {
    let nanos = head.time_ms.saturating_mul(1_000_000);
    LogRecord {
        time_unix_nano: nanos,
        severity_number: INFO,
        severity_text: "INFO".into(),
        body: Some(text_value(&line(head))),
        attributes: vec![text("muster.cluster", &head.cluster)],
        observed_time_unix_nano: nanos,
        event_name: EVENT.into(),
    }
}

/// As `muster audit heads` prints it.
fn line(head: &SignedAuditHead) -> String {
    let [hash, authority, signature] = [&head.hash, &head.authority, &head.signature].map(|bytes| hex(bytes));
    serde_json::json!({
        "cluster": head.cluster,
        "number": head.number,
        "hash": hash,
        "time_ms": head.time_ms,
        "authority": authority,
        "signature": signature,
    })
    .to_string()
}

/// Two digits for each byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_logs: Vec<ScopeLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    records: Vec<LogRecord>,
}

#[derive(Clone, PartialEq, Message)]
struct LogRecord {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(int32, tag = "2")]
    severity_number: i32,
    #[prost(string, tag = "3")]
    severity_text: String,
    #[prost(message, optional, tag = "5")]
    body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
    #[prost(fixed64, tag = "11")]
    observed_time_unix_nano: u64,
    #[prost(string, tag = "12")]
    event_name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_the_bytes_that_the_protocol_says() {
        let head = SignedAuditHead {
            cluster: "c".into(),
            number: 7,
            hash: vec![0xab].into(),
            time_ms: 5,
            authority: vec![1].into(),
            signature: vec![2, 255].into(),
        };
        let body = r#"{"authority":"01","cluster":"c","hash":"ab","number":7,"signature":"02ff","time_ms":5}"#;
        assert_eq!(line(&head), body);
        let bytes = request(&[head], CoordinatorId(3));
        let time = 5_000_000_u64.to_le_bytes();
        let told = [&[0x09][..], &time, b"\x10\x09\x1a\x04INFO\x2a", &[body.len() as u8 + 2, 0x0a, body.len() as u8]];
        let expected = [&told.concat(), body.as_bytes()].concat();
        assert!(bytes.windows(expected.len()).any(|window| window == expected), "{bytes:02x?}");
        assert!(bytes.ends_with(b"muster.audit.head"), "{bytes:02x?}");
    }
}
