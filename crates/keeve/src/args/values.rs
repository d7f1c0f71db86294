//! Values of flags, checked.

use std::time::Duration;

use keeve::Activations;
use keeve::graph::{ProductRule, Scheme};

/// A mode or a scheme of `--rounding`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoundingRule {
    pub name: String,
    pub rule: ProductRule,
}

/// A mode where a scheme has the same name: it rounds attention as well.
pub(super) fn rounding_rule(text: &str) -> Result<RoundingRule, String> {
    let mode = text.parse::<Activations>().map(ProductRule::Mode);
    let rule = mode.or_else(|_| text.parse().map(ProductRule::Scheme)).map_err(|_| {
        let modes = Activations::ALL.map(Activations::name).join(", ");
        let schemes = Scheme::ALL.map(Scheme::name).join(", ");
        format!("expected a mode ({modes}) or a scheme ({schemes})")
    })?;
    Ok(RoundingRule { name: text.into(), rule })
}

pub(super) fn threads(text: &str) -> Result<usize, String> {
    const MOST: usize = 1024;
    match at_least_one(text)? {
        threads if threads > MOST => Err(format!("must be at most {MOST}")),
        threads => Ok(threads),
    }
}

pub(super) fn named_model(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.into(), path.into()))
        }
        _ => Err("expected NAME=PATH".into()),
    }
}

pub(super) fn token_id(text: &str) -> Result<u32, String> {
    text.trim().parse().map_err(|_| "expected token ids such as 1,2,3".into())
}

/// The most tokens that may be guessed ahead: a step has so many rows more for each sequence.
const MOST_DRAFT_TOKENS: usize = 64;

pub(super) fn draft_tokens(text: &str) -> Result<usize, String> {
    let count = at_least_one(text)?;
    match count <= MOST_DRAFT_TOKENS {
        true => Ok(count),
        false => Err(format!("expected at most {MOST_DRAFT_TOKENS}")),
    }
}

pub(super) fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(_) => Err("expected a whole number".into()),
    }
}

/// An origin as browsers send it: any other would be compared with theirs and never be the same.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let host = text.split_once("://").map(|(_, host)| host).unwrap_or_default();
    let strange = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '/';
    match matches!(text, "*" | "null") || !host.is_empty() && !host.contains(strange) {
        true => Ok(text.into()),
        false => Err("expected an origin such as https://page.example:8080, or *".into()),
    }
}

/// A time of at least a millisecond and at most a day.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (1e-3..=86_400.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        Ok(_) => Err("must be from 0.001 to 86400".into()),
        Err(_) => Err("expected a number of seconds".into()),
    }
}
