//! Names that become parts of paths and addresses. Nothing else may.

use std::fmt;

use crate::Error;

/// A model on the hub: a repository and, where it holds several, which GGUF file of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelName {
    owner: String,
    name: String,
    /// A file's name, or a label such as `Q4_K_M` that is part of one.
    pub file: Option<String>,
}

impl ModelName {
    /// Reads `owner/name`, `owner/name:FILE.gguf` or `owner/name:LABEL`.
    ///
    /// # Errors
    /// If it is none of them.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let (repo, file) = match text.split_once(':') {
            Some((repo, file)) => (repo, Some(file)),
            None => (text, None),
        };
        let parsed = repo.split_once('/').filter(|(owner, name)| is_part(owner) && is_part(name));
        match parsed {
            Some((owner, name)) if file.is_none_or(is_file) => {
                Ok(Self { owner: owner.into(), name: name.into(), file: file.map(Into::into) })
            }
            _ => Err(Error::Name {
                text: text.into(),
                what: "model on the hub",
                expected: "owner/name or owner/name:file",
            }),
        }
    }

    /// `owner/name`.
    pub fn repo(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }

    /// The repository as a whole.
    pub(crate) fn repository(&self) -> Self {
        Self { file: None, ..self.clone() }
    }

    /// The folder of the cache that belongs to the repository.
    pub(crate) fn folder(&self) -> String {
        format!("models--{}--{}", self.owner, self.name)
    }

    /// The repository that a folder of the cache belongs to.
    pub(crate) fn of_folder(folder: &str) -> Option<Self> {
        let (owner, name) = folder.strip_prefix("models--")?.split_once("--")?;
        Self::parse(&format!("{owner}/{name}")).ok().filter(|name| name.folder() == folder)
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repo())?;
        self.file.iter().try_for_each(|file| write!(f, ":{file}"))
    }
}

/// A branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    /// Checks a revision's name.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, Error> {
        match is_file(text) {
            true => Ok(Self(text.into())),
            false => Err(Error::Name {
                text: text.into(),
                what: "revision",
                expected: "a branch, a tag or a commit",
            }),
        }
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As one part of an address.
    pub(crate) fn in_address(&self) -> String {
        self.0.replace('/', "%2F")
    }

    /// Whether it names one commit for ever.
    pub(crate) fn is_commit(&self) -> bool {
        is_commit(&self.0)
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self("main".into())
    }
}

/// Whether `text` is a commit's hash.
pub(crate) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether `text` can be a part of a path or address: no folder, no way out of one, nothing hidden,
/// nothing that would have to be escaped.
pub(crate) fn is_part(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=96).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with(['.', '-'])
}

/// Whether `text` can be a file in a repository, perhaps in folders.
pub(crate) fn is_file(text: &str) -> bool {
    text.len() <= 512 && text.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        let name = ModelName::parse("Qwen/Qwen3-0.6B-GGUF:Q8_0").unwrap();
        assert_eq!(name.repo(), "Qwen/Qwen3-0.6B-GGUF");
        assert_eq!(
            (name.to_string(), name.file.as_deref()),
            ("Qwen/Qwen3-0.6B-GGUF:Q8_0".into(), Some("Q8_0"))
        );
        assert_eq!(name.folder(), "models--Qwen--Qwen3-0.6B-GGUF");
        let back = ModelName::of_folder(&name.folder()).unwrap();
        assert_eq!(back, ModelName { file: None, ..name });
        assert_eq!(Revision::parse("refs/pr/1").unwrap().in_address(), "refs%2Fpr%2F1");
        assert!(Revision::parse(&"a1".repeat(20)).unwrap().is_commit());
        assert!(!Revision::default().is_commit());
    }

    #[test]
    fn names_that_could_lead_elsewhere_are_refused() {
        let long = format!("a/{}", "b".repeat(97));
        for text in [
            "", "a", "a/", "/a", "../a", "a/..", "a/b/c", "a/.b", "a b/c", "a/b:", "a/b:../c",
            "a/b:/etc", "a/b:c//d", "a\\b/c", "a/b:c\\d", "é/b", "a/b?x", "a/b:c:d", "-a/b", &long,
        ] {
            assert!(ModelName::parse(text).is_err(), "{text}");
        }
        for text in ["", "..", "a/../b", "a//b", "/a", "a b", "a%2F"] {
            assert!(Revision::parse(text).is_err(), "{text}");
        }
        for folder in ["models--a", "models--..--b", "datasets--a--b", "models--a--b/c"] {
            assert_eq!(ModelName::of_folder(folder), None, "{folder}");
        }
    }
}
