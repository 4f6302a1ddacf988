//! Requests as SDKs send them, written field by field for tests.

use crate::shim::protobuf::{bytes_field, varint_field};

pub(super) fn fixed64(number: u64, value: u64) -> Vec<u8> {
    [vec![(number << 3 | 1) as u8], value.to_le_bytes().to_vec()].concat()
}

pub(super) fn double(number: u64, value: f64) -> Vec<u8> {
    fixed64(number, value.to_bits())
}

/// `AnyValue`s.
pub(super) fn text(value: &str) -> Vec<u8> {
    bytes_field(1, value.as_bytes())
}

pub(super) fn whole(value: i64) -> Vec<u8> {
    varint_field(3, value.cast_unsigned())
}

/// A `KeyValue` in this field.
pub(super) fn attribute(field: u64, key: &str, value: &[u8]) -> Vec<u8> {
    bytes_field(field, &[bytes_field(1, key.as_bytes()), bytes_field(2, value)].concat())
}

/// A metric whose points are in this field.
pub(super) fn metric(name: &str, field: u64, points: &[Vec<u8>]) -> Vec<u8> {
    let points: Vec<u8> = points.iter().flat_map(|point| bytes_field(1, point)).collect();
    [bytes_field(1, name.as_bytes()), bytes_field(3, b"s"), bytes_field(field, &points)].concat()
}

/// A gauge's point.
pub(super) fn number(value: f64, time: u64, attributes: &[Vec<u8>]) -> Vec<u8> {
    [fixed64(3, time), double(4, value), attributes.concat()].concat()
}

/// A request with these metrics, records or spans, of a logger or meter of this name.
pub(super) fn request(scope: &str, all: &[Vec<u8>]) -> Vec<u8> {
    let all: Vec<u8> = all.iter().flat_map(|one| bytes_field(2, one)).collect();
    let scope = bytes_field(1, &bytes_field(1, scope.as_bytes()));
    let resource = bytes_field(1, &attribute(1, "service.name", &text("train")));
    bytes_field(1, &[resource, bytes_field(2, &[scope, all].concat())].concat())
}

/// A record of severity `number`.
pub(super) fn record(time: u64, number: u64, body: &[u8], more: &[Vec<u8>]) -> Vec<u8> {
    [fixed64(1, time), varint_field(2, number), bytes_field(5, body), more.concat()].concat()
}
