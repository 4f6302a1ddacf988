//! The built-in data: UCI's handwritten digits as the smartcore crate carries them, 1,797 images of 8 x 8 pixels in 0
//! to 16.
//!
//! The crate's names for features and targets belong to another data set and are not used.

use smartcore::dataset::digits;

use super::{Labels, Samples, fault};
use crate::error::Error;

pub(super) fn load() -> Result<Samples, Error> {
    let data = digits::load_dataset();
    let mut labels = Labels::default();
    for label in &data.target {
        labels.push(&format!("{label:.0}")).map_err(|reason| fault("digits", None, reason))?;
    }
    if data.num_features != 64 || data.data.len() != 64 * labels.len() {
        return Err(fault("digits", None, "the built-in data is damaged"));
    }
    Ok(Samples { features: data.data, shape: vec![8, 8], labels })
}
