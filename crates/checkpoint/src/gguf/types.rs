//! Tensor type ids of ggml (`ggml_type` in ggml-org/llama.cpp `ggml/include/ggml.h`).

use keeve_codec::Codec;

use crate::StoredType;

/// The types that keeve has a codec for.
const CODECS: [(u32, Codec); 13] = [
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
    (30, Codec::BF16),
];

/// The others: id, name, weights of a block, bytes of a block.
const OTHERS: [(u32, &str, usize, usize); 22] = [
    (9, "q8_1", 32, 36),
    (15, "q8_k", 256, 292),
    (16, "iq2_xxs", 256, 66),
    (17, "iq2_xs", 256, 74),
    (18, "iq3_xxs", 256, 98),
    (19, "iq1_s", 256, 50),
    (20, "iq4_nl", 32, 18),
    (21, "iq3_s", 256, 110),
    (22, "iq2_s", 256, 82),
    (23, "iq4_xs", 256, 136),
    (24, "i8", 1, 1),
    (25, "i16", 1, 2),
    (26, "i32", 1, 4),
    (27, "i64", 1, 8),
    (28, "f64", 1, 8),
    (29, "iq1_m", 256, 56),
    (34, "tq1_0", 256, 54),
    (35, "tq2_0", 256, 66),
    (39, "mxfp4", 32, 17),
    (40, "nvfp4", 64, 36),
    (41, "q1_0", 128, 18),
    (42, "q2_0", 64, 18),
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
    fn every_plain_codec_has_an_id() {
        for codec in Codec::PLAIN {
            let id = id_of(codec).unwrap();
            assert_eq!(of_id(id).0, StoredType::Codec(codec));
        }
        assert_eq!(of_id(4), (StoredType::Other("type 4".into()), None));
        assert_eq!(of_id(23), (StoredType::Other("iq4_xs".into()), Some((256, 136))));
    }
}
