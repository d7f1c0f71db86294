//! What is asked on the command line.

use std::path::PathBuf;

/// What `cargo xtask` says of itself.
pub const USAGE: &str = "\
Usage: cargo xtask cycles [CRATE ...]
       cargo xtask peers [FLAGS]

cycles: files of a crate that import each other in a circle (CRATE: a folder of crates/; cpu, which must have none).

peers: runs peers' suites against keeve. Their data is fetched with pip, once, and never becomes part of the repository.

  --data DIR           where the data is or goes (KEEVE_PEERS, else target/peers)
  --from NAME=FOLDER   takes a source from FOLDER instead of fetching it; may be repeated
                       (NAME: llama.cpp, JSON-Schema-Test-Suite, minilm, models)
  --only SUITE,...     only these suites (vocabularies, templates, schemas, minilm, models)
  --python PROGRAM     a Python 3.10 or newer with venv (python3)
  --fetch-only         fetches and stops
  --whole              perplexities of the whole text, where otherwise 4096 tokens of it count (minutes more)";

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub enum Ask {
    /// Usage was asked for.
    Help,
    /// `cycles`, and of which crates.
    Cycles(Vec<String>),
    /// `peers`.
    Peers(Args),
}

/// The flags of `peers`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Args {
    /// `--data`.
    pub data: Option<PathBuf>,
    /// `--from`, names and folders.
    pub from: Vec<(String, PathBuf)>,
    /// `--only`; all if empty.
    pub only: Vec<String>,
    /// `--python`.
    pub python: Option<PathBuf>,
    /// `--fetch-only`.
    pub fetch_only: bool,
    /// `--whole`.
    pub whole: bool,
}

/// Reads the arguments after the program's name.
///
/// # Errors
/// If they make no sense, naming the one that does not.
pub fn parse(args: impl IntoIterator<Item = String>) -> Result<Ask, String> {
    let mut given = args.into_iter();
    match given.next().as_deref() {
        Some("peers") => {}
        Some("cycles") => {
            let mut crates: Vec<_> = given.collect();
            if let Some(flag) = crates.iter().find(|name| name.starts_with('-')) {
                return Err(format!("'{flag}' is no crate, and cycles has no flags"));
            }
            if crates.is_empty() {
                crates.push("cpu".into());
            }
            return Ok(Ask::Cycles(crates));
        }
        None | Some("help" | "--help" | "-h") => return Ok(Ask::Help),
        Some(other) => return Err(format!("'{other}' is no chore, expected 'cycles' or 'peers'")),
    }
    let mut args = Args::default();
    while let Some(argument) = given.next() {
        let (flag, mut inline) = match argument.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
            _ => (&*argument, None),
        };
        let mut value = |what: &str| {
            inline.take().or_else(|| given.next()).ok_or_else(|| format!("{flag}: expected {what}"))
        };
        match flag {
            "--help" | "-h" => return Ok(Ask::Help),
            "--data" => args.data = Some(value("a folder")?.into()),
            "--python" => args.python = Some(value("a program")?.into()),
            "--only" => args.only.extend(value("suites")?.split(',').map(str::to_owned)),
            "--from" => {
                let source = value("NAME=FOLDER")?;
                let (name, folder) = source
                    .split_once('=')
                    .ok_or_else(|| format!("--from: '{source}', expected NAME=FOLDER"))?;
                args.from.push((name.into(), folder.into()));
            }
            "--fetch-only" => args.fetch_only = true,
            "--whole" => args.whole = true,
            other => return Err(format!("'{other}' is no flag of peers")),
        }
        if inline.is_some() {
            return Err(format!("{flag} takes no value"));
        }
    }
    Ok(Ask::Peers(args))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Ask, String> {
        parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn flags_are_read_in_both_forms() {
        let expected = Args {
            data: Some("d".into()),
            from: vec![("models".into(), "m=n".into())],
            only: vec!["a".into(), "b".into(), "c".into()],
            python: Some("py".into()),
            fetch_only: true,
            whole: true,
        };
        let line =
            "peers --whole --data d --from models=m=n --only a,b --only=c --python=py --fetch-only";
        assert_eq!(of(line), Ok(Ask::Peers(expected)));
        assert_eq!(of("peers"), Ok(Ask::Peers(Args::default())));
        assert_eq!(of("peers --help"), Ok(Ask::Help));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (line, named) in [
            ("sing", "sing"),
            ("peers --data", "--data"),
            ("peers --from models", "models"),
            ("peers --fetch-only=yes", "--fetch-only"),
            ("peers --loud", "--loud"),
        ] {
            assert!(of(line).is_err_and(|problem| problem.contains(named)), "{line}");
        }
    }
}
