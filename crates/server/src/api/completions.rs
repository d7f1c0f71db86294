//! `POST /v1/completions`: text to go on with, without a chat template.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use keeve_engine::sampling::Sampled;
use keeve_engine::{Event, FinishReason};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::common::{
    Choosing, Delivery, Spelling, Usage, UsageReports, choosing_request, finish_reason,
};
use super::middle::Middle;
use super::offsets::Offsets;
use crate::answer::Answers;
use crate::app::{Shared, now};
use crate::body::Body;
use crate::error::{ApiError, ErrorBody};
use crate::models::Model;
use crate::sse;

choosing_request! {
    /// A text to go on with; 16 tokens if `max_tokens` is not given. Fields that are not listed are
    /// left alone, and named in the response's `x-keeve-ignored`.
    pub(crate) struct CompletionRequest {
        /// The text or texts, or their token ids.
        pub prompt: Option<Prompts>,
        /// Report the log probability of each token with so many alternatives.
        #[schema(maximum = 20)]
        pub logprobs: Option<u32>,
        /// Whether the answer begins with the prompt.
        pub echo: Option<bool>,
        /// Generate so many answers and give the `n` whose tokens are the likeliest on average.
        pub best_of: Option<u32>,
        /// The text after the answer: the model fills in what is between, by its own tokens for that.
        pub suffix: Option<String>,
        /// Report what the model made of each token of the prompt, with so many alternatives.
        #[schema(maximum = 20)]
        pub prompt_logprobs: Option<u32>,
        /// Whether to add the tokens that the tokenizer puts around a text; true if not given.
        pub add_special_tokens: Option<bool>,
    }
}

/// Prompts as text or as token ids.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Prompts {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// The token ids of one prompt.
    Ids(Vec<u32>),
    /// The token ids of several prompts.
    ManyIds(Vec<Vec<u32>>),
}

/// The answers.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Completion {
    pub id: String,
    /// `text_completion`
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub choices: Vec<CompletionChoice>,
    /// In pieces only where the request asks for it: null but in the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Option<Usage>>,
}

/// One of the answers, or a piece of it.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct CompletionChoice {
    pub index: usize,
    pub text: String,
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; null in pieces before the last.
    pub finish_reason: Option<String>,
    /// Where asked for: for each token of the prompt, it and its alternatives by id; null for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<Vec<Option<BTreeMap<u32, PromptLogprob>>>>,
}

/// A token of a prompt, or one that might have stood in its place.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct PromptLogprob {
    /// Natural logarithm.
    pub logprob: f32,
    /// Its place among the alternatives that are reported, 1 being the likeliest; null for a token of the
    /// prompt that is not among them.
    pub rank: Option<usize>,
    pub decoded_token: String,
}

/// Log probabilities, one entry a token.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub(crate) struct CompletionLogprobs {
    pub tokens: Vec<String>,
    /// Null for the first token of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    pub top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Where a token begins in the choice's text, in characters. A token that begins within a character has
    /// the place of that.
    pub text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    fn push(&mut self, reply: &Reply, token: Option<&Sampled>, id: u32, at: usize) {
        let text = |id| reply.spelling.token(&reply.model, id).0;
        self.tokens.push(text(id));
        self.token_logprobs.push(token.map(|token| token.logprob));
        let others = token.map(|token| {
            let others = token.alternatives.iter();
            others.map(|other| (text(other.id), other.logprob)).collect()
        });
        self.top_logprobs.push(others);
        self.text_offset.push(at);
    }

    fn append(&mut self, mut more: Self) {
        self.tokens.append(&mut more.tokens);
        self.token_logprobs.append(&mut more.token_logprobs);
        self.top_logprobs.append(&mut more.top_logprobs);
        self.text_offset.append(&mut more.text_offset);
    }
}

/// Go on with a text.
#[utoipa::path(
    post, path = "/v1/completions", request_body = CompletionRequest,
    responses(
        (status = 200, description = "The answers, or their pieces as server-sent events.",
            content((Completion = "application/json"), (Object = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong.", body = ErrorBody),
        (status = "5XX", description = "The server is at fault or busy.", body = ErrorBody),
    ),
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    Body(request): Body<CompletionRequest>,
) -> Result<Response, ApiError> {
    let mut request = request;
    request.refuse_unsupported()?;
    let model = app.models.get(&request.model).await?;
    let delivery = Delivery::new(request.stream, request.stream_options.as_ref())?;
    let wanted = Wanted::of(&request, &delivery)?;
    let (format, suffix) = (request.form()?, request.suffix.take().filter(|text| !text.is_empty()));
    let prompts = request.prompt.take().unwrap_or(Prompts::Text(String::new()));
    let special = request.add_special_tokens.unwrap_or(true);
    let mut texts = prompts.bytes();
    texts.extend(suffix.as_ref().map(String::len));
    let prepared = model.prepare(texts, format.is_some(), move |model| {
        let prompts = match suffix {
            None => prompts.ids(model, special)?,
            Some(suffix) => fill_in(prompts, suffix, model)?,
        };
        let constraint = format.map(|grammar| model.engine.constraint(&grammar)).transpose();
        let constraint =
            constraint.map_err(|error| ApiError::field("response_format", error.to_string()))?;
        Ok((prompts, constraint))
    });
    let (prompts, constraint) = prepared.await?;
    if prompts.is_empty() || prompts.len() > app.config.max_choices {
        let message = format!("expected 1 to {} prompts", app.config.max_choices);
        return Err(ApiError::field("prompt", message));
    }
    /// As in the OpenAI API.
    const MAX_TOKENS: u32 = 16;
    let asked = request.max_tokens.unwrap_or(MAX_TOKENS);
    // A prompt that is only looked at.
    let bare = asked == 0 && (wanted.echo || wanted.prompt_logprobs);
    let top = request.logprobs.max(request.prompt_logprobs).unwrap_or(0);
    let choosing = Choosing {
        n: Some(wanted.each as u32),
        max_tokens: Some(if bare { 1 } else { asked }),
        min_tokens: if bare { 0 } else { request.min_tokens.unwrap_or(0) as usize },
        top_logprobs: top as usize,
        ..request.choosing()
    };
    let mut requests = vec![];
    let mut choices = vec![];
    for prompt in prompts {
        for (index, mut one) in choosing
            .clone()
            .requests(&app, &model, prompt, constraint.clone())?
            .into_iter()
            .enumerate()
        {
            one.continues = true;
            one.prompt_logits = index == 0 && wanted.looks_at_prompt();
            if bare {
                one.max_tokens = Some(0);
            }
            choices.push(Written::new(&model, &one));
            requests.push(one);
        }
    }
    if requests.len() > app.config.max_choices {
        let message = format!("more than {} answers asked for", app.config.max_choices);
        return Err(ApiError::field(
            if request.best_of.is_some() { "best_of" } else { "n" },
            message,
        ));
    }
    let spelling = Spelling::of(request.return_tokens_as_token_ids);
    let answers = Answers::start(model.clone(), requests)?;
    let id = app.id("cmpl-");
    let reply = Reply { id, created: now(), model, answers, choices, wanted, spelling };
    match delivery {
        Delivery::Stream(reports) => Ok(reply.stream(reports)),
        Delivery::Whole => Ok(Json(reply.whole().await?).into_response()),
    }
}

/// What a request wants of its answers.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    /// Answers to each prompt that are generated, and that are given.
    each: usize,
    given: usize,
    echo: bool,
    logprobs: bool,
    prompt_logprobs: bool,
}

impl Wanted {
    fn of(request: &CompletionRequest, delivery: &Delivery) -> Result<Self, ApiError> {
        let wrong = |field: &str, message: &str| Err(ApiError::field(field, message));
        let given = request.n.unwrap_or(1) as usize;
        let each = request.best_of.map_or(given, |best| best as usize);
        if each < given {
            return wrong("best_of", "best_of is below n");
        }
        if each > given && matches!(delivery, Delivery::Stream(_)) {
            return wrong("best_of", "which answers are best is not known while they are streamed");
        }
        let suffix = request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty());
        let echo = request.echo == Some(true);
        if suffix && echo {
            return wrong("echo", "echo and suffix cannot both be given");
        }
        let prompt_logprobs = request.prompt_logprobs.is_some();
        Ok(Self { each, given, echo, logprobs: request.logprobs.is_some(), prompt_logprobs })
    }

    /// Whether log probabilities of the prompt's tokens are reported.
    fn looks_at_prompt(self) -> bool {
        self.prompt_logprobs || self.echo && self.logprobs
    }
}

impl Prompts {
    /// Bytes of each text.
    pub fn bytes(&self) -> Vec<usize> {
        match self {
            Self::Text(text) => vec![text.len()],
            Self::Texts(texts) => texts.iter().map(String::len).collect(),
            Self::Ids(_) | Self::ManyIds(_) => vec![],
        }
    }

    /// Token ids of each prompt, with the tokens that the tokenizer puts around a text if `special`. Text is a
    /// person's: it becomes no special token.
    pub fn ids(self, model: &Model, special: bool) -> Result<Vec<Vec<u32>>, ApiError> {
        let encode = |text: &String| -> Result<Vec<u32>, ApiError> {
            Ok(model.engine.text_prompt(text, special, false)?)
        };
        match self {
            Self::Text(text) => Ok(vec![encode(&text)?]),
            Self::Texts(texts) => texts.iter().map(encode).collect(),
            Self::Ids(ids) => Ok(vec![ids]),
            Self::ManyIds(prompts) => Ok(prompts),
        }
    }
}

/// Prompts whose answers stand between them and `suffix`.
fn fill_in(prompts: Prompts, suffix: String, model: &Model) -> Result<Vec<Vec<u32>>, ApiError> {
    let texts = match prompts {
        Prompts::Text(text) => vec![text],
        Prompts::Texts(texts) => texts,
        Prompts::Ids(_) | Prompts::ManyIds(_) => {
            return Err(ApiError::field("prompt", "with suffix, prompt must be text"));
        }
    };
    let prompt = |prefix| Middle { prefix, suffix: suffix.clone(), ..Middle::default() };
    texts.into_iter().map(|text| prompt(text).ids(model, "suffix", None)).collect()
}

/// What was written of an answer.
struct Written {
    prompt: Vec<u32>,
    prompt_tokens: usize,
    offsets: Offsets,
    /// Of all tokens together, and how many there are.
    logprob: f64,
    tokens: usize,
    begun: bool,
}

impl Written {
    fn new(model: &Model, request: &keeve_engine::Request) -> Self {
        let offsets = Offsets::new(model, request.keep_special);
        let prompt = request.prompt.clone();
        let prompt_tokens = prompt.len();
        Self { prompt, prompt_tokens, offsets, logprob: 0.0, tokens: 0, begun: false }
    }

    fn usage(&self) -> Usage {
        Usage::so_far(self.prompt_tokens, self.tokens, 0)
    }
}

struct Reply {
    id: String,
    created: u64,
    model: Arc<Model>,
    answers: Answers,
    choices: Vec<Written>,
    wanted: Wanted,
    spelling: Spelling,
}

impl Reply {
    /// The next piece, and what it used if it is an answer's last.
    async fn next(&mut self, usage: &mut Usage) -> Option<Result<CompletionChoice, ApiError>> {
        loop {
            let (index, event) = match self.answers.next().await? {
                (index, Ok(event)) => (index, event),
                (_, Err(error)) => return Some(Err(error)),
            };
            let mut piece = CompletionChoice { index, ..CompletionChoice::default() };
            if matches!(event, Event::Token { .. } | Event::Finished { .. })
                && !std::mem::replace(&mut self.choices[index].begun, true)
            {
                self.begin(&mut piece);
            }
            match event {
                Event::Token { id, logprob, alternatives, text } => {
                    piece.text.push_str(&text);
                    let written = &mut self.choices[index];
                    written.logprob += f64::from(logprob);
                    written.tokens += 1;
                    let at = written.offsets.next(id);
                    if self.wanted.logprobs {
                        let mut logprobs = piece.logprobs.take().unwrap_or_default();
                        let token = Sampled { id, logprob, alternatives };
                        logprobs.push(self, Some(&token), id, at);
                        piece.logprobs = Some(logprobs);
                    }
                }
                Event::Finished { reason: FinishReason::TimedOut, .. } => {
                    return Some(Err(ApiError::timed_out()));
                }
                Event::Finished { reason, text, timings, .. } => {
                    piece.text.push_str(&text);
                    piece.finish_reason = Some(finish_reason(reason).into());
                    self.choices[index].tokens = timings.decode_tokens;
                    usage.add(&timings, 0, index.is_multiple_of(self.wanted.each));
                }
                Event::PromptLogits { .. } | Event::Embedding(_) => continue,
                Event::Failed(error) => return Some(Err(error.as_ref().into())),
            }
            return Some(Ok(piece));
        }
    }

    /// What comes before an answer: its prompt, and what the model made of that.
    fn begin(&mut self, piece: &mut CompletionChoice) {
        let index = piece.index;
        let prompt = std::mem::take(&mut self.choices[index].prompt);
        // Answers to the same prompt share what the first one saw.
        let first = index - index % self.wanted.each;
        let reports = match self.wanted.looks_at_prompt() {
            true => self.answers.prompt_reports(first),
            false => vec![],
        };
        let report = |at: usize| at.checked_sub(1).and_then(|at| reports.get(at));
        if self.wanted.prompt_logprobs {
            let one = |at: usize| report(at).map(|token| self.prompt_logprob(token));
            piece.prompt_logprobs = Some((0..prompt.len()).map(one).collect());
        }
        if !self.wanted.echo {
            if let Some(&last) = prompt.last() {
                self.choices[index].offsets.before(last);
            }
            return;
        }
        let mut logprobs = CompletionLogprobs::default();
        for (at, &id) in prompt.iter().enumerate() {
            let offset = self.choices[index].offsets.next(id);
            if self.wanted.logprobs {
                logprobs.push(self, report(at), id, offset);
            }
        }
        piece.text = self.choices[index].offsets.take_text();
        piece.logprobs = self.wanted.logprobs.then_some(logprobs);
    }

    fn prompt_logprob(&self, token: &Sampled) -> BTreeMap<u32, PromptLogprob> {
        let one = |id, logprob, rank| {
            let decoded_token = self.spelling.token(&self.model, id).0;
            (id, PromptLogprob { logprob, rank, decoded_token })
        };
        let own = std::iter::once(one(token.id, token.logprob, None));
        let others = token.alternatives.iter().enumerate();
        own.chain(others.map(|(at, other)| one(other.id, other.logprob, Some(at + 1)))).collect()
    }

    fn with(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> Completion {
        Completion {
            id: self.id.clone(),
            object: "text_completion",
            created: self.created,
            model: self.model.name.clone(),
            choices,
            usage,
        }
    }

    async fn whole(mut self) -> Result<Completion, ApiError> {
        let mut usage = Usage::default();
        let mut choices: Vec<_> = (0..self.choices.len())
            .map(|index| CompletionChoice { index, ..CompletionChoice::default() })
            .collect();
        while let Some(piece) = self.next(&mut usage).await {
            let piece = piece?;
            let choice = &mut choices[piece.index];
            choice.text.push_str(&piece.text);
            if let Some(more) = piece.logprobs {
                choice.logprobs.get_or_insert_default().append(more);
            }
            choice.prompt_logprobs = piece.prompt_logprobs.or(choice.prompt_logprobs.take());
            choice.finish_reason = piece.finish_reason.or(choice.finish_reason.take());
        }
        let choices = self.best(choices);
        Ok(self.with(choices, Some(Some(usage))))
    }

    /// Of the answers to each prompt those whose tokens are the likeliest on average, best first, if some are
    /// to be left out.
    fn best(&self, choices: Vec<CompletionChoice>) -> Vec<CompletionChoice> {
        let Wanted { each, given, .. } = self.wanted;
        if each == given {
            return choices;
        }
        let mean = |choice: &CompletionChoice| {
            let written = &self.choices[choice.index];
            written.logprob / written.tokens.max(1) as f64
        };
        let mut best = vec![];
        for group in choices.chunks(each) {
            let mut group = group.to_vec();
            group.sort_by(|a, b| mean(b).total_cmp(&mean(a)));
            best.extend(group.into_iter().take(given));
        }
        for (index, choice) in best.iter_mut().enumerate() {
            choice.index = index;
        }
        best
    }

    fn stream(mut self, reports: UsageReports) -> Response {
        sse::respond(move |out| async move {
            let mut usage = Usage::default();
            loop {
                let piece = tokio::select! {
                    piece = self.next(&mut usage) => piece,
                    () = out.closed() => return Err(sse::Gone),
                };
                match piece {
                    None => break,
                    Some(Ok(piece)) => {
                        let nothing = piece.text.is_empty()
                            && piece.logprobs.is_none()
                            && piece.prompt_logprobs.is_none()
                            && piece.finish_reason.is_none();
                        if !nothing {
                            let so_far = || self.choices[piece.index].usage();
                            let used = reports.of_piece(so_far);
                            out.data(&self.with(vec![piece], used)).await?;
                        }
                    }
                    Some(Err(error)) => {
                        out.data(&error.openai()).await?;
                        return Ok(());
                    }
                }
            }
            if reports.at_end() {
                out.data(&self.with(vec![], Some(Some(usage)))).await?;
            }
            out.line("[DONE]").await
        })
    }
}
