//! Tensors of `f32` in files of the safetensors format, which everybody can read.

use std::borrow::Cow;

use safetensors::{Dtype, SafeTensors, View};

use crate::error::Error;

/// One named tensor, or a run of its values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// Little-endian.
    pub(crate) bytes: Vec<u8>,
}

impl Entry {
    pub(crate) fn new(name: String, shape: Vec<usize>, values: &[f32]) -> Self {
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Entry { name, shape, bytes }
    }
}

impl View for &Entry {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.bytes)
    }

    fn data_len(&self) -> usize {
        self.bytes.len()
    }
}

/// A whole file.
pub(crate) fn to_bytes(entries: &[Entry]) -> Result<Vec<u8>, Error> {
    let named = entries.iter().map(|entry| (entry.name.as_str(), entry));
    safetensors::serialize(named, None).map_err(|error| Error::Internal(error.to_string()))
}

/// A tensor that was read.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// The tensors of a file, or why it is none of ours.
pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Vec<Tensor>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| error.to_string())?;
    let mut tensors = Vec::with_capacity(file.len());
    for (name, tensor) in file.iter() {
        if tensor.dtype() != Dtype::F32 {
            return Err(format!("{name} is of {:?}, not F32", tensor.dtype()));
        }
        let values = tensor.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        tensors.push(Tensor { name: name.to_owned(), shape: tensor.shape().to_vec(), values });
    }
    Ok(tensors)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_bit_for_bit() {
        let values = [0.1, -0.0, f32::NAN, f32::MIN_POSITIVE / 2.0, 1e38, 3.0];
        let entries = [Entry::new("b".to_owned(), vec![2, 3], &values), Entry::new("a".to_owned(), vec![0], &[])];
        let mut back = from_bytes(&to_bytes(&entries).unwrap()).unwrap();
        back.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!((back[0].name.as_str(), back[1].shape.as_slice()), ("a", [2, 3].as_slice()));
        assert!(back[1].values.iter().zip(values).all(|(found, saved)| found.to_bits() == saved.to_bits()));
        assert!(from_bytes(b"no such thing").is_err());
    }
}
