//! Just enough HTTP/1.1 to measure a server: a request, and the events of its response.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// The longest wait for a server to connect or to send something.
const PATIENCE: Duration = Duration::from_secs(300);

/// The longest line or chunk of a response that is read.
const LONGEST: u64 = 16 << 20;

/// Where a server is.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `host:port`.
    authority: String,
    key: Option<String>,
}

/// A response whose head was read.
pub(crate) struct Reply {
    pub status: u16,
    reader: BufReader<TcpStream>,
    chunked: bool,
    /// Bytes of the body, or of the chunk, that are left.
    left: u64,
}

impl Target {
    /// Reads `http://host[:port]`.
    pub fn new(url: &str, key: Option<String>) -> Result<Self, String> {
        let rest = url.strip_prefix("http://").ok_or("expected http://HOST:PORT")?;
        let authority = rest.trim_end_matches('/');
        if authority.is_empty() || authority.contains(['/', '@', '?', ' ']) {
            return Err("expected http://HOST:PORT".into());
        }
        let has_port =
            authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        if key.as_ref().is_some_and(|key| key.contains(char::is_control)) {
            return Err("the key has a control character".into());
        }
        Ok(Self { authority, key })
    }

    /// Sends a request, with a JSON body if there is one, and reads the head of the response.
    pub fn send(&self, method: &str, path: &str, body: Option<&str>) -> Result<Reply, String> {
        let broken = |error: std::io::Error| format!("{}: {error}", self.authority);
        let address = self.authority.to_socket_addrs().map_err(broken)?.next();
        let address = address.ok_or_else(|| format!("{}: no such host", self.authority))?;
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(broken)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let key = self.key.iter().map(|key| format!("Authorization: Bearer {key}\r\n"));
        let key: String = key.collect();
        let text = body.unwrap_or_default();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{key}Content-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            self.authority,
            text.len()
        );
        (&stream).write_all(request.as_bytes()).map_err(broken)?;
        Reply::read(BufReader::new(stream))
    }
}

impl Reply {
    fn read(mut reader: BufReader<TcpStream>) -> Result<Self, String> {
        let first = line(&mut reader)?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| format!("no HTTP response: {first:.80}"))?;
        let (mut chunked, mut left) = (false, u64::MAX);
        loop {
            let header = line(&mut reader)?.to_ascii_lowercase();
            match header.split_once(':') {
                None => break,
                Some(("transfer-encoding", coding)) => chunked = coding.trim() == "chunked",
                Some(("content-length", length)) => {
                    left = length.trim().parse().map_err(|_| "bad content-length")?;
                }
                Some(_) => {}
            }
        }
        if chunked {
            left = 0;
        }
        Ok(Self { status, reader, chunked, left })
    }

    /// The body, at most so many bytes of it.
    pub fn text(mut self, most: usize) -> Result<String, String> {
        let mut bytes = vec![];
        while bytes.len() < most
            && let Some(more) = self.more()?
        {
            bytes.extend(more);
        }
        bytes.truncate(most);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The next bytes of the body; `None` at its end.
    pub fn more(&mut self) -> Result<Option<Vec<u8>>, String> {
        if self.chunked && self.left == 0 {
            let size = line(&mut self.reader)?;
            let digits = size.split(';').next().unwrap_or_default().trim();
            self.left =
                u64::from_str_radix(digits, 16).map_err(|_| format!("bad chunk: {size:.40}"))?;
            if self.left == 0 {
                return Ok(None);
            }
        }
        let held = self.reader.fill_buf().map_err(|error| error.to_string())?;
        let count = (held.len() as u64).min(self.left) as usize;
        if count == 0 {
            let early = self.chunked || (self.left > 0 && self.left != u64::MAX);
            return if early { Err("the response broke off".into()) } else { Ok(None) };
        }
        let bytes = held[..count].to_vec();
        self.reader.consume(count);
        self.left -= count as u64;
        if self.chunked && self.left == 0 {
            line(&mut self.reader)?;
        }
        Ok(Some(bytes))
    }
}

/// A line without its end.
fn line(reader: &mut impl BufRead) -> Result<String, String> {
    let mut text = String::new();
    let read = reader.take(LONGEST).read_line(&mut text).map_err(|error| error.to_string())?;
    if read == 0 {
        return Err("the server closed the connection".into());
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_others_refused() {
        let target = |url: &str| Target::new(url, None).map(|target| target.authority);
        assert_eq!(target("http://127.0.0.1:8341/"), Ok("127.0.0.1:8341".into()));
        assert_eq!(target("http://box"), Ok("box:80".into()));
        for wrong in ["https://a", "a:80", "http://", "http://a/b", "http://u@a"] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
        assert!(Target::new("http://a", Some("x\r\nY: z".into())).is_err());
    }
}
