//! `keeve serve --config FILE`: flags from a TOML or YAML file, and `--print-config`.
//!
//! A key is a flag's name without its dashes. `model` is the MODEL, the table `models` has further
//! ones by name. What the command line says comes after what the file says, so it prevails. What else YAML may say is
//! in `config_yaml.rs`.

use std::ffi::OsString;
use std::path::Path;

use clap::{Arg, ArgAction, CommandFactory, FromArgMatches};
use keeve_files::whole;
use toml::{Table, Value};

use crate::args::Args;
use crate::config_yaml;
use crate::limits;
use crate::output::Failure;

const COMMAND: &str = "serve";

/// Flags that a file does not have.
const NOT_IN_FILES: [&str; 3] = ["config", "print-config", "help"];

/// Why the arguments are of no use.
pub enum Problem {
    /// clap says what is wrong, or prints what was asked for.
    Usage(clap::Error),
    /// The file cannot be used.
    File(Failure),
}

/// Reads the command line, and the file that it names. With `--print-config`, also gives the text to
/// print.
pub fn parse(mut line: Vec<OsString>) -> Result<(Args, Option<String>), Problem> {
    let usage = Problem::Usage;
    let matches = Args::command().try_get_matches_from(&line).map_err(usage)?;
    if let Some(serve) = matches.subcommand_matches(COMMAND)
        && let Some(path) = serve.get_one::<std::path::PathBuf>("config")
    {
        let flags = read(path).map_err(Problem::File)?;
        // Global flags may come before the command, but no value that looks like it.
        let at =
            line.iter().position(|argument| argument == COMMAND).map_or(line.len(), |at| at + 1);
        line.splice(at..at, flags);
    }
    let matches = Args::command().try_get_matches_from(&line).map_err(usage)?;
    let text = matches
        .subcommand_matches(COMMAND)
        .filter(|serve| serve.get_flag("print_config"))
        .map(print);
    Ok((Args::from_arg_matches(&matches).map_err(usage)?, text))
}

/// The arguments of `serve` itself.
fn known() -> Vec<Arg> {
    let mut command = Args::command();
    command.build();
    let serve = command.find_subcommand(COMMAND);
    serve.map(|serve| serve.get_arguments().cloned().collect()).unwrap_or_default()
}

/// A file as command line arguments.
fn read(path: &Path) -> Result<Vec<OsString>, Failure> {
    let wrong = |problem: String| Failure::from(format!("{}: {problem}", path.display()));
    let text = whole::text(path, limits::SETTINGS, "--config")?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let yaml = path
        .extension()
        .is_some_and(|ext| ext.eq_ignore_ascii_case("yaml") || ext.eq_ignore_ascii_case("yml"));
    let table: Table = match yaml {
        true => config_yaml::settings(text).map_err(wrong)?,
        false => toml::from_str(text).map_err(|error| wrong(error.to_string()))?,
    };
    let known = known();
    let (mut flags, mut model) = (vec![], None);
    for (key, value) in table {
        match (&*key, value) {
            ("model", Value::String(path)) => model = Some(path),
            ("models", Value::Table(models)) => {
                for (name, path) in models {
                    let Value::String(path) = path else {
                        return Err(wrong(format!("models.{name} is no text, expected a path")));
                    };
                    flags.push(format!("--model={name}={path}"));
                }
            }
            (key, value) => {
                let is_flag = |arg: &&Arg| arg.get_long() == Some(key) && key != "model";
                let arg = known.iter().find(is_flag);
                let Some(arg) = arg.filter(|_| !NOT_IN_FILES.contains(&key)) else {
                    return Err(wrong(format!("there is no setting '{key}'")));
                };
                let list = match value {
                    Value::Array(list) if matches!(arg.get_action(), ArgAction::Append) => list,
                    value => vec![value],
                };
                for value in list {
                    match (arg.get_action(), value) {
                        (ArgAction::SetTrue, Value::Boolean(true)) => {
                            flags.push(format!("--{key}"))
                        }
                        (ArgAction::SetTrue, Value::Boolean(false)) => {}
                        (ArgAction::Set | ArgAction::Append, Value::String(text)) => {
                            flags.push(format!("--{key}={text}"));
                        }
                        (ArgAction::Set | ArgAction::Append, Value::Integer(number)) => {
                            flags.push(format!("--{key}={number}"));
                        }
                        (ArgAction::Set | ArgAction::Append, Value::Float(number)) => {
                            flags.push(format!("--{key}={number}"));
                        }
                        (_, value) => {
                            let kind = value.type_str();
                            return Err(wrong(format!("'{key}' cannot be of type {kind}")));
                        }
                    }
                }
            }
        }
    }
    // A MODEL on the command line takes the place of this one: see `Serve`.
    flags.extend(model.map(|path| format!("--default-model={path}")));
    Ok(flags.into_iter().map(OsString::from).collect())
}

/// All settings as a file.
fn print(matches: &clap::ArgMatches) -> String {
    let mut table = Table::new();
    for arg in known() {
        let id = arg.get_id().as_str();
        let key = arg.get_long().unwrap_or(id);
        if NOT_IN_FILES.contains(&key) || matches.try_contains_id(id).ok() != Some(true) {
            continue;
        }
        let raw = matches.get_raw(id).into_iter().flatten();
        let texts: Vec<_> = raw.map(|value| value.to_string_lossy().into_owned()).collect();
        match (id, arg.get_action()) {
            ("models", _) => {
                let models = texts.iter().filter_map(|text| text.split_once('='));
                let models = models.map(|(name, path)| (name.to_owned(), path.into()));
                table.insert("models".into(), Value::Table(models.collect()));
            }
            ("default_model", _) => {
                table.entry("model").or_insert(texts.concat().into());
            }
            ("model", _) => {
                table.insert("model".into(), texts.concat().into());
            }
            (_, ArgAction::SetTrue) => {
                table.insert(key.into(), matches.get_flag(id).into());
            }
            (_, ArgAction::Append) => {
                table.insert(
                    key.into(),
                    Value::Array(texts.iter().map(|text| typed(text)).collect()),
                );
            }
            _ => {
                table.insert(key.into(), typed(&texts.concat()));
            }
        }
    }
    toml::to_string(&table).unwrap_or_default()
}

fn typed(text: &str) -> Value {
    let whole = text.parse::<i64>().map(Value::Integer).ok();
    let broken = || text.parse::<f64>().ok().filter(|value| value.is_finite()).map(Value::Float);
    whole.or_else(broken).unwrap_or_else(|| text.into())
}
