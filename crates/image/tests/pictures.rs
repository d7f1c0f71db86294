//! What pixels become, and that nothing that is no picture does harm.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
use image::{ExtendedColorType, ImageEncoder};
use keeve_image::{Error, Limits, Picture, Processor};
use proptest::prelude::*;

const SETTINGS: &str = r#"{"size": {"shortest_edge": 1024, "longest_edge": 16384}, "patch_size": 16,
    "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}"#;

fn processor() -> Processor {
    Processor::from_json(SETTINGS, "settings").unwrap()
}

fn decode(bytes: &[u8]) -> Result<Picture, Error> {
    Picture::decode(bytes, &Limits::default())
}

fn png(pixels: &[u8], width: u32, height: u32, color: ExtendedColorType) -> Vec<u8> {
    let mut file = vec![];
    PngEncoder::new(&mut file).write_image(pixels, width, height, color).unwrap();
    file
}

/// The three formats, of a picture with some colours.
fn files() -> [(&'static str, Vec<u8>); 3] {
    let (width, height) = (40, 24);
    let pixels: Vec<u8> = (0..width * height)
        .flat_map(|n| [(n * 5) as u8, (n / width * 9) as u8, 200 - (n % width) as u8])
        .collect();
    let (mut jpeg, mut webp) = (vec![], vec![]);
    let color = ExtendedColorType::Rgb8;
    JpegEncoder::new_with_quality(&mut jpeg, 95)
        .write_image(&pixels, width, height, color)
        .unwrap();
    WebPEncoder::new_lossless(&mut webp).write_image(&pixels, width, height, color).unwrap();
    [("PNG", png(&pixels, width, height, color)), ("JPEG", jpeg), ("WebP", webp)]
}

#[test]
fn all_formats_are_read() {
    let [png, jpeg, webp] = files().map(|(_, file)| decode(&file).unwrap());
    assert_eq!((png.width, png.height), (40, 24));
    assert_eq!(png, webp);
    let off = png.rgb.iter().zip(&jpeg.rgb).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(off.unwrap() < 120, "{off:?}");
    let mean = png.rgb.iter().zip(&jpeg.rgb).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>();
    assert!(mean / (40 * 24 * 3) < 10, "{mean}");
    for (_, file) in files() {
        assert_eq!(processor().grid(&file), Ok([1, 2, 2]));
        assert_eq!(processor().process(&file).unwrap().grid, [1, 2, 2]);
    }
}

#[test]
fn colours_become_those_of_the_reference() {
    // Pillow 12.1: `Image.open(file).convert("RGB")`.
    let rgb = |file: Vec<u8>| decode(&file).unwrap().rgb;
    assert_eq!(rgb(png(&[7, 200], 2, 1, ExtendedColorType::L8)), [7, 7, 7, 200, 200, 200]);
    // What is transparent keeps the colour it has.
    assert_eq!(rgb(png(&[9, 0, 200, 128], 2, 1, ExtendedColorType::La8)), [9, 9, 9, 200, 200, 200]);
    assert_eq!(rgb(png(&[1, 2, 3, 0], 1, 1, ExtendedColorType::Rgba8)), [1, 2, 3]);
    let wide = [0x12ff_u16, 0xff00, 0x0080].map(u16::to_ne_bytes).concat();
    assert_eq!(rgb(png(&wide, 1, 1, ExtendedColorType::Rgb16)), [0x12, 0xff, 0]);
    assert_eq!(rgb(png(&wide[..2], 1, 1, ExtendedColorType::L16)), [0x12; 3]);
    assert_eq!(rgb(indexed()), [10, 20, 30, 40, 50, 60]);
}

/// Two pixels of a palette, one of them transparent.
fn indexed() -> Vec<u8> {
    let mut file = vec![];
    let mut encoder = png::Encoder::new(&mut file, 2, 1);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::One);
    encoder.set_palette(vec![10, 20, 30, 40, 50, 60]);
    encoder.set_trns(vec![0]);
    encoder.write_header().unwrap().write_image_data(&[0b0100_0000]).unwrap();
    file
}

/// EXIF data that says only how a picture is turned (CIPA DC-008, "Exif", 4.6).
fn exif(orientation: u8) -> Vec<u8> {
    [b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0", &[orientation][..], &[0; 6]].concat()
}

#[test]
fn pictures_are_turned_as_their_exif_data_says() {
    let [a, b, c, d] = [[1, 2, 3], [40, 50, 60], [7, 8, 9], [100, 110, 120]];
    let pixels = [a, b, c, d].concat();
    for (orientation, expected) in [
        (1, [a, b, c, d]),
        (2, [b, a, d, c]),
        (3, [d, c, b, a]),
        (4, [c, d, a, b]),
        (5, [a, c, b, d]),
        (6, [c, a, d, b]),
        (7, [d, b, c, a]),
        (8, [b, d, a, c]),
        (9, [a, b, c, d]),
    ] {
        let mut file = vec![];
        let mut encoder = PngEncoder::new(&mut file);
        encoder.set_exif_metadata(exif(orientation)).unwrap();
        encoder.write_image(&pixels, 2, 2, ExtendedColorType::Rgb8).unwrap();
        assert_eq!(decode(&file).unwrap().rgb, expected.concat(), "{orientation}");
    }
    // In each format, and known before anything is decoded.
    for orientation in [1, 6] {
        let (mut jpeg, mut webp) = (vec![], vec![]);
        let mut encoder = JpegEncoder::new(&mut jpeg);
        encoder.set_exif_metadata(exif(orientation)).unwrap();
        encoder.write_image(&[0; 30], 10, 1, ExtendedColorType::Rgb8).unwrap();
        let mut encoder = WebPEncoder::new_lossless(&mut webp);
        encoder.set_exif_metadata(exif(orientation)).unwrap();
        encoder.write_image(&[0; 30], 10, 1, ExtendedColorType::Rgb8).unwrap();
        let expected = if orientation == 1 { (10, 1) } else { (1, 10) };
        for file in [jpeg, webp] {
            let picture = decode(&file).unwrap();
            assert_eq!((picture.width, picture.height), expected);
            assert_eq!(Picture::measure(&file, &Limits::default()), Ok(expected));
        }
    }
}

#[test]
fn files_that_were_cut_short_are_refused() {
    for (format, file) in files() {
        for length in 0..file.len() - 12 {
            let error = decode(&file[..length]).unwrap_err();
            assert!(matches!(error, Error::Format | Error::Damaged { .. }), "{format} {length}");
        }
    }
    for file in [&b""[..], b"GIF89a\x01\0\x01\0", b"BM", b"<svg/>", b"\x89PNG\r\n\x1a\n", b"RIFF"] {
        assert!(decode(file).is_err());
    }
}

/// A PNG file with another size in its header.
fn lying_png(width: u32, height: u32) -> Vec<u8> {
    let mut file = files()[0].1.clone();
    file[16..20].copy_from_slice(&width.to_be_bytes());
    file[20..24].copy_from_slice(&height.to_be_bytes());
    let sum = crc(&file[12..29]).to_be_bytes();
    file[29..33].copy_from_slice(&sum);
    file
}

/// The check sum of PNG chunks (W3C, "Portable Network Graphics", annex D).
fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, &byte| {
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    })
}

#[test]
fn headers_that_lie_are_refused_before_they_cost_anything() {
    let too_large = |file: &[u8]| matches!(decode(file), Err(Error::TooLarge { .. }));
    for (width, height) in [(50_000, 1), (1, 50_000), (16_000, 16_000), (200_000, 200_000)] {
        assert!(too_large(&lying_png(width, height)), "{width} x {height}");
    }
    assert!(decode(&lying_png(0, 10)).is_err());
    // Within the limits: it is read as far as there is something.
    assert_eq!(decode(&lying_png(3000, 3000)), Err(Error::Damaged { format: "PNG" }));
    let mut jpeg = files()[1].1.clone();
    let frame = jpeg.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].fill(0xff);
    assert!(too_large(&jpeg));
    let mut webp = files()[2].1.clone();
    webp[21..25].copy_from_slice(&(15_999_u32 << 14 | 15_999).to_le_bytes());
    assert!(too_large(&webp));
}

#[test]
fn limits_are_kept() {
    let file = png(&[0; 3 * 100], 10, 10, ExtendedColorType::Rgb8);
    let whole = Limits { bytes: file.len(), side: 10, pixels: 100, allocation: 10_000 };
    assert!(Picture::decode(&file, &whole).is_ok());
    for limits in [
        Limits { bytes: file.len() - 1, ..whole },
        Limits { side: 9, ..whole },
        Limits { pixels: 99, ..whole },
        Limits { allocation: 599, ..whole },
    ] {
        let error = Picture::decode(&file, &limits).unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error}");
        let processor = processor().with_limits(limits);
        assert_eq!(processor.process(&file), Err(error.clone()));
        assert_eq!(processor.grid(&file), Err(error));
    }
}

#[test]
fn a_bomb_within_the_limits_is_small_when_it_is_done() {
    // 7,000 x 7,000 grey pixels in 50 kB.
    let (width, height) = (7000, 7000);
    let file = png(&vec![128; width * height], 7000, 7000, ExtendedColorType::L8);
    assert!(file.len() < 1 << 20);
    let patches = processor().process(&file).unwrap();
    assert_eq!(patches.grid, [1, 8, 8]);
    assert!(patches.pixels.iter().all(|value| (*value - (128.0 - 127.5) / 127.5).abs() < 1e-6));
    let long = png(&[0; 16_000], 16_000, 1, ExtendedColorType::L8);
    assert!(matches!(processor().process(&long), Err(Error::Ratio { .. })));
}

#[test]
fn settings_that_make_no_sense_are_named() {
    for (field, value) in [
        ("patch_size", "0"),
        ("patch_size", "1000000"),
        ("temporal_patch_size", "0"),
        ("merge_size", "99"),
        ("resample", "2"),
        ("do_resize", "false"),
        ("rescale_factor", "0"),
        ("rescale_factor", "1e-320"),
        ("image_mean", "[0.5]"),
        ("image_std", "[0.5, 0, 0.5]"),
        ("max_pixels", "1"),
        ("max_pixels", "99999999999"),
        ("min_pixels", "99999999999"),
    ] {
        let json = format!("{{\"{field}\": {value}}}");
        let error = Processor::from_json(&json, "file.json").unwrap_err().to_string();
        assert!(
            error.starts_with("file.json: field '") && !error.contains('\n'),
            "{json}: {error}"
        );
    }
    for json in ["", "[]", "{", "{\"patch_size\": -1}", "{\"image_processor\": 3}"] {
        let error = Processor::from_json(json, "file.json").unwrap_err().to_string();
        assert!(error.starts_with("file.json: ") && !error.contains('\n'), "{json}: {error}");
    }
    assert!(Processor::from_json("{}", "file.json").is_ok());
}

proptest! {
    #[test]
    fn nothing_that_happens_to_a_file_is_the_end(
        format in 0..3usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        length in any::<prop::sample::Index>(),
    ) {
        let mut file = files()[format].1.clone();
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let _ = processor().process(&file);
        file.truncate(length.index(file.len()));
        let _ = processor().process(&file);
    }
}
