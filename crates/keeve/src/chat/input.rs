//! Where lines come from: an editor at a terminal, or standard input as it is.

use std::fs;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::{Path, PathBuf};

use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::DefaultHistory;
use rustyline::validate::Validator;
use rustyline::{Config, Context, Editor, Helper};

use super::command;
use crate::output::{Failure, Output};
use crate::{interrupt, limits};

/// Lines that are remembered.
const MAX_HISTORY: usize = 10_000;

/// What was entered.
pub enum Entered {
    Line(String),
    /// Ctrl-C, where there was nothing to stop.
    Interrupt,
    /// Ctrl-D, or there is no more.
    End,
}

/// Where lines come from.
pub enum Input {
    Editor(Box<LineEditor>),
    /// Not a terminal: every line is one thing to say.
    Plain,
}

pub struct LineEditor {
    editor: Editor<Completion, DefaultHistory>,
    /// Where the history is kept; `None` if there is no place for it.
    file: Option<PathBuf>,
    keeps: bool,
}

impl Input {
    /// The editor if this is a terminal, with the history of earlier times unless `history` is false.
    pub fn new(history: bool, output: &Output) -> Result<Self, Failure> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return Ok(Self::Plain);
        }
        let config = Config::builder()
            .max_history_size(MAX_HISTORY)?
            .history_ignore_space(true)
            .completion_type(rustyline::CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Completion { files: FilenameCompleter::new() }));
        let mut line = LineEditor { editor, file: history_file(), keeps: history };
        if history && let Err(problem) = line.open() {
            output.note(&format!("note: no history: {problem}"));
            line.keeps = false;
        }
        Ok(Self::Editor(Box::new(line)))
    }

    /// The next line.
    pub fn read(&mut self) -> Result<Entered, Failure> {
        match self {
            Self::Editor(line) => line.read(),
            Self::Plain => {
                // Ctrl-C cannot wait for the next line.
                interrupt::ends_at_once(true);
                let mut text = String::new();
                let read = io::stdin().lock().take(limits::LINE + 1).read_line(&mut text);
                interrupt::ends_at_once(false);
                match read.map_err(|error| format!("standard input: {error}"))? {
                    0 => Ok(Entered::End),
                    read if read as u64 > limits::LINE => {
                        let most = limits::LINE >> 20;
                        Err(format!("standard input: a line is longer than {most} MiB, the limit")
                            .into())
                    }
                    _ => Ok(Entered::Line(text)),
                }
            }
        }
    }

    /// Keeps what is entered from now on, or stops to.
    pub fn keep(&mut self, keeps: bool) -> Result<(), Failure> {
        match self {
            Self::Plain => Err("there is no history without a terminal".into()),
            Self::Editor(line) => {
                if keeps && !line.keeps {
                    line.open()?;
                }
                line.keeps = keeps;
                Ok(())
            }
        }
    }

    /// Forgets everything that was ever entered.
    pub fn forget(&mut self) -> Result<(), Failure> {
        let Self::Editor(line) = self else {
            return Err("there is no history without a terminal".into());
        };
        line.editor.clear_history()?;
        match line.file.as_deref().map(fs::remove_file) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ if line.keeps => Ok(line.open()?),
            _ => Ok(()),
        }
    }
}

impl LineEditor {
    fn read(&mut self) -> Result<Entered, Failure> {
        let text = match self.editor.readline("> ") {
            Ok(text) => text,
            Err(ReadlineError::Interrupted) => return Ok(Entered::Interrupt),
            Err(ReadlineError::Eof) => return Ok(Entered::End),
            Err(error) => return Err(error.into()),
        };
        if !text.trim().is_empty() {
            // In this session also without a file: the arrow keys work.
            self.editor.add_history_entry(text.as_str())?;
            if let (true, Some(file)) = (self.keeps, &self.file) {
                self.editor.append_history(file)?;
            }
        }
        Ok(Entered::Line(text))
    }

    /// Reads the file, or makes it: for the user's eyes only.
    fn open(&mut self) -> Result<(), String> {
        let file = self.file.as_deref().ok_or("there is no home folder")?;
        let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        private(file).map_err(|error| problem(&error))?;
        self.editor.load_history(file).map_err(|error| problem(&error))
    }
}

/// Makes a file that only its owner may read, if it does not exist, and sees to that if it does.
fn private(file: &Path) -> io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let mut options = fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
        let opened = options.mode(0o600).open(file)?;
        opened.set_permissions(fs::Permissions::from_mode(0o600))
    }
    #[cfg(not(unix))]
    options.open(file).map(|_| ())
}

/// Where the system wants programs to keep such things.
fn history_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = std::env::home_dir();
    let folder = if cfg!(windows) {
        set("APPDATA").map(PathBuf::from)?
    } else if cfg!(target_os = "macos") {
        home?.join("Library/Application Support")
    } else {
        set("XDG_DATA_HOME").map(PathBuf::from).or_else(|| Some(home?.join(".local/share")))?
    };
    Some(folder.join("keeve").join("chat_history"))
}

/// Completes commands, and the files that some of them take.
struct Completion {
    files: FilenameCompleter,
}

impl Completer for Completion {
    type Candidate = Pair;

    fn complete(
        &self,
        line: &str,
        at: usize,
        context: &Context<'_>,
    ) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..at];
        if ["/image ", "/load ", "/save "].into_iter().any(|command| typed.starts_with(command)) {
            return self.files.complete(line, at, context);
        }
        let (start, candidates) = completions(typed);
        let pair = |text: String| Pair { display: text.clone(), replacement: text };
        Ok((start, candidates.into_iter().map(pair).collect()))
    }
}

/// What a command may go on with, and from where.
fn completions(typed: &str) -> (usize, Vec<String>) {
    if let Some(rest) = typed.strip_prefix("/history ") {
        let fitting = command::HISTORY.into_iter().filter(|word| word.starts_with(rest));
        return (typed.len() - rest.len(), fitting.map(Into::into).collect());
    }
    match typed.starts_with('/') && !typed.contains(char::is_whitespace) {
        true => (0, command::names().filter(|name| name.starts_with(typed)).collect()),
        false => (typed.len(), vec![]),
    }
}

impl Helper for Completion {}

impl Hinter for Completion {
    type Hint = String;
}

impl Highlighter for Completion {}

impl Validator for Completion {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_their_words_are_completed() {
        assert_eq!(completions("/te"), (0, vec!["/temp".into()]));
        assert_eq!(completions("/top").1, ["/top-p", "/top-k"]);
        assert_eq!(completions("/history o"), (9, vec!["on".into(), "off".into()]));
        assert_eq!(completions("hello /te").1, [] as [String; 0]);
        assert!(completions("/").1.len() > 10);
    }

    #[cfg(unix)]
    #[test]
    fn the_history_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/er/history");
        let mode = || fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        private(&file).unwrap();
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        private(&file).unwrap();
        assert_eq!(mode(), 0o600);
    }
}
