//! A mapped file that becomes shorter while it is read ends the process with a line. Done in a process of its own.

#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::process::Command;

const FILE: &str = "KEEVE_TEST_SHRUNK";

#[test]
fn a_line_says_which_file_became_shorter() {
    if let Some(path) = std::env::var_os(FILE) {
        keeve_checkpoint::end_on_lost_pages().unwrap();
        let path = std::path::PathBuf::from(path);
        let other = keeve_checkpoint::map(&path.with_file_name("other")).unwrap();
        let bytes = keeve_checkpoint::map(&path).unwrap();
        assert_eq!((bytes[1 << 20], other[0]), (7, 7));
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(10).unwrap();
        // What is still there can be read.
        assert_eq!(bytes[0], 7);
        let lost = std::hint::black_box(bytes[1 << 20]);
        unreachable!("read {lost} behind the end");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model\u{1b}.safetensors");
    for path in [&path, &path.with_file_name("other")] {
        std::fs::write(path, vec![7u8; 2 << 20]).unwrap();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_line_says_which_file_became_shorter", "--nocapture"])
        .env(FILE, &path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.code(), Some(1), "{said}");
    let line = said.lines().last().unwrap();
    assert!(line.starts_with("error: ") && !line.contains('\u{1b}'), "{said}");
    assert!(
        line.ends_with("model?.safetensors: became shorter while it was read, or its disk failed"),
        "{said}"
    );
}
