//! Random models as GGUF files.

use std::error::Error;
use std::path::{Path, PathBuf};

use keeve_checkpoint::Checkpoint;
use keeve_checkpoint::gguf::{self, Announced, Array, Value};
use keeve_codec::Codec;
use keeve_graph::{Graph, Weights};
use keeve_models::{Model, Vision};
use keeve_quantize::{MmprojLayout, mmproj_metadata, mmproj_path, vocabulary};
use serde_json::{Value as Json, json};

use crate::random::RandomWeights;
use crate::vocabulary as words;

/// What goes wrong here is for whoever runs it to read.
type Failure = Box<dyn Error + Send + Sync>;

/// Where a random model comes from.
pub struct RandomModel<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its config.
    pub config: &'a Json,
    /// Its graphs.
    pub model: &'a Model,
    /// Its weights, those that it sees with among them.
    pub weights: &'a RandomWeights,
    /// How it reads text.
    pub tokenizer: Tokenizer<'a>,
}

/// The tokenizer of a random model.
pub enum Tokenizer<'a> {
    /// Other programs can read its weights, but no text.
    None,
    /// Made-up words, as many as the model has tokens.
    Words,
    /// That of another model, with placeholders up to its own number of tokens.
    Of(&'a Checkpoint),
}

impl RandomModel<'_> {
    /// Writes the language model to `file`, and what it sees with beside it. Gives that file's path.
    ///
    /// # Errors
    /// If the config lacks something that GGUF has to say, ggml has no name for a weight, or a file cannot be
    /// written.
    pub fn write(&self, file: &Path) -> Result<Option<PathBuf>, Failure> {
        let config = self.config.get("text_config").unwrap_or(self.config);
        let architecture = match config["model_type"].as_str().ok_or("no model_type")? {
            "qwen3_vl_text" => "qwen3vl",
            other => other,
        };
        let metadata = self.metadata(config, architecture)?;
        let name = |name: &str| {
            let alone = name.replacen("model.language_model.", "model.", 1);
            let ggml = gguf::tensor_name(&alone, architecture);
            Ok(ggml.ok_or_else(|| format!("ggml has no name for {name}"))?)
        };
        self.write_tensors(file, &metadata, &self.model.graph, name)?;
        self.model.vision.as_ref().map(|vision| self.write_mmproj(file, vision)).transpose()
    }

    fn metadata(&self, config: &Json, architecture: &str) -> Result<Vec<(String, Value)>, Failure> {
        let mut metadata = vec![
            ("general.architecture".to_owned(), Value::string(architecture)),
            ("general.name".to_owned(), Value::string(self.name)),
        ];
        match self.tokenizer {
            Tokenizer::None => {
                metadata.push(("tokenizer.ggml.model".to_owned(), Value::string("none")));
            }
            Tokenizer::Words => {
                let words = words::metadata(self.model.vocabulary);
                metadata.extend(words.ok_or("a vocabulary that is too small for words")?);
            }
            Tokenizer::Of(of) => {
                metadata.extend(vocabulary(of, self.model.vocabulary)?);
                let template = of.chat_template().map(Value::string);
                metadata.extend(template.map(|text| ("tokenizer.chat_template".to_owned(), text)));
            }
        }
        for (key, field) in [
            ("block_count", "num_hidden_layers"),
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("attention.key_length", "head_dim"),
            ("attention.value_length", "head_dim"),
            ("vocab_size", "vocab_size"),
        ] {
            let count = config[field].as_u64().ok_or_else(|| format!("no {field}"))?;
            metadata.push((format!("{architecture}.{key}"), Value::u32(u32::try_from(count)?)));
        }
        for (key, field) in
            [("rope.freq_base", "rope_theta"), ("attention.layer_norm_rms_epsilon", "rms_norm_eps")]
        {
            let number = config[field].as_f64().ok_or_else(|| format!("no {field}"))?;
            metadata.push((format!("{architecture}.{key}"), Value::F32(number as f32)));
        }
        if let Some(sections) = config["rope_scaling"]["mrope_section"].as_array() {
            let lengths = sections.iter().filter_map(Json::as_i64).chain([0]);
            let lengths = lengths.map(i32::try_from).collect::<Result<Vec<_>, _>>()?;
            let key = format!("{architecture}.rope.dimension_sections");
            metadata.push((key, Value::Array(Array::of_i32(&lengths))));
            let features = u32::try_from(MmprojLayout::of(self.config).features())?;
            metadata.push((format!("{architecture}.n_deepstack_layers"), Value::u32(features)));
        }
        Ok(metadata)
    }

    fn write_tensors(
        &self,
        file: &Path,
        metadata: &[(String, Value)],
        graph: &Graph,
        name: impl Fn(&str) -> Result<String, Failure>,
    ) -> Result<(), Failure> {
        let mut announced = Vec::new();
        for weight in graph.weights() {
            let shape = match weight.rows {
                1 => vec![weight.cols],
                rows => vec![rows, weight.cols],
            };
            let codec = self.weights.codec(&weight.name)?;
            announced.push(Announced { name: name(&weight.name)?, codec, shape });
        }
        let metadata: Vec<_> = metadata.iter().map(|(key, v)| (key.as_str(), v.clone())).collect();
        let mut writer = gguf::Writer::create(file, &metadata, &announced)?;
        for (stored, weight) in announced.iter().zip(graph.weights()) {
            let tensor = self.weights.weight(&weight.name)?;
            writer.tensor(&stored.name, &tensor.parts().data)?;
        }
        Ok(writer.finish()?)
    }

    /// What sees, beside the language model at `file`.
    fn write_mmproj(&self, file: &Path, vision: &Vision) -> Result<PathBuf, Failure> {
        let layout = MmprojLayout::of(self.config);
        let number = |field: &str, other: u64| {
            let found = self.config["vision_config"][field].as_u64().unwrap_or(other);
            usize::try_from(found)
        };
        let patch = number("patch_size", 16)?;
        let patches = [vision.hidden, number("in_channels", 3)?, 2, patch, patch];
        let (mut announced, mut sources, mut seen) = (vec![], vec![], vec![]);
        for weight in vision.weights().filter(|weight| weight.rows * weight.cols > 0) {
            if seen.contains(&&weight.name) {
                continue;
            }
            seen.push(&weight.name);
            let plain = weight.rows == 1 || weight.name.contains("_embed");
            let codec = if plain { Codec::F32 } else { Codec::BF16 };
            let shape = match weight.rows {
                1 => vec![weight.cols],
                _ if weight.name.ends_with("patch_embed.proj.weight") => patches.to_vec(),
                rows => vec![rows, weight.cols],
            };
            announced.extend(layout.announce(&weight.name, codec, &shape)?);
            sources.push((&weight.name, codec, shape));
        }
        let settings = json!({"size": {"shortest_edge": 65536, "longest_edge": 16_777_216},
            "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]});
        let metadata = mmproj_metadata(self.name, self.config, &settings, Some(Codec::BF16))?;
        let metadata: Vec<_> = metadata.iter().map(|(key, v)| (key.as_str(), v.clone())).collect();
        let path = mmproj_path(file);
        let mut writer = gguf::Writer::create(&path, &metadata, &announced)?;
        let mut stored = announced.iter();
        for (name, codec, shape) in sources {
            let tensor = self.weights.weight(name)?;
            let tensor = match codec == tensor.codec() {
                true => tensor,
                false => {
                    let values = keeve_codec::decode(&tensor);
                    keeve_codec::PackedTensor::from_f32(tensor.rows(), tensor.cols(), &values)?
                }
            };
            for bytes in layout.parts(name, &shape, &tensor) {
                let announced = stored.next().ok_or("internal error: a tensor too many")?;
                writer.tensor(&announced.name, &bytes)?;
            }
        }
        writer.finish()?;
        Ok(path)
    }
}
