//! Where the hub and the cache are, and who asks. The variables are those of Python's `huggingface_hub`
//! (its documentation, "Environment variables").

use std::path::{Path, PathBuf};
use std::time::Duration;

use keeve_files::whole;

use crate::Error;

/// Settings of a [`crate::Hub`].
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the hub is: `https://huggingface.co`, or a mirror.
    pub endpoint: String,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// Who asks, for models that not everybody may have.
    pub token: Option<String>,
    /// Whether only the cache is to be used.
    pub offline: bool,
    /// How long to wait before the first retry; it doubles with each.
    pub retry_wait: Duration,
    /// How long a connection may be silent.
    pub timeout: Duration,
}

// The token must not end up in a log.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("cache", &self.cache)
            .field("token", &self.token.as_ref().map(|_| "..."))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// What `HF_ENDPOINT`, `HF_HUB_CACHE`, `HF_HOME`, `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE` and
    /// `XDG_CACHE_HOME` say. `variable` gives the value of an environment variable.
    ///
    /// # Errors
    /// If there is neither a variable that says where the cache is nor a home folder, or a value makes no
    /// sense.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let folder = |name: &str| variable(name).map(PathBuf::from);
        let home = folder("HF_HOME").or_else(|| {
            let caches = folder("XDG_CACHE_HOME")
                .or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
            Some(caches?.join("huggingface"))
        });
        let nowhere = || Error::Setting {
            name: "HF_HOME".into(),
            problem: "is not set, and there is no home folder",
        };
        let cache = match (folder("HF_HUB_CACHE"), &home) {
            (Some(cache), _) => cache,
            (None, Some(home)) => home.join("hub"),
            (None, None) => return Err(nowhere()),
        };
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let endpoint = endpoint.trim().trim_end_matches('/').to_owned();
        if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
            let problem = "does not begin with https:// or http://";
            return Err(Error::Setting { name: "HF_ENDPOINT".into(), problem });
        }
        let file = folder("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
        let (name, token) = match variable("HF_TOKEN") {
            Some(token) => ("HF_TOKEN".to_owned(), Some(token)),
            None => file
                .map_or_else(Default::default, |file| (file.display().to_string(), stored(&file))),
        };
        let token =
            token.map(|token| token.trim().trim_start_matches('\u{feff}').trim().to_owned());
        let token = token.filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            let problem = "holds characters that a token cannot have";
            return Err(Error::Setting { name, problem });
        }
        let offline = variable("HF_HUB_OFFLINE").is_some_and(|value| {
            ["1", "on", "yes", "true"].contains(&value.trim().to_ascii_lowercase().as_str())
        });
        Ok(Self {
            endpoint,
            cache,
            token,
            offline,
            retry_wait: Duration::from_secs(1),
            timeout: Duration::from_secs(30),
        })
    }
}

/// The longest file with a token, in bytes.
const MOST_TOKEN: u64 = 64 << 10;

/// The token of a file. One that cannot be read is none; whoever needs one is told so by the server.
fn stored(file: &Path) -> Option<String> {
    whole::text(file, MOST_TOKEN, "a token").ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> Result<Settings, Error> {
        Settings::from_variables(|name| {
            pairs.iter().find(|pair| pair.0 == name).map(|pair| pair.1.to_owned())
        })
    }

    #[test]
    fn variables_are_those_of_huggingface_hub() {
        let plain = settings(&[("HF_HOME", "/h")]).unwrap();
        assert_eq!((plain.endpoint.as_str(), plain.offline), ("https://huggingface.co", false));
        assert_eq!((plain.cache, plain.token), ("/h/hub".into(), None));
        let other = settings(&[
            ("HF_HOME", "/h"),
            ("HF_HUB_CACHE", "/c"),
            ("HF_ENDPOINT", "http://mirror:8/"),
            ("HF_TOKEN", " hf_x\n"),
            ("HF_HUB_OFFLINE", "YES"),
        ]);
        let other = other.unwrap();
        assert_eq!((other.endpoint.as_str(), other.offline), ("http://mirror:8", true));
        assert_eq!((&other.cache, other.token.as_deref()), (&"/c".into(), Some("hf_x")));
        assert!(!format!("{other:?}").contains("hf_x"));
        let xdg = settings(&[("XDG_CACHE_HOME", "/x"), ("HF_HUB_OFFLINE", "0")]).unwrap();
        assert_eq!((xdg.cache, xdg.offline), ("/x/huggingface/hub".into(), false));
        let stored = tempfile::NamedTempFile::new().unwrap();
        let path = stored.path().to_str().unwrap();
        for text in ["hf_stored\n", "\u{feff}hf_stored\r\n"] {
            std::fs::write(stored.path(), text).unwrap();
            let stored = settings(&[("HF_HOME", "/h"), ("HF_TOKEN_PATH", path)]).unwrap();
            assert_eq!(stored.token.as_deref(), Some("hf_stored"));
        }
        std::fs::write(stored.path(), "two words").unwrap();
        let wrong = settings(&[("HF_HOME", "/h"), ("HF_TOKEN_PATH", path)]).unwrap_err();
        assert!(wrong.to_string().contains(path), "{wrong}");
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        assert!(settings(&[("HF_HOME", "/h"), ("HF_ENDPOINT", "ftp://x")]).is_err());
        assert!(settings(&[("HF_HOME", "/h"), ("HF_TOKEN", "a b")]).is_err());
    }
}
