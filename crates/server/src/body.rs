//! JSON bodies: bounded in size and time, and strict.

use axum::body::to_bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use serde::de::DeserializeOwned;

use crate::app::Shared;
use crate::error::ApiError;

/// The JSON body of a request. An unknown field is an error that names it.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Shared> for Body<T> {
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
        let read =
            tokio::time::timeout(app.config.body_timeout, to_bytes(request.into_body(), limit))
                .await;
        let Ok(read) = read else {
            let message = "the body did not arrive in time";
            return Err(ApiError::refused(StatusCode::REQUEST_TIMEOUT, message));
        };
        let bytes = read.map_err(|_| too_long())?;
        parse(&bytes).map(Self)
    }
}

/// Reads JSON, naming the field in errors.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    // serde would take a list for an object, field by field.
    if bytes.trim_ascii_start().first() != Some(&b'{') {
        return Err(ApiError::bad_request("the body is no JSON object"));
    }
    let mut source = serde_json::Deserializer::from_slice(bytes);
    let value: T = serde_path_to_error::deserialize(&mut source).map_err(|error| {
        let path = error.path().to_string();
        let problem = error.into_inner();
        // serde names an unknown field in its message, and the path is that of its parent.
        let text = problem.to_string();
        let unknown = text.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
        match (unknown, &*path) {
            (Some(name), "." | "") => ApiError::field(name, text.clone()),
            (_, "." | "") => ApiError::bad_request(format!("the body is not as expected: {text}")),
            (_, path) => ApiError::field(path, format!("{path}: {text}")),
        }
    })?;
    source
        .end()
        .map_err(|error| ApiError::bad_request(format!("after the JSON value: {error}")))?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[serde(rename = "count")]
        _count: u32,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[serde(rename = "inner")]
        _inner: Vec<Inner>,
    }

    #[test]
    fn errors_name_the_field() {
        for (text, param) in [
            (r#"{"inner": [], "extra": 1}"#, Some("extra")),
            (r#"{"inner": [{"count": -1}]}"#, Some("inner[0].count")),
            (r#"{"inner": [{"count": 1, "more": 1}]}"#, Some("inner[0].more")),
            (r#"{"inner": [{"count": 1e400}]}"#, Some("inner[0].count")),
            ("[1", None),
            (r#"{"inner": []} x"#, None),
        ] {
            let error = parse::<Outer>(text.as_bytes()).unwrap_err();
            assert_eq!(error.param.as_deref(), param, "{text}: {}", error.message);
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
        }
    }
}
