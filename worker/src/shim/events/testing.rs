//! Event files, written byte by byte for tests: by other code than what reads them.

pub(super) use crate::shim::protobuf::{bytes_field, varint_field};

/// CRC-32C, bit by bit.
pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = if sum % 2 == 1 { (sum / 2) ^ 0x82f6_3b78 } else { sum / 2 };
        }
    }
    !sum
}

fn masked(bytes: &[u8]) -> [u8; 4] {
    let sum = crc32c(bytes);
    sum.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

/// One framed record.
pub(super) fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked(&length), bytes, &masked(bytes)].concat()
}

/// An `Event` with a `Summary` of these values.
pub(super) fn event(wall_time: f64, step: i64, values: &[Vec<u8>]) -> Vec<u8> {
    let values: Vec<u8> = values.iter().flat_map(|value| bytes_field(1, value)).collect();
    let time = [&[0x09][..], &wall_time.to_le_bytes()].concat();
    [time, varint_field(2, step.cast_unsigned()), bytes_field(5, &values)].concat()
}

/// A `Summary.Value` with a `simple_value`.
pub(super) fn scalar_value(tag: &str, value: f32) -> Vec<u8> {
    [bytes_field(1, tag.as_bytes()), vec![0x15], value.to_le_bytes().to_vec()].concat()
}

/// A `Summary.Value` with a `tensor` of this type and these further fields.
pub(super) fn tensor_value(tag: &str, dtype: u64, fields: &[Vec<u8>]) -> Vec<u8> {
    let tensor = [varint_field(1, dtype), fields.concat()].concat();
    [bytes_field(1, tag.as_bytes()), bytes_field(8, &tensor)].concat()
}
