//! int8 and int4 against Cider's weight quantizers.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use common::{floats, get, shared};
use keeve_codec::{Codec, EncodeOptions, Float, Group, decode, encode};
use safetensors::SafeTensors;

fn check(bytes: &[u8]) {
    let file = SafeTensors::deserialize(bytes).expect("safetensors");
    let source = get(&file, "w");
    let (rows, cols) = (source.shape()[0], source.shape()[1]);
    let source = floats(&source);
    let run = |codec| {
        let encoded = encode(codec, rows, cols, &source, EncodeOptions::default());
        encoded.expect("encodes").tensor
    };

    for (prefix, group) in
        [("w8", Group::Row), ("w8g64", Group::Of(64)), ("w8g128", Group::Of(128))]
    {
        let tensor = run(Codec::Int8 { group, scale: Float::F32 });
        let (codes, scales) = (get(&file, prefix), get(&file, &format!("{prefix}_scale")));
        assert!(*tensor.parts().data == *codes.data(), "{prefix}: codes");
        assert!(tensor.parts().scales.as_deref() == Some(scales.data()), "{prefix}: scales");
        let scales = floats(&scales);
        let each = cols * rows / scales.len();
        for (index, value) in decode(&tensor).into_iter().enumerate() {
            let expected = f32::from(codes.data()[index] as i8) * scales[index / each];
            assert_eq!(value.to_bits(), expected.to_bits(), "{prefix}: value {index}");
        }
    }

    let tensor = run(Codec::Int4 { group: Group::Row, scale: Float::F32 });
    let (packed, scales) = (get(&file, "w4_packed"), get(&file, "w4_scale"));
    assert!(tensor.parts().scales.as_deref() == Some(scales.data()), "w4: scales");
    let scales = floats(&scales);
    for (index, value) in decode(&tensor).into_iter().enumerate() {
        // Cider packs [K/2, N] with the even k in the high nibble.
        let (row, col) = (index / cols, index % cols);
        let byte = packed.data()[col / 2 * rows + row];
        let code = if col.is_multiple_of(2) { byte >> 4 } else { byte & 15 };
        let expected = (f32::from(code) - 8.0) * scales[row];
        assert_eq!(value.to_bits(), expected.to_bits(), "w4: value {index}");
    }
}

#[test]
fn encoding_meets_cider() {
    check(include_bytes!("../../../testdata/cider.safetensors"));
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn all_channels_meet_cider() {
    check(&shared("cider/cider_ops.safetensors"));
}
