//! What a server logs: lines on standard error, not more than a disk can hold.
//!
//! Requests decide about what is logged, so lines are short and few: a burst at once, then one in so many seconds.
//! Those left out are counted, and the next line says how many there were.

use std::fmt::{self, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use crate::args::LogLevel;

/// Lines that may come at once, and how long it takes until there may be another one.
const BURST: u32 = 20;
const PAUSE: Duration = Duration::from_secs(10);

/// Characters of a line.
const LONGEST: usize = 400;

/// Has what this process logs shown by `show`, a line at a time.
pub fn begin(level: LogLevel, show: impl Fn(&str) + Send + Sync + 'static) {
    let most = match level {
        LogLevel::Off => return,
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
    };
    let limit = Mutex::new(Limit::new(Instant::now()));
    // It fails only where something logs already, which is nothing in this program.
    let _ = tracing::subscriber::set_global_default(Log { most, limit, show: Box::new(show) });
}

struct Log {
    most: Level,
    limit: Mutex<Limit>,
    show: Box<dyn Fn(&str) + Send + Sync>,
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Libraries have their own idea of what is worth a line.
        *metadata.level() <= self.most && metadata.target().starts_with("keeve")
    }

    fn event(&self, event: &Event<'_>) {
        let allowed = self.limit.lock().unwrap_or_else(PoisonError::into_inner).ask(Instant::now());
        let Some(left_out) = allowed else { return };
        if left_out > 0 {
            (self.show)(&format!("note: {left_out} lines of the log were left out"));
        }
        (self.show)(&line(event));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// How many lines there may be.
struct Limit {
    left: u32,
    since: Instant,
    left_out: u64,
}

impl Limit {
    fn new(now: Instant) -> Self {
        Self { left: BURST, since: now, left_out: 0 }
    }

    /// Whether there may be a line now; if so, how many were left out before it.
    fn ask(&mut self, now: Instant) -> Option<u64> {
        let pauses = now.saturating_duration_since(self.since).as_secs() / PAUSE.as_secs();
        if pauses > 0 {
            let more = u32::try_from(pauses).unwrap_or(BURST);
            self.left = self.left.saturating_add(more).min(BURST);
            self.since = now;
        }
        match self.left {
            0 => {
                self.left_out += 1;
                None
            }
            _ => {
                self.left -= 1;
                Some(std::mem::take(&mut self.left_out))
            }
        }
    }
}

/// An event as a line: `warning: message (field: value)`.
fn line(event: &Event<'_>) -> String {
    let mut written = Written::default();
    event.record(&mut written);
    let level = match *event.metadata().level() {
        Level::ERROR => "error",
        Level::WARN => "warning",
        Level::INFO => "info",
        _ => "debug",
    };
    let Written { message, fields } = written;
    let fields = if fields.is_empty() { fields } else { format!(" ({fields})") };
    let line = format!("{level}: {message}{fields}").replace(['\n', '\r'], " ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

#[derive(Default)]
struct Written {
    message: String,
    fields: String,
}

impl Written {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let between = if self.fields.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => self.message.write_fmt(value),
            name => self.fields.write_fmt(format_args!("{between}{name}: {value}")),
        };
    }
}

impl Visit for Written {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn lines_are_limited_and_those_left_out_counted() {
        let begun = Instant::now();
        let mut limit = Limit::new(begun);
        for _ in 0..BURST {
            assert_eq!(limit.ask(begun), Some(0));
        }
        for _ in 0..1000 {
            assert_eq!(limit.ask(begun + PAUSE / 2), None);
        }
        assert_eq!(limit.ask(begun + PAUSE), Some(1000));
        assert_eq!(limit.ask(begun + PAUSE), None);
        // A quiet hour brings a whole burst back, and no more.
        let later = begun + Duration::from_secs(3600);
        let allowed = (0..100).filter(|_| limit.ask(later).is_some()).count();
        assert_eq!(allowed, BURST as usize);
    }

    #[test]
    fn lines_are_short_and_of_the_level_that_is_asked_for() {
        let lines = Arc::new(Mutex::new(vec![]));
        let kept = lines.clone();
        let show = Box::new(move |line: &str| kept.lock().unwrap().push(line.to_owned()));
        let limit = Mutex::new(Limit::new(Instant::now()));
        let log = Log { most: Level::WARN, limit, show };
        tracing::subscriber::with_default(log, || {
            tracing::warn!(path = "/v1/x", fields = "a, b", "left\nalone");
            tracing::info!("not this one");
            tracing::warn!(target: "hyper", "nor that");
            tracing::error!(count = 3, "{}", "x".repeat(1000));
        });
        let lines = lines.lock().unwrap();
        assert_eq!(lines[0], "warning: left alone (path: /v1/x, fields: a, b)");
        assert!(lines.len() == 2 && lines[1].starts_with("error: xxx"));
        assert_eq!(lines[1].chars().count(), LONGEST + 3);
    }
}
