//! IDX files of bytes, as MNIST is published in: a magic number, big-endian dimensions, then the bytes.
//!
//! The size of the file must be exactly what the header says, and is checked before anything of that size is made.

use std::io::Read;
use std::path::Path;

use super::{Labels, Samples, VALUES_MAX, fault};
use crate::error::Error;
use crate::files;

/// The type code of unsigned bytes.
const BYTES: u8 = 8;

struct Array {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

pub(super) fn load(images: &Path, labels: &Path) -> Result<Samples, Error> {
    let (array, place) = (read(images)?, images.display().to_string());
    let (rows, shape) = match array.shape.as_slice() {
        [rows, rest @ ..] if !rest.is_empty() => (*rows, rest.to_vec()),
        shape => {
            let message = format!("has {} dimension: the samples need at least 2; is it the label file?", shape.len());
            return Err(fault(&place, None, message));
        }
    };
    let (targets, target_place) = (read(labels)?, labels.display().to_string());
    if targets.shape != [rows] {
        let message = format!("has shape {:?}: {rows} samples need one label each", targets.shape);
        return Err(fault(&target_place, None, message));
    }
    let mut classes = Labels::default();
    for label in &targets.bytes {
        classes.push(&label.to_string()).map_err(|message| fault(&target_place, None, message))?;
    }
    let features = array.bytes.iter().map(|byte| f32::from(*byte)).collect();
    Ok(Samples { features, shape, labels: classes })
}

fn read(path: &Path) -> Result<Array, Error> {
    let (mut file, size) = files::open_plain(path)?;
    let place = path.display().to_string();
    let short = |_| fault(&place, None, "is too short for an IDX file");
    let mut magic = [0; 4];
    file.read_exact(&mut magic).map_err(short)?;
    let dimensions = match magic {
        [0x1f, 0x8b, ..] => return Err(fault(&place, None, "is compressed by gzip: unpack it first")),
        [0, 0, BYTES, dimensions] if dimensions > 0 => dimensions,
        [0, 0, kind, _] if kind != BYTES => {
            return Err(fault(
                &place,
                None,
                format!("holds values of IDX type {kind:#04x}: only bytes (0x08) are read"),
            ));
        }
        _ => return Err(fault(&place, None, "is not an IDX file: it does not begin with 0, 0, 8 and its dimensions")),
    };
    let mut shape = Vec::new();
    for _ in 0..dimensions {
        let mut length = [0; 4];
        file.read_exact(&mut length).map_err(short)?;
        shape.push(u32::from_be_bytes(length) as usize);
    }
    let count = shape.iter().try_fold(1_usize, |product, length| product.checked_mul(*length));
    let Some(count) = count.filter(|count| *count <= VALUES_MAX) else {
        return Err(fault(&place, None, format!("has shape {shape:?}: more than {VALUES_MAX} values")));
    };
    let wanted = (4 + 4 * shape.len() + count) as u64;
    if size != wanted {
        return Err(fault(
            &place,
            None,
            format!("has {size} bytes, but its header with shape {shape:?} needs {wanted}"),
        ));
    }
    let mut bytes = vec![0; count];
    file.read_exact(&mut bytes).map_err(Error::io("read", path))?;
    Ok(Array { shape, bytes })
}
