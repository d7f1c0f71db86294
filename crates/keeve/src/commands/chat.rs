//! `keeve chat`.

use std::path::Path;
use std::process::ExitCode;

use keeve::{Engine, Event, FinishReason, Request};

use crate::args::{Chat, Compute};
use crate::chat::command::{self, Command, History};
use crate::chat::conversation::Conversation;
use crate::chat::input::{Entered, Input};
use crate::chat::settings::{Setting, Settings};
use crate::commands::run;
use crate::images::{self, Image};
use crate::output::{Failure, Outcome, Output, one_line};
use crate::{interrupt, model};

pub fn run(args: &Chat, output: &Output) -> Outcome {
    if output.json {
        return Err(Failure::usage("chat has no --json; run answers one prompt with it"));
    }
    let template_args = run::template_args(args.chat_template_args.as_deref())?;
    let settings =
        Settings { sampling: run::sampling(&args.sampling)?, max_tokens: args.max_tokens };
    interrupt::watch()?;
    let checkpoint = model::open_seeing(args.model.as_deref(), args.seeing.mmproj.as_deref())?;
    let checkpoint = model::with_template(checkpoint, args.chat_template.as_deref())?;
    let compute = Compute {
        max_context: args.max_kv_size.or(args.compute.max_context),
        ..args.compute.clone()
    };
    let engine = model::load_to_answer(&checkpoint, &compute, &args.speculate, output)?;
    engine.tokenizer()?;
    let conversation = Conversation::new(args.system.clone(), template_args);
    // A model that cannot chat is found out before anything is typed.
    let mut hello = conversation.clone();
    hello.ask("hello", vec![]);
    hello.prompt(&engine, &[], usize::MAX, 0)?;
    model::notes(&engine, output);
    let input = Input::new(!args.no_history, output)?;
    let at_terminal = matches!(input, Input::Editor(_));
    if at_terminal {
        output.note("/help lists the commands; Ctrl-D leaves");
    }
    Session { engine, conversation, images: vec![], settings, input, output, at_terminal }.run()?;
    Ok(ExitCode::SUCCESS)
}

struct Session<'a> {
    engine: Engine,
    conversation: Conversation,
    /// To be shown with what is said next.
    images: Vec<Image>,
    settings: Settings,
    input: Input,
    output: &'a Output,
    at_terminal: bool,
}

impl Session<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        loop {
            let line = match self.input.read()? {
                Entered::Line(line) => line,
                Entered::Interrupt | Entered::End => return Ok(()),
            };
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let outcome = match command::parse(line) {
                Some(Ok(Command::Quit)) => return Ok(()),
                Some(Ok(command)) => self.obey(command),
                Some(Err(problem)) => Err(problem.into()),
                None => self.answer(line),
            };
            // What went wrong with one line is no reason to end the conversation.
            if let Err(problem) = outcome {
                self.output.note(&format!("error: {}", one_line(problem.message())));
            }
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), Failure> {
        let say = |text: String| self.output.text(&format!("{text}\n"));
        match command {
            Command::Help => self.output.text(&command::help())?,
            Command::Clear => {
                self.conversation.clear();
                self.images.clear();
            }
            Command::System(None) => say(match &self.conversation.system {
                Some(text) => text.clone(),
                None => "no system prompt".into(),
            })?,
            Command::System(Some(text)) => {
                self.conversation.system = (text != "-").then_some(text);
            }
            Command::Set(setting, None) => say(self.settings.get(setting))?,
            Command::Set(setting, Some(value)) => self.set(setting, &value)?,
            Command::Sampling => say(self.settings.summary())?,
            Command::Image(path) => {
                let image = images::read(&self.engine, &path)?;
                say(format!("{}: {} tokens", path.display(), image.tokens))?;
                self.images.push(image);
            }
            Command::Load(path) => {
                let image = |path: &Path| images::read(&self.engine, path);
                self.conversation = self.conversation.load(&path, &image)?;
                say(format!("{} messages", self.conversation.len()))?;
            }
            Command::Save(path) => {
                let messages = self.conversation.save(&path)?;
                say(format!("{messages} messages -> {}", path.display()))?;
            }
            Command::History(History::On) => self.input.keep(true)?,
            Command::History(History::Off) => self.input.keep(false)?,
            Command::History(History::Clear) => self.input.forget()?,
            Command::Quit => {}
        }
        Ok(())
    }

    fn set(&mut self, setting: Setting, value: &str) -> Result<(), Failure> {
        Ok(self.settings.set(setting, value)?)
    }

    /// Answers what the person said. A reply that was stopped is kept as far as it came; if there is none
    /// at all, the question is forgotten too, but not the images that came with it.
    fn answer(&mut self, question: &str) -> Result<(), Failure> {
        self.conversation.ask(question, std::mem::take(&mut self.images));
        let mut text = String::new();
        let outcome = self.generate(&mut text);
        interrupt::forget();
        if !text.is_empty() && !text.ends_with('\n') || self.at_terminal {
            self.output.text("\n")?;
        }
        match text.is_empty() && outcome.is_err() {
            true => self.images = self.conversation.take_back(),
            false => self.conversation.reply(&text),
        }
        outcome
    }

    /// Generates a reply. When the window is full, older parts of the conversation leave it, and the
    /// reply goes on.
    fn generate(&self, text: &mut String) -> Result<(), Failure> {
        let window = self.engine.info().max_context;
        let mut detokenizer = self.engine.tokenizer()?.detokenizer(true);
        let (mut reply, mut told) = (vec![], 0);
        loop {
            let left = self.settings.max_tokens.saturating_sub(reply.len());
            // The more room is made at once, the more seldom the window is computed again.
            let room = left.min(window / 4).max(1);
            let prompt = self.conversation.prompt(&self.engine, &reply, window, room)?;
            if prompt.left_out > told {
                told = prompt.left_out;
                self.output.note(&format!(
                    "note: the window of {window} tokens is full: the first {told} messages are left out"
                ));
            }
            let mut sampling = self.settings.sampling.clone();
            // Otherwise a part would repeat the random numbers of the one before.
            sampling.seed = sampling.seed.map(|seed| seed.wrapping_add(reply.len() as u64));
            let generation = self.engine.submit(Request {
                prompt: prompt.ids,
                images: prompt.images,
                sampling,
                max_tokens: Some(left),
                ..Request::default()
            })?;
            interrupt::cancels(generation.canceller());
            let before = reply.len();
            for event in generation {
                let piece = match event {
                    Event::PromptLogits { .. } | Event::Embedding(_) => continue,
                    Event::Token { id, .. } => {
                        reply.push(id);
                        // Ids that are only padding of the vocabulary stand for no text.
                        detokenizer.push(id).ok().flatten().unwrap_or_default()
                    }
                    Event::Finished { reason, .. } => {
                        let full = reason == FinishReason::Length
                            && reply.len() < self.settings.max_tokens
                            && reply.len() > before;
                        if full {
                            break;
                        }
                        let rest = detokenizer.finish().unwrap_or_default();
                        self.show(&rest, text)?;
                        return Ok(());
                    }
                    Event::Failed(error) => return Err(error.into()),
                };
                self.show(&piece, text)?;
            }
        }
    }

    fn show(&self, piece: &str, text: &mut String) -> Result<(), Failure> {
        text.push_str(piece);
        self.output.text(piece)
    }
}
