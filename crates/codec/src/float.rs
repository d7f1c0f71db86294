//! Plain floats: rows of them, and the 16- and 32-bit floats that scales are stored as.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::Float;

impl Float {
    /// Value `index` of the little-endian values in `bytes`.
    ///
    /// # Panics
    /// If there is no such value.
    pub fn read(self, bytes: &[u8], index: usize) -> f32 {
        match self {
            Self::F32 => f32::from_le_bytes(bytes.as_chunks().0[index]),
            Self::F16 => f16::from_le_bytes(bytes.as_chunks().0[index]).to_f32(),
            Self::Bf16 => bf16::from_le_bytes(bytes.as_chunks().0[index]).to_f32(),
        }
    }

    /// Stores `value` as value `index` of `bytes`, rounded to nearest, ties to even.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn write(self, bytes: &mut [u8], index: usize, value: f32) {
        match self {
            Self::F32 => bytes.as_chunks_mut().0[index] = value.to_le_bytes(),
            Self::F16 => bytes.as_chunks_mut().0[index] = f16::from_f32(value).to_le_bytes(),
            Self::Bf16 => bytes.as_chunks_mut().0[index] = bf16::from_f32(value).to_le_bytes(),
        }
    }

    /// `value` as this type stores it: rounded to nearest, ties to even.
    pub(crate) fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }
}

/// The floats in `data`, widened. Exact.
pub(crate) fn values(float: Float, data: &[u8], out: &mut [f32]) {
    match float {
        Float::F32 => {
            for (value, bytes) in out.iter_mut().zip(data.as_chunks().0) {
                *value = f32::from_le_bytes(*bytes);
            }
        }
        Float::F16 => {
            // The conversion instruction takes several at a time and is looked for at run time, so
            // values go through it by the handful.
            const HANDFUL: usize = 64;
            let mut narrow = [f16::ZERO; HANDFUL];
            for (out, data) in out.chunks_mut(HANDFUL).zip(data.chunks(2 * HANDFUL)) {
                let narrow = &mut narrow[..out.len()];
                for (value, bytes) in narrow.iter_mut().zip(data.as_chunks().0) {
                    *value = f16::from_le_bytes(*bytes);
                }
                narrow.convert_to_f32_slice(out);
            }
        }
        Float::Bf16 => {
            for (value, bytes) in out.iter_mut().zip(data.as_chunks().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
    }
}

/// Stores `values`, each rounded to nearest, ties to even. Infinities and NaN stay what they are.
pub(crate) fn encode(float: Float, values: &[f32], data: &mut [u8]) {
    for (index, &value) in values.iter().enumerate() {
        float.write(data, index, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sixteen_bit_values_survive() {
        for float in [Float::F16, Float::Bf16] {
            let data: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let mut wide = vec![0.0; data.len() / 2];
            values(float, &data, &mut wide);
            for (index, &value) in wide.iter().enumerate() {
                let one = float.read(&data, index);
                let same = one.to_bits() == value.to_bits() || one.is_nan() && value.is_nan();
                assert!(same, "{float:?} {index:#x}: {one} {value}");
            }
            let mut back = vec![0; data.len()];
            encode(float, &wide, &mut back);
            for (index, &value) in wide.iter().enumerate() {
                let (old, new) = (&data[2 * index..2 * index + 2], &back[2 * index..2 * index + 2]);
                assert!(value.is_nan() || old == new, "{float:?} {index:#x}");
                assert_eq!(float.read(&back, index).is_nan(), value.is_nan());
            }
        }
    }
}
