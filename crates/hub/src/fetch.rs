//! Making sure that a model is here.

use std::collections::BTreeSet;
use std::path::PathBuf;

use keeve_files::weights::INDEX;
use keeve_files::whole;

use crate::cache::{self, CachedModel, Repo};
use crate::client::{Client, FileHead};
use crate::download::Job;
use crate::name::{ModelName, Revision};
use crate::select::{self, Selection};
use crate::{Error, Settings};

/// No index comes near this; the header of a safetensors file has the same limit.
const MAX_INDEX: u64 = 100_000_000;

/// The hub, and the cache of what came from it.
pub struct Hub {
    settings: Settings,
    client: Client,
}

/// A model that is in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// A folder, or a GGUF file.
    pub path: PathBuf,
    /// Which commit it is of.
    pub commit: String,
    /// What was done otherwise than asked, in sentences for a person.
    pub notes: Vec<String>,
}

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress<'a> {
    /// The file that is coming.
    pub file: &'a str,
    /// Bytes that are here, those that were here before included.
    pub done: u64,
    /// Bytes of all files that were missing.
    pub total: u64,
}

/// What is told of the progress, and says by `false` that it should stop.
type Watch<'a> = &'a dyn Fn(Progress<'_>) -> bool;

/// Chooses among the files of a repository.
type Choose = fn(&ModelName, &[String]) -> Result<Selection, Error>;

impl Hub {
    /// A hub with these settings.
    pub fn new(settings: Settings) -> Self {
        Self { client: Client::new(&settings), settings }
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Downloads what is missing of a model. `progress` is told how far it is, also while waiting, and
    /// stops it by returning `false`; what has come stays for the next time.
    ///
    /// Where the server cannot be reached, what it was last known to have is taken from the cache, which
    /// is noted in the result.
    ///
    /// # Errors
    /// If the model does not exist or may not be read, does not fit what was asked for, or cannot be
    /// downloaded.
    pub fn fetch(
        &self,
        model: &ModelName,
        revision: &Revision,
        progress: Watch<'_>,
    ) -> Result<Fetched, Error> {
        self.fetch_chosen(model, revision, progress, select::select)
    }

    /// Downloads what the GGUF models of a repository see with: its file with `mmproj` in the name.
    ///
    /// # Errors
    /// As [`Self::fetch`]; [`Error::Choice`] if there is no such file.
    pub fn fetch_mmproj(
        &self,
        model: &ModelName,
        revision: &Revision,
        progress: Watch<'_>,
    ) -> Result<Fetched, Error> {
        self.fetch_chosen(model, revision, progress, select::mmproj)
    }

    fn fetch_chosen(
        &self,
        model: &ModelName,
        revision: &Revision,
        progress: Watch<'_>,
        choose: Choose,
    ) -> Result<Fetched, Error> {
        let repo = Repo::new(&self.settings.cache, model);
        if self.settings.offline || revision.is_commit() {
            match self.cached(&repo, model, revision, choose) {
                Err(error) if self.settings.offline => return Err(error),
                Ok(fetched) => return Ok(fetched),
                Err(_) => {}
            }
        }
        match self.online(&repo, model, revision, progress, choose) {
            Err(error) if error.is_out_of_reach() => {
                let Ok(mut fetched) = self.cached(&repo, model, revision, choose) else {
                    return Err(error);
                };
                fetched.notes.push(format!("using what is in the cache: {error}"));
                Ok(fetched)
            }
            outcome => outcome,
        }
    }

    /// The models in the cache, by name.
    pub fn list(&self) -> Vec<CachedModel> {
        cache::list(&self.settings.cache)
    }

    /// What is in the cache of one repository.
    pub fn find(&self, model: &ModelName) -> Option<CachedModel> {
        cache::find(&self.settings.cache, model)
    }

    /// Removes a repository from the cache; `false` if it is not there.
    ///
    /// # Errors
    /// If files cannot be removed.
    pub fn remove(&self, model: &ModelName) -> Result<bool, Error> {
        cache::remove(&self.settings.cache, model)
    }

    fn online(
        &self,
        repo: &Repo,
        model: &ModelName,
        revision: &Revision,
        progress: Watch<'_>,
        choose: Choose,
    ) -> Result<Fetched, Error> {
        let waiting = || progress(Progress { file: "", done: 0, total: 0 });
        let (commit, names) = self.client.files(model, revision, &waiting)?;
        let selection = choose(model, &names)?;
        let path = match &selection {
            Selection::Gguf(files) => {
                self.bring(repo, model, &commit, files, progress)?;
                first(repo, &commit, files)
            }
            Selection::Folder { files, weights } => {
                // The small files first: one of them may say which large ones there are.
                self.bring(repo, model, &commit, files, progress)?;
                let index = self.index(repo, model, &commit, files)?;
                let weights = select::weights(model, weights, index.as_ref())?;
                self.bring(repo, model, &commit, &weights, progress)?;
                repo.snapshot(&commit)
            }
        };
        repo.remember(revision, &commit)?;
        Ok(Fetched { path, commit, notes: vec![] })
    }

    /// The weight files that the index names, if it is among the files.
    fn index(
        &self,
        repo: &Repo,
        model: &ModelName,
        commit: &str,
        files: &[String],
    ) -> Result<Option<BTreeSet<String>>, Error> {
        if !files.iter().any(|name| name == INDEX) {
            return Ok(None);
        }
        let path = repo.snapshot(commit).join(INDEX);
        select::indexed(model, &whole::read(&path, MAX_INDEX, "an index")?).map(Some)
    }

    /// Makes sure that these files of a commit are here.
    fn bring(
        &self,
        repo: &Repo,
        model: &ModelName,
        commit: &str,
        files: &[String],
        progress: Watch<'_>,
    ) -> Result<(), Error> {
        let waiting = || progress(Progress { file: "", done: 0, total: 0 });
        let missing = files.iter().filter(|file| !repo.snapshot(commit).join(file).is_file());
        let described = missing.map(|file| {
            let url = self.client.address(model, commit, file);
            let what = format!("{}: {file}", model.repo());
            let head = self.client.head(&what, &url, &waiting)?;
            Ok((file, what, url, head))
        });
        let described: Vec<(&String, String, String, FileHead)> =
            described.collect::<Result<_, Error>>()?;
        let total = described.iter().fold(0u64, |sum, file| sum.saturating_add(file.3.size));
        let mut done = 0;
        for (file, what, url, head) in &described {
            let (blob, lock) = repo.blob(&head.etag)?;
            let arrived = |here: u64| progress(Progress { file, done: done + here, total });
            let job = Job {
                client: &self.client,
                what,
                url,
                head,
                blob: &blob,
                lock: &lock,
                arrived: &arrived,
            };
            if !job.is_here() {
                job.run()?;
            }
            done += head.size;
            repo.link(commit, file, &head.etag)?;
        }
        Ok(())
    }

    /// A model of which everything is in the cache.
    fn cached(
        &self,
        repo: &Repo,
        model: &ModelName,
        revision: &Revision,
        choose: Choose,
    ) -> Result<Fetched, Error> {
        let absent = |what: String| Error::Offline { what, cache: self.settings.cache.clone() };
        let here = repo.commit(revision).map(|commit| (repo.files(&commit), commit));
        let Some((files, commit)) = here.filter(|(files, _)| !files.is_empty()) else {
            return Err(absent(match revision.as_str() {
                "main" => model.to_string(),
                other => format!("{model} at revision {other}"),
            }));
        };
        let names: Vec<String> = files.into_iter().map(|(name, _)| name).collect();
        let in_cache = |error| match error {
            Error::Choice { repo, problem } => {
                Error::Choice { repo: format!("{repo} in the cache"), problem }
            }
            other => other,
        };
        let path = match choose(model, &names).map_err(in_cache)? {
            Selection::Gguf(files) => first(repo, &commit, &files),
            Selection::Folder { files, weights } => {
                let index = self.index(repo, model, &commit, &files)?;
                select::weights(model, &weights, index.as_ref()).map_err(|error| match error {
                    Error::Choice { problem, .. } => absent(format!("{}: {problem}", model.repo())),
                    other => other,
                })?;
                repo.snapshot(&commit)
            }
        };
        Ok(Fetched { path, commit, notes: vec![] })
    }
}

/// Where the first of these files is.
fn first(repo: &Repo, commit: &str, files: &[String]) -> PathBuf {
    let snapshot = repo.snapshot(commit);
    files.first().map_or(snapshot.clone(), |file| snapshot.join(file))
}
