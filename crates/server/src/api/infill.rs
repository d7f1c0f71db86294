//! `POST /infill`: filling in the middle as plugins of editors ask llama.cpp's server for it
//! (ggml-org/llama.cpp, `tools/server/README.md`, "POST `/infill`").

use axum::extract::State;
use axum::response::Response;

use super::fields::{Given, Unused, or_default};
use super::llama_cpp::{Piece, Reply, llama_request};
use super::middle::{Middle, OtherFile};
use crate::answer::Answers;
use crate::app::Shared;
use crate::body::Body;
use crate::error::{ApiError, ErrorBody};

llama_request! {
    /// What is around the text that is wanted.
    pub(crate) struct InfillRequest {
        /// What is before the text.
        pub input_prefix: String,
        /// What is after it.
        pub input_suffix: String,
        /// Other files that the text may look at. Those that do not fit are left out.
        #[serde(default, deserialize_with = "or_default")]
        #[schema(value_type = Option<Vec<OtherFile>>)]
        pub input_extra: Vec<OtherFile>,
        /// What the text begins with already.
        #[serde(default, deserialize_with = "or_default")]
        #[schema(value_type = Option<String>)]
        pub prompt: String,
        pub json_schema: Option<Given>,
        /// Has no effect.
        #[serde(rename = "n_indent")]
        pub _n_indent: Option<Unused>,
    }
}

/// Fill in the middle, by the model's own tokens for that.
#[utoipa::path(
    post, path = "/infill", request_body = InfillRequest,
    responses(
        (status = 200, description = "The text, or its pieces as server-sent events.",
            content((Piece = "application/json"), (Piece = "text/event-stream"))),
        (status = "4XX", description = "The request is wrong.", body = ErrorBody),
        (status = "5XX", description = "The server is at fault or busy.", body = ErrorBody),
    ),
)]
pub(crate) async fn create(
    State(app): State<Shared>,
    Body(request): Body<InfillRequest>,
) -> Result<Response, ApiError> {
    request.refuse_unsupported()?;
    let schema = request.json_schema.as_ref();
    Given::refuse(schema, f64::NAN, "json_schema", "what is filled in is text")?;
    let model = app.models.get(&request.model).await?;
    let stream = request.stream.unwrap_or(false);
    let choosing = request.choosing();
    let (most, stops) = (choosing.max_tokens, choosing.stop.clone());
    let middle = Middle {
        prefix: request.input_prefix,
        begun: request.prompt,
        suffix: request.input_suffix,
        files: request.input_extra,
    };
    let prompt = model.prepare([middle.bytes()], false, move |model| {
        let context = model.engine.info().max_context;
        // Room for the answer: what is asked for, but never more than half of all.
        let answer = most.map_or(context / 4, |most| most as usize).clamp(1, context / 2);
        middle.ids(model, "input_suffix", Some(context - answer))
    });
    let mut requests = choosing.requests(&app, &model, prompt.await?, None)?;
    for request in &mut requests {
        request.continues = true;
    }
    let answers = Answers::start(model.clone(), requests)?;
    let reply = Reply { model, answers, stops, prompt: String::new() };
    reply.respond(stream).await
}
