//! NumPy's array files, formats 1.0 and 2.0: a little-endian array in C order behind a one-line Python literal.
//!
//! The size of the file must be exactly what the header says, and is checked before anything of that size is made.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::{FAULTS_MAX, Labels, Samples, VALUES_MAX, fault};
use crate::error::{Error, Fault};
use crate::files;

/// Longest header in bytes: real ones have 128.
const HEADER_MAX: usize = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    F4,
    F8,
    U1,
    I4,
    I8,
}

impl Kind {
    fn size(self) -> usize {
        match self {
            Kind::U1 => 1,
            Kind::F4 | Kind::I4 => 4,
            Kind::F8 | Kind::I8 => 8,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Header {
    kind: Kind,
    shape: Vec<usize>,
}

struct Array {
    header: Header,
    bytes: Vec<u8>,
}

pub(super) fn load(features: &Path, labels: &Path) -> Result<Samples, Error> {
    let (array, place) = (read(features)?, features.display().to_string());
    let [rows, rest @ ..] = array.header.shape.as_slice() else {
        return Err(fault(&place, None, "holds a single number, not one row a sample"));
    };
    if rest.is_empty() {
        return Err(fault(&place, None, "has one dimension: the features need a second one"));
    }
    let width: usize = rest.iter().product();
    let values = floats(&array, &place, width)?;
    let (targets, target_place) = (read(labels)?, labels.display().to_string());
    match targets.header.shape.as_slice() {
        [count] | [count, 1] if count == rows => {}
        shape => {
            let message = format!("has shape {shape:?}: {rows} samples need one label each, shape ({rows},)");
            return Err(fault(&target_place, None, message));
        }
    }
    Ok(Samples { features: values, shape: rest.to_vec(), labels: whole(&targets, &target_place)? })
}

fn read(path: &Path) -> Result<Array, Error> {
    let (mut file, size) = files::open_plain(path)?;
    let place = path.display().to_string();
    let (header, offset) = header(&mut file, &place, path)?;
    let count = header.shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length));
    let Some(count) = count.filter(|count| *count <= VALUES_MAX) else {
        return Err(fault(&place, None, format!("has shape {:?}: more than {VALUES_MAX} values", header.shape)));
    };
    let wanted = count * header.kind.size();
    if size != (offset + wanted) as u64 {
        let message =
            format!("has {size} bytes, but its header with shape {:?} needs {}", header.shape, offset + wanted);
        return Err(fault(&place, None, message));
    }
    let mut bytes = vec![0; wanted];
    file.read_exact(&mut bytes).map_err(Error::io("read", path))?;
    Ok(Array { header, bytes })
}

/// The header, and where the values begin.
fn header(file: &mut File, place: &str, path: &Path) -> Result<(Header, usize), Error> {
    let short = |_| fault(place, None, "is too short for a .npy file");
    let mut start = [0; 8];
    file.read_exact(&mut start).map_err(short)?;
    if start[..6] != *b"\x93NUMPY" {
        return Err(fault(place, None, "is not a .npy file: it does not begin with \\x93NUMPY"));
    }
    let (length, before) = match start[6] {
        1 => {
            let mut bytes = [0; 2];
            file.read_exact(&mut bytes).map_err(short)?;
            (usize::from(u16::from_le_bytes(bytes)), 10)
        }
        2 => {
            let mut bytes = [0; 4];
            file.read_exact(&mut bytes).map_err(short)?;
            (u32::from_le_bytes(bytes) as usize, 12)
        }
        version => return Err(fault(place, None, format!("has .npy format {version}: 1 and 2 are read"))),
    };
    if length > HEADER_MAX {
        return Err(fault(place, None, format!("has a header of {length} bytes, more than {HEADER_MAX}")));
    }
    let mut text = vec![0; length];
    file.read_exact(&mut text).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => short(error),
        _ => Error::io("read", path)(error),
    })?;
    let header = parse_header(&String::from_utf8_lossy(&text)).map_err(|message| fault(place, None, message))?;
    Ok((header, before + length))
}

/// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`; keys in any order, as numpy itself writes them.
fn parse_header(text: &str) -> Result<Header, String> {
    let after = |key: &str| {
        let at = text.find(&format!("'{key}'")).ok_or_else(|| format!("has a header without {key}"))?;
        let rest = text[at + key.len() + 2..].trim_start();
        rest.strip_prefix(':').map(str::trim_start).ok_or_else(|| format!("has a header with a broken {key}"))
    };
    let descr = after("descr")?;
    let kind = descr.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map(|(kind, _)| kind);
    let kind = match kind {
        Some("<f4") => Kind::F4,
        Some("<f8") => Kind::F8,
        Some("|u1" | "<u1") => Kind::U1,
        Some("<i4") => Kind::I4,
        Some("<i8") => Kind::I8,
        Some(other) => return Err(format!("has values of type {other}: <f4, <f8, |u1, <i4 and <i8 are read")),
        None => return Err("has values of a compound type: <f4, <f8, |u1, <i4 and <i8 are read".to_owned()),
    };
    let order = after("fortran_order")?;
    if order.starts_with("True") {
        return Err("is in Fortran order: save it with numpy.ascontiguousarray".to_owned());
    }
    if !order.starts_with("False") {
        return Err("has a header with a broken fortran_order".to_owned());
    }
    let shape = after("shape")?;
    let inside = shape.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(inside, _)| inside);
    let inside = inside.ok_or("has a header with a broken shape")?;
    let lengths = inside.split(',').map(str::trim).filter(|length| !length.is_empty());
    let shape: Option<Vec<usize>> = lengths.map(|length| length.parse().ok()).collect();
    Ok(Header { kind, shape: shape.ok_or("has a header with a broken shape")? })
}

fn floats(array: &Array, place: &str, width: usize) -> Result<Vec<f32>, Error> {
    let bytes = array.bytes.as_slice();
    let values: Vec<f32> = match array.header.kind {
        Kind::U1 => bytes.iter().map(|byte| f32::from(*byte)).collect(),
        Kind::F4 => bytes.as_chunks().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect(),
        Kind::F8 => bytes.as_chunks().0.iter().map(|chunk| f64::from_le_bytes(*chunk) as f32).collect(),
        Kind::I4 => bytes.as_chunks().0.iter().map(|chunk| i32::from_le_bytes(*chunk) as f32).collect(),
        Kind::I8 => bytes.as_chunks().0.iter().map(|chunk| i64::from_le_bytes(*chunk) as f32).collect(),
    };
    let bad = values.iter().enumerate().filter(|(_, value)| !value.is_finite()).take(FAULTS_MAX);
    let say = |(at, value): (usize, &f32)| format!("row {}, feature {}: {value} is not finite", at / width, at % width);
    all_good(place, bad.map(say).collect())?;
    Ok(values)
}

fn whole(array: &Array, place: &str) -> Result<Labels, Error> {
    let bytes = array.bytes.as_slice();
    let float = |value: f64| (value.fract() == 0.0 && value.abs() < 9e15).then_some(value as i64);
    let values: Vec<Option<i64>> = match array.header.kind {
        Kind::U1 => bytes.iter().map(|byte| Some(i64::from(*byte))).collect(),
        Kind::F4 => bytes.as_chunks().0.iter().map(|chunk| float(f64::from(f32::from_le_bytes(*chunk)))).collect(),
        Kind::F8 => bytes.as_chunks().0.iter().map(|chunk| float(f64::from_le_bytes(*chunk))).collect(),
        Kind::I4 => bytes.as_chunks().0.iter().map(|chunk| Some(i64::from(i32::from_le_bytes(*chunk)))).collect(),
        Kind::I8 => bytes.as_chunks().0.iter().map(|chunk| Some(i64::from_le_bytes(*chunk))).collect(),
    };
    let mut labels = Labels::default();
    let mut bad = Vec::new();
    for (at, value) in values.into_iter().enumerate() {
        let pushed = match value {
            Some(value) => labels.push(&value.to_string()),
            None => Err("the label is not a whole number".to_owned()),
        };
        if let Err(message) = pushed {
            bad.push(format!("row {at}: {message}"));
        }
        if bad.len() == FAULTS_MAX {
            break;
        }
    }
    all_good(place, bad)?;
    Ok(labels)
}

fn all_good(place: &str, messages: Vec<String>) -> Result<(), Error> {
    let fault = |message| Fault { place: place.to_owned(), line: None, field: String::new(), message };
    let faults: Vec<Fault> = messages.into_iter().map(fault).collect();
    if faults.is_empty() { Ok(()) } else { Err(Error::Data { faults }) }
}
