//! Files to pixels.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::codecs::{jpeg::JpegDecoder, png::PngDecoder, webp::WebPDecoder};
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageFormat, RgbImage};

use crate::error::Error;
use crate::framing;
use crate::limits::Limits;

/// A decoded picture, upright.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `[height, width, 3]`: red, green and blue.
    pub rgb: Vec<u8>,
}

impl Picture {
    /// Decodes a PNG, JPEG or WebP file, turned and mirrored as its EXIF data says.
    ///
    /// Pixels become what Pillow's `convert("RGB")` makes of them, which the reference calls
    /// (python-pillow/Pillow, `src/libImaging/Convert.c` and `src/PIL/PngImagePlugin.py`): transparency
    /// is left out and not blended with anything, of 16 bits the upper 8 are kept, grey is repeated.
    /// Grey of 16 bits is the one exception: Pillow makes everything above 255 white. Of an animation
    /// it is the first frame.
    ///
    /// # Errors
    /// The file is over a limit, of another format, or damaged.
    pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Self, Error> {
        guarded(bytes, || {
            let mut file = File::open(bytes, limits)?;
            let orientation = file.orientation();
            file.pixels(orientation)
        })
    }

    /// Width and height that [`Self::decode`] would give, from the header alone.
    ///
    /// # Errors
    /// As those of [`Self::decode`], except for damage behind the header.
    pub fn measure(bytes: &[u8], limits: &Limits) -> Result<(usize, usize), Error> {
        guarded(bytes, || {
            let mut file = File::open(bytes, limits)?;
            let (width, height) = file.decoder.dimensions();
            let (width, height) = (width as usize, height as usize);
            Ok(match file.orientation() {
                Orientation::Rotate90
                | Orientation::Rotate270
                | Orientation::Rotate90FlipH
                | Orientation::Rotate270FlipH => (height, width),
                _ => (width, height),
            })
        })
    }
}

/// Bytes that may be taken for rows and for what a PNG file says besides its pixels.
const METADATA: u64 = 32 << 20;

/// Runs a decoder. One that panics has found bytes that its authors did not think of.
fn guarded<T>(bytes: &[u8], decode: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_unwind(AssertUnwindSafe(decode))
        .unwrap_or_else(|_| Err(Error::Damaged { format: name(format(bytes)?) }))
}

/// A file whose header is read and within the limits.
struct File<'a> {
    format: &'static str,
    decoder: Box<dyn ImageDecoder + 'a>,
}

impl<'a> File<'a> {
    fn open(bytes: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        within("bytes", bytes.len() as u64, limits.bytes as u64)?;
        let format = format(bytes)?;
        let name = name(format);
        let damaged = |_| Error::Damaged { format: name };
        let mut inner = image::Limits::default();
        inner.max_alloc = Some(limits.allocation.min(METADATA));
        let file = Cursor::new(bytes);
        // Bytes that decoding takes for a pixel, besides its result: coefficients of JPEG's progressive
        // form, WebP's planes and frames.
        let (mut decoder, work): (Box<dyn ImageDecoder>, u64) = match format {
            ImageFormat::Png => {
                (Box::new(PngDecoder::with_limits(file, inner.clone()).map_err(damaged)?), 0)
            }
            ImageFormat::Jpeg => {
                framing::check_jpeg(bytes)?;
                (Box::new(JpegDecoder::new(file).map_err(damaged)?), 8)
            }
            _ => {
                framing::check_webp(bytes)?;
                (Box::new(WebPDecoder::new(file).map_err(damaged)?), 12)
            }
        };
        let (width, height) = decoder.dimensions();
        let pixels = u64::from(width) * u64::from(height);
        if pixels == 0 {
            return Err(Error::Damaged { format: name });
        }
        within("pixels a side", u64::from(width.max(height)), u64::from(limits.side))?;
        within("pixels", pixels, limits.pixels)?;
        // Three bytes a pixel are the copy without transparency, or upright.
        let peak = decoder.total_bytes().saturating_add(pixels * work.max(3));
        within("bytes while it is decoded", peak, limits.allocation)?;
        decoder.set_limits(inner).map_err(damaged)?;
        Ok(Self { format: name, decoder })
    }

    /// How the picture is turned. What cannot be read says nothing, as for the reference.
    fn orientation(&mut self) -> Orientation {
        self.decoder.orientation().unwrap_or(Orientation::NoTransforms)
    }

    fn pixels(self, orientation: Orientation) -> Result<Picture, Error> {
        let damaged = || Error::Damaged { format: self.format };
        let (width, height) = self.decoder.dimensions();
        let color = self.decoder.color_type();
        let length = usize::try_from(self.decoder.total_bytes()).map_err(|_| damaged())?;
        let mut bytes = vec![0; length];
        self.decoder.read_image_boxed(&mut bytes).map_err(|_| damaged())?;
        let rgb = to_rgb(bytes, color).ok_or_else(damaged)?;
        let image = RgbImage::from_raw(width, height, rgb).ok_or_else(damaged)?;
        let mut image = DynamicImage::ImageRgb8(image);
        image.apply_orientation(orientation);
        let (width, height) = (image.width() as usize, image.height() as usize);
        Ok(Picture { width, height, rgb: image.into_rgb8().into_raw() })
    }
}

fn format(bytes: &[u8]) -> Result<ImageFormat, Error> {
    match image::guess_format(bytes) {
        Ok(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP)) => Ok(format),
        _ => Err(Error::Format),
    }
}

fn name(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Png => "PNG",
        ImageFormat::Jpeg => "JPEG",
        _ => "WebP",
    }
}

fn within(unit: &'static str, found: u64, most: u64) -> Result<(), Error> {
    if found > most { Err(Error::TooLarge { unit, found, most }) } else { Ok(()) }
}

/// Red, green and blue of each pixel; `None` for colours that no format here has.
fn to_rgb(bytes: Vec<u8>, color: ColorType) -> Option<Vec<u8>> {
    // The library gives 16-bit values in the machine's order.
    let upper = |value: &[u8; 2]| (u16::from_ne_bytes(*value) >> 8) as u8;
    let narrow = |bytes: &[u8]| bytes.as_chunks::<2>().0.iter().map(upper).collect::<Vec<u8>>();
    let (values, channels) = match color {
        ColorType::Rgb8 => return Some(bytes),
        ColorType::L8 => (bytes, 1),
        ColorType::La8 => (bytes, 2),
        ColorType::Rgba8 => (bytes, 4),
        ColorType::L16 => (narrow(&bytes), 1),
        ColorType::La16 => (narrow(&bytes), 2),
        ColorType::Rgb16 => return Some(narrow(&bytes)),
        ColorType::Rgba16 => (narrow(&bytes), 4),
        _ => return None,
    };
    let pixel = |pixel: &[u8]| match pixel {
        [grey] | [grey, _] => [*grey; 3],
        [red, green, blue, ..] => [*red, *green, *blue],
        [] => [0; 3],
    };
    Some(values.chunks_exact(channels).flat_map(pixel).collect())
}
