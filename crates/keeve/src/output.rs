//! What is printed, and where: results on standard output, everything else on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use keeve::checkpoint::StoredType;
use keeve::checkpoint::safetensors::{self, Announced};
use keeve::graph::Progress;
use keeve_files::whole;
use serde_json::{Value, json};

use crate::args::LogLevel;
use crate::terminal::Escaping;
pub use crate::terminal::one_line;
use crate::{interrupt, limits, log};

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// Ctrl-C ended the command before it had a result.
    pub fn interrupted() -> Self {
        Self { message: "interrupted".into(), code: interrupt::EXIT_CODE }
    }

    /// What went wrong.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The arguments make no sense: exit code 2.
    pub fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 2 }
    }
}

impl Failure {
    /// What went wrong, for another message.
    pub fn into_message(self) -> String {
        self.message
    }
}

impl<E: Display> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { message: error.to_string(), code: 1 }
    }
}

/// What a command gives back.
pub type Outcome = Result<ExitCode, Failure>;

/// The two output streams, under the user's wishes.
pub struct Output {
    /// Whether standard output is one JSON object.
    pub json: bool,
    quiet: bool,
    /// What is escaped on standard output.
    escaping: Escaping,
}

impl Output {
    /// Standard output is escaped, as a terminal behind a pipe needs it, or all that a terminal shows.
    pub fn new(json: bool, quiet: bool) -> Self {
        let escaping = match io::stdout().is_terminal() {
            true => Escaping::All,
            false => Escaping::Controls,
        };
        Self { json, quiet, escaping }
    }

    /// With `raw`, standard output gets what models and files say as it is.
    pub fn raw(self, raw: bool) -> Self {
        Self { escaping: if raw { Escaping::Nothing } else { self.escaping }, ..self }
    }

    /// Prints the result of a command in JSON mode.
    pub fn result(&self, value: &Value) -> Result<(), Failure> {
        let text = value.to_string();
        self.write(&format!("{}\n", self.escaping.json(&text)))
    }

    /// Prints text on standard output at once, escaped as [`Self::new`] says.
    pub fn text(&self, text: &str) -> Result<(), Failure> {
        self.write(&self.escaping.shown(text))
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            // Whoever read it has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
            outcome => outcome.map_err(|error| format!("standard output: {error}").into()),
        }
    }

    /// Prints a line on standard error, escaped, unless the user wants quiet.
    pub fn note(&self, line: &str) {
        if !self.quiet {
            note(line);
        }
    }

    /// Has what is logged printed like notes, unless the user wants quiet.
    pub fn show_log(&self, level: LogLevel) {
        if !self.quiet {
            log::begin(level, note);
        }
    }

    /// Asks something on standard error, escaped; the answer comes on the same line.
    pub fn ask(&self, question: &str) {
        let mut out = io::stderr().lock();
        // As above.
        let _ = out.write_all(Escaping::All.shown(question).as_bytes()).and_then(|()| out.flush());
    }

    /// Reports a failure on one line: on standard error, and in JSON mode as an object on standard
    /// output.
    pub fn fail(&self, failure: &Failure) -> ExitCode {
        // Parsers repeat what they were given, which may be long.
        let message = cut(one_line(&failure.message));
        let message = message.strip_prefix("error: ").unwrap_or(&message);
        // There is nowhere left to complain to if these fail.
        let _ = writeln!(io::stderr(), "error: {message}");
        if self.json {
            let text = json!({ "error": message }).to_string();
            let _ = writeln!(io::stdout(), "{}", self.escaping.json(&text));
        }
        ExitCode::from(failure.code)
    }

    /// A bar that follows the loading of a model; hidden where nobody would see it.
    pub fn loading_bar(&self) -> LoadingBar {
        let template = "loading {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        LoadingBar(Mutex::new(self.bar(template)))
    }

    /// A bar of bytes that follows work on named tensors; hidden where nobody would see it.
    pub fn work_bar(&self) -> WorkBar {
        WorkBar(self.bar("{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} {msg}"))
    }

    /// The same for work that is counted in tokens.
    pub fn calibration_bar(&self) -> WorkBar {
        WorkBar(self.bar("{bar:30} {pos}/{len} tokens {per_sec} {eta}"))
    }

    /// A bar that counts parts of named stages; hidden where nobody would see it.
    pub fn stage_bar(&self) -> StageBar {
        StageBar(self.bar("{msg} {bar:30} {pos}/{len} {elapsed}"))
    }

    /// A bar that counts tokens and says how long it will take; hidden where nobody would see it.
    pub fn token_bar(&self, what: &str, total: usize) -> TokenBar {
        let bar = self.bar("{msg} {bar:30} {pos}/{len} tokens, {eta} left");
        bar.set_message(one_line(what));
        bar.set_length(total as u64);
        TokenBar(bar)
    }

    /// A bar that follows a download; hidden where nobody would see it.
    pub fn download_bar(&self) -> DownloadBar {
        let template = "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        DownloadBar(self.bar(template))
    }

    fn bar(&self, template: &str) -> ProgressBar {
        let visible = !self.quiet && io::stderr().is_terminal();
        let target =
            if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar
    }
}

/// Prints a line on standard error, escaped.
fn note(line: &str) {
    // There is nowhere left to complain to if standard error is closed.
    let _ = writeln!(io::stderr(), "{}", Escaping::All.shown(line));
}

/// See [`Output::stage_bar`]. Disappears when dropped.
pub struct StageBar(ProgressBar);

impl StageBar {
    /// Shows that `done` of `total` parts of `stage` are done.
    pub fn set(&self, stage: &str, done: usize, total: usize) {
        self.0.set_message(one_line(stage));
        self.0.set_length(total as u64);
        self.0.set_position(done as u64);
    }
}

impl Drop for StageBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// See [`Output::work_bar`]. Disappears when dropped.
pub struct WorkBar(ProgressBar);

impl WorkBar {
    /// Shows that `done` of `total` bytes are worked off, and what is next.
    pub fn set(&self, done: u64, total: u64, next: &str) {
        self.0.set_length(total);
        self.0.set_position(done);
        self.0.set_message(one_line(next));
    }
}

impl Drop for WorkBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// See [`Output::token_bar`]. Disappears when dropped.
pub struct TokenBar(ProgressBar);

impl TokenBar {
    /// Counts `tokens` more.
    pub fn add(&self, tokens: usize) {
        self.0.inc(tokens as u64);
    }
}

impl Drop for TokenBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// See [`Output::download_bar`]. Disappears when dropped.
pub struct DownloadBar(ProgressBar);

impl DownloadBar {
    /// Shows that `done` of `total` bytes are here, `file` being the one that is coming.
    pub fn set(&self, file: &str, done: u64, total: u64) {
        self.0.set_message(one_line(file));
        self.0.set_length(total);
        self.0.set_position(done);
    }
}

impl Drop for DownloadBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// See [`Output::loading_bar`]. Disappears when dropped.
pub struct LoadingBar(Mutex<ProgressBar>);

impl LoadingBar {
    /// Shows how far loading has come.
    pub fn set(&self, progress: Progress) {
        let bar = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bar.set_length(progress.total);
        bar.set_position(progress.done);
    }
}

impl Drop for LoadingBar {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).finish_and_clear();
    }
}

/// All of standard input.
pub fn standard_input() -> Result<String, Failure> {
    let problem = |problem: String| Failure::from(format!("standard input: {problem}"));
    let bytes = whole::standard_input(limits::TEXT).map_err(|error| problem(error.to_string()))?;
    let Some(bytes) = bytes else {
        return Err(problem(format!(
            "is larger than {} MiB, the limit",
            limits::TEXT / whole::MIB
        )));
    };
    String::from_utf8(bytes).map_err(|_| problem("is not UTF-8, expected a text".into()))
}

/// Writes a safetensors file with one f32 tensor.
pub fn write_f32(path: &Path, name: &str, shape: &[usize], values: &[f32]) -> Result<(), Failure> {
    let tensor = Announced { name: name.into(), kind: StoredType::F32, shape: shape.into() };
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Ok(safetensors::write(path, [(tensor, &bytes[..])], &[])?)
}

/// A message of a length that a person reads.
fn cut(message: String) -> String {
    const LONGEST: usize = 2000;
    match message.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} ...", &message[..end]),
        None => message,
    }
}

/// Bytes for a person: `1.5 GiB`.
pub fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}
