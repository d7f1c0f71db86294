//! Running the `keeve` command, and models made from the demo model's files.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of several tests, each of which uses some"
)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

/// A `keeve` command to be run.
pub struct TestCommand {
    command: Command,
    stdin: Vec<u8>,
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// `keeve` with these arguments.
pub fn keeve<S: AsRef<std::ffi::OsStr>>(args: impl IntoIterator<Item = S>) -> TestCommand {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keeve"));
    command.args(args).env_remove("KEEVE_ISA");
    TestCommand { command, stdin: vec![] }
}

impl TestCommand {
    pub fn arg(mut self, arg: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn stdin(mut self, text: &str) -> Self {
        self.stdin = text.into();
        self
    }

    /// Limits the address space of the process, where the system can: a large allocation then
    /// ends it.
    pub fn limited_memory(self) -> Self {
        self.after("ulimit -v 4000000")
    }

    /// Limits how long files can get (to 10 or 20 MiB: shells differ in what they count), where the system
    /// can: writing on then fails, as on a full disk.
    pub fn limited_files(self) -> Self {
        // Otherwise a signal would end the process.
        self.after("trap '' XFSZ; ulimit -f 20480")
    }

    /// Runs it in a shell in which this has been said.
    fn after(mut self, said: &str) -> Self {
        if cfg!(unix) {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{said}; exec \"$@\""), "sh"]);
            shell.arg(self.command.get_program()).args(self.command.get_args());
            shell.env_remove("KEEVE_ISA");
            self.command = shell;
        }
        self
    }

    /// Starts it with all three streams at hand.
    pub fn spawn(mut self) -> Child {
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.command.spawn().expect("keeve starts")
    }

    pub fn run(self) -> Ran {
        let stdin = self.stdin.clone();
        let mut child = self.spawn();
        // A command that reads nothing may be gone already.
        let _ = child.stdin.take().expect("a pipe").write_all(&stdin);
        let output = child.wait_with_output().expect("keeve ends");
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).expect("UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("UTF-8"),
        }
    }

    /// Runs it; it must succeed. Gives standard output.
    pub fn ok(self) -> String {
        let ran = self.run();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.stdout
    }

    /// Runs it with `--json`; it must succeed.
    pub fn json(self) -> Value {
        let ran = self.arg("--json").run();
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.json()
    }

    /// Runs it; it must fail with `code` and one line on standard error. Gives the message.
    pub fn fails_plainly(self, code: i32) -> String {
        let ran = self.run();
        // Where `--json` was asked for, standard output has the message too.
        ran.failure(code)
    }

    /// Runs it without and with `--json`; both times it must fail with `code` and one line on
    /// standard error, the same but for numbers (such as free memory). Gives the message.
    pub fn fails(self, code: i32) -> String {
        let mut json =
            Self { command: Command::new(self.command.get_program()), stdin: self.stdin.clone() };
        json.command.args(self.command.get_args());
        for (name, value) in self.command.get_envs() {
            match value {
                Some(value) => json.command.env(name, value),
                None => json.command.env_remove(name),
            };
        }
        let message = self.run().failure(code);
        let ran = json.arg("--json").run();
        assert_eq!(ran.json(), serde_json::json!({ "error": ran.failure(code) }));
        let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
        assert_eq!(words(&ran.failure(code)), words(&message));
        message
    }
}

impl Ran {
    /// The single JSON object on the single line of standard output.
    pub fn json(&self) -> Value {
        let line = self.stdout.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {self:?}"));
        assert!(!line.contains('\n'), "several lines: {self:?}");
        let value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}"));
        assert!(value.is_object(), "{self:?}");
        value
    }

    /// The message of a failure: one line, no matter what was wrong.
    pub fn failure(&self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        let line = self.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no line: {self:?}"));
        assert!(!line.contains(char::is_control), "more than a line of text: {self:?}");
        let message = line.strip_prefix("error: ").unwrap_or_else(|| panic!("{self:?}"));
        assert!(!message.contains("panicked"), "{self:?}");
        message.into()
    }
}

/// A copy of the demo model whose files can be changed.
pub struct Model(TempDir);

const WEIGHTS: &str = "model.safetensors";

impl Model {
    pub fn demo() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let model = Self(TempDir::new_in(folder).unwrap());
        for (name, bytes) in keeve_demo_model::FILES {
            match name {
                WEIGHTS => fs::hard_link(shared_weights(folder, bytes), model.file(name)).unwrap(),
                _ => fs::write(model.file(name), bytes).unwrap(),
            }
        }
        model
    }

    pub fn path(&self) -> &str {
        self.0.path().to_str().expect("UTF-8")
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn remove(self, name: &str) -> Self {
        fs::remove_file(self.file(name)).unwrap();
        self
    }

    /// Replaces a file. The weights are a link to a shared file, so nothing is changed in place.
    pub fn write(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        let _ = fs::remove_file(self.file(name));
        fs::write(self.file(name), bytes).unwrap();
        self
    }

    /// Changes a JSON file.
    pub fn json(self, name: &str, edit: impl FnOnce(&mut Value)) -> Self {
        let mut value = serde_json::from_slice(&fs::read(self.file(name)).unwrap()).unwrap();
        edit(&mut value);
        self.write(name, value.to_string())
    }

    /// Sets a field of `config.json`.
    pub fn config(self, field: &str, value: impl Into<Value>) -> Self {
        self.json("config.json", |config| config[field] = value.into())
    }

    /// Changes the header of the weights. What follows it becomes a hole as long as it was.
    pub fn header(self, edit: impl FnOnce(&mut Value)) -> Self {
        let bytes = fs::read(self.file(WEIGHTS)).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let mut header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        edit(&mut header);
        let header = header.to_string();
        let start = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat();
        let data = (bytes.len() - 8 - length) as u64;
        let end = start.len() as u64 + data;
        let model = self.write(WEIGHTS, start);
        let file = fs::OpenOptions::new().write(true).open(model.file(WEIGHTS)).unwrap();
        file.set_len(end).unwrap();
        model
    }
}

/// The demo model's weights as a file that several models link to.
///
/// Made once by each process and replaced only when its contents are others: linking to a file
/// fails while another takes its name.
fn shared_weights(folder: &Path, bytes: &[u8]) -> &'static Path {
    static SHARED: OnceLock<PathBuf> = OnceLock::new();
    SHARED.get_or_init(|| {
        let shared = folder.join("demo-model.safetensors");
        if !fs::read(&shared).is_ok_and(|known| known == bytes) {
            let mut file = tempfile::NamedTempFile::new_in(folder).unwrap();
            file.write_all(bytes).unwrap();
            file.persist(&shared).unwrap();
        }
        shared
    })
}
