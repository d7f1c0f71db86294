//! JSON bodies: bounded in size and time, and answered for field by field.
//!
//! A field that is honoured is checked. One that would change the answer and is not honoured is refused by
//! name, unless it asks for nothing ([`Given`]). One that nobody here has heard of is left alone, and named in
//! the response's `x-keeve-ignored` and in the log, unless it looks like a misspelt one that is known. Null is
//! as absent.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body as Raw;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

use crate::app::Shared;
use crate::background::Threads;
use crate::error::ApiError;

/// Bytes that bodies which are being read may have together, beyond the first [`FREE`] of each; in units.
const ROOM: usize = 256;
const UNIT: usize = 1 << 20;
const FREE: usize = 1 << 20;

/// Bodies longer than this are parsed in the background, few at once: the threads that serve have others
/// to talk to.
const SHORT: usize = 64 << 10;
const PARSED_AT_ONCE: usize = 2;

/// Room for the bodies that are being read, and places for long ones to be parsed.
pub(crate) struct Bodies {
    room: Arc<Semaphore>,
    parsing: Arc<Semaphore>,
    threads: Threads,
}

impl Default for Bodies {
    fn default() -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { room: places(ROOM), parsing: places(PARSED_AT_ONCE), threads: Threads::default() }
    }
}

/// The JSON body of a request.
pub struct Body<T>(pub T);

/// The header that names fields of the request that were left alone.
const IGNORED: HeaderName = HeaderName::from_static("x-keeve-ignored");

/// The most names in it, and bytes of each.
const MOST_IGNORED: usize = 32;
const LONGEST_NAME: usize = 100;

/// The fields of a request that were left alone. It travels with the request, so that the response can
/// name them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ignored(Arc<Mutex<BTreeSet<String>>>);

impl Ignored {
    /// Adds a field.
    pub fn add(&self, name: &str) {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.len() < MOST_IGNORED {
            // Headers hold visible ASCII only.
            let plain = |character: char| match character {
                '!'..='~' if character != ',' => character,
                _ => '?',
            };
            names.insert(name.chars().take(LONGEST_NAME).map(plain).collect());
        }
    }

    /// Names them in a response's headers and in the log.
    pub fn tell(&self, path: &str, headers: &mut axum::http::HeaderMap) {
        let names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if names.is_empty() {
            return;
        }
        let list = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        tracing::warn!(path, fields = list, "fields that nobody here knows were left alone");
        if let Ok(value) = HeaderValue::from_str(&list) {
            headers.insert(IGNORED, value);
        }
    }
}

impl<T: DeserializeOwned + ToSchema + Send + 'static> FromRequest<Shared> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Shared) -> Result<Self, ApiError> {
        // Browsers send other types to any address without asking it first.
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let message = "the content type must be application/json";
            return Err(ApiError::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
        }
        json(request, app).await.map(Self)
    }
}

/// The JSON body of a request, within the limits of size and time. Fields that `T` does not know are added to
/// the request's [`Ignored`].
pub(crate) async fn json<T>(request: Request, app: &Shared) -> Result<T, ApiError>
where
    T: DeserializeOwned + ToSchema + Send + 'static,
{
    let ignored = request.extensions().get::<Ignored>().cloned().unwrap_or_default();
    let limit = app.config.max_body;
    let too_long = || {
        let message = format!("the body is longer than {limit} bytes, or broke off");
        ApiError::refused(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let announced = request.headers().get(header::CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_long());
    }
    // What is held of the room is given back when the body has been parsed.
    let mut held = vec![];
    let read = collect(request.into_body(), limit, &app.bodies.room, &mut held);
    let read = tokio::time::timeout(app.config.body_timeout, read).await;
    let Ok(read) = read else {
        let message = "the body did not arrive in time";
        return Err(ApiError::refused(StatusCode::REQUEST_TIMEOUT, message));
    };
    let bytes = read.ok_or_else(too_long)?;
    if bytes.len() <= SHORT {
        return parse(&bytes, &ignored);
    }
    let place = app.bodies.parsing.clone().acquire_owned().await;
    let parsed = app.bodies.threads.background(move || {
        let _held = (place, held);
        parse(&bytes, &ignored)
    });
    parsed.await?
}

/// All of a body; `None` if it is too long or breaks off. A long one waits for room as it comes, so that
/// clients which only announce one take none.
async fn collect(
    body: Raw,
    limit: usize,
    room: &Arc<Semaphore>,
    held: &mut Vec<tokio::sync::OwnedSemaphorePermit>,
) -> Option<Vec<u8>> {
    let mut pieces = body.into_data_stream();
    let mut bytes = vec![];
    while let Some(piece) = pieces.next().await {
        let piece = piece.ok()?;
        if bytes.len().saturating_add(piece.len()) > limit {
            return None;
        }
        while bytes.len() + piece.len() > FREE + held.len() * UNIT {
            held.push(room.clone().acquire_owned().await.ok()?);
        }
        bytes.extend_from_slice(&piece);
    }
    Some(bytes)
}

/// Reads JSON, naming the field in errors. Fields that `T` does not know are added to `ignored`.
fn parse<T>(bytes: &[u8], ignored: &Ignored) -> Result<T, ApiError>
where
    T: DeserializeOwned + ToSchema,
{
    // serde would take a list for an object, field by field.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::bad_request("the body is no JSON object"));
    }
    let mut source = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut source, &mut track);
    let (mut misspelt, mut looked_at) = (None, 0);
    let mut left_alone = |path: serde_ignored::Path<'_>| {
        // Whoever sends more than these means none of them by mistake, and each takes a while.
        let few = looked_at < MOST_IGNORED && misspelt.is_none();
        if let serde_ignored::Path::Map { parent: serde_ignored::Path::Root, key } = &path
            && few
        {
            looked_at += 1;
            misspelt = resembled::<T>(key).map(|known| (key.clone(), known));
        }
        ignored.add(&spelled(&path));
    };
    let value: T = T::deserialize(serde_ignored::Deserializer::new(tracked, &mut left_alone))
        .map_err(|problem| {
            // serde names an unknown field in its message, and the path is that of its parent.
            let (path, text) = (track.path().to_string(), problem.to_string());
            let unknown =
                text.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
            match (unknown, &*path) {
                (Some(name), "." | "") => ApiError::field(name, text.clone()),
                (_, "." | "") => {
                    ApiError::bad_request(format!("the body is not as expected: {text}"))
                }
                (_, path) => ApiError::field(path, format!("{path}: {text}")),
            }
        })?;
    source
        .end()
        .map_err(|error| ApiError::bad_request(format!("after the JSON value: {error}")))?;
    if let Some((name, known)) = misspelt {
        let message = format!("unknown field `{}`: is `{known}` meant?", name.escape_debug());
        return Err(ApiError::field(name, message));
    }
    Ok(value)
}

/// A path as errors spell it: `messages[0].content`.
fn spelled(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", spelled(parent)),
        Path::Map { parent, key } => match spelled(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => spelled(parent),
    }
}

/// The known field that an unknown one was probably meant to be: one or two letters apart.
fn resembled<T: ToSchema>(name: &str) -> Option<String> {
    let RefOr::T(Schema::Object(schema)) = T::schema() else { return None };
    let near = |known: &&String| {
        let most = if name.len() < 6 { 1 } else { 2 };
        name.len() > 3 && strsim::damerau_levenshtein(name, known) <= most
    };
    if name.len() > LONGEST_NAME {
        return None;
    }
    schema.properties.keys().find(near).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, ToSchema)]
    struct Inner {
        #[serde(rename = "count")]
        _count: u32,
    }

    #[derive(Debug, serde::Deserialize, ToSchema)]
    struct Outer {
        #[serde(rename = "inner")]
        _inner: Vec<Inner>,
        #[serde(rename = "temperature")]
        _temperature: Option<f32>,
    }

    #[test]
    fn long_bodies_wait_for_room_and_short_ones_do_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let room = Arc::new(Semaphore::new(1));
            let body = |length: usize| Raw::from(vec![b' '; length]);
            let mut first = vec![];
            let long = collect(body(FREE + 5), 8 << 20, &room, &mut first).await;
            assert_eq!(long.map(|bytes| bytes.len()), Some(FREE + 5));
            let mut second = vec![];
            let mut waits = Box::pin(collect(body(FREE + 5), 8 << 20, &room, &mut second));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(waits.as_mut().poll(&mut context).is_pending());
            assert!(collect(body(FREE), 8 << 20, &room, &mut vec![]).await.is_some());
            drop(first);
            assert!(waits.await.is_some());
            assert!(collect(body(100), 99, &room, &mut vec![]).await.is_none());
        });
    }

    #[test]
    fn errors_name_the_field() {
        for (text, param) in [
            (r#"{"inner": [{"count": -1}]}"#, Some("inner[0].count")),
            (r#"{"inner": [{"count": 1e400}]}"#, Some("inner[0].count")),
            (r#"{"inner": [], "temperture": 1}"#, Some("temperture")),
            (r#"{"inner": [], "temprature": 1}"#, Some("temprature")),
            (r#"{"inner": [], "iner": 1}"#, Some("iner")),
            ("[1", None),
            (r#"{"inner": []} x"#, None),
        ] {
            let error = parse::<Outer>(text.as_bytes(), &Ignored::default()).unwrap_err();
            assert_eq!(error.param.as_deref(), param, "{text}: {}", error.message);
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
        }
    }

    #[test]
    fn fields_that_nobody_knows_are_named() {
        let ignored = Ignored::default();
        let text =
            r#"{"inner": [{"count": 1}, {"count": 1, "a": 2}], "b,\n": [1], "temperature": null}"#;
        parse::<Outer>(text.as_bytes(), &ignored).unwrap();
        let mut headers = axum::http::HeaderMap::new();
        ignored.tell("/", &mut headers);
        assert_eq!(headers[IGNORED], "b??, inner[1].a");
        let many: Vec<_> = (0..1000).map(|at| format!("\"unknown{at}\":0")).collect();
        parse::<Outer>(format!("{{\"inner\":[],{}}}", many.join(",")).as_bytes(), &ignored)
            .unwrap();
        ignored.tell("/", &mut headers);
        assert!(headers[IGNORED].len() < 1000);
    }
}
