//! Images in requests: from what a client sends to what the engine takes, within limits.

use std::sync::Arc;

use keeve_image::Patches;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::App;
use crate::base64::from_base64;
use crate::error::ApiError;
use crate::models::{Model, blocking};
use crate::remote;

/// Which images are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRules {
    /// The most images of one request.
    pub most: usize,
    /// The largest image file, in bytes.
    pub max_bytes: usize,
    /// Whether images are fetched from addresses that clients name. Only public addresses ever are.
    pub remote: bool,
}

impl Default for ImageRules {
    /// 16 images of at most 20 MiB, none from elsewhere.
    fn default() -> Self {
        Self { most: 16, max_bytes: 20 << 20, remote: false }
    }
}

/// Images that are decoded at a time. Each may take [`keeve_image::Limits::allocation`] bytes.
const DECODING: usize = 2;

/// Images that are fetched at a time.
const FETCHING: usize = 8;

/// The most bytes of values that all requests' images may have together, in [`UNIT`]s.
const MEMORY: usize = 1024;
const UNIT: usize = 1 << 20;

/// What requests with images take turns at.
pub(crate) struct ImageWork {
    decoding: Arc<Semaphore>,
    fetching: Arc<Semaphore>,
    memory: Arc<Semaphore>,
}

impl Default for ImageWork {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { decoding: places(DECODING), fetching: places(FETCHING), memory: places(MEMORY) }
    }
}

/// An image of a request, as it was sent.
struct Sent {
    /// The field that it stands in.
    field: String,
    source: Source,
}

enum Source {
    /// An address: `data:`, `http:` or `https:`.
    Address(String),
    Base64(String),
}

/// The images of a request, in order.
#[derive(Default)]
pub(crate) struct Images(Vec<Sent>);

/// The images of a request, ready for the engine. The memory they take counts until this is dropped.
#[derive(Default)]
pub(crate) struct Prepared {
    pub patches: Vec<Arc<Patches>>,
    _memory: Option<OwnedSemaphorePermit>,
}

impl Images {
    /// Adds an image at an address, which may hold the image itself (RFC 2397).
    pub fn add_address(&mut self, field: impl Into<String>, address: String) {
        self.0.push(Sent { field: field.into(), source: Source::Address(address) });
    }

    /// Adds an image in base64.
    pub fn add_base64(&mut self, field: impl Into<String>, text: String) {
        self.0.push(Sent { field: field.into(), source: Source::Base64(text) });
    }

    /// Adds images that come after these.
    pub fn append(&mut self, mut later: Self) {
        self.0.append(&mut later.0);
    }

    /// Makes the images ready for a model.
    ///
    /// # Errors
    /// The model cannot see; there are too many images; one is too large, damaged or cannot be had; or
    /// too many are being worked on.
    pub async fn prepare(self, app: &App, model: &Arc<Model>) -> Result<Prepared, ApiError> {
        let rules = &app.config.images;
        let Some(first) = self.0.first() else { return Ok(Prepared::default()) };
        if model.engine.image_processor().is_none() {
            return Err(ApiError::field(&first.field, "this model cannot see images"));
        }
        if let Some(excess) = self.0.get(rules.most) {
            let message =
                format!("there are {} images, expected at most {}", self.0.len(), rules.most);
            return Err(ApiError::field(&excess.field, message));
        }
        let mut files = Vec::with_capacity(self.0.len());
        for image in self.0 {
            let file = read(image.source, app).await;
            let file = file.map_err(|problem| ApiError::field(&image.field, problem))?;
            files.push((image.field, file));
        }
        let units = measure(&files, model)?.div_ceil(UNIT);
        if units > MEMORY {
            let message = format!("the images take {units} MiB, expected at most {MEMORY}");
            return Err(ApiError::field(&files[0].0, message));
        }
        let memory = app.images.memory.clone().try_acquire_many_owned(units as u32);
        let memory = memory.map_err(|_| ApiError::busy("too many images are being worked on"))?;
        let mut patches = Vec::with_capacity(files.len());
        for (field, file) in files {
            let turn = turn(&app.images.decoding).await?;
            let owner = model.clone();
            let made = blocking(move || {
                // Held to the end of the work, also where nobody waits for it any more.
                let _turn = turn;
                let processor = owner.engine.image_processor();
                processor.map(|processor| processor.process(&file)).transpose()
            });
            let made = made.await?.map_err(|error| ApiError::field(&field, error.to_string()))?;
            patches.extend(made.map(Arc::new));
        }
        Ok(Prepared { patches, _memory: Some(memory) })
    }
}

/// Bytes of the values that the images will become, as their headers say.
///
/// # Errors
/// A header is wrong or over a limit, or the images alone are more than the model's context.
fn measure(files: &[(String, Vec<u8>)], model: &Model) -> Result<usize, ApiError> {
    let Some(processor) = model.engine.image_processor() else { return Ok(0) };
    let (mut patches, mut tokens) = (0usize, 0usize);
    for (field, file) in files {
        let grid = processor.grid(file);
        let grid = grid.map_err(|error| ApiError::field(field, error.to_string()))?;
        let rows: usize = grid.iter().product();
        patches = patches.saturating_add(rows);
        tokens = tokens.saturating_add(rows / (processor.merge() * processor.merge()));
    }
    let context = model.engine.info().max_context;
    if tokens >= context {
        return Err(keeve_engine::Error::PromptTooLong { tokens, context }.into());
    }
    Ok(patches.saturating_mul(processor.width()).saturating_mul(size_of::<f32>()))
}

async fn turn(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ApiError> {
    let turn = places.clone().acquire_owned().await;
    turn.map_err(|_| ApiError::unavailable("the server is ending"))
}

/// The file of an image.
async fn read(source: Source, app: &App) -> Result<Vec<u8>, String> {
    let rules = &app.config.images;
    let too_large = || format!("the image is larger than {} bytes", rules.max_bytes);
    let text = match &source {
        Source::Base64(text) => &**text,
        Source::Address(address) => match data_of(address) {
            Some(data) => data?,
            None if rules.remote => {
                let turn = turn(&app.images.fetching).await.map_err(|error| error.message)?;
                let (address, most) = (address.clone(), rules.max_bytes);
                let fetched = blocking(move || {
                    let _turn = turn;
                    remote::fetch(&address, most)
                });
                let fetched = fetched.await;
                let fetched = fetched.map_err(|error| error.message)?;
                return fetched.map_err(|problem| format!("the image at this address: {problem}"));
            }
            None => {
                let problem = "this server fetches no images: expected data:image/...;base64,...";
                return Err(problem.into());
            }
        },
    };
    if text.len() / 4 * 3 > rules.max_bytes + 3 {
        return Err(too_large());
    }
    let bytes = from_base64(text).ok_or("the image is no base64")?;
    if bytes.len() > rules.max_bytes { Err(too_large()) } else { Ok(bytes) }
}

/// The base64 of a `data:` address; `None` if it is another.
fn data_of(address: &str) -> Option<Result<&str, String>> {
    let (scheme, rest) = address.split_once(':')?;
    if !scheme.eq_ignore_ascii_case("data") {
        return None;
    }
    // What kind of image it is, the image itself says.
    let data = rest.split_once(',').filter(|(kind, _)| kind.ends_with(";base64"));
    Some(data.map(|(_, data)| data).ok_or_else(|| "expected data:image/...;base64,...".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_addresses_are_told_from_others() {
        for (address, expected) in [
            ("data:image/png;base64,AAAA", Some(Ok("AAAA"))),
            ("DATA:;base64,", Some(Ok(""))),
            ("data:image/png;charset=a;base64,AA,A", Some(Ok("AA,A"))),
            ("http://example.com/;base64,AAAA", None),
            ("data", None),
            ("", None),
        ] {
            assert_eq!(
                data_of(address),
                expected.map(|data| data.map_err(str::to_owned)),
                "{address}"
            );
        }
        for address in ["data:", "data:image/png,AAAA", "data:image/png;base64"] {
            assert!(data_of(address).unwrap().is_err(), "{address}");
        }
    }
}
