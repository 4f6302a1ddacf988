//! Spans as OTLP has them on the wire (`opentelemetry/proto/collector/trace/v1`, version 1), as far as they are used here.

use super::progress::{Span, Value};
use bytes::Bytes;
use prost::Message;
use types::CoordinatorId;

/// One `ExportTraceServiceRequest` of all these.
pub(super) fn request(spans: &[Span], coordinator: CoordinatorId) -> Bytes {
    let scope = Scope { name: "muster.jobs".into(), version: env!("CARGO_PKG_VERSION").into() };
    let scoped = ScopeSpans { scope: Some(scope), spans: spans.iter().map(wire).collect() };
    let all = ResourceSpans { resource: Some(resource(coordinator)), scope_spans: vec![scoped] };
    Request { resource_spans: vec![all] }.encode_to_vec().into()
}

/// Who says it.
pub(super) fn resource(coordinator: CoordinatorId) -> Resource {
    let instance = format!("coordinator-{coordinator}");
    let version = env!("CARGO_PKG_VERSION");
    Resource {
        attributes: vec![
            text("service.name", "muster"),
            text("service.version", version),
            text("service.instance.id", &instance),
        ],
    }
}

fn wire(span: &Span) -> WireSpan {
    const INTERNAL: i32 = 1;
    const SERVER: i32 = 2;
    const ERROR: i32 = 2;
    let nanos = |millis: u64| millis.saturating_mul(1_000_000);
    let attributes = span.attributes.iter().map(|(name, value)| match value {
        Value::Text(value) => text(name, value),
        Value::Number(value) => {
            KeyValue { key: (*name).into(), value: Some(AnyValue { value: Some(any_value::Value::Int(*value)) }) }
        }
    });
    WireSpan {
        trace_id: span.trace.0.to_vec(),
        span_id: span.id.0.to_vec(),
        parent_span_id: span.parent.map(|parent| parent.0.to_vec()).unwrap_or_default(),
        name: span.name.into(),
        kind: if span.name == "submit" { SERVER } else { INTERNAL },
        start_time_unix_nano: nanos(span.begun.0),
        // A clock that was set back between two machines must not make a span end before it began.
        end_time_unix_nano: nanos(span.ended.max(span.begun).0),
        attributes: attributes.collect(),
        status: span.fault.as_ref().map(|fault| Status { message: fault.clone(), code: ERROR }),
        flags: 1,
    }
}

pub(super) fn text(name: &str, value: &str) -> KeyValue {
    KeyValue { key: name.into(), value: Some(text_value(value)) }
}

pub(super) fn text_value(value: &str) -> AnyValue {
    AnyValue { value: Some(any_value::Value::Text(value.into())) }
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<WireSpan>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Scope {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) version: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct AnyValue {
    #[prost(oneof = "any_value::Value", tags = "1, 3")]
    value: Option<any_value::Value>,
}

mod any_value {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Value {
        #[prost(string, tag = "1")]
        Text(String),
        #[prost(int64, tag = "3")]
        Int(i64),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use types::{SpanId, Timestamp, TraceId};

    #[test]
    fn a_span_is_the_bytes_that_the_protocol_says() {
        let span = Span {
            trace: TraceId([1; 16]),
            id: SpanId([2; 8]),
            parent: Some(SpanId([3; 8])),
            name: "queue",
            begun: Timestamp(5),
            ended: Timestamp(4),
            attributes: vec![("muster.job", Value::Number(7)), ("muster.queue", Value::Text("default".into()))],
            fault: Some("why".into()),
        };
        let bytes = request(&[span], CoordinatorId(3));
        let begins =
            [&[0x0a, 16][..], &[1; 16], &[0x12, 8], &[2; 8], &[0x22, 8], &[3; 8], &[0x2a, 5], b"queue", &[0x30, 1]];
        let times = [&[0x39][..], &5_000_000_u64.to_le_bytes(), &[0x41], &5_000_000_u64.to_le_bytes()].concat();
        let expected = [begins.concat(), times, b"\x4a\x10\x0a\x0amuster.job\x12\x02\x18\x07".to_vec()].concat();
        assert!(bytes.windows(expected.len()).any(|window| window == expected), "{bytes:02x?}");
        assert!(bytes.ends_with(b"\x7a\x07\x12\x03why\x18\x02\x85\x01\x01\0\0\0"), "{bytes:02x?}");
        let decoded = Request::decode(bytes).unwrap();
        let service = &decoded.resource_spans[0].resource.as_ref().unwrap().attributes[0];
        assert_eq!(*service, text("service.name", "muster"));
    }
}
