//! Recipes: a scheme, and exceptions from it by name or role.

use std::path::Path;

use keeve_codec::Codec;
use serde::Deserialize;
use toml::Table;

use crate::{Error, Role, Scheme};

/// A name with `*` for any text and `?` for any character.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// A pattern.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Whether it matches the name of a tensor, or that name without `.weight`.
    pub fn matches(&self, name: &str) -> bool {
        let module = name.strip_suffix(".weight");
        matches(&self.0, name) || module.is_some_and(|module| matches(&self.0, module))
    }
}

/// Goes through `text` once for each `*` at most: after a mismatch only the last `*` takes more.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    let mut last_star = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                last_star = Some((p, t));
                p += 1;
            }
            Some(&wanted) if wanted == '?' || wanted == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star, taken)) = last_star else { return false };
                last_star = Some((star, taken + 1));
                p = star + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|&rest| rest == '*')
}

/// What an exception is for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Selector {
    Name(Pattern),
    Role(Role),
}

/// A codec (or none: the weight stays as it is) for some weights.
#[derive(Debug, Clone, PartialEq)]
struct Exception {
    selector: Selector,
    codec: Option<Codec>,
}

/// A scheme, and exceptions from it. Names come before roles, and roles before the scheme; of several
/// names that match, the first counts.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    scheme: Scheme,
    exceptions: Vec<Exception>,
    vision: bool,
}

/// A recipe file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    base: String,
    #[serde(default)]
    names: Table,
    #[serde(default)]
    roles: Table,
}

/// What a recipe file calls a weight that stays as it is.
const FLOAT: &str = "float";

impl From<Scheme> for Recipe {
    fn from(scheme: Scheme) -> Self {
        Self { scheme, exceptions: Vec::new(), vision: false }
    }
}

impl Recipe {
    /// Reads a recipe file; `path` serves only for messages:
    ///
    /// ```toml
    /// base = "q4_k_m"            # a preset or a codec
    /// [names]                    # first match counts; * stands for any text
    /// "model.layers.0.*" = "q8_0"
    /// "*.o_proj" = "float"       # stays as it is
    /// [roles]                    # `--list-presets` names them
    /// down = "q6_k"
    /// ```
    ///
    /// # Errors
    /// If it is no TOML of that form, or names a codec or role that does not exist.
    pub fn from_toml(path: &Path, text: &str) -> Result<Self, Error> {
        let wrong = |problem: String| Error::File { path: path.into(), problem };
        let file: File = toml::from_str(text).map_err(|error| {
            // Its Display has several lines; the message and the place say it on one.
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count() + 1);
            wrong(format!("line {line}: {}", error.message()))
        })?;
        let mut recipe = Self::from(
            file.base.parse::<Scheme>().map_err(|error| wrong(format!("field 'base': {error}")))?,
        );
        let codec = |table: &str, key: &str, value: &toml::Value| {
            let field = |problem: String| wrong(format!("field '{table}.{key}': {problem}"));
            match value.as_str() {
                Some(FLOAT) => Ok(None),
                Some(name) => name
                    .parse()
                    .map(Some)
                    .map_err(|error: keeve_codec::Error| field(error.to_string())),
                None => Err(field(format!("expected a codec's name or \"{FLOAT}\""))),
            }
        };
        for (pattern, value) in &file.names {
            let selector = Selector::Name(Pattern::new(pattern));
            let codec = codec("names", pattern, value)?;
            recipe.exceptions.push(Exception { selector, codec });
        }
        for (name, value) in &file.roles {
            let role =
                name.parse().map_err(|error| wrong(format!("field 'roles.{name}': {error}")))?;
            let codec = codec("roles", name, value)?;
            recipe.exceptions.push(Exception { selector: Selector::Role(role), codec });
        }
        Ok(recipe)
    }

    /// The same, but weights that `pattern` matches stay as they are. Comes before everything else.
    pub fn skip(mut self, pattern: Pattern) -> Self {
        self.exceptions.insert(0, Exception { selector: Selector::Name(pattern), codec: None });
        self
    }

    /// The same, with the matrices of what sees or hears packed too.
    pub fn with_vision(self) -> Self {
        Self { vision: true, ..self }
    }

    /// The scheme.
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Whether matrices of what sees or hears are packed.
    pub(crate) fn packs(&self, role: Role) -> bool {
        role.is_packed() || role == Role::Vision && self.vision
    }

    /// What an exception says about a weight; `None` if none is for it.
    pub(crate) fn exception(&self, name: &str, role: Role) -> Option<Option<Codec>> {
        let is_for = |exception: &&Exception| match &exception.selector {
            Selector::Name(pattern) => pattern.matches(name),
            Selector::Role(of) => *of == role,
        };
        self.exceptions.iter().find(is_for).map(|exception| exception.codec)
    }

    /// Refuses exceptions that are for none of `weights`: they are mistakes.
    pub(crate) fn check_used(&self, weights: &[(String, Role)]) -> Result<(), Error> {
        for Exception { selector, .. } in &self.exceptions {
            let used = match selector {
                Selector::Name(pattern) => weights.iter().any(|(name, _)| pattern.matches(name)),
                Selector::Role(role) => weights.iter().any(|(_, of)| of == role),
            };
            if !used {
                return Err(Error::Unused(match selector {
                    Selector::Name(pattern) => format!("pattern '{}'", pattern.text()),
                    Selector::Role(role) => format!("role '{role}'"),
                }));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names_with_and_without_weight() {
        for (pattern, name, expected) in [
            ("lm_head", "lm_head.weight", true),
            ("lm_head.weight", "lm_head.weight", true),
            ("*.o_proj", "model.layers.3.self_attn.o_proj.weight", true),
            ("model.layers.?.mlp.*", "model.layers.3.mlp.up_proj.weight", true),
            ("model.layers.?.mlp.*", "model.layers.13.mlp.up_proj.weight", false),
            ("*a*b*", "xaxxbx", true),
            ("*a*b", "xaxxbx", false),
            ("", "", true),
            ("*", "", true),
            ("head", "lm_head.weight", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = Pattern::new("*a".repeat(5000));
        assert!(!pattern.matches(&"b".repeat(20_000)));
        assert!(!pattern.matches(&"a".repeat(4000)));
    }

    fn recipe(text: &str) -> Result<Recipe, String> {
        Recipe::from_toml(Path::new("r.toml"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn names_come_before_roles_and_keep_their_order() {
        let recipe = recipe(
            "base = \"q4_k_m\"\n[roles]\ndown = \"q8_0\"\n[names]\n\"z.*\" = \"float\"\n\"*\" = \"q6_k\"\n",
        );
        let recipe = recipe.unwrap();
        assert_eq!(recipe.exception("z.down_proj.weight", Role::Down), Some(None));
        assert_eq!(recipe.exception("a.down_proj.weight", Role::Down), Some(Some(Codec::Q6K)));
        let skipping = recipe.skip(Pattern::new("a.*"));
        assert_eq!(skipping.exception("a.down_proj.weight", Role::Down), Some(None));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("base = 3", "r.toml: line 1"),
            ("roles = {}", "missing field `base`"),
            ("base = \"q4_k_m\"\nnmaes = {}", "r.toml: line 2: unknown field"),
            ("base = \"q9\"", "field 'base': 'q9' is neither"),
            ("base = \"q4_k_m\"\n[roles]\nhat = \"q8_0\"", "field 'roles.hat'"),
            ("base = \"q4_k_m\"\n[roles]\ndown = \"q99\"", "field 'roles.down'"),
            ("base = \"q4_k_m\"\n[names]\nx = 4", "field 'names.x': expected"),
            ("base = \"", "r.toml: line 1"),
        ] {
            let error = recipe(text).unwrap_err();
            assert!(error.contains(expected) && !error.contains('\n'), "{error}");
        }
    }

    #[test]
    fn exceptions_for_nothing_are_refused() {
        let recipe = recipe("base = \"q8\"\n[names]\n\"*.gate\" = \"q8_0\"\n").unwrap();
        let weights = [("lm_head.weight".to_owned(), Role::Head)];
        let error = recipe.check_used(&weights).unwrap_err().to_string();
        assert!(error.contains("'*.gate'"), "{error}");
    }
}
