//! A hub on this machine that misbehaves as told.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "helpers of several tests, each of which uses some"
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keeve_hub::{Hub, ModelName, Settings};
use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    headers: HashMap<String, String>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that is asked for.
    pub fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
    }
}

/// What is answered.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The connection is cut after so many bytes of the body.
    pub cut: Option<usize>,
    /// A length that is not the body's.
    pub length: Option<usize>,
}

pub fn status(status: u16) -> Reply {
    Reply { status, ..Reply::default() }
}

/// The files of the only repository, `some/model`.
pub type Files = Vec<(&'static str, Vec<u8>)>;

type Behaviour = dyn Fn(&Asked, usize) -> Option<Reply> + Send + Sync;

pub struct Server {
    pub address: String,
    pub asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    /// A hub with these files. `behaviour` sees each request and how often one with the same method and
    /// path came before; it answers, or leaves it to the hub.
    pub fn new(
        files: Files,
        behaviour: impl Fn(&Asked, usize) -> Option<Reply> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(vec![]));
        let state = Arc::new((files, asked.clone(), Box::new(behaviour) as Box<Behaviour>));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = state.clone();
                std::thread::spawn(move || serve(&stream.unwrap(), &state));
            }
        });
        Self { address, asked }
    }

    /// A client of it, with a cache in `folder`.
    pub fn hub(&self, folder: &tempfile::TempDir) -> Hub {
        self.hub_with(folder, |_| {})
    }

    pub fn hub_with(&self, folder: &tempfile::TempDir, edit: impl FnOnce(&mut Settings)) -> Hub {
        let mut settings = Settings {
            endpoint: self.address.clone(),
            cache: folder.path().join("hub"),
            token: None,
            offline: false,
            retry_wait: Duration::from_millis(1),
            timeout: Duration::from_secs(20),
        };
        edit(&mut settings);
        Hub::new(settings)
    }

    /// The requests for a file's content so far, each by its first byte.
    pub fn parts(&self, file: &str) -> Vec<usize> {
        let asked = self.asked.lock().unwrap();
        let content =
            asked.iter().filter(|asked| asked.method == "GET" && asked.path.ends_with(file));
        content.map(Asked::from).collect()
    }
}

pub fn model(text: &str) -> ModelName {
    ModelName::parse(text).unwrap()
}

pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Numbers that look random.
pub fn content(length: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

fn serve(stream: &TcpStream, state: &(Files, Arc<Mutex<Vec<Asked>>>, Box<Behaviour>)) {
    let (files, log, behaviour) = state;
    let mut reader = BufReader::new(stream);
    loop {
        let Some(asked) = read(&mut reader) else { return };
        let before = {
            let mut log = log.lock().unwrap();
            let same = |other: &&Asked| other.method == asked.method && other.path == asked.path;
            let before = log.iter().filter(same).count();
            log.push(asked.clone());
            before
        };
        let reply = behaviour(&asked, before).unwrap_or_else(|| well_behaved(files, &asked));
        if write(stream, &asked, &reply).is_err() || reply.cut.is_some() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return;
        }
    }
}

fn read(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            None => return Some(Asked { method, path, headers }),
        }
    }
}

fn write(mut stream: &TcpStream, asked: &Asked, reply: &Reply) -> std::io::Result<()> {
    let length = reply.length.unwrap_or(reply.body.len());
    let mut head = format!("HTTP/1.1 {} x\r\nContent-Length: {length}\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if asked.method != "HEAD" {
        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
    }
    stream.flush()
}

/// What the real hub does: large files lie elsewhere, named by a hash.
pub fn well_behaved(files: &Files, asked: &Asked) -> Reply {
    let reply = |status, body: &[u8]| Reply { status, body: body.to_vec(), ..Reply::default() };
    if let Some(rest) = asked.path.strip_prefix("/api/models/some/model/revision/") {
        if rest != "main" && rest != COMMIT {
            return Reply {
                headers: vec![("X-Error-Code", "RevisionNotFound".into())],
                ..status(404)
            };
        }
        let names: Vec<_> =
            files.iter().map(|file| format!(r#"{{"rfilename":"{}"}}"#, file.0)).collect();
        let list = format!(r#"{{"sha":"{COMMIT}","siblings":[{}]}}"#, names.join(","));
        return reply(200, list.as_bytes());
    }
    let prefix = format!("/some/model/resolve/{COMMIT}/");
    if let Some((name, content)) =
        files.iter().find(|file| asked.path.strip_prefix(&prefix) == Some(file.0))
    {
        let etag = format!("\"{}\"", sha256(content));
        return Reply {
            headers: vec![
                ("Location", format!("/elsewhere/{name}?signed=1")),
                ("X-Linked-Etag", etag),
                ("X-Linked-Size", content.len().to_string()),
                ("X-Repo-Commit", COMMIT.into()),
            ],
            ..status(302)
        };
    }
    let place = |name: &str| format!("/elsewhere/{name}?signed=1");
    match files.iter().find(|(name, _)| asked.path == place(name)) {
        Some((_, content)) => part(asked, content),
        None => status(404),
    }
}

/// A file, or the part of it that is asked for.
pub fn part(asked: &Asked, content: &[u8]) -> Reply {
    let from = asked.from();
    if from == 0 {
        return Reply { body: content.to_vec(), ..status(200) };
    }
    if from >= content.len() {
        return status(416);
    }
    let range = format!("bytes {from}-{}/{}", content.len() - 1, content.len());
    Reply { body: content[from..].to_vec(), headers: vec![("Content-Range", range)], ..status(206) }
}
