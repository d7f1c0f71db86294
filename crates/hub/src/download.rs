//! From an address to a whole file.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use keeve_files::part::{self, Locked};
use ureq::Body;
use ureq::http::Response;

use crate::Error;
use crate::client::{Client, Failed, FileHead, text};
use crate::hash;

/// A file to be had.
pub(crate) struct Job<'a> {
    pub client: &'a Client,
    /// For messages.
    pub what: &'a str,
    pub url: &'a str,
    pub head: &'a FileHead,
    /// Where it goes once it is whole.
    pub blob: &'a Path,
    /// Held meanwhile, so that no two processes write the same part.
    pub lock: &'a Path,
    /// Told how many bytes are here; `false` stops.
    pub arrived: &'a dyn Fn(u64) -> bool,
}

/// The part of a file that has come so far. `huggingface_hub` calls it the same.
pub(crate) fn part_of(blob: &Path) -> PathBuf {
    let mut name = blob.as_os_str().to_owned();
    name.push(".incomplete");
    name.into()
}

impl Job<'_> {
    /// Downloads the file, from where an earlier try broke off. It gets its final name only when its
    /// length and hash are right.
    pub fn run(&self) -> Result<(), Error> {
        let _lock = self.locked()?;
        if self.is_here() {
            return Ok(());
        }
        // A file of another length, or none at all: a copy that broke off, a link.
        part::remove_leftover(self.blob);
        let part = part_of(self.blob);
        if hash::kind(&self.head.etag) == hash::Kind::Opaque {
            // What an earlier run left could not be told from holes.
            part::remove_leftover(&part);
        }
        let mut fresh = fs::symlink_metadata(&part).is_err();
        loop {
            self.complete(&part)?;
            let content = File::open(&part).map_err(Error::io(&part))?;
            if hash::matches(&self.head.etag, self.head.size, content).map_err(Error::io(&part))? {
                fs::rename(&part, self.blob).map_err(Error::io(self.blob))?;
                part::sync_parent(self.blob);
                return Ok(());
            }
            fs::remove_file(&part).map_err(Error::io(&part))?;
            // A part from an earlier time may have been damaged; a new one is the server's fault.
            if fresh {
                let problem = "the content is not what its hash says".into();
                return Err(Error::Answer { what: self.what.into(), problem });
            }
            fresh = true;
        }
    }

    /// Whether the file is in its place, as long as it should be.
    pub fn is_here(&self) -> bool {
        let found = fs::symlink_metadata(self.blob);
        found.is_ok_and(|found| found.is_file() && found.len() == self.head.size)
    }

    fn locked(&self) -> Result<Locked, Error> {
        loop {
            match part::lock_file(self.lock).and_then(Locked::new) {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) if (self.arrived)(0) => std::thread::sleep(Duration::from_millis(200)),
                Ok(None) => return Err(Error::Cancelled),
                Err(error) => return Err(Error::io(self.lock)(error)),
            }
        }
    }

    /// Makes the part as long as the file.
    fn complete(&self, part: &Path) -> Result<(), Error> {
        let file = part::open_or_create(part).map_err(Error::io(part))?;
        let length = || file.metadata().map(|metadata| metadata.len()).map_err(Error::io(part));
        let here = std::cell::Cell::new(length()?);
        let go_on = || (self.arrived)(here.get());
        let mut patience = self.client.patience(self.what, &go_on);
        let mut furthest = here.get();
        loop {
            if here.get() > self.head.size {
                file.set_len(0).map_err(Error::io(part))?;
                here.set(0);
            }
            if !go_on() {
                return Err(Error::Cancelled);
            }
            if here.get() == self.head.size {
                return file.sync_all().map_err(Error::io(part));
            }
            let outcome = self.receive(&file, part, &here);
            here.set(length()?);
            if here.get() > furthest {
                furthest = here.get();
                patience.progressed();
            }
            if let Err(failed) = outcome {
                patience.failed(failed)?;
            }
        }
    }

    /// One connection.
    fn receive(
        &self,
        mut file: &File,
        part: &Path,
        here: &std::cell::Cell<u64>,
    ) -> Result<(), Failed> {
        let io = |error| Failed::Finally(Error::io(part)(error));
        let from = here.get();
        let response = self.client.get(self.what, self.url, from).inspect_err(|failed| {
            // The next attempt begins at the beginning.
            if matches!(failed, Failed::Again { status: 416, .. }) {
                let _ = file.set_len(0);
            }
        })?;
        let size = self.head.size;
        let begins = begins_at(&response, from, size).map_err(Failed::again)?;
        if begins != from {
            file.set_len(0).map_err(io)?;
            here.set(0);
        }
        file.seek(SeekFrom::Start(here.get())).map_err(io)?;
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 17];
        loop {
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) => return Err(broken(here.get(), size, &error.to_string())),
            };
            if here.get() + read as u64 > size {
                file.set_len(0).map_err(io)?;
                here.set(0);
                return Err(Failed::again(format!(
                    "the server sends more than the {size} bytes it announced"
                )));
            }
            file.write_all(&buffer[..read]).map_err(io)?;
            here.set(here.get() + read as u64);
            if !(self.arrived)(here.get()) {
                return Err(Failed::Finally(Error::Cancelled));
            }
        }
        match here.get() == size {
            true => Ok(()),
            false => Err(broken(here.get(), size, "the server sent no more")),
        }
    }
}

fn broken(here: u64, size: u64, why: &str) -> Failed {
    Failed::again(format!("the connection broke off after {here} of {size} bytes: {why}"))
}

/// Where the content that the server sends begins: where it was asked to, or at zero.
fn begins_at(response: &Response<Body>, from: u64, size: u64) -> Result<u64, String> {
    let headers = response.headers();
    let announced = |begin: u64| match text(headers, "content-length").map(str::parse::<u64>) {
        Some(Ok(length)) if begin.checked_add(length) != Some(size) => {
            Err(format!("the server announces {length} bytes, expected {}", size - begin))
        }
        _ => Ok(begin),
    };
    if response.status().as_u16() != 206 {
        return announced(0);
    }
    let range = text(headers, "content-range").and_then(|range| range.strip_prefix("bytes "));
    match range
        .and_then(|range| range.split_once('-'))
        .map(|(begin, _)| begin.trim().parse::<u64>())
    {
        Some(Ok(begin)) if begin == from => announced(from),
        _ => Err("the server sends another part than it was asked for".into()),
    }
}
