//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::body::Bodies;
use crate::images::{ImageRules, ImageWork};
use crate::models::Models;

/// How the server meets the world.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The address to listen at.
    pub host: String,
    /// The port; 0 takes any that is free.
    pub port: u16,
    /// The keys that let a client in; empty: every client is let in.
    pub api_keys: Vec<String>,
    /// Origins of web pages elsewhere that may use the server; `*` is any.
    pub cors_origins: Vec<String>,
    /// The longest body of a request, in bytes.
    pub max_body: usize,
    /// The longest that a client may take to send the head of a request.
    pub head_timeout: Duration,
    /// The longest that a client may take to send a body.
    pub body_timeout: Duration,
    /// The longest that a client may take nothing of what is sent to it.
    pub write_timeout: Duration,
    /// The most connections at a time.
    pub max_connections: usize,
    /// The longest that an answer may take.
    pub request_timeout: Option<Duration>,
    /// How long running requests may go on once the server is told to stop.
    pub drain_timeout: Duration,
    /// The most answers (`n`) and prompts of one request.
    pub max_choices: usize,
    /// Which images are taken.
    pub images: ImageRules,
}

impl ServerConfig {
    /// Whether only this machine can reach the address (as far as its text tells).
    pub fn host_is_local(&self) -> bool {
        let address = self.host.parse().map(|address: std::net::IpAddr| address.is_loopback());
        address.unwrap_or(self.host == "localhost")
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".into(),
            port: 8341,
            api_keys: vec![],
            cors_origins: vec![],
            max_body: 16 << 20,
            head_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            max_connections: 1024,
            request_timeout: Some(Duration::from_secs(600)),
            drain_timeout: Duration::from_secs(30),
            max_choices: 16,
            images: ImageRules::default(),
        }
    }
}

/// What all requests share.
pub(crate) struct App {
    pub config: ServerConfig,
    pub models: Models,
    pub images: ImageWork,
    /// Room for the bodies that are being read.
    pub bodies: Bodies,
    /// Whether the server is ending.
    pub draining: AtomicBool,
    /// Whether the address is this machine's own, so that only it can connect.
    pub loopback: bool,
    ids: AtomicU64,
    started: u64,
}

pub(crate) type Shared = Arc<App>;

impl App {
    pub fn new(config: ServerConfig, models: Models, loopback: bool) -> Self {
        Self {
            config,
            models,
            images: ImageWork::default(),
            bodies: Bodies::default(),
            draining: AtomicBool::new(false),
            loopback,
            ids: AtomicU64::new(1),
            started: nanoseconds(),
        }
    }

    /// A new identifier, `prefix` in front: never the same twice, also after a restart.
    pub fn id(&self, prefix: &str) -> String {
        let number = self.ids.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}{:x}{number:06x}", self.started)
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn nanoseconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64)
}
