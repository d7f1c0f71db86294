//! Talking to the hub: what there is, and how to take it when the server has bad moments.
//!
//! The addresses and headers are those that Python's `huggingface_hub` uses (`src/huggingface_hub/
//! file_download.py` and `hf_api.py`): `/api/models/REPO/revision/REVISION` lists files;
//! `/REPO/resolve/COMMIT/FILE` gives one, with `X-Linked-Etag` and `X-Linked-Size` where the content lies
//! elsewhere.

use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_LENGTH, ETAG, LOCATION, RANGE};
use ureq::http::{HeaderMap, Response};
use ureq::tls::TlsConfig;
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use crate::name::{self, ModelName, Revision};
use crate::origin::{Origin, followed};
use crate::{Error, Settings};

/// How often a request may fail in a row.
const ATTEMPTS: u32 = 6;

/// The longest that a server may ask to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The most bytes of a list of files.
const MAX_LIST: u64 = 32 << 20;

/// Redirects that are followed: within the hub to learn about a file, to anywhere to read it.
const MAX_HOPS: usize = 5;

pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    /// Who may see the token.
    origin: Option<Origin>,
    token: Option<String>,
    retry_wait: Duration,
}

/// What the server says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileHead {
    /// Its name in the cache; a hash of the content where the hub keeps to its rules.
    pub etag: String,
    pub size: u64,
}

/// An attempt that failed.
pub(crate) enum Failed {
    /// It may go better next time; the server may have said when.
    Again { problem: String, wait: Option<Duration>, status: u16 },
    /// It will not.
    Finally(Error),
}

impl Failed {
    pub fn again(problem: impl Into<String>) -> Self {
        Self::Again { problem: problem.into(), wait: None, status: 0 }
    }
}

/// How long a caller goes on trying.
pub(crate) struct Patience<'a> {
    what: &'a str,
    failures: u32,
    first_wait: Duration,
    go_on: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    /// There was progress: what failed before does not count any more.
    pub fn progressed(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// If there should be none.
    pub fn failed(&mut self, failed: Failed) -> Result<(), Error> {
        let (problem, wait, status) = match failed {
            Failed::Finally(error) => return Err(error),
            Failed::Again { problem, wait, status } => (problem, wait, status),
        };
        let what = self.what.to_owned();
        self.failures += 1;
        if self.failures >= ATTEMPTS {
            return Err(Error::Connection {
                what,
                problem: format!("{problem} ({ATTEMPTS} times)"),
            });
        }
        if let Some(wait) = wait.filter(|wait| *wait > LONGEST_WAIT) {
            return Err(Error::Busy { what, seconds: wait.as_secs(), status });
        }
        let wait = wait.unwrap_or(self.first_wait * 2u32.pow(self.failures - 1));
        let until = Instant::now() + wait.min(LONGEST_WAIT);
        loop {
            if !(self.go_on)() {
                return Err(Error::Cancelled);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(Duration::from_millis(100)));
        }
    }
}

impl Client {
    pub fn new(settings: &Settings) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            // Redirects are followed here: the library compares hosts, and would show the token to
            // another port or without encryption.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .tls_config(tls())
            .timeout_connect(Some(settings.timeout))
            .timeout_recv_response(Some(settings.timeout))
            .timeout_per_read(Some(settings.timeout))
            .user_agent(concat!("keeve/", env!("CARGO_PKG_VERSION")))
            .build()
            .new_agent();
        Self {
            agent,
            origin: Origin::of(&settings.endpoint),
            endpoint: settings.endpoint.clone(),
            token: settings.token.clone(),
            retry_wait: settings.retry_wait,
        }
    }

    pub fn patience<'a>(&self, what: &'a str, go_on: &'a dyn Fn() -> bool) -> Patience<'a> {
        Patience { what, failures: 0, first_wait: self.retry_wait, go_on }
    }

    /// The commit that a revision stands for, and the names of its files that can be paths.
    pub fn files(
        &self,
        model: &ModelName,
        revision: &Revision,
        go_on: &dyn Fn() -> bool,
    ) -> Result<(String, Vec<String>), Error> {
        #[derive(Deserialize)]
        struct Listing {
            sha: String,
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let repo = model.repo();
        let url = format!("{}/api/models/{repo}/revision/{}", self.endpoint, revision.in_address());
        let what = match revision.as_str() {
            "main" => repo,
            other => format!("{repo} at revision {other}"),
        };
        let mut patience = self.patience(&what, go_on);
        let bytes = loop {
            let attempt = self.get(&what, &url, 0).and_then(|mut response| {
                let body = response.body_mut().with_config().limit(MAX_LIST);
                body.read_to_vec().map_err(|error| failure(&error))
            });
            match attempt {
                Ok(bytes) => break bytes,
                Err(failed) => patience.failed(failed)?,
            }
        };
        let wrong = |problem: String| Error::Answer { what: what.clone(), problem };
        let listing: Listing = serde_json::from_slice(&bytes).map_err(|error| {
            wrong(format!("the server's list of files makes no sense: {error}"))
        })?;
        if !name::is_commit(&listing.sha) {
            return Err(wrong("the server names no commit".into()));
        }
        let names = listing.siblings.into_iter().map(|sibling| sibling.rfilename);
        Ok((listing.sha, names.filter(|name| name::is_file(name)).collect()))
    }

    /// Where a file is.
    pub fn address(&self, model: &ModelName, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{file}", self.endpoint, model.repo())
    }

    /// What the server says about the file at `url`.
    pub fn head(&self, what: &str, url: &str, go_on: &dyn Fn() -> bool) -> Result<FileHead, Error> {
        let mut patience = self.patience(what, go_on);
        loop {
            match self.try_head(what, url) {
                Ok(head) => return Ok(head),
                Err(failed) => patience.failed(failed)?,
            }
        }
    }

    fn try_head(&self, what: &str, url: &str) -> Result<FileHead, Failed> {
        let mut url = url.to_owned();
        for _ in 0..MAX_HOPS {
            let response = self.send(self.agent.head(&url), &url, 0)?;
            let headers = response.headers();
            if response.status().is_redirection() {
                // Within the hub (a repository that was renamed): the description is there. To
                // elsewhere (where large files lie): it is here.
                let next = next_address(what, &url, headers)?;
                let inside = Origin::of(&next).is_some() && Origin::of(&next) == self.origin;
                if inside && text(headers, "x-linked-etag").is_none() {
                    url = next;
                    continue;
                }
            } else {
                check(what, &response)?;
            }
            return described(headers)
                .map_err(|problem| Failed::Finally(Error::Answer { what: what.into(), problem }));
        }
        Err(misled(what, "the server redirects in circles"))
    }

    /// The content at `url` from byte `from` on; status 200 or 206.
    pub fn get(&self, what: &str, url: &str, from: u64) -> Result<Response<Body>, Failed> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_HOPS {
            let response = self.send(self.agent.get(&url), &url, from)?;
            if response.status().is_redirection() {
                url = next_address(what, &url, response.headers())?;
                continue;
            }
            check(what, &response)?;
            return Ok(response);
        }
        Err(misled(what, "the server redirects in circles"))
    }

    /// One request. The token goes with it only to the hub itself: its scheme, host and port.
    fn send(
        &self,
        request: RequestBuilder<WithoutBody>,
        url: &str,
        from: u64,
    ) -> Result<Response<Body>, Failed> {
        let mut request = request.header(ACCEPT_ENCODING, "identity");
        let own = self.origin.is_some() && Origin::of(url) == self.origin;
        if let Some(token) = self.token.as_ref().filter(|_| own) {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        request.call().map_err(|error| failure(&error))
    }
}

/// Where a redirect leads.
fn next_address(what: &str, url: &str, headers: &HeaderMap) -> Result<String, Failed> {
    let location = text(headers, LOCATION.as_str());
    let next = location.and_then(|location| followed(url, location));
    next.ok_or_else(|| misled(what, "the server redirects to no address that can be followed"))
}

/// A redirect that leads nowhere; asking again would not help.
fn misled(what: &str, problem: &str) -> Failed {
    Failed::Finally(Error::Answer { what: what.into(), problem: problem.into() })
}

/// How connections are secured, for any client of `ureq`: by the system's own TLS where `Cargo.toml` says that
/// there is one, else by rustls.
pub fn tls() -> TlsConfig {
    let config = TlsConfig::builder();
    #[cfg(any(windows, target_vendor = "apple"))]
    let config = config
        .provider(ureq::tls::TlsProvider::NativeTls)
        .root_certs(ureq::tls::RootCerts::PlatformVerifier);
    config.build()
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn described(headers: &HeaderMap) -> Result<FileHead, String> {
    let etag = text(headers, "x-linked-etag").or_else(|| text(headers, ETAG.as_str()));
    let etag = etag.ok_or("the server gives no etag")?;
    let etag = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    if !name::is_part(etag) {
        return Err("the server's etag makes no sense".into());
    }
    let size = text(headers, "x-linked-size").or_else(|| text(headers, CONTENT_LENGTH.as_str()));
    let size = size.and_then(|size| size.parse().ok()).ok_or("the server gives no length")?;
    Ok(FileHead { etag: etag.into(), size })
}

/// A failure below HTTP.
fn failure(error: &ureq::Error) -> Failed {
    Failed::again(match error {
        ureq::Error::HostNotFound => "there is no such host".into(),
        ureq::Error::Io(error) => format!("the connection failed: {error}"),
        other => format!("the connection failed: {other}"),
    })
}

/// What the status says.
fn check(what: &str, response: &Response<Body>) -> Result<(), Failed> {
    let (status, headers) = (response.status(), response.headers());
    let refused = |problem: &str| {
        let problem = format!("{problem} (status {})", status.as_u16());
        Err(Failed::Finally(Error::Refused { what: what.into(), problem }))
    };
    match status.as_u16() {
        200..=299 => Ok(()),
        401 => refused(
            "does not exist or is not public; if it is not, set HF_TOKEN to a token that may read it",
        ),
        403 => refused(
            "may not be read; accept its terms on its page, and set HF_TOKEN to a token that may read it",
        ),
        404 => refused(match text(headers, "x-error-code") {
            Some("RevisionNotFound") => "there is no such revision",
            Some("EntryNotFound") => "there is no such file",
            _ => "does not exist",
        }),
        416 => Err(Failed::Again {
            problem: "the server cannot go on from where the file broke off".into(),
            wait: None,
            status: 416,
        }),
        408 | 425 | 429 | 500..=599 => {
            let wait = text(headers, "retry-after").and_then(|wait| wait.trim().parse().ok());
            Err(Failed::Again {
                problem: format!("the server is busy or broken (status {})", status.as_u16()),
                wait: wait.map(Duration::from_secs),
                status: status.as_u16(),
            })
        }
        _ => refused("the server refuses"),
    }
}
