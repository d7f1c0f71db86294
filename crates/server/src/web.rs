//! The chat page: plain files that are part of the program. They load nothing from elsewhere, which
//! the content security policy makes sure of.

use axum::Router;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::api::ollama;
use crate::app::Shared;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Path, type and content of each file.
const FILES: [(&str, &str, &str); 5] = [
    ("/", "text/html; charset=utf-8", include_str!("web/index.html")),
    ("/web/style.css", "text/css; charset=utf-8", include_str!("web/style.css")),
    ("/web/chat.js", "text/javascript; charset=utf-8", include_str!("web/chat.js")),
    ("/web/images.js", "text/javascript; charset=utf-8", include_str!("web/images.js")),
    ("/web/markdown.js", "text/javascript; charset=utf-8", include_str!("web/markdown.js")),
];

/// The page's files.
pub(crate) fn routes() -> Router<Shared> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, content)| {
        let answer = move |headers: HeaderMap| async move {
            match path == "/" && !wants_page(&headers) {
                true => ollama::RUNNING.into_response(),
                false => file(kind, content),
            }
        };
        router.route(path, get(answer))
    })
}

/// Whether whoever asks may take a page. Programs that look for an Ollama server say that they do not.
fn wants_page(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    accept.is_none_or(|accept| accept.contains("text/html") || accept.contains("*/*"))
}

fn file(kind: &'static str, content: &'static str) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, content).into_response()
}
