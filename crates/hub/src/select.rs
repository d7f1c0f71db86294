//! Which files of a repository a model is made of.

use std::collections::BTreeSet;

use keeve_files::weights::{INDEX, Problem, choose, is_weights};

use crate::Error;
use crate::name::ModelName;

pub(crate) const CONFIG: &str = "config.json";

/// What keeve reads besides weights, where a repository has it.
const SIDE_FILES: [&str; 14] = [
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    // Those of other names are no model's own choice (huggingface/transformers
    // `src/transformers/tokenization_utils_base.py`, `get_chat_template`).
    "additional_chat_templates/tool_use.jinja",
    "additional_chat_templates/rag.jinja",
    "preprocessor_config.json",
    "processor_config.json",
    "quantize_config.json",
    "quant_config.json",
    "hf_quant_config.json",
    INDEX,
];

const TOKENIZER: &str = "tokenizer.json";

/// What a tokenizer is read from, or refused with what to do, where there is no `tokenizer.json`.
const OTHER_TOKENIZERS: [&str; 10] = [
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tiktoken.model",
    "tekken.json",
];

/// The files that make up a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selection {
    /// A GGUF file, or all parts of one, the first part first.
    Gguf(Vec<String>),
    /// A folder's files, `config.json` among them.
    Folder {
        files: Vec<String>,
        /// Weight files, of which [`weights`] chooses.
        weights: Vec<String>,
    },
}

/// Chooses among the files of a repository: the one that is asked for, else `config.json` with
/// `*.safetensors`, else the only GGUF file. What other programs need (`.bin`, `.pth`, ONNX, second
/// copies of the weights) is left.
pub(crate) fn select(model: &ModelName, names: &[String]) -> Result<Selection, Error> {
    let has = |name: &str| names.iter().any(|other| other == name);
    let choice = |problem: String| Error::Choice { repo: model.repo(), problem };
    let gguf = |name: &str| parts(name, names).map(Selection::Gguf).map_err(choice);
    let ggufs = || names.iter().filter(|name| name.ends_with(".gguf") && !is_companion(name));
    // A model in parts is one choice: its first part.
    let ggufs: Vec<&String> =
        ggufs().filter(|name| Part::read(name).is_none_or(|part| part.number == 1)).collect();
    if let Some(wanted) = &model.file {
        if wanted.ends_with(".gguf") && has(wanted) {
            return gguf(wanted);
        }
        let found: Vec<_> = ggufs.iter().filter(|name| has_label(name, wanted)).collect();
        return match found[..] {
            [name] => gguf(name),
            [] if ggufs.is_empty() => Err(choice("holds no GGUF file".into())),
            [] => Err(choice(format!("holds no GGUF file '{wanted}'; it holds {}", list(&ggufs)))),
            _ => {
                let found: Vec<_> = found.into_iter().copied().collect();
                Err(choice(format!("'{wanted}' may be any of {}", list(&found))))
            }
        };
    }
    let weights: Vec<String> = names.iter().filter(|name| is_weights(name)).cloned().collect();
    if has(CONFIG) && !weights.is_empty() {
        let tokenizers = OTHER_TOKENIZERS.into_iter().filter(|_| !has(TOKENIZER));
        let side = SIDE_FILES.into_iter().chain(tokenizers).filter(|name| has(name));
        let files = [CONFIG].into_iter().chain(side).map(Into::into).collect();
        return Ok(Selection::Folder { files, weights });
    }
    let pickles = || names.iter().find(|name| name.ends_with(".bin") || name.ends_with(".pth"));
    match ggufs[..] {
        [name] => gguf(name),
        [] => Err(choice(match pickles() {
            Some(name) => format!(
                "holds its weights only as {name}, a format that may run programs when it is loaded, and no safetensors; another revision may have them (such as refs/pr/1)"
            ),
            None => format!("holds neither {CONFIG} with model*.safetensors nor a GGUF file"),
        })),
        _ => Err(choice(format!(
            "holds several GGUF files; choose one as {}:LABEL from {}",
            model.repo(),
            list(&ggufs)
        ))),
    }
}

/// Chooses the file that the GGUF models of a repository see with, of several by what its name says of its
/// weights: as they were trained, nearly, all of it.
pub(crate) fn mmproj(model: &ModelName, names: &[String]) -> Result<Selection, Error> {
    const LABELS: [&str; 4] = ["bf16", "f16", "f32", "q8_0"];
    let rank = |name: &&String| LABELS.iter().position(|label| has_label(name, label));
    let found = names.iter().filter(|name| name.ends_with(".gguf") && is_named(name, "mmproj"));
    let best = found.min_by_key(|name| (rank(name).unwrap_or(LABELS.len()), name.as_str()));
    let missing = || Error::Choice { repo: model.repo(), problem: "holds no mmproj file".into() };
    best.map(|name| Selection::Gguf(vec![name.clone()])).ok_or_else(missing)
}

/// What the name of a part of a GGUF model says: `<prefix>-00001-of-00003.gguf`.
#[derive(Clone, Copy)]
struct Part<'a> {
    prefix: &'a str,
    number: u32,
    count: u32,
}

impl<'a> Part<'a> {
    /// `None` for names of whole files.
    fn read(name: &'a str) -> Option<Self> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| match text.len() == 5 {
            true => text.parse::<u32>().ok(),
            false => None,
        };
        let (number, count) = (digits(number)?, digits(count)?);
        (1..=count).contains(&number).then_some(Self { prefix, number, count })
    }

    fn name(self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

/// The files of the GGUF model that `name` is, or is a part of.
fn parts(name: &str, names: &[String]) -> Result<Vec<String>, String> {
    let Some(part) = Part::read(name) else { return Ok(vec![name.to_owned()]) };
    let there: std::collections::HashSet<&str> = names.iter().map(String::as_str).collect();
    let found = |number| {
        let name = part.name(number);
        match there.contains(name.as_str()) {
            true => Ok(name),
            false => Err(format!("holds {}, but not {name}", part.name(part.number))),
        }
    };
    (1..=part.count).map(found).collect()
}

/// Whether a GGUF file goes with a model instead of being one.
fn is_companion(name: &str) -> bool {
    is_named(name, "mmproj") || is_named(name, "imatrix")
}

/// Whether a file, in whatever folder, has `part` in its name.
fn is_named(name: &str, part: &str) -> bool {
    name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase().contains(part)
}

/// Whether `label` stands in a GGUF file's name as a part of its own: `Q4_K` is in `x-Q4_K.gguf`, but not
/// in `x-Q4_K_M.gguf`.
fn has_label(name: &str, label: &str) -> bool {
    let stem = name.strip_suffix(".gguf").unwrap_or(name).to_ascii_lowercase();
    let label = label.to_ascii_lowercase();
    let bounded = |side: Option<char>| side.is_none_or(|one| matches!(one, '-' | '.' | '/'));
    stem.match_indices(&label).any(|(at, found)| {
        bounded(stem[..at].chars().next_back()) && bounded(stem[at + found.len()..].chars().next())
    })
}

/// Names for a person, not too many.
fn list(names: &[&String]) -> String {
    const MOST: usize = 40;
    let shown: Vec<_> = names.iter().take(MOST).map(|name| name.as_str()).collect();
    let more = if names.len() > MOST { ", ..." } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Chooses among the weight files of a repository: see [`keeve_files::weights`].
pub(crate) fn weights(
    model: &ModelName,
    names: &[String],
    index: Option<&BTreeSet<String>>,
) -> Result<Vec<String>, Error> {
    let chosen = choose(names.iter().map(String::as_str), index);
    chosen.map(|chosen| chosen.files).map_err(|problem| Error::Choice {
        repo: model.repo(),
        problem: match problem {
            Problem::None => "holds no weights that keeve reads".into(),
            Problem::File(name, problem) => format!("{name} {problem}"),
            Problem::Folder(problem) => problem,
        },
    })
}

/// The weight files that an index names.
pub(crate) fn indexed(model: &ModelName, index: &[u8]) -> Result<BTreeSet<String>, Error> {
    let problem = || Error::Choice {
        repo: model.repo(),
        problem: format!("{INDEX} has no 'weight_map' of file names"),
    };
    let index: serde_json::Value = serde_json::from_slice(index).map_err(|_| problem())?;
    let map = index.get("weight_map").and_then(|map| map.as_object()).ok_or_else(problem)?;
    let mut names = BTreeSet::new();
    for name in map.values() {
        let name = name.as_str().filter(|name| crate::name::is_part(name)).ok_or_else(problem)?;
        if name.ends_with(".safetensors") {
            names.insert(name.to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(model: &str, names: &[&str]) -> Result<Selection, String> {
        let names: Vec<_> = names.iter().map(|name| name.to_string()).collect();
        select(&ModelName::parse(model).unwrap(), &names).map_err(|error| error.to_string())
    }

    #[test]
    fn a_folder_is_config_safetensors_and_text_files_and_no_duplicates() {
        let names = [
            "README.md",
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "consolidated.safetensors",
            "onnx/model.onnx",
            "onnx/model.safetensors",
            "tokenizer.json",
            "original/consolidated.00.pth",
            "vocab.json",
            "chat_template.jinja",
            "x.gguf",
        ];
        let files =
            ["config.json", "tokenizer.json", "chat_template.jinja"].map(String::from).to_vec();
        let weights = vec!["model.safetensors".to_owned()];
        assert_eq!(chosen("a/b", &names), Ok(Selection::Folder { files, weights }));
        let apart = [
            "config.json",
            "additional_chat_templates/rag.jinja",
            "additional_chat_templates/tool_use.jinja",
            "additional_chat_templates/x.jinja",
            "merges.txt",
            "model.safetensors",
            "special_tokens_map.json",
            "vocab.json",
        ];
        let files = [0, 6, 2, 1, 7, 4].map(|at| apart[at].to_owned()).to_vec();
        let weights = vec!["model.safetensors".to_owned()];
        assert_eq!(chosen("a/b", &apart), Ok(Selection::Folder { files, weights }));
        let sharded = ["config.json", INDEX, "model-1.safetensors", "model-2.safetensors"];
        let files = ["config.json", INDEX].map(String::from).to_vec();
        let weights = sharded[2..].iter().map(|name| name.to_string()).collect();
        assert_eq!(chosen("a/b", &sharded), Ok(Selection::Folder { files, weights }));
    }

    #[test]
    fn a_gguf_file_is_chosen_by_name_or_label() {
        let names =
            ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m.Q8_0.gguf", "f16/m-F16.gguf", "mmproj-F16.gguf"];
        let gguf = |name: &str| Ok(Selection::Gguf(vec![name.into()]));
        assert_eq!(chosen("a/b:Q4_K_M", &names), gguf("m-Q4_K_M.gguf"));
        assert_eq!(chosen("a/b:q8_0", &names), gguf("m.Q8_0.gguf"));
        assert_eq!(chosen("a/b:f16", &names[..2]).unwrap_err().matches("Q4_K").count(), 2);
        assert_eq!(chosen("a/b:m-Q4_K_S.gguf", &names), gguf("m-Q4_K_S.gguf"));
        assert!(chosen("a/b:Q4_K", &names).unwrap_err().contains("holds no GGUF file 'Q4_K'; it"));
        assert!(chosen("a/b:m", &names).unwrap_err().contains("may be any of"));
        assert!(chosen("a/b", &names).unwrap_err().contains("a/b:LABEL from m-Q4_K_M.gguf, "));
        assert_eq!(chosen("a/b", &["m.gguf", "mmproj.gguf", "config.json"]), gguf("m.gguf"));
        assert!(chosen("a/b:x", &["config.json"]).unwrap_err().contains("holds no GGUF file"));
        assert!(
            chosen("a/b", &["pytorch_model.bin", "config.json"])
                .unwrap_err()
                .contains("only as pytorch_model.bin")
        );
    }

    #[test]
    fn what_a_model_sees_with_is_chosen_by_label() {
        let chosen = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| name.to_string()).collect();
            let chosen = mmproj(&ModelName::parse("a/b").unwrap(), &names);
            chosen.map_err(|error| error.to_string())
        };
        let gguf = |name: &str| Ok(Selection::Gguf(vec![name.into()]));
        let names =
            ["mmproj/x.gguf", "mmproj-F32.gguf", "mmproj-M-Q8_0.gguf", "x/MMPROJ-m-f16.gguf"];
        assert_eq!(chosen(&names), gguf("x/MMPROJ-m-f16.gguf"));
        assert_eq!(chosen(&names[..3]), gguf("mmproj-F32.gguf"));
        assert_eq!(chosen(&["mmproj-b.gguf", "mmproj-a.gguf"]), gguf("mmproj-a.gguf"));
        assert!(chosen(&names[..1]).unwrap_err().contains("holds no mmproj file"));
    }

    #[test]
    fn a_gguf_model_in_parts_is_one_choice_of_many_files() {
        let names = ["m-Q4_K_M-00002-of-00002.gguf", "m-Q4_K_M-00001-of-00002.gguf", "m-Q8_0.gguf"];
        let both = Ok(Selection::Gguf(vec![names[1].into(), names[0].into()]));
        assert_eq!(chosen("a/b:Q4_K_M", &names), both);
        assert_eq!(chosen("a/b", &names[..2]), both);
        assert_eq!(chosen("a/b:m-Q4_K_M-00002-of-00002.gguf", &names), both);
        let torn = chosen("a/b", &names[1..2]).unwrap_err();
        assert!(torn.contains("but not m-Q4_K_M-00002-of-00002.gguf"), "{torn}");
        // Names that only look like parts are whole files.
        for name in ["m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "m-1-of-2.gguf"] {
            assert_eq!(chosen("a/b", &[name]), Ok(Selection::Gguf(vec![name.into()])));
        }
    }

    #[test]
    fn an_index_names_files_of_its_folder_only() {
        let model = ModelName::parse("a/b").unwrap();
        let index = br#"{"weight_map": {"x": "b.safetensors", "y": "a.safetensors", "z": "b.safetensors"}}"#;
        let names = indexed(&model, index).unwrap();
        assert!(names.iter().eq(["a.safetensors", "b.safetensors"]), "{names:?}");
        for bad in ["{}", "[", r#"{"weight_map": {"x": "../y"}}"#, r#"{"weight_map": {"x": 1}}"#] {
            assert!(indexed(&model, bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
