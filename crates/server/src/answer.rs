//! From a prompt to the events of its answers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use keeve_engine::sampling::{Sampled, report};
use keeve_engine::{Canceller, Event, FinishReason, Request};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::error::ApiError;
use crate::models::{Model, Place};

/// The answers to one request, as they are generated. Dropping it cancels what is left.
pub(crate) struct Answers {
    model: Arc<Model>,
    receiver: UnboundedReceiver<(usize, Event)>,
    sender: Option<UnboundedSender<(usize, Event)>>,
    /// By number; those that have begun.
    cancellers: Vec<Option<Canceller>>,
    /// Further answers to the same prompt. They begin once the first one's prompt is computed, and
    /// find it in the prefix cache.
    later: VecDeque<(usize, Request)>,
    left: usize,
    begun: Instant,
    last_token: Vec<Option<Instant>>,
    /// By number: what the model made of each prompt token but the first, where that was asked for.
    prompts: Vec<Reports>,
    _places: Vec<Place>,
}

/// What the model made of the tokens of a prompt.
type Reports = Arc<Mutex<Vec<Sampled>>>;

impl Answers {
    /// Begins to answer. Each request is an answer, by number; all those with the same prompt as the
    /// first wait for it.
    pub fn start(model: Arc<Model>, requests: Vec<Request>) -> Result<Self, ApiError> {
        let places = requests.iter().map(|_| model.place()).collect::<Result<_, _>>()?;
        let (sender, receiver) = unbounded_channel();
        let count = requests.len();
        let mut answers = Self {
            model,
            receiver,
            sender: Some(sender),
            cancellers: vec![None; count],
            later: VecDeque::new(),
            left: count,
            begun: Instant::now(),
            last_token: vec![None; count],
            prompts: vec![Reports::default(); count],
            _places: places,
        };
        let first = requests.first().map(|request| request.prompt.clone()).unwrap_or_default();
        for (index, request) in requests.into_iter().enumerate() {
            if index > 0 && request.prompt == first {
                answers.later.push_back((index, request));
            } else if let Err(error) = answers.submit(index, request) {
                answers.left = 0;
                return Err(error);
            }
        }
        answers.hang_up();
        Ok(answers)
    }

    fn submit(&mut self, index: usize, request: Request) -> Result<(), ApiError> {
        let Some(sender) = self.sender.clone() else { return Ok(()) };
        let reports = Reports::default();
        self.prompts[index] = reports.clone();
        let prompt = if request.prompt_logits { request.prompt.clone() } else { vec![] };
        let top = request.sampling.top_logprobs;
        let sink = move |event: Event| {
            let Event::PromptLogits { start, vocabulary, values } = event else {
                return sender.send((index, event)).is_ok();
            };
            // Reduced at once: the logits of a prompt are far more than there is memory for.
            let next = prompt.get(start + 1..).unwrap_or_default();
            let rows = values.chunks_exact(vocabulary.max(1)).zip(next);
            let made = rows.filter_map(|(logits, &id)| report(logits, id, top).ok());
            reports.lock().unwrap_or_else(PoisonError::into_inner).extend(made);
            !sender.is_closed()
        };
        self.cancellers[index] = Some(self.model.engine.submit_to(request, sink)?);
        Ok(())
    }

    /// Lets go of the channel once all senders are the engine's, so that its death is noticed.
    fn hang_up(&mut self) {
        if self.later.is_empty() {
            self.sender = None;
        }
    }

    /// The next event of any answer; `None` after the last.
    pub async fn next(&mut self) -> Option<(usize, Result<Event, ApiError>)> {
        if self.left == 0 {
            return None;
        }
        let Some((index, event)) = self.receiver.recv().await else {
            self.left = 0;
            self.model.metrics.failed(self.begun.elapsed());
            return Some((0, Err((&keeve_engine::Error::EngineDied).into())));
        };
        while let Some((index, request)) = self.later.pop_front() {
            if let Err(error) = self.submit(index, request) {
                self.left = 0;
                return Some((index, Err(error)));
            }
        }
        self.hang_up();
        Some((index, self.note(index, event)))
    }

    /// Counts what happened.
    fn note(&mut self, index: usize, event: Event) -> Result<Event, ApiError> {
        let metrics = &self.model.metrics;
        let now = Instant::now();
        match &event {
            Event::Token { .. } => match self.last_token[index].replace(now) {
                None => metrics.first_token(now - self.begun),
                Some(last) => metrics.next_token(now - last),
            },
            Event::Finished { reason, timings, .. } => {
                self.left -= 1;
                let reason = match reason {
                    FinishReason::Cancelled => "abort",
                    reason => reason.name(),
                };
                metrics.finished(reason, now - self.begun, timings);
            }
            Event::Failed(error) => {
                self.left -= 1;
                metrics.failed(now - self.begun);
                return Err(error.as_ref().into());
            }
            Event::PromptLogits { .. } | Event::Embedding(_) => {}
        }
        Ok(event)
    }

    /// What the model made of each token of an answer's prompt but the first. It is complete when the
    /// answer's first token is there, or its end.
    pub fn prompt_reports(&self, index: usize) -> Vec<Sampled> {
        self.prompts[index].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends an answer within one step of the engine; its last event still comes.
    pub fn cancel_one(&self, index: usize) {
        if let Some(canceller) = &self.cancellers[index] {
            canceller.cancel();
        }
    }
}

impl Drop for Answers {
    fn drop(&mut self) {
        self.cancellers.iter().flatten().for_each(Canceller::cancel);
        self.model.metrics.aborted(self.left, self.begun.elapsed());
    }
}
