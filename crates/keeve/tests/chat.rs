//! `keeve chat`, with lines from standard input and at a terminal.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;

use common::{Model, keeve};
use serde_json::Value;

const QUESTION: &str = "What is the capital of France?";
const ANSWER: &str = "The capital of France is Paris.";

/// The lines that come back for these lines.
fn chat(args: &[&str], lines: &str) -> common::Ran {
    let ran = keeve(["chat"]).args(args).stdin(lines).run();
    assert_eq!(ran.code, Some(0), "{ran:?}");
    ran
}

#[test]
fn lines_from_standard_input_are_answered_one_by_one() {
    let ran = chat(&[], &format!("{QUESTION}\n\n{QUESTION}"));
    assert_eq!((&*ran.stdout, &*ran.stderr), (&*format!("{ANSWER}\n{ANSWER}\n"), ""));
    let model = Model::demo();
    assert_eq!(chat(&[model.path()], "/quit\nhello\n").stdout, "");
}

#[test]
fn commands_show_and_set() {
    let ran = chat(
        &["--system", "Be brief.", "--top-k", "7"],
        "/system\n/system Be long.\n/system\n/system -\n/system\n/top-k\n/temp 0.5\n/temp\n/temp 9\n\
         /sampling\n/nothing\n/history on\n/help\n",
    );
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert_eq!(lines[..5], ["Be brief.", "Be long.", "no system prompt", "7", "0.5"]);
    assert!(lines[5].starts_with("temp 0.5, top-p 1, top-k 7, "), "{}", lines[5]);
    assert!(ran.stdout.contains("/repetition-penalty [NUMBER]"));
    let errors: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(errors.len(), 3, "{errors:?}");
    assert!(errors[0].starts_with("error: ") && errors[0].contains("0 to 2"), "{errors:?}");
    assert_eq!(errors[1], "error: there is no command /nothing; /help lists them");
}

#[test]
fn a_conversation_is_saved_loaded_and_cleared() {
    let model = Model::demo();
    let path = model.file("talk.json");
    let path = path.to_str().unwrap();
    let ran = chat(&[], &format!("{QUESTION}\n/save {path}\n"));
    assert!(ran.stdout.ends_with(&format!("2 messages -> {path}\n")), "{}", ran.stdout);
    let saved: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(saved["messages"][1]["content"], ANSWER);
    let ran = chat(&[], &format!("/load {path}\n/save {path}\n/clear\n/save {path}\n"));
    assert_eq!(
        ran.stdout.lines().map(|line| line.chars().next().unwrap()).collect::<String>(),
        "220"
    );
    for bad in ["{", "[1]", r#"[{"role": "assistant", "content": "x"}]"#] {
        fs::write(path, bad).unwrap();
        let ran = chat(&[], &format!("/load {path}\n{QUESTION}\n"));
        assert_eq!(ran.stdout, format!("{ANSWER}\n"));
        let error = ran.stderr.strip_suffix('\n').unwrap();
        assert!(error.starts_with(&format!("error: {path}: ")) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_small_window_forgets_the_oldest_and_goes_on() {
    let lines = format!("{QUESTION}\n").repeat(8);
    let ran = chat(&["--max-kv-size", "128"], &lines);
    assert_eq!(ran.stdout, format!("{ANSWER}\n").repeat(8));
    assert!(
        ran.stderr.contains("the window of 128 tokens is full: the first 2 messages"),
        "{}",
        ran.stderr
    );
    // A reply that is longer than the window.
    let ran = chat(
        &["--max-kv-size", "64", "--max-tokens", "150"],
        "Tell me a long story about a river.\n",
    );
    assert!(ran.stdout.split_whitespace().count() > 10, "{ran:?}");
    let ran = chat(&["--max-kv-size", "64"], &format!("{}\n{QUESTION}\n", "long ".repeat(100)));
    assert_eq!(ran.stdout, format!("{ANSWER}\n"));
    assert!(ran.stderr.contains("but the window is 64"), "{}", ran.stderr);
}

#[test]
fn what_cannot_chat_is_one_clear_line() {
    let model =
        Model::demo().remove("chat_template.jinja").json("tokenizer_config.json", |config| {
            config.as_object_mut().unwrap().remove("chat_template");
        });
    assert!(
        keeve(["chat", model.path()]).stdin("hi\n").fails_plainly(1).contains("no chat template")
    );
    assert!(keeve(["chat", "--json"]).fails_plainly(2).contains("no --json"));
    assert!(keeve(["chat", "--temp", "7"]).fails_plainly(2).contains("0 to 2"));
}

/// What a person does at a terminal, through `script`, which gives the program one.
#[cfg(target_os = "linux")]
mod terminal {
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Child, Command, Stdio};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use tempfile::TempDir;

    use super::{ANSWER, QUESTION, fs};

    /// What the editor sends when it begins to read a line: it asks the terminal to mark pasted text.
    const PROMPT: &str = "\x1b[?2004h";

    /// A program at a terminal.
    struct Terminal {
        child: Child,
        seen: Arc<Mutex<String>>,
    }

    impl Terminal {
        fn new(args: &str, home: &TempDir) -> Self {
            // `exec`: the shell must not be there to die of Ctrl-C in the program's place.
            let program = format!("exec {} chat {args}", env!("CARGO_BIN_EXE_keeve"));
            let mut command = Command::new("script");
            command.args(["-qfec", &program, "/dev/null"]).env("XDG_DATA_HOME", home.path());
            command
                .env("TERM", "xterm")
                .env("SHELL", "/bin/sh")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped());
            let mut child = command.spawn().unwrap();
            let seen = Arc::new(Mutex::new(String::new()));
            let (mut out, log) = (child.stdout.take().unwrap(), seen.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(read @ 1..) = out.read(&mut buffer) {
                    log.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
                }
            });
            let terminal = Self { child, seen };
            terminal.wait(PROMPT);
            terminal
        }

        /// Waits until this is on the screen, and forgets everything up to it.
        fn wait(&self, text: &str) {
            for _ in 0..1200 {
                let mut seen = self.seen.lock().unwrap();
                if let Some(at) = seen.find(text) {
                    seen.drain(..at + text.len());
                    return;
                }
                drop(seen);
                std::thread::sleep(Duration::from_millis(50));
            }
            panic!("no {text:?} in {:?}", self.seen.lock().unwrap());
        }

        /// Waits until so many bytes more are on the screen.
        fn wait_for(&self, bytes: usize) {
            for _ in 0..1200 {
                if self.seen.lock().unwrap().len() >= bytes {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            panic!("only {:?}", self.seen.lock().unwrap());
        }

        fn keys(&mut self, keys: &str) {
            self.child.stdin.as_mut().unwrap().write_all(keys.as_bytes()).unwrap();
        }

        fn ends(mut self) {
            for _ in 0..1200 {
                if let Some(status) = self.child.try_wait().unwrap() {
                    assert_eq!(status.code(), Some(0));
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            panic!("still there: {:?}", self.seen.lock().unwrap());
        }
    }

    #[test]
    fn a_session_with_history_completion_and_interruption() {
        let home = TempDir::new().unwrap();
        let history = home.path().join("keeve/chat_history");
        let mut terminal = Terminal::new("", &home);
        terminal.keys(&format!("{QUESTION}\r"));
        terminal.wait(ANSWER);
        terminal.wait(PROMPT);
        // Tab completes a command; what it shows comes next.
        terminal.keys("/sampl\t\r");
        terminal.wait("repetition-penalty 1");
        terminal.wait(PROMPT);
        // Not kept from here on.
        terminal.keys("/history off\r");
        terminal.wait(PROMPT);
        terminal.keys("/system Secret.\r");
        terminal.wait(PROMPT);
        // Lines pasted together are one thing to say.
        terminal.keys("\x1b[200~/system One\nTwo\x1b[201~\r");
        terminal.wait(PROMPT);
        terminal.keys("/system\r");
        terminal.wait("Two");
        terminal.wait(PROMPT);
        // Ctrl-D leaves.
        terminal.keys("\x04");
        terminal.ends();
        let kept = fs::read_to_string(&history).unwrap();
        assert!(kept.contains(QUESTION) && kept.contains("/sampling"), "{kept}");
        assert!(!kept.contains("Secret") && !kept.contains("Two"), "{kept}");
        assert_eq!(fs::metadata(&history).unwrap().permissions().mode() & 0o777, 0o600);

        // The next time, the arrow finds it. Ctrl-C at an idle prompt leaves.
        let mut terminal = Terminal::new("", &home);
        terminal.keys("\x1b[A\x1b[A\x1b[A\r");
        terminal.wait(ANSWER);
        terminal.wait(PROMPT);
        terminal.keys("/history clear\r");
        terminal.wait(PROMPT);
        terminal.keys("\x03");
        terminal.ends();
        assert!(!fs::read_to_string(&history).unwrap().contains(QUESTION));
    }

    #[test]
    fn ctrl_c_stops_the_reply_and_the_conversation_goes_on() {
        let home = TempDir::new().unwrap();
        // At a high temperature it talks for long.
        let args = "--no-history --max-tokens 100000 --temp 2 --seed 3 --max-kv-size 128";
        let mut terminal = Terminal::new(args, &home);
        terminal.keys("Tell me everything.\r");
        // The line editor has let go of the terminal, and the reply comes.
        terminal.wait("\u{1b}[?2004l");
        terminal.wait_for(30);
        terminal.keys("\x03");
        terminal.wait(PROMPT);
        terminal.keys("/temp 0\r");
        terminal.wait(PROMPT);
        terminal.keys("/clear\r");
        terminal.wait(PROMPT);
        terminal.keys(&format!("{QUESTION}\r"));
        terminal.wait(ANSWER);
        terminal.wait(PROMPT);
        terminal.keys("/quit\r");
        terminal.ends();
        assert!(!home.path().join("keeve").exists());
    }
}
