//! What one event says: the scalars in it, as `tensorflow/core/util/event.proto` and the files that it names lay them out in
//! protobuf. Fields of other numbers are passed over, and nothing is copied: a hostile record costs no more than its bytes.
//!
//! A scalar is a `simple_value`, or a `tensor` without dimensions and of a type of numbers: `TensorFlow` 2 and the newer style
//! of `PyTorch` write these.

use super::super::protobuf::{Field, Fields, Malformed, Number, varint};

/// One scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point<'a> {
    pub(super) tag: &'a [u8],
    pub(super) value: Number,
    pub(super) step: i64,
    /// Seconds since 1970.
    pub(super) wall_time: f64,
}

/// Gives each scalar of an event; what is no scalar is passed over.
pub(super) fn points<'a>(event: &'a [u8], each: &mut dyn FnMut(Point<'a>)) -> Result<(), Malformed> {
    let (mut wall_time, mut step, mut summary) = (0.0, 0, None);
    for field in Fields(event) {
        match field? {
            (1, Field::Fixed64(bits)) => wall_time = f64::from_bits(bits),
            (2, Field::Varint(value)) => step = value.cast_signed(),
            (5, Field::Bytes(bytes)) => summary = Some(bytes),
            _ => {}
        }
    }
    for field in Fields(summary.unwrap_or_default()) {
        if let (1, Field::Bytes(value)) = field?
            && let Some((tag, value)) = scalar(value)?
        {
            each(Point { tag, value, step, wall_time });
        }
    }
    Ok(())
}

/// A `Summary.Value`.
fn scalar(value: &[u8]) -> Result<Option<(&[u8], Number)>, Malformed> {
    let (mut tag, mut number) = (&[][..], None);
    for field in Fields(value) {
        match field? {
            (1, Field::Bytes(bytes)) => tag = bytes,
            (2, Field::Fixed32(bits)) => number = Some(Number::F32(f32::from_bits(bits))),
            (8, Field::Bytes(bytes)) => number = tensor(bytes)?,
            _ => {}
        }
    }
    Ok(number.map(|number| (tag, number)))
}

/// A `TensorProto` of one number: in its `tensor_content`, or as the one value of the field of its type.
fn tensor(bytes: &[u8]) -> Result<Option<Number>, Malformed> {
    let (mut dtype, mut is_scalar, mut content, mut value, mut count) = (0, true, &[][..], None, 0_usize);
    for field in Fields(bytes) {
        match field? {
            (1, Field::Varint(number)) => dtype = number,
            (2, Field::Bytes(shape)) => is_scalar = has_no_dimension(shape)?,
            (4, Field::Bytes(bytes)) => content = bytes,
            (5..=7 | 10..=11 | 13 | 16..=17, Field::Bytes(packed)) => {
                value = Some(Field::Bytes(packed));
                count += 1;
            }
            (5..=7 | 10..=11 | 13 | 16..=17, single) => {
                value = Some(single);
                count += 1;
            }
            _ => {}
        }
    }
    Ok(match value {
        _ if !is_scalar => None,
        _ if !content.is_empty() => of_content(dtype, content),
        Some(field) if count == 1 => of_field(dtype, field),
        _ => None,
    })
}

/// Field 2 is a dimension, field 3 that they are not known.
fn has_no_dimension(shape: &[u8]) -> Result<bool, Malformed> {
    for field in Fields(shape) {
        if matches!(field?, (2, _) | (3, Field::Varint(1..))) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Types of `tensorflow/core/framework/types.proto`.
mod dtype {
    pub(super) const FLOAT: u64 = 1;
    pub(super) const DOUBLE: u64 = 2;
    pub(super) const INT32: u64 = 3;
    pub(super) const UINT8: u64 = 4;
    pub(super) const INT16: u64 = 5;
    pub(super) const INT8: u64 = 6;
    pub(super) const INT64: u64 = 9;
    pub(super) const BOOL: u64 = 10;
    pub(super) const BFLOAT16: u64 = 14;
    pub(super) const UINT16: u64 = 17;
    pub(super) const HALF: u64 = 19;
    pub(super) const UINT32: u64 = 22;
    pub(super) const UINT64: u64 = 23;
}

/// Little-endian, as many bytes as the type has.
fn of_content(dtype: u64, bytes: &[u8]) -> Option<Number> {
    use dtype::{BFLOAT16, BOOL, DOUBLE, FLOAT, HALF, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64};
    let signed = |value: i64| Some(Number::Signed(value));
    let unsigned = |value: u64| Some(Number::Unsigned(value));
    match dtype {
        FLOAT => Some(Number::F32(f32::from_le_bytes(bytes.try_into().ok()?))),
        DOUBLE => Some(Number::F64(f64::from_le_bytes(bytes.try_into().ok()?))),
        HALF => Some(Number::F32(half(u16::from_le_bytes(bytes.try_into().ok()?)))),
        BFLOAT16 => Some(Number::F32(bfloat16(u16::from_le_bytes(bytes.try_into().ok()?)))),
        INT8 => signed(i8::from_le_bytes(bytes.try_into().ok()?).into()),
        INT16 => signed(i16::from_le_bytes(bytes.try_into().ok()?).into()),
        INT32 => signed(i32::from_le_bytes(bytes.try_into().ok()?).into()),
        INT64 => signed(i64::from_le_bytes(bytes.try_into().ok()?)),
        UINT8 | BOOL => unsigned(u8::from_le_bytes(bytes.try_into().ok()?).into()),
        UINT16 => unsigned(u16::from_le_bytes(bytes.try_into().ok()?).into()),
        UINT32 => unsigned(u32::from_le_bytes(bytes.try_into().ok()?).into()),
        UINT64 => unsigned(u64::from_le_bytes(bytes.try_into().ok()?)),
        _ => None,
    }
}

/// The field's one value, packed or not.
fn of_field(dtype: u64, field: Field<'_>) -> Option<Number> {
    use dtype::{BFLOAT16, BOOL, DOUBLE, FLOAT, HALF, INT8, INT16, INT32, INT64, UINT8, UINT16, UINT32, UINT64};
    let varint = match field {
        Field::Varint(value) => Some(value),
        Field::Bytes(packed) => {
            let mut rest = packed;
            varint(&mut rest).ok().filter(|_| rest.is_empty())
        }
        _ => None,
    };
    match (dtype, field) {
        (FLOAT, Field::Fixed32(bits)) => Some(Number::F32(f32::from_bits(bits))),
        (DOUBLE, Field::Fixed64(bits)) => Some(Number::F64(f64::from_bits(bits))),
        (FLOAT | DOUBLE, Field::Bytes(packed)) => of_content(dtype, packed),
        (HALF, _) => Some(Number::F32(half(varint? as u16))),
        (BFLOAT16, _) => Some(Number::F32(bfloat16(varint? as u16))),
        (INT8 | INT16 | INT32 | INT64, _) => Some(Number::Signed(varint?.cast_signed())),
        (UINT8 | UINT16 | UINT32 | UINT64 | BOOL, _) => Some(Number::Unsigned(varint?)),
        _ => None,
    }
}

fn bfloat16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// IEEE 754 binary16.
fn half(bits: u16) -> f32 {
    let (exponent, fraction) = (u32::from(bits >> 10) & 0x1f, u32::from(bits) & 0x3ff);
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    sign * match exponent {
        0 => fraction as f32 * 2_f32.powi(-24),
        0x1f if fraction == 0 => f32::INFINITY,
        0x1f => f32::NAN,
        _ => f32::from_bits(((exponent + 112) << 23) | (fraction << 13)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::testing::{bytes_field, event, scalar_value, tensor_value, varint_field};
    use super::*;
    use proptest::prelude::*;

    fn read(event: &[u8]) -> Result<Vec<(String, Number, i64, f64)>, Malformed> {
        let mut all = Vec::new();
        points(event, &mut |point| {
            all.push((String::from_utf8_lossy(point.tag).into_owned(), point.value, point.step, point.wall_time));
        })?;
        Ok(all)
    }

    #[test]
    fn both_forms_of_a_scalar_are_read_with_step_and_time() {
        let values = [scalar_value("loss", 0.1), tensor_value("rate", 1, &[bytes_field(5, &0.25_f32.to_le_bytes())])];
        let all = read(&event(1.5e9, 40, &values)).unwrap();
        assert_eq!(
            all,
            [("loss".to_owned(), Number::F32(0.1), 40, 1.5e9), ("rate".to_owned(), Number::F32(0.25), 40, 1.5e9)]
        );
        assert!(read(&event(1.0, -1, &[scalar_value("a", 1.0)])).unwrap()[0].2 == -1);
    }

    #[test]
    fn a_tensor_of_each_type_of_numbers_is_its_number() {
        let content = |bytes: &[u8]| vec![bytes_field(4, bytes)];
        let cases: Vec<(u64, Vec<Vec<u8>>, Number)> = vec![
            (1, content(&1.5_f32.to_le_bytes()), Number::F32(1.5)),
            (2, content(&1.5_f64.to_le_bytes()), Number::F64(1.5)),
            (2, vec![bytes_field(6, &0.1_f64.to_le_bytes())], Number::F64(0.1)),
            (3, vec![bytes_field(7, &[7])], Number::Signed(7)),
            (3, vec![varint_field(7, u64::MAX)], Number::Signed(-1)),
            (9, vec![bytes_field(10, &[0x80, 1])], Number::Signed(128)),
            (9, content(&(-5_i64).to_le_bytes()), Number::Signed(-5)),
            (10, vec![bytes_field(11, &[1])], Number::Unsigned(1)),
            (14, vec![bytes_field(13, &[0x80, 0x7f])], Number::F32(1.0)),
            (19, content(&[0x00, 0x3e]), Number::F32(1.5)),
            (19, content(&[0x01, 0x80]), Number::F32(-5.960_464_5e-8)),
            (23, vec![varint_field(17, u64::MAX)], Number::Unsigned(u64::MAX)),
        ];
        for (dtype, fields, expected) in cases {
            let all = read(&event(1.0, 1, &[tensor_value("x", dtype, &fields)])).unwrap();
            assert_eq!(all, [("x".to_owned(), expected, 1, 1.0)], "type {dtype}");
        }
    }

    #[test]
    fn what_is_no_scalar_is_no_point() {
        let one = bytes_field(5, &1_f32.to_le_bytes());
        let two = bytes_field(5, &[0; 8]);
        let vector = bytes_field(2, &bytes_field(2, &varint_field(1, 1)));
        let unknown = bytes_field(2, &varint_field(3, 1));
        let text = bytes_field(8, b"words");
        let short = bytes_field(4, &[0; 3]);
        for fields in [vec![two], vec![one.clone(), vector], vec![one, unknown], vec![text], vec![short], vec![]] {
            assert_eq!(read(&event(1.0, 1, &[tensor_value("x", 1, &fields)])).unwrap(), []);
        }
        // An event that names the file's version, as each file begins.
        assert_eq!(read(&bytes_field(3, b"brain.Event:2")).unwrap(), []);
        assert_eq!(read(b"").unwrap(), []);
    }

    #[test]
    fn a_message_that_is_cut_anywhere_is_malformed_or_shorter() {
        let whole = event(1.5, 3, &[scalar_value("loss", 0.5)]);
        for end in 1..whole.len() {
            if let Ok(points) = read(&whole[..end]) {
                assert_eq!(points, []);
            }
        }
        for bytes in [&[0x0b][..], &[0xff; 11], &[0x2a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            assert_eq!(read(bytes), Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = read(&bytes_field(5, &bytes_field(1, &bytes)));
            let _ = read(&bytes_field(5, &bytes_field(1, &bytes_field(8, &bytes))));
        }
    }
}
