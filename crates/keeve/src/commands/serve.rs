//! `keeve serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use keeve::{EngineOptions, ModelInfo, SamplingParams};
use keeve_server::{
    ImageRules, ModelSource, ModelsConfig, Observer, Opener, SamplingDefaults, ServerConfig, Stop,
};

use crate::args::{DefaultSampling, Serve, SpeculateMode};
use crate::output::{Failure, Outcome, Output, bytes};
use crate::{interrupt, keys, model};

pub fn run(args: &Serve, output: &Output) -> Outcome {
    let config = config(args)?;
    let seconds = |count: u64| (count > 0).then(|| Duration::from_secs(count));
    let loading = ModelsConfig {
        engine: EngineOptions {
            max_sequences: args.max_sequences,
            ..model::answering(&args.compute, &args.speculate)
        },
        max_queue: args.max_queue,
        ttl: args.ttl.and_then(seconds),
        memory: args.memory_budget.map(|mib| mib.saturating_mul(1 << 20)),
        sampling: sampling(&args.sampling)?,
    };
    if !config.host_is_local() && config.api_keys.is_empty() {
        output.note("note: anybody who can reach this address can use the server: there is no key");
    }
    output.show_log(args.log_level);
    let stop = Stop::default();
    let asked = stop.clone();
    interrupt::watch_for(move || asked.stop())?;
    keeve_server::serve(config, sources(args)?, loading, &stop, &Said(output))?;
    Ok(ExitCode::SUCCESS)
}

/// Tells the user where the server is.
struct Said<'a>(&'a Output);

impl Observer for Said<'_> {
    fn listening(&self, address: SocketAddr) {
        self.0.note(&format!("listening at http://{address}"));
    }

    fn ready(&self, info: &ModelInfo) {
        for note in &info.notes {
            self.0.note(&format!("note: {note}"));
        }
        if info.image_tokens > 0 {
            let (most, tokens) = (bytes(info.image_bytes), info.image_tokens);
            self.0
                .note(&format!("images have up to {tokens} tokens; to see one takes up to {most}"));
        }
        self.0.note("ready");
    }
}

fn config(args: &Serve) -> Result<ServerConfig, Failure> {
    let mut api_keys = match &args.api_key_file {
        Some(path) => keys::from_file(path)?,
        None => vec![],
    };
    api_keys.extend(keys::from_variable(std::env::var_os(keys::VARIABLE))?);
    Ok(ServerConfig {
        host: args.host.clone(),
        port: args.port,
        api_keys,
        cors_origins: args.cors_origin.clone(),
        max_body: args.max_body.saturating_mul(1 << 20),
        max_connections: args.max_connections,
        images: ImageRules {
            most: args.max_images,
            remote: args.allow_remote_images,
            ..ImageRules::default()
        },
        request_timeout: (args.request_timeout > 0)
            .then(|| Duration::from_secs(args.request_timeout)),
        drain_timeout: Duration::from_secs(args.drain_timeout),
        ..ServerConfig::default()
    })
}

/// How tokens are chosen where requests do not say.
fn sampling(flags: &DefaultSampling) -> Result<SamplingDefaults, Failure> {
    let plain = SamplingParams::default();
    let params = SamplingParams {
        temperature: flags.temp.unwrap_or(plain.temperature),
        top_k: flags.top_k.unwrap_or(plain.top_k),
        top_p: flags.top_p.unwrap_or(plain.top_p),
        min_p: flags.min_p.unwrap_or(plain.min_p),
        repetition_penalty: flags.repetition_penalty.unwrap_or(plain.repetition_penalty),
        ..plain
    };
    params.validate().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(SamplingDefaults {
        temperature: flags.temp,
        top_k: flags.top_k,
        top_p: flags.top_p,
        min_p: flags.min_p,
        repetition_penalty: flags.repetition_penalty,
        max_tokens: flags.max_tokens,
    })
}

fn sources(args: &Serve) -> Result<Vec<ModelSource>, Failure> {
    if args.speculate.speculate == SpeculateMode::Draft && args.speculate.draft_model.is_none() {
        return Err(Failure::usage("--speculate draft needs --draft-model"));
    }
    let mut sources = vec![];
    let model = args.model.as_ref().or(args.default_model.as_ref());
    if model.is_some() || args.models.is_empty() {
        let name = match model {
            None => "keeve-demo".to_owned(),
            Some(path) => name_of(path),
        };
        sources.push((std::iter::once(name).chain(args.alias.clone()).collect(), model.cloned()));
    } else if !args.alias.is_empty() {
        return Err(Failure::usage("--alias needs a MODEL"));
    }
    let further = args.models.iter().cloned();
    sources.extend(further.map(|(name, path)| (vec![name], Some(path))));
    let mmproj = args.seeing.mmproj.clone();
    if mmproj.is_some() && model.is_none() {
        return Err(Failure::usage("--mmproj needs a MODEL"));
    }
    let template = args.chat_template.clone();
    if template.is_some() && model.is_none() && !args.models.is_empty() {
        return Err(Failure::usage("--chat-template needs a MODEL"));
    }
    let opener =
        |path: Option<String>, mmproj: Option<PathBuf>, template: Option<String>| -> Opener {
            Box::new(move || {
                let opened = model::open_seeing(path.as_deref(), mmproj.as_deref());
                let opened =
                    opened.and_then(|model| model::with_template(model, template.as_deref()));
                opened.map_err(Failure::into_message)
            })
        };
    let source = |(names, path): (Vec<String>, Option<String>)| ModelSource {
        names,
        open: opener(path, None, None),
        draft: None,
    };
    let first = sources.first().and_then(|(_, path)| path.clone());
    let mut sources: Vec<_> = sources.into_iter().map(source).collect();
    if let Some(source) = sources.first_mut().filter(|_| mmproj.is_some() || template.is_some()) {
        source.open = opener(first, mmproj, template);
    }
    // The draft model is the first one's: further ones have other tokenizers.
    if let (Some(draft), Some(first)) = (&args.speculate.draft_model, sources.first_mut()) {
        first.draft = Some(opener(Some(draft.clone()), None, None));
    }
    Ok(sources)
}

/// A model's name: that of its file or folder.
fn name_of(path: &str) -> String {
    let resolved = Path::new(path).canonicalize().unwrap_or_else(|_| path.into());
    let name = if resolved.is_dir() { resolved.file_name() } else { resolved.file_stem() };
    name.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}
