//! The config of compressed-tensors: which groups of settings there are, and which one a module has.
//!
//! Source: vllm-project/compressed-tensors `src/compressed_tensors/quantization/quant_config.py`, `quant_args.py`,
//! `utils/match.py`, and of `transform_config` `transform/transform_scheme.py` and `transform_args.py`.

use std::path::Path;

use regex::Regex;
use serde_json::Value;

use super::fp8::block_size;
use crate::{ActivationRule, ActivationScheme, ActivationStrategy, Error};

/// The formats that are read.
const FORMATS: [&str; 4] =
    ["int-quantized", "pack-quantized", "float-quantized", "naive-quantized"];

/// The class of all modules that can be quantized here.
const CLASS: &str = "Linear";

/// How a group's weights are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weights {
    pub(super) bits: u64,
    /// Whether they are floats instead of integers.
    pub(super) float: bool,
    /// Rows and columns that share a scale, where they are blocks.
    pub(super) block: Option<[usize; 2]>,
}

/// One of the config's groups.
pub(super) struct Group {
    targets: Vec<Target>,
    /// `None` if its weights are not quantized.
    pub(super) weights: Option<Weights>,
    /// `None` if inputs are not.
    pub(super) activations: Option<ActivationScheme>,
}

/// What a group applies to.
enum Target {
    /// A module by its name, or a class.
    Name(String),
    /// Modules whose names begin with a match.
    Pattern(Regex),
}

/// A rotation of inputs, and of the columns of weights as they are stored.
struct Rotation {
    targets: Vec<Target>,
    ignored: Vec<Target>,
    /// Columns of its blocks; `None`: all.
    block: Option<usize>,
}

/// What a config says.
pub(super) struct Groups {
    pub(super) groups: Vec<Group>,
    rotations: Vec<Rotation>,
}

impl Target {
    fn names(&self, module: &str) -> bool {
        match self {
            // Embedding tables are modules of another class.
            Self::Name(name) if name == CLASS => !module.ends_with("embed_tokens"),
            Self::Name(name) => name == module,
            Self::Pattern(pattern) => pattern.find(module).is_some_and(|found| found.start() == 0),
        }
    }
}

impl Groups {
    /// The blocks of columns in which the inputs of a module of `cols` columns are multiplied by Hadamard matrices.
    ///
    /// # Errors
    /// If no such matrix has so many columns, or there are several for it; the text ends a sentence that begins with the
    /// tensor's name.
    pub(super) fn hadamard_of(&self, module: &str, cols: usize) -> Result<Option<usize>, String> {
        let concerns = |rotation: &&Rotation| {
            let any = |targets: &[Target]| targets.iter().any(|target| target.names(module));
            any(&rotation.targets) && !any(&rotation.ignored)
        };
        let mut all = self.rotations.iter().filter(concerns);
        let Some(rotation) = all.next() else { return Ok(None) };
        if all.next().is_some() {
            return Err("has inputs that are rotated twice, which is not supported".into());
        }
        let block = rotation.block.unwrap_or(cols);
        if !block.is_power_of_two() || !cols.is_multiple_of(block) {
            return Err(format!(
                "has inputs of {cols} columns that are rotated in blocks of {block}, expected a power of two that \
                 divides them"
            ));
        }
        Ok(Some(block))
    }

    /// The group of a quantized module: the one that names it, else one with a pattern for it, else one for
    /// its class.
    pub(super) fn of(&self, module: &str) -> Option<&Group> {
        let with = |wanted: &dyn Fn(&Target) -> bool| {
            self.groups.iter().find(|group| group.targets.iter().any(wanted))
        };
        with(&|target| matches!(target, Target::Name(name) if name == module))
            .or_else(|| {
                with(&|target| matches!(target, Target::Pattern(_)) && target.names(module))
            })
            .or_else(|| with(&|target| matches!(target, Target::Name(name) if name == CLASS)))
    }
}

/// Reads the config.
///
/// # Errors
/// If it asks for anything that keeve does not read.
pub(super) fn read(path: &Path, field: &str, block: &Value) -> Result<Groups, Error> {
    let reader = Reader { path, field };
    // "quantization_status" is not looked at: files that say "frozen" hold packed weights as well as floats. What is
    // stored decides.
    for key in ["sparsity_config", "kv_cache_scheme"] {
        let empty = |value: &Value| value.as_object().is_some_and(serde_json::Map::is_empty);
        let dense = |value: &Value| value.get("format").is_some_and(|format| format == "dense");
        if let Some(value) = given(block, key)
            && !empty(value)
            && !dense(value)
        {
            return Err(reader.unread(key, value));
        }
    }
    let Some(groups) = block.get("config_groups").and_then(Value::as_object) else {
        return Err(reader.wrong("config_groups", "is missing or not an object"));
    };
    let read = |(name, group): (&String, &Value)| reader.group(name, group, given(block, "format"));
    let groups = groups.iter().map(read).collect::<Result<_, _>>()?;
    let transforms = given(block, "transform_config");
    let rotations = transforms.map(|transforms| reader.rotations(transforms)).transpose()?;
    Ok(Groups { groups, rotations: rotations.unwrap_or_default() })
}

fn given<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    value.get(key).filter(|value| !value.is_null())
}

/// Knows where the config stands, for messages.
struct Reader<'a> {
    path: &'a Path,
    field: &'a str,
}

impl Reader<'_> {
    fn wrong(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::field(self.path, &format!("{}.{key}", self.field), problem)
    }

    fn unread(&self, key: &str, value: &Value) -> Error {
        let value = crate::error::shown(&value.to_string());
        self.wrong(key, format!("is {value}, which is not supported"))
    }

    fn group(&self, name: &str, group: &Value, format: Option<&Value>) -> Result<Group, Error> {
        let key = |key: &str| format!("config_groups.{name}.{key}");
        let own = given(group, "format").map(|format| (key("format"), format));
        let format = own.or_else(|| Some(("format".into(), format?)));
        // Where it is missing, what is stored decides.
        if let Some((format_key, format)) = format
            && !FORMATS.into_iter().any(|known| format == known)
        {
            let format = crate::error::shown(&format.to_string());
            let problem = format!("is {format}, expected one of {}", FORMATS.join(", "));
            return Err(self.wrong(&format_key, problem));
        }
        let weights = match given(group, "weights") {
            Some(weights) => Some(self.weights(&key("weights"), weights)?),
            None => None,
        };
        let activations = match given(group, "input_activations") {
            Some(inputs) => Some(self.activations(&key("input_activations"), inputs)?),
            None => None,
        };
        Ok(Group {
            targets: self.targets(&key("targets"), group, "targets")?,
            weights,
            activations,
        })
    }

    /// The rotations of a `transform_config`. What was done to weights is done: only what is to be done to
    /// activations matters, and of that only Hadamard matrices on inputs are read.
    fn rotations(&self, transforms: &Value) -> Result<Vec<Rotation>, Error> {
        let Some(schemes) = given(transforms, "config_groups") else { return Ok(vec![]) };
        let key = "transform_config.config_groups";
        let schemes =
            schemes.as_object().ok_or_else(|| self.wrong(key, "is not an object of schemes"))?;
        let mut rotations = vec![];
        for (name, scheme) in schemes {
            let at = |field: &str| format!("{key}.{name}.{field}");
            let apply = scheme.get("apply").and_then(Value::as_array);
            let apply =
                apply.ok_or_else(|| self.wrong(&at("apply"), "is missing or not a list"))?;
            for (index, args) in apply.iter().enumerate() {
                let at_args = |field: &str| at(&format!("apply[{index}].{field}"));
                match given(args, "location").and_then(Value::as_str) {
                    Some("weight_input" | "weight_output") => continue,
                    Some("input") => {}
                    _ => return Err(self.unread(&at_args("location"), &args["location"])),
                }
                if given(scheme, "type").is_none_or(|kind| kind != "hadamard") {
                    return Err(self.unread(&at("type"), &scheme["type"]));
                }
                if given(scheme, "randomize").is_some_and(|randomize| randomize != false) {
                    return Err(self.unread(&at("randomize"), &scheme["randomize"]));
                }
                let block = match given(scheme, "head_dim") {
                    None => None,
                    Some(value) => {
                        let block = value.as_u64().and_then(|block| usize::try_from(block).ok());
                        let block = block.filter(|block| block.is_power_of_two());
                        let problem = "is not a power of two";
                        Some(block.ok_or_else(|| self.wrong(&at("head_dim"), problem))?)
                    }
                };
                let targets = |field: &str| self.targets(&at_args(field), args, field);
                rotations.push(Rotation {
                    targets: targets("targets")?,
                    ignored: targets("ignore")?,
                    block,
                });
            }
        }
        Ok(rotations)
    }

    /// The names and patterns in `field` of `group`; none if it is missing.
    fn targets(&self, key: &str, group: &Value, field: &str) -> Result<Vec<Target>, Error> {
        let expected = || self.wrong(key, "is not a list of names and patterns");
        let Some(targets) = given(group, field) else { return Ok(Vec::new()) };
        let target = |target: &Value| {
            let text = target.as_str().ok_or_else(expected)?;
            let Some(pattern) = text.strip_prefix("re:") else {
                return Ok(Target::Name(text.into()));
            };
            let problem = |_| {
                let text = crate::error::shown(text);
                self.wrong(key, format!("has '{text}', no regular expression that keeve reads"))
            };
            Regex::new(pattern).map(Target::Pattern).map_err(problem)
        };
        targets.as_array().ok_or_else(expected)?.iter().map(target).collect()
    }

    /// Bits, and whether the numbers are floats.
    fn numbers(&self, key: &str, settings: &Value) -> Result<(u64, bool), Error> {
        let float = match given(settings, "type").map(Value::as_str) {
            None | Some(Some("int")) => false,
            Some(Some("float")) => true,
            Some(_) => return Err(self.unread(&format!("{key}.type"), &settings["type"])),
        };
        let bits = settings.get("num_bits").and_then(Value::as_u64);
        let missing = || self.wrong(&format!("{key}.num_bits"), "is missing or not a count");
        Ok((bits.ok_or_else(missing)?, float))
    }

    fn weights(&self, key: &str, settings: &Value) -> Result<Weights, Error> {
        let (bits, float) = self.numbers(key, settings)?;
        if float && bits != 8 {
            return Err(self.unread(&format!("{key}.num_bits"), &settings["num_bits"]));
        }
        let block = match given(settings, "block_structure") {
            None => None,
            Some(size) => {
                let problem = "is not two counts, such as [128, 128]";
                let wrong = || self.wrong(&format!("{key}.block_structure"), problem);
                Some(block_size(size).ok_or_else(wrong)?)
            }
        };
        Ok(Weights { bits, float, block })
    }

    fn activations(&self, key: &str, settings: &Value) -> Result<ActivationScheme, Error> {
        let at = |field: &str| format!("{key}.{field}");
        let (bits, float) = self.numbers(key, settings)?;
        let bits = u8::try_from(bits).ok().filter(|bits| matches!(bits, 4 | 8));
        let bits = bits.ok_or_else(|| self.unread(&at("num_bits"), &settings["num_bits"]))?;
        let flag = |field: &str, default: bool| match given(settings, field) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.unread(&at(field), value)),
        };
        let strategy = match given(settings, "strategy").map(Value::as_str) {
            None | Some(Some("tensor")) => ActivationStrategy::Tensor,
            Some(Some("token")) => ActivationStrategy::Token,
            Some(Some("group")) => {
                let group = given(settings, "group_size").and_then(Value::as_u64);
                let group = group.and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
                let missing = || self.wrong(&at("group_size"), "is missing or not a count");
                ActivationStrategy::Group(group.ok_or_else(missing)?)
            }
            Some(_) => return Err(self.unread(&at("strategy"), &settings["strategy"])),
        };
        Ok(ActivationScheme {
            rule: ActivationRule::CompressedTensors,
            strategy,
            bits,
            float,
            symmetric: flag("symmetric", true)?,
            dynamic: flag("dynamic", false)?,
        })
    }
}
