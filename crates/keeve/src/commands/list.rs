//! `keeve list`.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keeve::hub::{CachedModel, Snapshot};
use serde_json::{Value, json};

use crate::hub;
use crate::output::{Outcome, Output, bytes};

pub fn run(output: &Output) -> Outcome {
    let hub = hub::hub()?;
    let models = hub.list();
    let cache = &hub.settings().cache;
    if output.json {
        let models: Vec<_> = models.iter().map(model_json).collect();
        output.result(&json!({ "cache": cache, "models": models }))?;
        return Ok(ExitCode::SUCCESS);
    }
    if models.is_empty() {
        output.note(&format!("no models in {}", cache.display()));
        return Ok(ExitCode::SUCCESS);
    }
    let width = models.iter().map(|cached| cached.model.repo().len()).max().unwrap_or(0).max(5);
    let mut text = format!("{:width$}  {:>11}  {:16}  revision\n", "model", "size", "last used");
    for cached in &models {
        let revisions: Vec<_> = cached.snapshots.iter().map(revision).collect();
        let partial = match cached.partial_bytes {
            0 => String::new(),
            partial => format!("  ({} of a download that broke off)", bytes(partial)),
        };
        text += &format!(
            "{:width$}  {:>11}  {:16}  {}{partial}\n",
            cached.model.repo(),
            bytes(cached.bytes),
            cached.last_used.map_or_else(|| "unknown".into(), ago),
            revisions.join(", "),
        );
    }
    output.text(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What stands for a snapshot: the branches and tags that lead to it and the beginning of its hash.
fn revision(snapshot: &Snapshot) -> String {
    let hash: String = snapshot.commit.chars().take(8).collect();
    match &snapshot.refs[..] {
        [] => hash,
        refs => format!("{} ({hash})", refs.join(", ")),
    }
}

fn model_json(cached: &CachedModel) -> Value {
    let snapshot = |snapshot: &Snapshot| {
        let files = snapshot.files.iter();
        let files: Vec<_> =
            files.map(|(name, bytes)| json!({ "name": name, "bytes": bytes })).collect();
        json!({ "commit": snapshot.commit, "refs": snapshot.refs, "files": files })
    };
    let seconds =
        |time: SystemTime| time.duration_since(UNIX_EPOCH).ok().map(|time| time.as_secs());
    json!({
        "model": cached.model.repo(),
        "bytes": cached.bytes,
        "partial_bytes": cached.partial_bytes,
        "last_used": cached.last_used.and_then(seconds),
        "revisions": cached.snapshots.iter().map(snapshot).collect::<Vec<_>>(),
    })
}

/// How long ago something was, for a person.
fn ago(time: SystemTime) -> String {
    let past = SystemTime::now().duration_since(time).unwrap_or(Duration::ZERO).as_secs();
    match past {
        0..60 => "just now".into(),
        60..3600 => format!("{} min ago", past / 60),
        3600..172_800 => format!("{} h ago", past / 3600),
        _ => format!("{} days ago", past / 86_400),
    }
}
