//! Who is let in.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use subtle::{Choice, ConstantTimeEq};

use crate::app::{App, Shared};
use crate::base64::base64;
use crate::error::ApiError;

/// Paths that need no key.
const OPEN: [&str; 1] = ["/health"];

/// Everything that a request passes on its way in and out.
pub(crate) async fn guard(State(app): State<Shared>, request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = origin.filter(|origin| app.allows_origin(origin));
    let messages = request.uri().path().starts_with("/v1/messages");
    let page = request.uri().path() == "/";
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (&allowed, preflight) {
        (Some(_), true) => StatusCode::NO_CONTENT.into_response(),
        _ => match app.admit(&request) {
            Err(error) if messages => error.into_anthropic(),
            Err(error) if page && error.status == StatusCode::UNAUTHORIZED => {
                let challenge = HeaderValue::from_static(
                    "Basic realm=\"keeve: the API key as password, no name\"",
                );
                ([(header::WWW_AUTHENTICATE, challenge)], error).into_response()
            }
            Err(error) => error.into_response(),
            Ok(()) => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
                Ok(response) => response,
                Err(_) => ApiError::panicked().into_response(),
            },
        },
    };
    finish(&mut response, allowed, preflight);
    response
}

/// Adds the headers that every response has.
fn finish(response: &mut Response<Body>, origin: Option<HeaderValue>, preflight: bool) {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let Some(origin) = origin else { return };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if preflight {
        let methods = HeaderValue::from_static("GET, POST");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
        let wanted = HeaderValue::from_static(
            "authorization, content-type, x-api-key, anthropic-version, anthropic-beta",
        );
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted);
    }
}

impl App {
    fn allows_origin(&self, origin: &HeaderValue) -> bool {
        self.config.cors_origins.iter().any(|allowed| allowed == "*" || origin == allowed.as_str())
    }

    fn admit(&self, request: &Request) -> Result<(), ApiError> {
        let open = OPEN.contains(&request.uri().path());
        if !open && !self.has_key(request.headers()) {
            return Err(ApiError::unauthorized());
        }
        if self.config.api_keys.is_empty() && self.loopback && !is_local(request.headers()) {
            let message = "this server answers to its own machine only: unexpected Host header";
            return Err(ApiError::refused(StatusCode::FORBIDDEN, message));
        }
        if !open && self.draining.load(Ordering::Relaxed) {
            return Err(ApiError::unavailable("the server is shutting down"));
        }
        Ok(())
    }

    /// Whether exactly one key is given, and it is one of the server's. Takes as long whichever
    /// part of a key is wrong.
    fn has_key(&self, headers: &HeaderMap) -> bool {
        let keys = &self.config.api_keys;
        if keys.is_empty() {
            return true;
        }
        let authorization = headers.get_all(header::AUTHORIZATION).iter();
        let own = headers.get_all("x-api-key").iter();
        let given: Vec<_> = authorization.chain(own).map(HeaderValue::as_bytes).collect();
        // Several could be read differently by a proxy in front of this server.
        let [given] = given[..] else { return false };
        let is_own = headers.contains_key("x-api-key");
        let found = keys.iter().fold(Choice::from(0), |found, key| {
            if is_own {
                return found | key.as_bytes().ct_eq(given);
            }
            // Browsers ask for a name and a password: the key is the password, without a name.
            let basic = format!("Basic {}", base64(format!(":{key}").as_bytes()));
            let bearer = match given.split_at_checked(7) {
                Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest,
                _ => &[],
            };
            found | key.as_bytes().ct_eq(bearer) | basic.as_bytes().ct_eq(given)
        });
        found.into()
    }
}

/// Whether a request names this machine as its host. A page on the web can make its own name point
/// here, but cannot make the browser send another.
fn is_local(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    // HTTP/1.0 clients send none; browsers always do.
    let Some(host) = host else { return true };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_that_requests_500() {
        let source = crate::ModelSource {
            names: vec!["a".into()],
            open: Box::new(|| Err("none".into())),
            draft: None,
        };
        let models = crate::models::Models::new(vec![source], Default::default());
        let config = crate::ServerConfig::default();
        let app =
            std::sync::Arc::new(App::new(config, models.unwrap_or_else(|e| panic!("{e}")), true));
        let broken = || async { panic!("on purpose") as () };
        let router: axum::Router<()> = axum::Router::new()
            .route("/broken", axum::routing::get(broken))
            .layer(axum::middleware::from_fn_with_state(app, guard));
        let request = Request::get("/broken").body(Body::empty()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let response = runtime.block_on(tower::ServiceExt::oneshot(router, request)).unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        for (host, local) in [
            ("localhost:8341", true),
            ("127.0.0.1", true),
            ("[::1]:80", true),
            ("evil.example", false),
            ("localhost.evil.example:8341", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static(host));
            assert_eq!(is_local(&headers), local, "{host}");
        }
    }
}
