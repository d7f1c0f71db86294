//! Tensor type ids of ggml (`ggml_type` in ggml-org/llama.cpp `ggml/include/ggml.h`).

use keeve_codec::Codec;

use crate::StoredType;

/// The types that keeve has a codec for.
const CODECS: [(u32, Codec); 28] = [
    (0, Codec::F32),
    (1, Codec::F16),
    (2, Codec::Q4_0),
    (3, Codec::Q4_1),
    (6, Codec::Q5_0),
    (7, Codec::Q5_1),
    (8, Codec::Q8_0),
    (10, Codec::Q2K),
    (11, Codec::Q3K),
    (12, Codec::Q4K),
    (13, Codec::Q5K),
    (14, Codec::Q6K),
    (16, Codec::Iq2Xxs),
    (17, Codec::Iq2Xs),
    (18, Codec::Iq3Xxs),
    (19, Codec::Iq1S),
    (20, Codec::Iq4Nl),
    (21, Codec::Iq3S),
    (22, Codec::Iq2S),
    (23, Codec::Iq4Xs),
    (29, Codec::Iq1M),
    (30, Codec::BF16),
    (34, Codec::Tq1_0),
    (35, Codec::Tq2_0),
    (39, Codec::Mxfp4),
    (40, Codec::Nvfp4),
    (41, Codec::Q1_0),
    (42, Codec::Q2_0),
];

/// The others: id, name, weights of a block, bytes of a block.
const OTHERS: [(u32, &str, usize, usize); 7] = [
    (9, "q8_1", 32, 36),
    (15, "q8_k", 256, 292),
    (24, "i8", 1, 1),
    (25, "i16", 1, 2),
    (26, "i32", 1, 4),
    (27, "i64", 1, 8),
    (28, "f64", 1, 8),
];

/// What a type id means: the stored type and, if it is known, weights and bytes of a block.
pub(super) fn of_id(id: u32) -> (StoredType, Option<(usize, usize)>) {
    if let Some((_, codec)) = CODECS.iter().find(|(known, _)| *known == id) {
        let geometry = codec.geometry();
        return (StoredType::Codec(*codec), Some((geometry.block, geometry.block_bytes)));
    }
    match OTHERS.iter().find(|(known, ..)| *known == id) {
        Some((_, name, block, bytes)) => {
            (StoredType::Other((*name).into()), Some((*block, *bytes)))
        }
        None => (StoredType::Other(format!("type {id}")), None),
    }
}

/// The id of a codec, if ggml has it.
pub(super) fn id_of(codec: Codec) -> Option<u32> {
    CODECS.iter().find(|(_, known)| *known == codec).map(|(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_codecs_of_ggml_have_an_id() {
        let of_mlx_kquant = [Codec::Pq2_0, Codec::Ptq1_0];
        for codec in Codec::PLAIN {
            let of_ggml = codec.is_float() || codec.is_blocks() && !of_mlx_kquant.contains(&codec);
            assert_eq!(id_of(codec).is_some(), of_ggml, "{codec}");
        }
        for (id, codec) in CODECS {
            let geometry = codec.geometry();
            let sizes = Some((geometry.block, geometry.block_bytes));
            assert_eq!(of_id(id), (StoredType::Codec(codec), sizes));
            assert_eq!(id_of(codec), Some(id));
        }
        assert_eq!(of_id(4), (StoredType::Other("type 4".into()), None));
        assert_eq!(of_id(15), (StoredType::Other("q8_k".into()), Some((256, 292))));
    }
}
