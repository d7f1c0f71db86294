//! The `serve` command itself: settings, keys, and a server that starts, answers and ends.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::zombie_processes,
    reason = "tests; a server that never gets ready fails its test"
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Child;

use common::keeve;

fn temporary() -> tempfile::TempDir {
    tempfile::TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Starts a server at any free port and gives its address once it is ready.
fn started(args: &[&str], key: Option<&str>) -> (Child, String) {
    let mut command = keeve(["serve", "--port", "0"]).args(args);
    if let Some(key) = key {
        command = command.env("KEEVE_API_KEY", key);
    }
    let mut child = command.spawn();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut address = String::new();
    loop {
        let line = lines.next().expect("the server says that it is ready").unwrap();
        if let Some(found) = line.strip_prefix("listening at http://") {
            address = found.into();
        }
        if line == "ready" {
            // The pipe must stay open for what the server says later.
            std::thread::spawn(move || lines.count());
            return (child, address);
        }
    }
}

fn get(address: &str, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[cfg(unix)]
#[test]
fn a_server_answers_until_it_is_told_to_stop() {
    let (mut child, address) = started(&["--alias", "small"], Some("secret"));
    assert!(get(&address, "/health", "").starts_with("HTTP/1.1 200"));
    assert!(get(&address, "/v1/models", "").starts_with("HTTP/1.1 401"));
    let models = get(&address, "/v1/models", "Authorization: Bearer secret\r\n");
    assert!(models.contains("\"keeve-demo\"") && models.contains("\"small\""), "{models}");
    let bench = keeve([
        "bench",
        "--server",
        &format!("http://{address}"),
        "--clients",
        "3",
        "--requests",
        "6",
        "-n",
        "4",
        "-p",
        "4",
    ])
    .env("KEEVE_API_KEY", "secret")
    .json();
    assert_eq!(
        (&bench["finished"], &bench["errors"], &bench["different"]),
        (&6.into(), &0.into(), &0.into()),
        "{bench}"
    );
    let pid = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn keys_are_read_as_people_write_them() {
    let folder = temporary();
    let keys = folder.path().join("keys");
    fs::write(&keys, "\u{feff}key1\r\n# staging\r\n\r\n  key2  \r\n").unwrap();
    let file = ["--api-key-file", keys.to_str().unwrap(), "--threads", "1"];
    let (mut child, address) = started(&file, Some("key3\n"));
    let status = |key: &str| {
        let answer = get(&address, "/v1/models", &format!("Authorization: Bearer {key}\r\n"));
        answer[9..12].to_owned()
    };
    for key in ["key1", "key2", "key3"] {
        assert_eq!(status(key), "200", "{key}");
    }
    for key in ["# staging", "staging", "", "key4"] {
        assert_eq!(status(key), "401", "{key}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn fields_that_are_left_alone_are_logged_unless_the_server_is_to_be_quiet() {
    for (flags, logged) in [(&[][..], true), (&["--log-level", "error"], false)] {
        let mut child = keeve(["serve", "--port", "0", "--threads", "1"]).args(flags).spawn();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
        let mut until = |end: &str| -> Vec<String> {
            let mut seen = vec![];
            while seen.last().is_none_or(|line: &String| !line.contains(end)) {
                seen.push(lines.next().expect("more lines"));
            }
            seen
        };
        let address = until("listening at ").pop().unwrap();
        let address = address.trim_start_matches("listening at http://");
        until("ready");
        let ask = |field: &str| {
            let body = format!("{{\"content\": \"a\", \"{field}\": 1}}");
            let kind = "Content-Type: application/json\r\nConnection: close";
            let request = format!(
                "POST /tokenize HTTP/1.1\r\nHost: {address}\r\n{kind}\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        };
        // An attacker gets a few lines, not one for each request.
        (0..200).for_each(|_| ask("x_unheard"));
        child.kill().unwrap();
        child.wait().unwrap();
        let warned = lines.filter(|line| line.contains("fields: x_unheard)")).count();
        assert!(if logged { (1..=40).contains(&warned) } else { warned == 0 }, "{warned}");
    }
}

#[test]
fn settings_come_from_a_file_and_flags_prevail() {
    let folder = temporary();
    let file = folder.path().join("keeve.toml");
    fs::write(&file, "port = 9\nmax-queue = 5\nalias = [\"a\", \"b\"]\nno-prefix-cache = true\nmodel = \"x\"\n[models]\nbig = \"y\"\n").unwrap();
    let path = file.to_str().unwrap();
    let printed = keeve(["serve", "--config", path, "--port", "7", "--print-config"]).ok();
    for line in [
        "port = 7",
        "max-queue = 5",
        "alias = [\"a\", \"b\"]",
        "no-prefix-cache = true",
        "model = \"x\"",
        "big = \"y\"",
        "max-sequences = 16",
        "activations = \"auto\"",
    ] {
        assert!(printed.lines().any(|found| found == line), "{line} not in {printed}");
    }
    // What is printed can be read again and says the same.
    fs::write(&file, &printed).unwrap();
    assert_eq!(keeve(["serve", "--config", path, "--print-config"]).ok(), printed);
    for (text, named) in [
        ("prot = 1", "'prot'"),
        ("port = true", "'port'"),
        ("alias = [[1]]", "'alias'"),
        ("config = \"x\"", "'config'"),
        ("port = ", "keeve.toml"),
        ("[models]\na = 1", "models.a"),
    ] {
        fs::write(&file, text).unwrap();
        let message = keeve(["serve", "--config", path]).fails(1);
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn what_cannot_be_served_is_refused() {
    let folder = temporary();
    let keys = folder.path().join("keys");
    fs::write(&keys, " \n\n").unwrap();
    let message = keeve(["serve", "--api-key-file", keys.to_str().unwrap()]).fails(1);
    assert!(message.contains("no key"), "{message}");
    for (text, named) in [("a\nb c\n", "line 2"), ("a\u{1b}[1m", "U+001B"), ("#a", "no key")] {
        fs::write(&keys, text).unwrap();
        let message = keeve(["serve", "--api-key-file", keys.to_str().unwrap()]).fails(1);
        assert!(message.contains(named) && message.contains("--api-key-file"), "{message}");
    }
    for value in ["", " \n", "a b"] {
        let message = keeve(["serve"]).env("KEEVE_API_KEY", value).fails(1);
        assert!(message.contains("KEEVE_API_KEY"), "{message}");
    }
    assert!(
        keeve(["serve", "--port", "0", "/no/such/model"])
            .run()
            .stderr
            .contains("no model at '/no/such/model'")
    );
    for origin in ["page.example", "https://", "https://page.example/", "https://a b", "file:///x"]
    {
        let ran = keeve(["serve", "--cors-origin", origin]).run();
        let said = ran.stderr.contains("expected an origin such as https://");
        assert!(ran.code == Some(2) && said, "{ran:?}");
    }
    let ran = keeve(["serve", "--model", "nameless"]).run();
    assert!(ran.code == Some(2) && ran.stderr.contains("NAME=PATH"), "{ran:?}");
    let ran = keeve(["serve", "--port", "0", "--host", "256.1.1.1"]).run();
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("cannot listen at 256.1.1.1"), "{ran:?}");
    let message = keeve(["bench", "--server", "ftp://x"]).fails(1);
    assert!(message.contains("http://HOST:PORT"), "{message}");
}
