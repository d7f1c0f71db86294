//! A server with the demo model, and a small HTTP client.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of several tests, each of which uses some"
)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keeve_codec::Bytes;
use keeve_engine::{EngineOptions, ModelInfo};
use keeve_server::{ModelSource, ModelsConfig, Observer, ServerConfig, ServerError, Stop, serve};
use serde_json::{Value, json};

/// A running server. It is stopped when dropped.
pub struct Running {
    pub address: SocketAddr,
    stop: Stop,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

/// A response, read to its end.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

struct Ears {
    address: Sender<SocketAddr>,
    ready: Sender<()>,
}

impl Observer for Ears {
    fn listening(&self, address: SocketAddr) {
        let _ = self.address.send(address);
    }

    fn ready(&self, _: &ModelInfo) {
        let _ = self.ready.send(());
    }
}

/// The demo model.
pub fn demo(names: &[&str]) -> ModelSource {
    ModelSource {
        names: names.iter().map(|&name| name.into()).collect(),
        open: Box::new(|| {
            let files = keeve_demo_model::FILES.map(|(name, bytes)| (name, Bytes::new(bytes)));
            keeve_checkpoint::Checkpoint::from_memory(&files).map_err(|error| error.to_string())
        }),
        draft: None,
    }
}

pub fn config() -> ServerConfig {
    ServerConfig { port: 0, ..ServerConfig::default() }
}

pub fn loading() -> ModelsConfig {
    ModelsConfig {
        engine: EngineOptions { threads: Some(2), ..EngineOptions::default() },
        ..ModelsConfig::default()
    }
}

/// A server with the demo model and the usual limits.
pub fn server() -> Running {
    start(config(), vec![demo(&["demo", "gpt-test"])], loading())
}

pub fn start(config: ServerConfig, models: Vec<ModelSource>, loading: ModelsConfig) -> Running {
    let stop = Stop::default();
    let (address, listening) = channel();
    let (ready, is_ready) = channel();
    let told = stop.clone();
    let thread =
        std::thread::spawn(move || serve(config, models, loading, &told, &Ears { address, ready }));
    let address = listening.recv().expect("the server listens");
    is_ready.recv().expect("the server is ready");
    Running { address, stop, thread: Some(thread) }
}

impl Running {
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        stream
    }

    /// Sends a request as it is and reads the response.
    pub fn raw(&self, request: &[u8]) -> Response {
        let mut stream = self.connect();
        // A server may refuse before it has read everything.
        let _ = stream.write_all(request);
        read(&mut BufReader::new(stream)).expect("a response")
    }

    pub fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Response {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n{headers}Connection: close\r\n\r\n",
            body.len()
        );
        self.raw(format!("{head}{body}").as_bytes())
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, "", "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path, "Content-Type: application/json\r\n", &body.to_string())
    }

    /// Posts and expects 200 and JSON.
    pub fn ok(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body);
        assert_eq!(response.status, 200, "{body}: {}", response.text());
        response.json()
    }

    /// Posts and expects an error; gives its `error` object.
    pub fn fails(&self, path: &str, body: &Value, status: u16) -> Value {
        let response = self.post(path, body);
        assert_eq!(response.status, status, "{body}: {}", response.text());
        let error = response.json()["error"].clone();
        let message = error["message"].as_str().expect("a message");
        assert!(!message.is_empty() && !message.contains('\n'), "{message}");
        error
    }

    /// The data of all events of a stream.
    pub fn stream(&self, path: &str, body: &Value) -> Vec<String> {
        let response = self.post(path, body);
        assert_eq!(response.status, 200, "{body}: {}", response.text());
        assert!(response.head.to_lowercase().contains("content-type: text/event-stream"));
        let data = response.text();
        data.lines().filter_map(|line| line.strip_prefix("data: ")).map(str::to_owned).collect()
    }

    /// A number of `/metrics`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")));
        line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until nothing runs or waits and no page is held.
    pub fn idle(&self) {
        let names =
            ["vllm:num_requests_running", "vllm:num_requests_waiting", "keeve:kv_pages_held"];
        self.until(|| names.iter().all(|name| self.metric(name) == 0.0));
    }

    /// Waits for something, for as long as the slowest machine could need.
    pub fn until(&self, holds: impl Fn() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < Duration::from_secs(300), "waited in vain");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Tells it to stop and gives how it ended.
    pub fn stop(mut self) -> Result<(), ServerError> {
        self.stop.stop();
        self.thread.take().unwrap().join().unwrap()
    }

    /// Tells it to stop without waiting.
    pub fn begin_stop(&self) {
        self.stop.stop();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.stop();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Response {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }
}

/// Reads a response, whose length is announced or which is chunked; `None` if the connection ends
/// before the head does.
pub fn read(stream: &mut impl BufRead) -> Option<Response> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let lower = head.to_lowercase();
    let mut body = vec![];
    if lower.contains("transfer-encoding: chunked") {
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).ok()?;
            let Ok(length) = usize::from_str_radix(line.trim(), 16) else { break };
            let mut chunk = vec![0; length + 2];
            if stream.read_exact(&mut chunk).is_err() || length == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..length]);
        }
    } else {
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
        body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
    }
    Some(Response { status, head, body })
}

/// A greedy question.
pub fn question(text: &str, max_tokens: u32) -> Value {
    json!({
        "model": "demo", "temperature": 0, "max_tokens": max_tokens,
        "messages": [{ "role": "user", "content": text }],
    })
}
