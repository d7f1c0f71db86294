//! A server under load: clients that stream answers at the same time.
//!
//! Every client asks one question after another, greedily. Times are measured at the client: to the
//! first piece of an answer, and from piece to piece (a piece is a token, unless the server holds
//! text back). Some clients can be made to hang up in the middle. Afterwards every question is asked
//! once more, alone: finished answers must be the one that this gives.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use crate::http::{Reply, Target};
use crate::{Error, Observer};

/// What is asked.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// `http://HOST:PORT`.
    pub url: String,
    /// The API key, where one is needed.
    pub key: Option<String>,
    /// Clients at the same time.
    pub clients: usize,
    /// Questions in all.
    pub requests: usize,
    /// Go on asking for so long instead.
    pub duration: Option<Duration>,
    /// Words of a question, about.
    pub prompt_words: usize,
    /// Tokens of an answer, at most.
    pub max_tokens: usize,
    /// Share of the questions whose client hangs up: 0 to 1.
    pub hang_up: f64,
}

/// Middle and tail of some times, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// Half are faster.
    pub p50: f64,
    /// 95 % are faster.
    pub p95: f64,
    /// 99 % are faster.
    pub p99: f64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct ServerReport {
    /// The server.
    pub server: String,
    /// Its model.
    pub model: String,
    /// Clients at the same time.
    pub clients: usize,
    /// Tokens of an answer, at most.
    pub max_tokens: usize,
    /// How long it took.
    pub seconds: f64,
    /// Answers that were read to their end.
    pub finished: usize,
    /// Answers whose client hung up.
    pub hung_up: usize,
    /// Requests that failed.
    pub errors: usize,
    /// The first failure.
    pub first_error: Option<String>,
    /// Finished answers that differ from the one that the question gets alone.
    pub different: usize,
    /// From the request to the first piece, in milliseconds.
    pub first_piece_ms: Option<Percentiles>,
    /// From piece to piece, in milliseconds.
    pub next_piece_ms: Option<Percentiles>,
    /// Pieces of all clients together.
    pub pieces_per_second: f64,
    /// Finished answers.
    pub answers_per_second: f64,
}

/// Different questions that are asked.
const QUESTIONS: usize = 32;

/// A server's error text that is kept.
const MOST_TEXT: usize = 4096;

#[derive(Default)]
struct Seen {
    first: Vec<f64>,
    next: Vec<f64>,
    finished: usize,
    hung_up: usize,
    errors: usize,
    first_error: Option<String>,
    /// How often each answer was given to each question.
    answers: HashMap<usize, HashMap<String, usize>>,
}

/// Puts a server under load.
///
/// # Errors
/// If the address is wrong or the server has no model. Requests that fail are counted.
pub fn run(options: &ServerOptions, observer: &dyn Observer) -> Result<ServerReport, Error> {
    let failed = |problem: String| Error::Server { url: options.url.clone(), problem };
    let target = Target::new(&options.url, options.key.clone()).map_err(failed)?;
    let model = first_model(&target).map_err(failed)?;
    let (asked, seen) = (AtomicUsize::new(0), Mutex::new(Seen::default()));
    let begun = Instant::now();
    let client = || {
        loop {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            let over = match options.duration {
                Some(duration) => begun.elapsed() >= duration,
                None => number >= options.requests,
            };
            if over || observer.stopped() {
                return;
            }
            let total = if options.duration.is_some() { 0 } else { options.requests };
            observer.progress("requests", number, total);
            let outcome = ask(&target, &model, options, number);
            if let Ok(mut seen) = seen.lock() {
                seen.note(number % QUESTIONS, outcome);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..options.clients.max(1) {
            scope.spawn(client);
        }
    });
    let seconds = begun.elapsed().as_secs_f64();
    let seen = seen.into_inner().unwrap_or_default();
    let patient = ServerOptions { hang_up: 0.0, ..options.clone() };
    let alone = |question: usize| Ok(ask(&target, &model, &patient, question)?.text);
    let different = seen.different(|question| {
        observer.progress("questions alone", question, QUESTIONS);
        if observer.stopped() { Ok(None) } else { alone(question).map(Some) }
    });
    let different = different.map_err(failed)?;
    let Seen { first, next, finished, hung_up, errors, first_error, .. } = seen;
    let pieces = first.len() + next.len();
    Ok(ServerReport {
        server: options.url.clone(),
        model,
        clients: options.clients,
        max_tokens: options.max_tokens,
        seconds,
        finished,
        hung_up,
        errors,
        first_error,
        different,
        first_piece_ms: percentiles(first),
        next_piece_ms: percentiles(next),
        pieces_per_second: pieces as f64 / seconds,
        answers_per_second: finished as f64 / seconds,
    })
}

struct Answer {
    text: String,
    /// When pieces came, in milliseconds after the request.
    pieces: Vec<f64>,
    finished: bool,
}

impl Seen {
    fn note(&mut self, question: usize, outcome: Result<Answer, String>) {
        match outcome {
            Err(problem) => {
                self.errors += 1;
                self.first_error.get_or_insert(problem);
            }
            Ok(answer) => {
                self.first.extend(answer.pieces.first());
                self.next.extend(answer.pieces.windows(2).map(|pair| pair[1] - pair[0]));
                if !answer.finished {
                    self.hung_up += 1;
                    return;
                }
                self.finished += 1;
                *self.answers.entry(question).or_default().entry(answer.text).or_default() += 1;
            }
        }
    }

    /// Answers that differ from the one that `alone` gives; `None` ends the comparison.
    fn different(
        &self,
        alone: impl Fn(usize) -> Result<Option<String>, String>,
    ) -> Result<usize, String> {
        let mut different = 0;
        for (&question, answers) in &self.answers {
            let Some(right) = alone(question)? else { break };
            let others = answers.iter().filter(|(answer, _)| **answer != right);
            different += others.map(|(_, count)| count).sum::<usize>();
        }
        Ok(different)
    }
}

fn first_model(target: &Target) -> Result<String, String> {
    let reply = target.send("GET", "/v1/models", None)?;
    let status = reply.status;
    let text = reply.text(1 << 20)?;
    let models: Value = serde_json::from_str(&text).unwrap_or_default();
    let name = models["data"][0]["id"].as_str().map(str::to_owned);
    name.ok_or_else(|| format!("/v1/models gives no model (status {status})"))
}

/// Numbers that look random and are the same each time.
fn random(number: usize) -> u64 {
    let mixed = (number as u64).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB) >> 33
}

fn question(number: usize, words: usize) -> String {
    const WORDS: [&str; 16] = [
        "river", "stone", "market", "winter", "letter", "garden", "engine", "music", "bread",
        "mountain", "island", "window", "horse", "paper", "summer", "road",
    ];
    let chosen = (0..words).map(|at| WORDS[random(number * 1000 + at) as usize % WORDS.len()]);
    let list: Vec<_> = chosen.collect();
    format!("Tell a story about these things: {}.", list.join(", "))
}

fn ask(
    target: &Target,
    model: &str,
    options: &ServerOptions,
    number: usize,
) -> Result<Answer, String> {
    let text = question(number % QUESTIONS, options.prompt_words);
    let body = json!({
        "model": model, "stream": true, "temperature": 0, "max_tokens": options.max_tokens,
        "messages": [{ "role": "user", "content": text }],
    });
    let luck = random(number) as f64 / (1u64 << 31) as f64;
    let patience =
        (luck < options.hang_up).then(|| random(number + 7) as usize % options.max_tokens.max(1));
    let begun = Instant::now();
    let reply = target.send("POST", "/v1/chat/completions", Some(&body.to_string()))?;
    if reply.status != 200 {
        let status = reply.status;
        return Err(format!("status {status}: {}", reply.text(MOST_TEXT)?));
    }
    read(reply, begun, patience)
}

/// Reads the events of an answer; hangs up after `patience` pieces.
fn read(mut reply: Reply, begun: Instant, patience: Option<usize>) -> Result<Answer, String> {
    let mut answer = Answer { text: String::new(), pieces: vec![], finished: false };
    let mut held = vec![];
    while let Some(more) = reply.more()? {
        held.extend(more);
        while let Some(end) = held.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = held.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let Some(data) = line.trim_end().strip_prefix("data: ") else { continue };
            if data == "[DONE]" {
                answer.finished = true;
                return Ok(answer);
            }
            let chunk: Value = serde_json::from_str(data).map_err(|error| error.to_string())?;
            if let Some(message) = chunk["error"]["message"].as_str() {
                return Err(message.to_owned());
            }
            let delta = &chunk["choices"][0]["delta"];
            let text = delta["content"].as_str().or(delta["reasoning_content"].as_str());
            let Some(text) = text.filter(|text| !text.is_empty()) else { continue };
            answer.text.push_str(text);
            answer.pieces.push(begun.elapsed().as_secs_f64() * 1e3);
            if patience.is_some_and(|patience| answer.pieces.len() > patience) {
                return Ok(answer);
            }
        }
    }
    Err("the answer broke off".into())
}

fn percentiles(mut times: Vec<f64>) -> Option<Percentiles> {
    times.sort_by(f64::total_cmp);
    // The nearest rank.
    let at = |share: f64| {
        let rank = (share * times.len() as f64).ceil() as usize;
        times.get(rank.saturating_sub(1)).copied()
    };
    Some(Percentiles { p50: at(0.5)?, p95: at(0.95)?, p99: at(0.99)? })
}

impl ServerReport {
    /// The report for a person.
    pub fn table(&self) -> String {
        let times = |times: Option<Percentiles>| {
            times.map_or_else(
                || "-".to_owned(),
                |times| format!("{:.1} / {:.1} / {:.1}", times.p50, times.p95, times.p99),
            )
        };
        let mut text = format!(
            "{} ({}), {} clients, {:.1} s\n\
             finished {}, hung up {}, errors {}, different {}\n\
             first piece, ms (p50 / p95 / p99)  {}\n\
             next piece, ms (p50 / p95 / p99)   {}\n\
             pieces a second                    {:.1}\n\
             answers a second                   {:.2}\n",
            self.server,
            self.model,
            self.clients,
            self.seconds,
            self.finished,
            self.hung_up,
            self.errors,
            self.different,
            times(self.first_piece_ms),
            times(self.next_piece_ms),
            self.pieces_per_second,
            self.answers_per_second,
        );
        if let Some(error) = &self.first_error {
            text.push_str(&format!("first error: {error}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_nearest_ranks() {
        assert_eq!(percentiles(vec![]), None);
        let times = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentiles(times), Some(Percentiles { p50: 50.0, p95: 95.0, p99: 99.0 }));
        assert_eq!(percentiles(vec![7.0]), Some(Percentiles { p50: 7.0, p95: 7.0, p99: 7.0 }));
    }

    #[test]
    fn answers_to_a_question_are_compared() {
        let answer = |text: &str| {
            Ok(Answer { text: text.into(), pieces: vec![5.0, 8.0, 9.0], finished: true })
        };
        let mut seen = Seen::default();
        seen.note(0, answer("a"));
        seen.note(0, answer("a"));
        seen.note(1, answer("b"));
        seen.note(1, answer("c"));
        seen.note(2, Err("broken".into()));
        assert_eq!((seen.finished, seen.errors, seen.first.len(), seen.next.len()), (4, 1, 4, 8));
        let right = |text: &'static str| move |_| Ok(Some(text.to_owned()));
        assert_eq!(seen.different(right("a")), Ok(2));
        assert_eq!(seen.different(right("b")), Ok(3));
        assert_eq!(seen.different(|_| Ok(None)), Ok(0));
        assert!(seen.different(|_| Err("gone".into())).is_err());
    }
}
