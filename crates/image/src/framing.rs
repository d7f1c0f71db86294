//! Whether a file is as long as it says, and its parts of the size that it says.
//!
//! The decoders of JPEG and WebP believe more than they should: one fills up what a file that was cut
//! short does not have, the other allocates what the header of a frame asks for before it compares it
//! with the picture's.

use crate::error::Error;

const JPEG: Error = Error::Damaged { format: "JPEG" };
const WEBP: Error = Error::Damaged { format: "WebP" };

/// Checks that a JPEG file reaches its end marker.
///
/// Markers: ITU-T T.81, annex B.
pub(crate) fn check_jpeg(bytes: &[u8]) -> Result<(), Error> {
    /// Starts the coded data, which runs up to the next marker.
    const SCAN: u8 = 0xda;
    const END: u8 = 0xd9;
    // Behind the start marker.
    let mut at = 2;
    loop {
        // Markers may be preceded by any number of fill bytes, and decoders skip what is no marker.
        let (Some(&first), Some(&marker)) = (bytes.get(at), bytes.get(at + 1)) else {
            return Err(JPEG);
        };
        match (first, marker) {
            (0xff, END) => return Ok(()),
            // Stuffed bytes of coded data, restart markers and the one without a meaning.
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => at += 2,
            (0xff, 0xff) => at += 1,
            (0xff, _) => {
                let length = bytes.get(at + 2..at + 4).ok_or(JPEG)?;
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
                if marker == SCAN && at >= bytes.len() {
                    return Err(JPEG);
                }
            }
            _ => at += 1,
        }
    }
}

/// Checks that every chunk of a WebP file lies in it, and that no frame is larger than the picture.
///
/// Chunks: WebP container specification (webmproject/libwebp, `doc/webp-container-spec.txt`).
pub(crate) fn check_webp(bytes: &[u8]) -> Result<(), Error> {
    let body = bytes.get(12..).ok_or(WEBP)?;
    let declared = number(bytes, 4, 4)?;
    if declared > (bytes.len() - 8) as u64 {
        return Err(WEBP);
    }
    let mut canvas = None;
    for chunk in chunks(body) {
        let (name, content) = chunk?;
        match name {
            b"VP8X" => canvas = Some((number(content, 4, 3)? + 1, number(content, 7, 3)? + 1)),
            b"ANMF" => {
                for part in chunks(content.get(16..).ok_or(WEBP)?) {
                    let (name, content) = part?;
                    check_frame(name, content, canvas)?;
                }
            }
            _ => check_frame(name, content, canvas)?,
        }
    }
    Ok(())
}

/// Checks a frame's own size, which comes before its coded data, against the picture's.
fn check_frame(name: &[u8; 4], content: &[u8], canvas: Option<(u64, u64)>) -> Result<(), Error> {
    let (width, height) = match name {
        // RFC 6386, section 9.1.
        b"VP8 " => (number(content, 6, 2)? & 0x3fff, number(content, 8, 2)? & 0x3fff),
        // RFC 9649, section 3.4: 14 bits each, less one.
        b"VP8L" => {
            let sides = number(content, 1, 4)?;
            ((sides & 0x3fff) + 1, (sides >> 14 & 0x3fff) + 1)
        }
        _ => return Ok(()),
    };
    match canvas {
        Some((most_width, most_height)) if width > most_width || height > most_height => Err(WEBP),
        _ => Ok(()),
    }
}

/// A number of `size` bytes, the lowest first.
fn number(bytes: &[u8], at: usize, size: usize) -> Result<u64, Error> {
    let bytes = bytes.get(at..at + size).ok_or(WEBP)?;
    Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

type Chunk<'a> = (&'a [u8; 4], &'a [u8]);

/// Names and contents of chunks that follow one another. Nothing follows an error.
fn chunks(mut bytes: &[u8]) -> impl Iterator<Item = Result<Chunk<'_>, Error>> {
    std::iter::from_fn(move || {
        let (name, rest) = bytes.split_first_chunk::<4>()?;
        let content = number(rest, 0, 4).and_then(|length| {
            let length = usize::try_from(length).map_err(|_| WEBP)?;
            let end = length.checked_add(4).ok_or(WEBP)?;
            let content = rest.get(4..end).ok_or(WEBP)?;
            // Chunks are padded to an even length; the last one's padding may be missing.
            bytes = rest.get(end + length % 2..).unwrap_or_default();
            Ok(content)
        });
        if content.is_err() {
            bytes = &[];
        }
        Some(content.map(|content| (name, content)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jpeg_must_reach_its_end() {
        let whole = [
            0xff, 0xd8, // start
            0xff, 0xe0, 0, 4, 0xff, 0xd9, // a segment that holds the bytes of an end marker
            0xff, 0xda, 0, 3, 9, // a scan
            1, 0xff, 0, 2, 0xff, 0xd0, 3, // coded data
            0xff, 0xff, 0xd9, // end, after a fill byte
        ];
        assert_eq!(check_jpeg(&whole), Ok(()));
        for length in 2..whole.len() {
            assert_eq!(check_jpeg(&whole[..length]), Err(JPEG), "{length}");
        }
    }

    fn webp(parts: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let body: Vec<u8> = parts
            .iter()
            .flat_map(|(name, content)| {
                let length = (content.len() as u32).to_le_bytes();
                let padding = &[0][..content.len() % 2];
                [&name[..], &length, content, padding].concat()
            })
            .collect();
        [b"RIFF", &(body.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &body].concat()
    }

    #[test]
    fn chunks_lie_in_the_file_and_frames_in_the_picture() {
        let canvas = (b"VP8X", &[0, 0, 0, 0, 9, 0, 0, 9, 0, 0][..]);
        let frame = |width: u8| [0, 0, 0, 0x9d, 1, 0x2a, width, 0, 10, 0];
        assert_eq!(check_webp(&webp(&[canvas, (b"VP8 ", &frame(10))])), Ok(()));
        assert_eq!(check_webp(&webp(&[canvas, (b"VP8 ", &frame(11))])), Err(WEBP));
        let inner = [&[0; 16][..], b"VP8 ", &[10, 0, 0, 0], &frame(11)].concat();
        assert_eq!(check_webp(&webp(&[canvas, (b"ANMF", &inner)])), Err(WEBP));
        let mut lying = webp(&[canvas, (b"EXIF", &[1, 2, 3])]);
        assert_eq!(check_webp(&lying), Ok(()));
        lying[34..38].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(check_webp(&lying), Err(WEBP));
        assert_eq!(check_webp(b"RIFF\0\0\0\0WEBP"), Ok(()));
        assert_eq!(check_webp(b"RIFF\xff\0\0\0WEBP"), Err(WEBP));
    }
}
