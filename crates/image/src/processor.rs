//! What a model wants done with pictures.

use serde::Deserialize;

use crate::decode::Picture;
use crate::error::Error;
use crate::limits::Limits;
use crate::patches::Patches;
use crate::resample::resize;
use crate::size::SizeRule;

/// Colours of a pixel.
const CHANNELS: usize = 3;

/// The largest side of a patch, number of frames, and patches merged along a side, that settings may
/// ask for: several times what any model has.
const MAX_PATCH: usize = 64;
const MAX_FRAMES: usize = 8;
const MAX_MERGE: usize = 8;

/// The most pixels that settings may bring a picture to. Qwen's ask for half of that.
const MAX_PIXELS: usize = 1 << 25;

/// Bytes of settings. Those in use have about 1,000.
const MAX_SETTINGS: usize = 1 << 20;

/// Brings pictures to the size, order and range that a model wants.
#[derive(Debug, Clone, PartialEq)]
pub struct Processor {
    patch: usize,
    frames: usize,
    merge: usize,
    rule: SizeRule,
    /// What a byte becomes, for each colour: `(byte - shift) / scale`.
    shift: [f32; CHANNELS],
    scale: [f32; CHANNELS],
    limits: Limits,
}

impl Processor {
    /// Reads `preprocessor_config.json` of Hugging Face's Qwen2-VL to Qwen3-VL, or mlx-vlm's
    /// `processor_config.json`, which has the same under `image_processor`. `file` is what errors call
    /// it.
    ///
    /// # Errors
    /// A field is missing, out of range, or asks for what is not done here.
    pub fn from_json(json: &str, file: &str) -> Result<Self, Error> {
        let wrong = |what: String| Error::Json { file: file.to_owned(), what };
        if json.len() > MAX_SETTINGS {
            return Err(wrong(format!(
                "has {} bytes, expected at most {MAX_SETTINGS}",
                json.len()
            )));
        }
        let file_settings: SettingsFile =
            serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
        file_settings.image_processor.unwrap_or(file_settings.own).check(file)
    }

    /// The same with other limits on pictures.
    pub fn with_limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Patches that are merged along each side to one token.
    pub fn merge(&self) -> usize {
        self.merge
    }

    /// The most tokens of an image.
    pub fn most_tokens(&self) -> usize {
        let side = self.patch * self.merge;
        self.rule.most / (side * side)
    }

    /// Values of a patch: channels, frames, and its pixels.
    pub fn width(&self) -> usize {
        CHANNELS * self.frames * self.patch * self.patch
    }

    /// The patches of a PNG, JPEG or WebP file.
    ///
    /// # Errors
    /// As [`Picture::decode`], and if one side is over 200 times the other.
    pub fn process(&self, bytes: &[u8]) -> Result<Patches, Error> {
        // A shape that will be refused is refused before it costs anything.
        self.grid(bytes)?;
        self.patches(Picture::decode(bytes, &self.limits)?)
    }

    /// The grid that [`Self::process`] would give, from the file's header alone.
    ///
    /// # Errors
    /// As those of [`Self::process`], except for damage behind the header.
    pub fn grid(&self, bytes: &[u8]) -> Result<[usize; 3], Error> {
        let (width, height) = Picture::measure(bytes, &self.limits)?;
        let (height, width) = self.rule.apply(height, width)?;
        Ok([1, height / self.patch, width / self.patch])
    }

    /// The patches of a decoded picture.
    ///
    /// # Errors
    /// One side is over 200 times the other.
    pub fn patches(&self, picture: Picture) -> Result<Patches, Error> {
        let Picture { width, height, rgb } = picture;
        let (to_height, to_width) = self.rule.apply(height, width)?;
        let rgb = resize(rgb, (height, width), (to_height, to_width));
        let grid = [1, to_height / self.patch, to_width / self.patch];
        Ok(Patches::new(self.values(&rgb, grid), grid))
    }

    /// Puts the pixels of a picture of the right size in order. A still picture is every frame.
    fn values(&self, rgb: &[u8], [_, rows, columns]: [usize; 3]) -> Vec<f32> {
        let line = columns * self.patch * CHANNELS;
        let table: [[f32; 256]; CHANNELS] = std::array::from_fn(|channel| {
            std::array::from_fn(|byte| (byte as f32 - self.shift[channel]) / self.scale[channel])
        });
        let mut values = Vec::with_capacity(rows * columns * self.width());
        for (row, column) in merged_order(rows, columns, self.merge) {
            for (channel, table) in table.iter().enumerate() {
                let frame = values.len();
                for y in row * self.patch..(row + 1) * self.patch {
                    let start = y * line + column * self.patch * CHANNELS + channel;
                    let pixels = rgb[start..].iter().step_by(CHANNELS).take(self.patch);
                    values.extend(pixels.map(|&byte| table[usize::from(byte)]));
                }
                for _ in 1..self.frames {
                    values.extend_from_within(frame..frame + self.patch * self.patch);
                }
            }
        }
        values
    }
}

/// Rows and columns of patches, those that become one token together.
fn merged_order(rows: usize, columns: usize, merge: usize) -> impl Iterator<Item = (usize, usize)> {
    let blocks = (0..rows)
        .step_by(merge)
        .flat_map(move |row| (0..columns).step_by(merge).map(move |column| (row, column)));
    blocks.flat_map(move |(row, column)| {
        (0..merge * merge).map(move |at| (row + at / merge, column + at % merge))
    })
}

/// The settings' file, in either form.
#[derive(Deserialize)]
struct SettingsFile {
    image_processor: Option<Settings>,
    #[serde(flatten)]
    own: Settings,
}

/// The fields that change what is made of a picture. Absent ones are as the reference has them.
#[derive(Deserialize)]
#[serde(default)]
struct Settings {
    do_resize: bool,
    do_rescale: bool,
    do_normalize: bool,
    do_convert_rgb: bool,
    resample: u32,
    rescale_factor: f64,
    image_mean: Vec<f64>,
    image_std: Vec<f64>,
    patch_size: usize,
    temporal_patch_size: usize,
    merge_size: usize,
    size: Option<Size>,
    min_pixels: Option<usize>,
    max_pixels: Option<usize>,
}

#[derive(Deserialize)]
struct Size {
    shortest_edge: Option<usize>,
    longest_edge: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            do_resize: true,
            do_rescale: true,
            do_normalize: true,
            do_convert_rgb: true,
            resample: BICUBIC,
            rescale_factor: 1.0 / 255.0,
            // CLIP's, as Qwen2-VL has them.
            image_mean: vec![0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: vec![0.268_629_54, 0.261_302_58, 0.275_777_11],
            patch_size: 14,
            temporal_patch_size: 2,
            merge_size: 2,
            size: None,
            min_pixels: None,
            max_pixels: None,
        }
    }
}

/// Pillow's number for bicubic resampling.
const BICUBIC: u32 = 3;

impl Settings {
    fn check(self, file: &str) -> Result<Processor, Error> {
        let wrong = |field, found: String, expected: &str| {
            Err(Error::Settings {
                file: file.to_owned(),
                field,
                found,
                expected: expected.to_owned(),
            })
        };
        for (field, on) in [("do_resize", self.do_resize), ("do_convert_rgb", self.do_convert_rgb)]
        {
            if !on {
                return wrong(field, "false".to_owned(), "true");
            }
        }
        if self.resample != BICUBIC {
            return wrong("resample", self.resample.to_string(), "3 (bicubic)");
        }
        for (field, value, most) in [
            ("patch_size", self.patch_size, MAX_PATCH),
            ("temporal_patch_size", self.temporal_patch_size, MAX_FRAMES),
            ("merge_size", self.merge_size, MAX_MERGE),
        ] {
            if value == 0 || value > most {
                return wrong(field, value.to_string(), &format!("1 to {most}"));
            }
        }
        let (shortest, longest) =
            self.size.map_or((None, None), |size| (size.shortest_edge, size.longest_edge));
        let least = self.min_pixels.or(shortest).unwrap_or(56 * 56);
        let most = self.max_pixels.or(longest).unwrap_or(14 * 14 * 4 * 1280);
        let factor = self.patch_size * self.merge_size;
        if most < factor * factor || most > MAX_PIXELS {
            let expected = format!("{} to {MAX_PIXELS} pixels", factor * factor);
            return wrong("size.longest_edge", most.to_string(), &expected);
        }
        if least > most {
            return wrong("size.shortest_edge", least.to_string(), &format!("at most {most}"));
        }
        let rescale = if self.do_rescale { self.rescale_factor } else { 1.0 };
        if !(rescale.is_finite() && rescale > 0.0) {
            return wrong("rescale_factor", rescale.to_string(), "a number above 0");
        }
        let (mean, std) = if self.do_normalize {
            (self.image_mean, self.image_std)
        } else {
            (vec![0.0; CHANNELS], vec![1.0; CHANNELS])
        };
        // The reference puts rescaling and normalization together in this way.
        let scaled = |values: &[f64]| -> Option<[f32; CHANNELS]> {
            let values = <[f64; CHANNELS]>::try_from(values).ok()?;
            let values = values.map(|value| (value / rescale) as f32);
            values.iter().all(|value| value.is_finite()).then_some(values)
        };
        let Some(shift) = scaled(&mean) else {
            return wrong("image_mean", format!("{mean:?}"), "three numbers");
        };
        let Some(scale) = scaled(&std).filter(|std| std.iter().all(|&value| value > 0.0)) else {
            return wrong("image_std", format!("{std:?}"), "three numbers above 0");
        };
        Ok(Processor {
            patch: self.patch_size,
            frames: self.temporal_patch_size,
            merge: self.merge_size,
            rule: SizeRule { factor, least, most },
            shift,
            scale,
            limits: Limits::default(),
        })
    }
}
