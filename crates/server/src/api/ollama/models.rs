//! Which models there are, what they are, and vectors: `/api/tags`, `/api/ps`, `/api/show`, `/api/version`,
//! `/api/embed` and `/api/embeddings`.

use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use keeve_engine::Pooling;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::types::EmbedRequest;
use super::{Body, Failed, model, plain, tagged, unsupported};
use crate::about::About;
use crate::api::embeddings::unit;
use crate::api::fields::{Unused, or_default};
use crate::app::Shared;
use crate::error::ApiError;
use crate::models::{Listed, Model};

/// The version of Ollama whose API this is: clients ask for at least some version.
const VERSION: &str = "0.13.0";

/// The version of Ollama's API that is spoken, and of the server.
#[utoipa::path(get, path = "/api/version", responses(
    (status = 200, description = "The versions.", body = Object),
    (status = "4XX", description = "Not let in.", body = Object)))]
pub(crate) async fn version() -> Json<Value> {
    Json(json!({ "version": VERSION, "keeve": env!("CARGO_PKG_VERSION") }))
}

/// All models, in Ollama's form.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ollama::Tags)]
pub(crate) struct Tags {
    pub models: Vec<Tag>,
}

/// A model, in Ollama's form.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ollama::Tag)]
pub(crate) struct Tag {
    pub name: String,
    pub model: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub modified_at: Option<String>,
    /// Bytes of its files; 0 until it has been loaded.
    pub size: u64,
    /// Tells its files from others; empty until it has been loaded.
    pub digest: String,
    pub details: Details,
    /// When it will be unloaded if nobody uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_vram: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<usize>,
}

/// What a model is.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ollama::Details)]
pub(crate) struct Details {
    pub parent_model: String,
    pub format: String,
    pub family: String,
    pub families: Vec<String>,
    pub parameter_size: String,
    pub quantization_level: String,
}

impl Details {
    fn of(about: &About) -> Self {
        Self {
            parent_model: String::new(),
            format: about.format.into(),
            family: about.architecture.clone(),
            families: vec![about.architecture.clone()],
            parameter_size: about.size(),
            quantization_level: about.codec.to_uppercase(),
        }
    }
}

fn rfc3339(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

/// A model under each of its names.
fn entries(listed: &Listed) -> impl Iterator<Item = Tag> {
    let about = listed.about.as_deref();
    listed.names.iter().map(move |name| Tag {
        name: tagged(name),
        model: tagged(name),
        modified_at: Some(rfc3339(listed.created)),
        size: about.map_or(0, |about| about.bytes),
        digest: about.map(|about| about.digest.clone()).unwrap_or_default(),
        details: about.map(Details::of).unwrap_or_default(),
        expires_at: None,
        size_vram: None,
        context_length: None,
    })
}

/// All models, each under each of its names, in Ollama's form.
#[utoipa::path(get, path = "/api/tags", responses(
    (status = 200, description = "The models.", body = Tags),
    (status = "4XX", description = "Not let in.", body = Object)))]
pub(crate) async fn tags(State(app): State<Shared>) -> Json<Tags> {
    Json(Tags { models: app.models.list().iter().flat_map(entries).collect() })
}

/// The longest that anything is said to stay.
const LONG: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The models that are loaded, in Ollama's form.
#[utoipa::path(get, path = "/api/ps", responses(
    (status = 200, description = "The models.", body = Tags),
    (status = "4XX", description = "Not let in.", body = Object)))]
pub(crate) async fn running(State(app): State<Shared>) -> Json<Tags> {
    let listed = app.models.list();
    let loaded = listed.iter().filter_map(|listed| {
        let model = listed.model.as_ref()?;
        let left = app.models.time_left(model).unwrap_or(LONG);
        let tag = entries(listed).next()?;
        Some(Tag {
            modified_at: None,
            size: model.engine.info().weight_bytes,
            expires_at: Some(rfc3339(crate::app::now().saturating_add(left.as_secs()))),
            // Nothing is on another device.
            size_vram: Some(0),
            context_length: Some(model.engine.info().max_context),
            ..tag
        })
    });
    Json(Tags { models: loaded.collect() })
}

/// Which model to describe.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ollama::ShowRequest)]
pub(crate) struct ShowRequest {
    /// The model, perhaps with `:latest`. May be left out where there is only one.
    #[serde(default, alias = "name", deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub model: String,
    /// Has no effect: vocabularies are not shown.
    #[serde(rename = "verbose")]
    pub _verbose: Option<Unused>,
}

/// What a model is, in Ollama's form.
#[utoipa::path(post, path = "/api/show", request_body = ShowRequest, responses(
    (status = 200, description = "What it is.", body = Object),
    (status = "4XX", description = "The request is wrong.", body = Object),
    (status = "5XX", description = "The server is at fault or busy.", body = Object)))]
pub(crate) async fn show(
    State(app): State<Shared>,
    Body(request): Body<ShowRequest>,
) -> Result<Json<Value>, Failed> {
    let name = plain(&app, &request.model);
    let (model, _) = model(&app, &request.model).await?;
    let about = app.models.about(name);
    let about = about.ok_or_else(|| ApiError::no_model(&request.model))?;
    let mut capabilities = vec!["completion"];
    let tokenizer = model.engine.tokenizer().ok();
    for (has, capability) in [
        (model.probed.tools, "tools"),
        (tokenizer.is_some_and(|tokenizer| tokenizer.fim().is_some()), "insert"),
        (about.sees, "vision"),
    ] {
        if has {
            capabilities.push(capability);
        }
    }
    let family = &about.architecture;
    let mut info = Map::new();
    info.insert("general.architecture".into(), family.as_str().into());
    info.insert("general.parameter_count".into(), about.parameters.into());
    info.insert("keeve.activations".into(), model.engine.info().activations.name().into());
    let context = Some(model.engine.info().max_context as u64);
    for (key, value) in [
        ("context_length", about.context.or(context)),
        ("embedding_length", about.width),
        ("block_count", about.layers),
    ] {
        info.extend(value.map(|value| (format!("{family}.{key}"), value.into())));
    }
    let sampling = about.sampling.iter();
    let sampling = sampling.filter(|(_, value)| value.is_number() || value.is_boolean());
    let parameters: Vec<_> = sampling.map(|(key, value)| format!("{key:30} {value}")).collect();
    Ok(Json(json!({
        "modelfile": format!("# as served by keeve\nFROM {}\n", tagged(&model.name)),
        "parameters": parameters.join("\n"),
        "template": about.template,
        "license": about.license,
        "details": Details::of(&about),
        "model_info": info,
        "capabilities": capabilities,
        "modified_at": rfc3339(crate::app::now()),
    })))
}

/// Which model to have.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ollama::PullRequest)]
pub(crate) struct PullRequest {
    #[serde(default, alias = "name", deserialize_with = "or_default")]
    #[schema(value_type = Option<String>)]
    pub model: String,
    pub stream: Option<bool>,
    /// Has no effect.
    #[serde(rename = "insecure")]
    pub _insecure: Option<Unused>,
}

/// Clients ask for a model before they use it. One that is served is there.
pub(crate) async fn pull(
    State(app): State<Shared>,
    Body(request): Body<PullRequest>,
) -> Result<Response, Failed> {
    if !app.models.has(plain(&app, &request.model)) {
        return Err(unsupported().into());
    }
    let done = json!({ "status": "success" });
    Ok(match request.stream.unwrap_or(true) {
        true => crate::sse::respond_lines(move |out| async move { out.json_line(&done).await }),
        false => Json(done).into_response(),
    })
}

/// Make vectors of texts, in Ollama's form.
#[utoipa::path(post, path = "/api/embed", request_body = EmbedRequest, responses(
    (status = 200, description = "The vectors, of length 1.", body = Object),
    (status = "4XX", description = "The request is wrong.", body = Object),
    (status = "5XX", description = "The server is at fault or busy.", body = Object)))]
pub(crate) async fn embed(
    State(app): State<Shared>,
    Body(request): Body<EmbedRequest>,
) -> Result<Json<Value>, Failed> {
    let begun = Instant::now();
    request.check()?;
    let Some(input) = request.input else {
        return Err(ApiError::field("input", "input is needed").into());
    };
    let cut = request.truncate.unwrap_or(true);
    let embedded = vectors(&app, &request.model, input.into_vec(), cut).await?;
    let short = |mut values: Vec<f32>| {
        values.truncate(request.dimensions.unwrap_or(values.len()));
        unit(values)
    };
    Ok(Json(json!({
        "model": embedded.name,
        "embeddings": embedded.vectors.into_iter().map(short).collect::<Vec<_>>(),
        "total_duration": begun.elapsed().as_nanos() as u64,
        "load_duration": embedded.load.as_nanos() as u64,
        "prompt_eval_count": embedded.tokens,
    })))
}

/// Make a vector of a text, in the form that Ollama had first: as the model gives it.
#[utoipa::path(post, path = "/api/embeddings", request_body = EmbedRequest, responses(
    (status = 200, description = "The vector.", body = Object),
    (status = "4XX", description = "The request is wrong.", body = Object),
    (status = "5XX", description = "The server is at fault or busy.", body = Object)))]
pub(crate) async fn embeddings(
    State(app): State<Shared>,
    Body(request): Body<EmbedRequest>,
) -> Result<Json<Value>, Failed> {
    request.check()?;
    let prompt = request.prompt.unwrap_or_default();
    if prompt.is_empty() {
        return Ok(Json(json!({ "embedding": [] })));
    }
    let embedded = vectors(&app, &request.model, vec![prompt], true).await?;
    Ok(Json(json!({ "embedding": embedded.vectors.into_iter().next() })))
}

struct Embedded {
    name: String,
    vectors: Vec<Vec<f32>>,
    tokens: usize,
    load: Duration,
}

/// The vectors of texts, as the model gives them; texts that are too long are cut if `cut`.
async fn vectors(
    app: &Shared,
    name: &str,
    texts: Vec<String>,
    cut: bool,
) -> Result<Embedded, ApiError> {
    let (model, load) = model(app, name).await?;
    let lengths: Vec<_> = texts.iter().map(String::len).collect();
    let encode = move |model: &Model| {
        let one = |text: &String| match cut {
            true => model.engine.text_beginning(text, true),
            false => model.engine.text_prompt(text, true, false),
        };
        Ok(texts.iter().map(one).collect::<Result<Vec<_>, _>>()?)
    };
    let prompts = match cut {
        true => model.prepare_any(lengths.iter().sum(), false, encode).await?,
        false => model.prepare(lengths, false, encode).await?,
    };
    let embedded = crate::api::embeddings::embed(app, &model, prompts, Pooling::Mean).await?;
    let (vectors, tokens) = embedded;
    let name = if name.is_empty() { model.name.clone() } else { name.to_owned() };
    Ok(Embedded { name, vectors, tokens, load })
}
