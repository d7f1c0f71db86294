//! Who is let in.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use subtle::{Choice, ConstantTimeEq};

use crate::app::{App, Shared};
use crate::base64::base64;
use crate::body::Ignored;
use crate::error::{ApiError, ErrorForm};

/// Paths that need no key.
const OPEN: [&str; 2] = ["/health", "/v1/health"];

/// Everything that a request passes on its way in and out.
pub(crate) async fn guard(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let allowed = origin.filter(|origin| app.allows_origin(origin));
    let form = ErrorForm::of(request.uri().path());
    let page = request.uri().path() == "/";
    let ignored = Ignored::default();
    request.extensions_mut().insert(ignored.clone());
    let path = request.uri().path().to_owned();
    let preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (&allowed, preflight) {
        (Some(_), true) => StatusCode::NO_CONTENT.into_response(),
        _ => match app.admit(&request) {
            Err(error) if page && error.status == StatusCode::UNAUTHORIZED => {
                let challenge = HeaderValue::from_static(
                    "Basic realm=\"keeve: the API key as password, no name\"",
                );
                ([(header::WWW_AUTHENTICATE, challenge)], error).into_response()
            }
            Err(error) => form.response(error),
            Ok(()) => match AssertUnwindSafe(next.run(request)).catch_unwind().await {
                Ok(response) => response,
                Err(_) => form.response(ApiError::panicked()),
            },
        },
    };
    ignored.tell(&path, response.headers_mut());
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
    let exposed = HeaderValue::from_static("x-keeve-ignored");
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
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
        let host = host(request)?;
        let open = OPEN.contains(&request.uri().path());
        if !open && !self.has_key(request.headers()) {
            return Err(ApiError::unauthorized());
        }
        if self.config.api_keys.is_empty() && self.loopback && !host.as_ref().is_none_or(is_local) {
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

/// The host that a request names; `None` if it is of a client too old to name one.
///
/// # Errors
/// If it names none, several, one that is malformed, or two that differ: a proxy in front of this server
/// could take another one than the server does (RFC 9112, section 3.2).
fn host(request: &Request) -> Result<Option<Authority>, ApiError> {
    let wrong = |what: &str| Err(ApiError::bad_request(format!("Host: {what}")));
    let mut all = request.headers().get_all(header::HOST).iter();
    let host = match (all.next(), all.next()) {
        (None, _) if request.version() < Version::HTTP_11 => return Ok(None),
        (None, _) => return wrong("it is missing, expected exactly one"),
        (Some(_), Some(_)) => return wrong("there are several, expected exactly one"),
        (Some(host), None) => host,
    };
    let read = host.to_str().ok().and_then(|text| text.parse::<Authority>().ok());
    let whole = |host: &Authority| {
        let (name, port) = (host.host(), host.as_str().len() - host.host().len());
        // What is not the name is nothing, or a colon and a port.
        !name.is_empty() && !host.as_str().contains('@') && (port <= 1 || host.port_u16().is_some())
    };
    let Some(host) = read.filter(whole) else {
        return wrong("it is malformed, expected a name or an address, and perhaps a port");
    };
    match request.uri().authority() {
        Some(other) if *other != host => wrong("it differs from the request's target"),
        _ => Ok(Some(host)),
    }
}

/// Whether a host is this machine. A page on the web can make its own name point here, but cannot make
/// the browser send another.
fn is_local(host: &Authority) -> bool {
    let name = host.host().trim_start_matches('[').trim_end_matches(']');
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
        let request =
            Request::get("/broken").header("host", "localhost").body(Body::empty()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let response = runtime.block_on(tower::ServiceExt::oneshot(router, request)).unwrap();
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    /// A request with these hosts: `None` if it is refused, else whether it is for this machine.
    fn local(target: &str, hosts: &[&str]) -> Option<bool> {
        let mut request = Request::get(target);
        for host in hosts {
            request =
                request.header(header::HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
        }
        let host = host(&request.body(Body::empty()).unwrap()).ok()?;
        Some(host.as_ref().is_none_or(is_local))
    }

    #[test]
    fn only_names_of_this_machine_are_local() {
        for (host, expected) in [
            ("localhost:8341", Some(true)),
            ("LOCALHOST", Some(true)),
            ("127.0.0.1", Some(true)),
            ("127.0.0.1:", Some(true)),
            ("[::1]:80", Some(true)),
            ("[::1]", Some(true)),
            ("evil.example", Some(false)),
            ("localhost.evil.example:8341", Some(false)),
            ("127.0.0.1.evil.example", Some(false)),
            ("", None),
            (":80", None),
            ("local host", None),
            ("localhost:80:80", None),
            ("localhost:x", None),
            ("localhost:99999", None),
            ("a@localhost", None),
            ("localhost/", None),
            ("localhost, localhost", None),
            ("[::1", None),
            ("http://localhost", None),
            ("localhost\u{e9}", None),
        ] {
            assert_eq!(local("/", &[host]), expected, "{host}");
        }
    }

    #[test]
    fn there_is_exactly_one_host() {
        assert_eq!(local("/", &[]), None);
        assert_eq!(local("/", &["localhost", "localhost"]), None);
        assert_eq!(local("/", &["localhost", "evil.example"]), None);
        assert_eq!(local("http://evil.example/", &["localhost"]), None);
        assert_eq!(local("http://localhost/", &["localhost"]), Some(true));
        let mut old = Request::get("/").body(Body::empty()).unwrap();
        *old.version_mut() = Version::HTTP_10;
        assert!(matches!(host(&old), Ok(None)));
    }
}
