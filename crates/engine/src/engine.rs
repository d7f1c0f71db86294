//! The engine: a thread that runs steps, and the handle that requests go through.

use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keeve_graph::{OpProfile, Outputs, Phase, Plan, State, Want};
use keeve_image::Processor;

use crate::chat::{ChatTemplate, Message, RenderOptions, Segment};
use crate::constraint::{Constraint, Grammar, Grammars};
use crate::draft_model::{DraftModel, Wanted};
use crate::error::Error;
use crate::images::{Prompt, Sight};
use crate::length;
use crate::load::ModelInfo;
use crate::rendered::Rendered;
use crate::request::{Canceller, Event, FinishReason, Generation, Request};
use crate::scheduler::{Scheduler, Shares};
use crate::sequence::{Link, SampleResult, Sequence, Sink};
use crate::speculation::{Drafting, Pace, Speculation};
use crate::stats::{Gauges, Stats};
use crate::text::TextSide;
use crate::tokenizer::Tokenizer;
use crate::vision::Eyes;

/// How long the engine looks for nothing but a grammar's mask before it looks for commands again.
const PATIENCE: Duration = Duration::from_millis(5);

/// A loaded model that answers requests, many at a time. Can be shared between threads; dropping
/// it cancels what is running.
pub struct Engine {
    commands: Sender<Command>,
    thread: Option<JoinHandle<()>>,
    info: ModelInfo,
    text: TextSide,
    images: ImageSide,
    grammars: Grammars,
    gauges: Arc<Gauges>,
    /// Bytes of the tokenizer's longest token, once somebody asked.
    longest_token: OnceLock<usize>,
}

pub(crate) enum Command {
    Run(Box<Sequence>),
    Profile(Sender<Vec<OpProfile>>),
    Stop,
}

/// What the handle knows of seeing.
#[derive(Default)]
pub(crate) struct ImageSide {
    /// What prompts need; `None` if the model does not see.
    pub sight: Option<Sight>,
    /// What makes images ready, if the model came with settings for it.
    pub processor: Option<Processor>,
}

impl ImageSide {
    /// The most tokens of an image, if at most `wanted` are wanted: the settings may never make more.
    pub fn most_tokens(&self, wanted: usize) -> usize {
        let ever = self.processor.as_ref().map_or(wanted, Processor::most_tokens);
        wanted.min(ever)
    }
}

/// What the engine's thread owns.
pub(crate) struct Worker {
    pub plan: Box<dyn Plan>,
    pub state: Box<dyn State>,
    pub scheduler: Scheduler,
    /// What sees, if the model does.
    pub eyes: Option<Eyes>,
    /// Tokens that end an answer.
    pub eos: Vec<u32>,
    pub speculator: Speculator,
}

/// How drafts are made.
pub(crate) struct Speculator {
    pub mode: Speculation,
    /// Drafts of a sequence in a step, at most.
    pub most: usize,
    pub model: Option<DraftModel>,
    pub pace: Pace,
}

impl Engine {
    pub(crate) fn start(
        worker: Worker,
        info: ModelInfo,
        text: TextSide,
        images: ImageSide,
    ) -> Result<Self, Error> {
        let grammars = Grammars::start()?;
        let (commands, inbox) = channel();
        let gauges = Arc::new(Gauges::default());
        gauges.publish(&worker.scheduler);
        let published = gauges.clone();
        let named = std::thread::Builder::new().name("keeve-engine".into());
        let work = move || worker.work(&inbox, &published);
        let thread = named.spawn(work).map_err(Error::Thread)?;
        Ok(Self {
            commands,
            thread: Some(thread),
            info,
            text,
            images,
            grammars,
            gauges,
            longest_token: OnceLock::new(),
        })
    }

    /// What was loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// If the model came without one, or with one that cannot be used. Token ids can be used
    /// nevertheless.
    pub fn tokenizer(&self) -> Result<&Tokenizer, Error> {
        present(&self.text.tokenizer)?.ok_or(Error::NoTokenizer)
    }

    /// The model's chat template, if it came with one.
    ///
    /// # Errors
    /// If it came with one that cannot be used.
    pub fn chat_template(&self) -> Result<Option<&ChatTemplate>, Error> {
        present(&self.text.template)
    }

    /// A conversation as the model's chat template writes it, ready for its answer. What the
    /// messages say never becomes a special token.
    ///
    /// # Errors
    /// If the model has no tokenizer or no template, or the template refuses the messages.
    pub fn chat_prompt(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Vec<u32>, Error> {
        Ok(self.rendered(messages, options)?.ids)
    }

    /// As [`Self::chat_prompt`], with the text.
    ///
    /// # Errors
    /// As [`Self::chat_prompt`].
    pub fn rendered(
        &self,
        messages: &[Message],
        options: &RenderOptions,
    ) -> Result<Rendered, Error> {
        let template = self.chat_template()?.ok_or(Error::NoChatTemplate)?;
        let segments = template.render_segments(messages, options)?;
        self.encoded(segments)
    }

    /// A prompt of what [`ChatTemplate::render_segments`] gives, or a part of it.
    ///
    /// # Errors
    /// If the model has no tokenizer, or the text cannot fit the context.
    pub fn encoded(&self, segments: Vec<Segment>) -> Result<Rendered, Error> {
        let ids = self.tokens(&segments, false)?;
        Ok(Rendered::of(segments, ids, self.tokenizer()?))
    }

    /// Token ids of a text that is to be a prompt. `add_special` puts the tokens around it that the tokenizer
    /// asks for; names of special tokens in it are text unless `parse_special`.
    ///
    /// # Errors
    /// If the model has no tokenizer, or the text cannot fit the context.
    pub fn text_prompt(
        &self,
        text: &str,
        add_special: bool,
        parse_special: bool,
    ) -> Result<Vec<u32>, Error> {
        let segment = Segment { text: text.to_owned(), trusted: parse_special };
        self.tokens(std::slice::from_ref(&segment), add_special)
    }

    /// As [`Self::text_prompt`] without special tokens in the text, cut to as many tokens as the context holds.
    ///
    /// # Errors
    /// If the model has no tokenizer, or nobody wants to know any more.
    pub fn text_beginning(&self, text: &str, add_special: bool) -> Result<Vec<u32>, Error> {
        let (tokenizer, context) = (self.tokenizer()?, self.info.max_context);
        let beginning = length::beginning(tokenizer, text, context)?;
        let mut ids = tokenizer.encode(beginning, add_special, false)?;
        ids.truncate(context);
        Ok(ids)
    }

    /// Whether a prompt with a text of so many bytes in it may fit the context.
    ///
    /// # Errors
    /// If the model has no tokenizer, or the text is too long whatever it says.
    pub fn check_length(&self, bytes: usize) -> Result<(), Error> {
        let tokenizer = self.tokenizer()?;
        let longest = *self.longest_token.get_or_init(|| length::longest_token(tokenizer));
        length::check_bytes(bytes, longest, self.info.max_context)
    }

    fn tokens(&self, segments: &[Segment], add_special: bool) -> Result<Vec<u32>, Error> {
        let tokenizer = self.tokenizer()?;
        self.check_length(segments.iter().map(|segment| segment.text.len()).sum())?;
        length::check(tokenizer, segments, self.info.max_context)?;
        Ok(tokenizer.encode_segments(segments, add_special)?)
    }

    /// What makes images ready for [`Request::images`]; `None` if the model cannot see.
    pub fn image_processor(&self) -> Option<&Processor> {
        self.images.processor.as_ref()
    }

    /// A grammar made ready for one answer (clones serve further ones).
    ///
    /// # Errors
    /// If the model has no tokenizer or no end token, or the grammar is malformed or too large.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Constraint, Error> {
        self.grammars.constraint(grammar, self.tokenizer()?, &self.info.eos)
    }

    /// What the engine is doing now, and what it has done. Up to date within one step.
    pub fn stats(&self) -> Stats {
        self.gauges.read()
    }

    /// Whether the engine can still answer. It cannot once its thread has died.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Begins to answer a request.
    ///
    /// # Errors
    /// If the request does not fit the model: an empty prompt, one longer than the context, ids
    /// outside the vocabulary, images that the prompt has no place for or that are of another size than
    /// the model takes, sampling parameters out of range; or if the engine has died.
    pub fn submit(&self, request: Request) -> Result<Generation, Error> {
        let (events, receiver) = channel();
        let canceller = self.submit_to(request, move |event| events.send(event).is_ok())?;
        Ok(Generation { events: receiver, cancelled: canceller.0, ended: false })
    }

    /// Begins to answer a request, giving its events to `sink` on the engine's thread, which must
    /// therefore return at once. It returns whether the events are still wanted; if not, the request
    /// is cancelled. It is dropped after the last event, or without one if the engine dies.
    ///
    /// # Errors
    /// As for [`Self::submit`].
    pub fn submit_to(
        &self,
        mut request: Request,
        sink: impl FnMut(Event) -> bool + Send + 'static,
    ) -> Result<Canceller, Error> {
        if request.embedding.is_some()
            && (request.prompt_logits || request.max_tokens.is_some_and(|max| max > 0))
        {
            return Err(Error::EmbeddingOnly);
        }
        let context = self.info.max_context;
        if request.prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        let given = std::mem::take(&mut request.images);
        let prompt = match &self.images.sight {
            Some(sight) => sight.prompt(&request.prompt, given, context)?,
            None if !given.is_empty() => return Err(Error::NoVision),
            None => Prompt { tokens: std::mem::take(&mut request.prompt), ..Prompt::default() },
        };
        let tokens = prompt.tokens.len();
        if tokens > context
            || (tokens == context && request.max_tokens != Some(0) && request.embedding.is_none())
        {
            return Err(Error::PromptTooLong { tokens, context });
        }
        let vocabulary = self.info.vocabulary;
        let biased = request.sampling.logit_bias.keys();
        let mut named = prompt.tokens.iter().chain(biased).chain(&request.stop_tokens);
        if let Some(&id) = named.find(|&&id| id as usize >= vocabulary) {
            return Err(Error::TokenId { id, vocabulary });
        }
        let skip_special = !request.keep_special;
        let tokenizer = self.tokenizer().ok();
        let mut detokenizer = tokenizer.map(|tokenizer| tokenizer.detokenizer(skip_special));
        if let (Some(detokenizer), Some(&last)) = (&mut detokenizer, prompt.tokens.last())
            && request.continues
        {
            // What it is the text of has been said; ids without a text say nothing.
            let _ = detokenizer.push(last);
        }
        let cancelled = Arc::new(AtomicBool::new(false));
        let events: Sink = Box::new(sink);
        let link = Link { events, cancelled: cancelled.clone() };
        let sequence = Sequence::new(request, prompt, link, detokenizer, context)?;
        self.command(Command::Run(Box::new(sequence)))?;
        Ok(Canceller(cancelled))
    }

    /// Time and bytes by operation; empty unless the engine was loaded with profiling on.
    ///
    /// # Errors
    /// If the engine has died.
    pub fn profile(&self) -> Result<Vec<OpProfile>, Error> {
        let (answer, receiver) = channel();
        self.command(Command::Profile(answer))?;
        receiver.recv().map_err(|_| Error::EngineDied)
    }

    fn command(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).map_err(|_| Error::EngineDied)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // If the thread has died there is nothing to stop, and its panic was already reported.
        let _ = self.command(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Worker {
    fn work(mut self, inbox: &Receiver<Command>, gauges: &Gauges) {
        loop {
            gauges.publish(&self.scheduler);
            if let Some(eyes) = self.eyes.as_mut().filter(|_| self.scheduler.is_idle()) {
                eyes.rest();
            }
            // Waits for work when there is none, else only looks.
            let command = if self.scheduler.is_idle() {
                inbox.recv().map_err(|_| TryRecvError::Disconnected)
            } else {
                inbox.try_recv()
            };
            match command {
                Ok(Command::Run(sequence)) => self.scheduler.waiting.push_back(*sequence),
                Ok(Command::Profile(answer)) => {
                    // The asker may have gone; then nobody wants the answer.
                    let _ = answer.send(self.plan.profile());
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return self.stop(),
                Err(TryRecvError::Empty) => self.step(),
            }
        }
    }

    fn step(&mut self) {
        for (sequence, reason) in self.scheduler.remove_given_up(Instant::now()) {
            sequence.finish(reason);
        }
        self.see();
        if let Err((drafted, error)) = self.speculator.draft(&mut self.scheduler) {
            self.fail(&drafted, error);
        }
        let shares = self.scheduler.schedule();
        let step = self.scheduler.step(&shares, &self.eos);
        if step.rows.is_empty() {
            return self.scheduler.wait(PATIENCE);
        }
        let generated = step.rows.iter().all(|row| row.phase == Phase::Generated);
        let (begun, rows) = (Instant::now(), step.rows.len());
        let wants: Vec<bool> = step.rows.iter().map(|row| row.logits).collect();
        let step_hidden: Vec<bool> = step.rows.iter().map(|row| row.hidden).collect();
        let sampled_rows: Vec<usize> = step.sampling.iter().map(|(row, _)| *row).collect();
        let outcome = self.plan.run(&step, &mut *self.state, None);
        match outcome {
            Ok(mut outputs) => {
                self.deliver_hidden(&shares, &step_hidden, &outputs);
                let (width, logits) = outputs.take(Want::Logits).unwrap_or_default();
                let sampled = sampled_rows.into_iter().zip(outputs.sampled).collect();
                self.deliver(&shares, &wants, sampled, (width, &logits));
                if generated {
                    self.speculator.pace.note(rows, begun.elapsed());
                }
            }
            Err(error) => {
                let ran: Vec<_> = (0..shares.len()).filter(|&index| shares[index] > 0).collect();
                self.fail(&ran, Error::Graph(error));
            }
        }
    }

    /// Ends the running sequences of these indices, which are in order, with an error.
    fn fail(&mut self, indices: &[usize], error: Error) {
        let error = Arc::new(error);
        for &index in indices.iter().rev() {
            self.scheduler.remove(index).fail(error.clone());
        }
    }

    /// Sees a layer more of what running sequences wait for, which is what a step is made longer by.
    fn see(&mut self) {
        let Some(eyes) = &mut self.eyes else { return };
        eyes.attend(&mut self.scheduler.running);
        let (error, hashes) = match eyes.advance(&mut self.scheduler.running) {
            Ok(images) => return self.scheduler.counts.images_seen += images as u64,
            Err(failure) => failure,
        };
        let error = Arc::new(Error::Graph(error));
        for index in (0..self.scheduler.running.len()).rev() {
            if self.scheduler.running[index].lacks(&hashes) {
                self.scheduler.remove(index).fail(error.clone());
            }
        }
    }

    /// Hands the hidden states of a step to the sequences that wanted them.
    fn deliver_hidden(&mut self, shares: &Shares, wants: &[bool], outputs: &Outputs) {
        if !wants.contains(&true) {
            return;
        }
        let mut rows = outputs.rows(Want::Hidden);
        let mut wants = wants.iter();
        for (index, &share) in shares.iter().enumerate().filter(|(_, share)| **share > 0) {
            let wanted = wants.by_ref().take(share).filter(|wanted| **wanted).count();
            self.scheduler.running[index].add_hidden(rows.by_ref().take(wanted));
        }
    }

    /// Hands the results of a step to its sequences and takes out those that are done.
    fn deliver(
        &mut self,
        shares: &Shares,
        wants: &[bool],
        sampled: Vec<(usize, SampleResult)>,
        (width, logits): (usize, &[f32]),
    ) {
        let mut wants = wants.iter();
        let mut sampled = sampled.into_iter().peekable();
        let mut end = 0;
        let mut rows = logits.chunks_exact(width.max(1));
        let mut ended = vec![];
        for (index, &share) in shares.iter().enumerate().filter(|(_, share)| **share > 0) {
            let sequence = &mut self.scheduler.running[index];
            let wanted = wants.by_ref().take(share).filter(|wanted| **wanted).count();
            let own: Vec<_> = rows.by_ref().take(wanted).collect();
            end += share;
            let own_sampled = std::iter::from_fn(|| sampled.next_if(|(row, _)| *row < end));
            let own_sampled: Vec<_> = own_sampled.map(|(_, sampled)| sampled).collect();
            let drafts = sequence.drafting.drafts.len();
            let reported = sequence.advance(share - drafts, width, &own);
            let checked = sequence.drafting.accepted;
            let outcome = if sequence.remaining() > 0 {
                Ok(None)
            } else if sequence.max_tokens > 0 {
                let logits = own.get(reported..).unwrap_or_default();
                let pace = &mut self.speculator.pace;
                sequence.accept_all(own_sampled, logits, &self.eos, pace)
            } else {
                Ok(Some(FinishReason::Length))
            };
            self.scheduler.counts.drafted_tokens += drafts as u64;
            self.scheduler.counts.accepted_tokens += (sequence.drafting.accepted - checked) as u64;
            // Wrong drafts are no part of what is in the pages.
            let mut pages = std::mem::take(&mut sequence.pages);
            self.scheduler.pool.register(&mut pages, sequence.all_tokens(), sequence.computed);
            sequence.pages = pages;
            match outcome {
                Ok(None) => {}
                Ok(Some(reason)) => ended.push((index, Ok(reason))),
                Err(error) => ended.push((index, Err(error))),
            }
        }
        for (index, outcome) in ended.into_iter().rev() {
            let sequence = self.scheduler.remove(index);
            match outcome {
                Ok(reason) => sequence.finish(reason),
                Err(error) => sequence.fail(Arc::new(error)),
            }
        }
    }

    fn stop(mut self) {
        let running = self.scheduler.running.drain(..);
        for sequence in running.chain(self.scheduler.waiting.drain(..)) {
            sequence.finish(FinishReason::Cancelled);
        }
    }
}

impl Speculator {
    /// Makes drafts for the sequences whose next step can check some.
    ///
    /// # Errors
    /// If the draft model cannot be run; with the indices of the sequences that it ran for.
    fn draft(&mut self, scheduler: &mut Scheduler) -> Result<(), (Vec<usize>, Error)> {
        let Self { mode, most, model, pace } = self;
        if *mode == Speculation::Off {
            return Ok(());
        }
        let rows = scheduler.running.iter().filter(|sequence| sequence.remaining() == 1).count();
        let least = match mode {
            Speculation::Auto => pace.least(rows, model.is_some()),
            Speculation::Off | Speculation::Ngram | Speculation::Draft => 0.0,
        };
        let mut wanted = vec![];
        for (index, sequence) in scheduler.running.iter_mut().enumerate() {
            let most = sequence.most_drafts().min(*most);
            let length = match mode {
                Speculation::Auto if most > 0 => sequence.drafting.length(most, least, pace),
                _ => most,
            };
            match model {
                _ if length == 0 => {}
                // A draft model does not see.
                Some(_) if sequence.images.is_empty() => {
                    wanted.push(Wanted { index, most: length, least });
                }
                _ => {
                    let Drafting { lookup, drafts, .. } = &mut sequence.drafting;
                    *drafts = lookup.propose(&sequence.tokens, length);
                }
            }
        }
        if let (Some(model), Some(pool)) = (model, &mut scheduler.draft_pool)
            && !wanted.is_empty()
        {
            let made = model.propose(&mut scheduler.running, pool, &wanted, pace);
            made.map_err(|error| (wanted.iter().map(|wanted| wanted.index).collect(), error))?;
        }
        Ok(())
    }
}

fn present<T>(part: &Result<Option<T>, String>) -> Result<Option<&T>, Error> {
    part.as_ref().map(Option::as_ref).map_err(|problem| Error::Unusable(problem.clone()))
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
