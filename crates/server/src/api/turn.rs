//! One turn of a conversation: from messages to the pieces of the model's answers. Every endpoint
//! that takes conversations goes through here.

use std::sync::Arc;

use keeve_engine::chat::{Content, Part};
use keeve_engine::sampling::TokenLogprob;
use keeve_engine::{Event, FinishReason, Grammar, Message, RenderOptions, Rendered, Timings};
use keeve_image::Patches;
use serde_json::{Map, Value};

use super::common::{Choosing, Usage, finish_reason};
use super::format::{Bound, after_reasoning};
use super::tool_use::{ToolUse, calls_as_text, fit_ids};
use crate::answer::Answers;
use crate::app::Shared;
use crate::error::ApiError;
use crate::images::{Images, Prepared};
use crate::models::Model;
use crate::parse::{AnswerParser, AnswerStyle, CallIds, Calls, Delta, Probed};

/// What the model is asked.
pub(crate) struct Turn {
    pub messages: Vec<Message>,
    /// Those of the messages, in order.
    pub images: Images,
    pub tools: ToolUse,
    pub format: Option<Grammar>,
    pub template_args: Map<String, Value>,
    pub ending: Ending,
    pub choosing: Choosing,
}

/// How a prompt ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With the beginning of an answer.
    #[default]
    Answer,
    /// With the last message.
    Bare,
    /// Within the last message, which the answer goes on with.
    Continued,
}

/// A token that was chosen.
pub(crate) struct Chosen {
    pub id: u32,
    pub logprob: f32,
    pub alternatives: Vec<TokenLogprob>,
}

/// Something new in one of the answers.
pub(crate) struct Update {
    /// Which answer.
    pub index: usize,
    pub deltas: Vec<Delta>,
    pub token: Option<Chosen>,
    /// Set with the last update of an answer.
    pub end: Option<End>,
}

/// How an answer ended.
pub(crate) struct End {
    /// OpenAI's name for why.
    pub reason: &'static str,
    /// The stop text that ended it.
    pub stop_text: Option<usize>,
    pub timings: Timings,
    /// Tokens spent on reasoning.
    pub reasoning_tokens: usize,
}

/// The answers of a turn, as they arrive.
pub(crate) struct Running {
    answers: Answers,
    choices: Vec<Choice>,
    /// Whether an answer ends with its first call.
    single: bool,
    /// Of the prompt, those of images included.
    pub prompt_tokens: usize,
    _images: Prepared,
}

struct Choice {
    parser: AnswerParser,
    calls: bool,
    tokens: usize,
    reasoning_tokens: usize,
}

impl Turn {
    /// The prompt that the model would be given.
    pub async fn rendered(
        mut self,
        app: &Shared,
        model: &Arc<Model>,
    ) -> Result<Rendered, ApiError> {
        let _images = std::mem::take(&mut self.images).prepare(app, model).await?;
        self.prompt(model, false, |_, prompt| Ok(prompt)).await
    }

    /// Renders the prompt, where such work waits its turn, and does there what follows from it. `grammar`: whether
    /// that compiles one.
    async fn prompt<T: Send + 'static>(
        mut self,
        model: &Arc<Model>,
        grammar: bool,
        then: impl FnOnce(&Model, Rendered) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        self.fit_messages(&model.probed);
        let options = self.render_options(model);
        let Self { messages, ending, .. } = self;
        let bytes = messages.iter().map(text_bytes).sum();
        let work = move |model: &Model| then(model, prompt(model, &messages, &options, ending)?);
        model.prepare([bytes], grammar, work).await
    }

    /// Begins the answers.
    pub async fn start(mut self, app: &Shared, model: &Arc<Model>) -> Result<Running, ApiError> {
        let probed = &model.probed;
        let forced = self.tools.rules(&probed.style);
        let bound_by = if forced.is_some() { "tools" } else { "response_format" };
        if forced.is_some() && self.format.is_some() {
            let message = "tool_choice and response_format cannot both bind the answer";
            return Err(ApiError::field("response_format", message));
        }
        let single = !self.tools.tools.is_empty() && !self.tools.several;
        let calls = (!self.tools.tools.is_empty()).then(|| Calls {
            tools: Arc::new(self.tools.list()),
            lenient: self.format.is_none(),
            single,
        });
        let bound = match (forced, self.format.take()) {
            (Some(rules), _) => Some(Bound::Calls(rules)),
            (None, format) => format.map(Bound::Format),
        };
        let images = std::mem::take(&mut self.images).prepare(app, model).await?;
        let choosing = std::mem::take(&mut self.choosing);
        let prepared = self.prompt(model, bound.is_some(), move |model, prompt| {
            let style = &model.probed.style;
            let reasoning = begins_reasoning(model, style, &prompt.ids);
            let grammar = bound.map(|bound| after_reasoning(bound, style, reasoning));
            let constraint = grammar.map(|grammar| model.engine.constraint(&grammar));
            let constraint = constraint
                .transpose()
                .map_err(|error| ApiError::field(bound_by, error.to_string()))?;
            Ok((prompt.ids, reasoning, constraint))
        });
        let (prompt, reasoning, constraint) = prepared.await?;
        let prompt_tokens = prompt.len() + more_for_images(model, &images);
        let mut requests = choosing.requests(app, model, prompt, constraint)?;
        for request in &mut requests {
            request.images = images.patches.clone();
            request.shown = probed.style.shown(calls.is_some());
        }
        let choice = |_: &_| Choice {
            parser: AnswerParser::new(&probed.style, reasoning, calls.clone()),
            calls: false,
            tokens: 0,
            reasoning_tokens: 0,
        };
        let choices = requests.iter().map(choice).collect();
        let answers = Answers::start(model.clone(), requests)?;
        Ok(Running { answers, choices, single, prompt_tokens, _images: images })
    }

    /// How many tokens the prompt has, those of images included.
    pub async fn prompt_tokens(
        mut self,
        app: &Shared,
        model: &Arc<Model>,
    ) -> Result<usize, ApiError> {
        let images = std::mem::take(&mut self.images).prepare(app, model).await?;
        let tokens = self.prompt(model, false, |_, prompt| Ok(prompt.ids.len())).await?;
        Ok(tokens + more_for_images(model, &images))
    }

    /// Tells the model about tools and earlier calls in the way that its chat template can.
    fn fit_messages(&mut self, probed: &Probed) {
        if !probed.tools {
            self.tools.write_into(&mut self.messages);
        } else if !probed.calls {
            calls_as_text(&mut self.messages, probed.style.notation());
        }
        if probed.ids != CallIds::Any {
            fit_ids(&mut self.messages, probed.ids);
        }
    }

    fn render_options(&mut self, model: &Model) -> RenderOptions {
        let documents = self.template_args.remove("documents");
        RenderOptions {
            documents: documents.and_then(|list| list.as_array().cloned()),
            tools: self.tools.for_template().filter(|_| model.probed.tools),
            add_generation_prompt: self.ending == Ending::Answer,
            extra: std::mem::take(&mut self.template_args),
            ..RenderOptions::default()
        }
    }
}

/// The tokens of images beyond the one that stands for each in a prompt.
fn more_for_images(model: &Model, images: &Prepared) -> usize {
    let merge = model.engine.image_processor().map_or(1, |processor| processor.merge()).max(1);
    let of_image = |patches: &Arc<Patches>| patches.merged(merge);
    images.patches.iter().map(|patches| of_image(patches).saturating_sub(1)).sum()
}

/// The prompt that a conversation becomes.
fn prompt(
    model: &Model,
    messages: &[Message],
    options: &RenderOptions,
    ending: Ending,
) -> Result<Rendered, ApiError> {
    match ending {
        Ending::Continued => continued(model, messages, options),
        Ending::Answer | Ending::Bare => Ok(model.engine.rendered(messages, options)?),
    }
}

/// Bytes of text that a message has.
fn text_bytes(message: &Message) -> usize {
    match &message.content {
        None => 0,
        Some(Content::Text(text)) => text.len(),
        Some(Content::Parts(parts)) => {
            parts.iter().filter_map(|part| part.text.as_ref()).map(String::len).sum()
        }
    }
}

/// Parts as what a message says: one text where there is no image.
pub(crate) fn joined(parts: Vec<Part>) -> Content {
    if parts.iter().all(|part| part.text.is_some()) {
        let texts: Vec<_> = parts.into_iter().filter_map(|part| part.text).collect();
        Content::Text(texts.join("\n"))
    } else {
        Content::Parts(parts)
    }
}

/// The prompt up to the end of what the last message says, so that the answer goes on with it.
fn continued(
    model: &Model,
    messages: &[Message],
    options: &RenderOptions,
) -> Result<Rendered, ApiError> {
    let wrong = |problem: &str| ApiError::field("messages", problem);
    let last = match messages.last().map(|last| (&*last.role, &last.content)) {
        Some(("assistant", Some(Content::Text(text)))) => text.clone(),
        Some(("assistant", Some(Content::Parts(parts)))) => {
            parts.last().and_then(|part| part.text.clone()).unwrap_or_default()
        }
        _ => return Err(wrong("only a last message of the assistant can be gone on with")),
    };
    if last.trim().is_empty() {
        return Err(wrong("the last message says nothing that could be gone on with"));
    }
    let template = model.engine.chat_template()?.ok_or(keeve_engine::Error::NoChatTemplate)?;
    let mut segments =
        template.render_segments(messages, options).map_err(keeve_engine::Error::from)?;
    // Templates trim texts at will; white space at its end is the message's all the same.
    let found = segments.iter().enumerate().rev().find_map(|(index, segment)| {
        let at = |text: &str| segment.text.rfind(text).map(|at| (index, at + text.len()));
        at(&last).or_else(|| at(last.trim_end())).or_else(|| at(last.trim()))
    });
    let Some((index, end)) = found else {
        return Err(wrong("the chat template does not write what the last message says"));
    };
    segments.truncate(index + 1);
    segments[index].text.truncate(end);
    Ok(model.engine.encoded(segments)?)
}

/// Whether a prompt ends inside the model's reasoning.
fn begins_reasoning(model: &Model, style: &AnswerStyle, prompt: &[u32]) -> bool {
    const LOOK: usize = 24;
    let Ok(tokenizer) = model.engine.tokenizer() else { return false };
    let tail = &prompt[prompt.len().saturating_sub(LOOK)..];
    let bytes: Vec<u8> = tail
        .iter()
        .flat_map(|&id| tokenizer.token_bytes(id).unwrap_or_default())
        .copied()
        .collect();
    style.begins_reasoning(&String::from_utf8_lossy(&bytes))
}

impl Running {
    /// What one of the answers and its prompt have used so far.
    pub fn usage(&self, index: usize) -> Usage {
        let choice = &self.choices[index];
        Usage::so_far(self.prompt_tokens, choice.tokens, choice.reasoning_tokens)
    }

    /// What is new next; `None` after the end of the last answer.
    pub async fn next(&mut self) -> Option<Result<Update, ApiError>> {
        loop {
            let (index, event) = match self.answers.next().await? {
                (index, Ok(event)) => (index, event),
                (_, Err(error)) => return Some(Err(error)),
            };
            let choice = &mut self.choices[index];
            match event {
                Event::PromptLogits { .. } | Event::Embedding(_) => {}
                Event::Token { id, logprob, alternatives, text } => {
                    choice.tokens += 1;
                    let deltas = choice.parser.push(&text);
                    choice.note(&deltas);
                    if self.single && choice.parser.complete_calls() > 0 {
                        self.answers.cancel_one(index);
                    }
                    let token = Some(Chosen { id, logprob, alternatives });
                    return Some(Ok(Update { index, deltas, token, end: None }));
                }
                Event::Finished { reason: FinishReason::TimedOut, .. } => {
                    return Some(Err(ApiError::timed_out()));
                }
                Event::Finished { reason, text, stop_text, timings } => {
                    let mut deltas = choice.parser.push(&text);
                    deltas.extend(choice.parser.finish());
                    choice.note(&deltas);
                    let reason = match finish_reason(reason) {
                        "stop" if choice.calls => "tool_calls",
                        reason => reason,
                    };
                    choice.tokens = timings.decode_tokens;
                    let reasoning_tokens = choice.reasoning_tokens;
                    let end = Some(End { reason, stop_text, timings, reasoning_tokens });
                    return Some(Ok(Update { index, deltas, token: None, end }));
                }
                Event::Failed(error) => return Some(Err(error.as_ref().into())),
            }
        }
    }
}

impl Choice {
    fn note(&mut self, deltas: &[Delta]) {
        self.calls |= deltas.iter().any(|delta| matches!(delta, Delta::ToolStart { .. }));
        self.reasoning_tokens += usize::from(matches!(deltas, [Delta::Reasoning(_), ..]));
    }
}
