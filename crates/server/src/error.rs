//! What a client is told when something is wrong, in OpenAI's form or Anthropic's.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use keeve_engine::sampling::SamplingError;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

/// Why a request was not answered.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// OpenAI's `type`.
    pub kind: &'static str,
    /// OpenAI's `code`, for programs.
    pub code: Option<&'static str>,
    /// The field of the request that is wrong, if it is one.
    pub param: Option<String>,
    /// For people: one line.
    pub message: String,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
}

/// The most characters of a message that are shown of its beginning, and of its end.
const SHOWN: (usize, usize) = (900, 300);

/// A message without the middle, if it is long: messages repeat what the client sent, which may be as long as a
/// body.
fn cut(message: String) -> String {
    let (first, last) = SHOWN;
    if message.chars().nth(first + last).is_none() {
        return message;
    }
    let place = |character: Option<(usize, char)>| character.map_or(0, |(at, _)| at);
    let head = &message[..place(message.char_indices().nth(first))];
    let tail = &message[place(message.char_indices().nth_back(last - 1))..];
    format!("{head} ... {tail}")
}

/// An error in OpenAI's form.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// For people: one line.
    pub message: String,
    /// The kind of error.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field of the request that is wrong, if it is one.
    pub param: Option<String>,
    /// For programs.
    pub code: Option<String>,
}

/// The forms that errors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorForm {
    OpenAi,
    Anthropic,
    Ollama,
}

impl ErrorForm {
    /// The form that clients of a path expect.
    pub fn of(path: &str) -> Self {
        match path {
            _ if path.starts_with("/v1/messages") => Self::Anthropic,
            _ if path == "/api" || path.starts_with("/api/") => Self::Ollama,
            _ => Self::OpenAi,
        }
    }

    /// The response that says what went wrong.
    pub fn response(self, error: ApiError) -> Response {
        match self {
            Self::OpenAi => error.into_response(),
            Self::Anthropic => error.into_anthropic(),
            Self::Ollama => error.into_ollama(),
        }
    }
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let message = cut(message.into());
        Self { status, kind, code: None, param: None, message, retry_after: None }
    }

    /// 400: the request is wrong.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400: a field of the request is wrong.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(cut(param.into())), ..Self::bad_request(message) }
    }

    /// Another status that blames the request.
    pub fn refused(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", message)
    }

    /// 401: no key, or a wrong one.
    pub fn unauthorized() -> Self {
        let message = "missing or wrong API key (expected 'Authorization: Bearer KEY')";
        let error = Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message);
        Self { code: Some("invalid_api_key"), ..error }
    }

    /// 404: there is no such model.
    pub fn no_model(name: &str) -> Self {
        let shown: String = name.chars().take(100).collect();
        let message = format!("the model {shown:?} does not exist");
        Self {
            code: Some("model_not_found"),
            param: Some("model".into()),
            ..Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
        }
    }

    /// 429: the queue is full.
    pub fn busy(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        Self { code: Some("queue_full"), retry_after: Some(1), ..error }
    }

    /// 503: not now.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message);
        Self { retry_after: Some(1), ..error }
    }

    /// 504: the deadline passed before the answer was complete.
    pub fn timed_out() -> Self {
        let message = "the answer was not complete within the server's time limit";
        let error = Self::new(StatusCode::GATEWAY_TIMEOUT, "server_error", message);
        Self { code: Some("timeout"), ..error }
    }

    /// 500: the server's own fault.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// 500: the request made the server panic.
    pub fn panicked() -> Self {
        Self::internal("internal error: the request made the server panic")
    }

    /// The body in OpenAI's form.
    pub fn openai(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                message: self.message.clone(),
                kind: self.kind.into(),
                param: self.param.clone(),
                code: self.code.map(Into::into),
            },
        }
    }

    /// The body in Anthropic's form.
    pub fn anthropic(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded_error",
            status if status.is_server_error() => "api_error",
            _ => "invalid_request_error",
        };
        json!({ "type": "error", "error": { "type": kind, "message": self.message } })
    }

    /// The body in Ollama's form (ollama/ollama, `docs/api/errors.mdx`).
    pub fn ollama(&self) -> Value {
        json!({ "error": self.message })
    }

    fn respond(&self, body: impl Serialize) -> Response {
        let mut response = (self.status, Json(body)).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    /// The response in Anthropic's form.
    pub fn into_anthropic(self) -> Response {
        self.respond(self.anthropic())
    }

    /// The response in Ollama's form.
    pub fn into_ollama(self) -> Response {
        self.respond(self.ollama())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.respond(self.openai())
    }
}

/// Errors of the engine: most blame the request, some the server.
impl From<keeve_engine::Error> for ApiError {
    fn from(error: keeve_engine::Error) -> Self {
        (&error).into()
    }
}

impl From<&keeve_engine::Error> for ApiError {
    fn from(error: &keeve_engine::Error) -> Self {
        use keeve_engine::Error as E;
        let message = error.to_string();
        match error {
            E::PromptTooLong { .. } | E::TextTooLong { .. } => {
                Self { code: Some("context_length_exceeded"), ..Self::bad_request(message) }
            }
            E::Sampling(SamplingError::Range { field, .. }) => Self::field(*field, message),
            E::Sampling(SamplingError::LogitBias { .. }) => Self::field("logit_bias", message),
            E::Stop(_) => Self::field("stop", message),
            E::Chat(_) | E::NoChatTemplate => Self::field("messages", message),
            E::EmptyPrompt
            | E::NoVision
            | E::Image(_)
            | E::ImageCount { .. }
            | E::TokenId { .. }
            | E::Tokenizer(_)
            | E::NoTokenizer
            | E::Unusable(_)
            | E::Grammar(_)
            | E::EmbeddingOnly
            | E::GivenUp => Self::bad_request(message),
            _ => Self::internal(message),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::ApiError;

    #[test]
    fn messages_do_not_repeat_all_that_a_client_sent() {
        let long = format!("role: unknown `{}`, expected `user`", "\u{e9}".repeat(1_000_000));
        let error = ApiError::field("x".repeat(1_000_000), long);
        assert!(error.message.chars().count() < 1300 && error.param.unwrap().len() < 1300);
        assert!(error.message.starts_with("role: unknown `\u{e9}"));
        assert!(error.message.ends_with("`, expected `user`"));
        assert_eq!(ApiError::bad_request("short").message, "short");
        let just = "\u{e9}".repeat(1200);
        assert_eq!(ApiError::bad_request(just.clone()).message, just);
    }
}
