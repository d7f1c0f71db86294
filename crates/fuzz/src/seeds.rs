//! Small valid inputs for each target, made by code.

#![allow(clippy::expect_used, reason = "what is made here is known to be sound")]

use std::path::Path;

use keeve_checkpoint::gguf::{self, Array, Value, ValueType};
use keeve_codec::Codec;
use serde_json::{Value as Json, json};

use crate::dialects::input;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// The inputs of one target.
///
/// # Errors
/// If they cannot be made: through files in the system's temporary folder.
pub fn of(target: &str) -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    write(folder.path())?;
    let mut files = vec![];
    for file in std::fs::read_dir(folder.path().join(target))? {
        files.push(file?.path());
    }
    files.sort();
    Ok(files.into_iter().map(std::fs::read).collect::<Result<_, _>>()?)
}

/// Writes the inputs of each target to a folder of its name.
///
/// # Errors
/// If a file cannot be written.
pub fn write(folder: &Path) -> Outcome {
    type Write = fn(&Path) -> Outcome;
    let all: [(&str, Write); 10] = [
        ("gguf", gguf_seeds),
        ("safetensors_header", |folder| Ok(safetensors_seeds(folder)?)),
        ("dialects", |folder| Ok(dialect_seeds(folder)?)),
        ("config", |folder| Ok(config_seeds(folder)?)),
        ("tokenizer_json", |folder| Ok(tokenizer_json_seeds(folder)?)),
        ("tokenizer_gguf", tokenizer_gguf_seeds),
        ("chat_template", |folder| Ok(chat_seeds(folder)?)),
        ("grammar", |folder| Ok(grammar_seeds(folder)?)),
        ("index", index_seeds),
        ("image", image_seeds),
    ];
    for (target, write) in all {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder)?;
        write(&folder)?;
    }
    Ok(())
}

/// Small images of each format, some turned by their EXIF data.
fn image_seeds(folder: &Path) -> Outcome {
    use image::ExtendedColorType::{L8, L16, Rgb8, Rgba8};
    use image::ImageEncoder;
    use image::codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder};
    let exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0".to_vec();
    let pixels: Vec<u8> = (0..12 * 9 * 4).map(|n| (n * 7) as u8).collect();
    for (name, color, bytes) in
        [("grey", L8, 1), ("deep", L16, 2), ("rgb", Rgb8, 3), ("rgba", Rgba8, 4)]
    {
        let pixels = &pixels[..12 * 9 * bytes];
        let mut file = vec![];
        let mut encoder = PngEncoder::new(&mut file);
        encoder.set_exif_metadata(exif.clone())?;
        encoder.write_image(pixels, 12, 9, color)?;
        std::fs::write(folder.join(format!("png-{name}")), &file)?;
        if color != L16 {
            let mut file = vec![];
            WebPEncoder::new_lossless(&mut file).write_image(pixels, 12, 9, color)?;
            std::fs::write(folder.join(format!("webp-{name}")), &file)?;
        }
        if color == L8 || color == Rgb8 {
            let mut file = vec![];
            let mut encoder = JpegEncoder::new(&mut file);
            encoder.set_exif_metadata(exif.clone())?;
            encoder.write_image(pixels, 12, 9, color)?;
            std::fs::write(folder.join(format!("jpeg-{name}")), &file)?;
        }
    }
    Ok(())
}

fn gguf_seeds(folder: &Path) -> Outcome {
    for architecture in ["llama", "qwen3"] {
        let key = |name: &str| format!("{architecture}.{name}");
        let metadata = [
            ("general.architecture".into(), Value::string(architecture)),
            (key("block_count"), Value::u32(1)),
            (key("embedding_length"), Value::u32(32)),
            (key("attention.head_count"), Value::u32(2)),
            (key("attention.head_count_kv"), Value::u32(1)),
            (key("attention.layer_norm_rms_epsilon"), Value::F32(1e-5)),
            (key("rope.scaling.type"), Value::string("yarn")),
            (key("rope.scaling.factor"), Value::F32(4.0)),
            ("tokenizer.ggml.model".into(), Value::string("gpt2")),
            ("tokenizer.ggml.tokens".into(), Value::Array(Array::of_strings(["a", "b"]))),
            ("tokenizer.ggml.token_type".into(), Value::Array(Array::of_i32(&[1, 3]))),
            ("tokenizer.ggml.scores".into(), Value::Array(Array::of_f32(&[0.5, 1.0]))),
            ("tokenizer.ggml.merges".into(), Value::Array(Array::of_strings(["a b"]))),
            ("tokenizer.ggml.eos_token_id".into(), Value::u32(1)),
            ("tokenizer.ggml.add_bos_token".into(), Value::Bool(true)),
            ("other".into(), Value::Signed(ValueType::I16, -1)),
        ];
        let metadata: Vec<(&str, Value)> =
            metadata.iter().map(|(key, value): &(String, Value)| (&**key, value.clone())).collect();
        let tensor = |name: &str, codec: Codec, shape: &[usize]| gguf::Announced {
            name: name.into(),
            codec,
            shape: shape.into(),
        };
        let q8 = [1u8; 34 * 4];
        let tensors = [
            (tensor("token_embd.weight", Codec::Q8_0, &[4, 32]), &q8[..]),
            (tensor("blk.0.attn_q.weight", Codec::Q8_0, &[4, 32]), &q8[..]),
            (tensor("blk.0.attn_q.bias", Codec::F32, &[4]), &q8[..16]),
            (tensor("output_norm.weight", Codec::BF16, &[32]), &q8[..64]),
        ];
        gguf::write(&folder.join(architecture), &metadata, tensors)?;
    }
    Ok(())
}

fn safetensors_seeds(folder: &Path) -> std::io::Result<()> {
    let headers = [
        json!({"__metadata__": {"format": "pt"},
               "a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
               "b": {"dtype": "I64", "shape": [1], "data_offsets": [16, 24]}}),
        json!({"m.weight": {"dtype": "U32", "shape": [2, 16], "data_offsets": [0, 128]},
               "m.scales": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [128, 136]},
               "m.biases": {"dtype": "BF16", "shape": [2, 2], "data_offsets": [136, 144]}}),
        json!({"a.weight": {"dtype": "U8", "shape": [2, 34], "data_offsets": [0, 68]},
               "b.weight": {"dtype": "U8", "shape": [1, 144], "data_offsets": [68, 212]},
               "a.scales": {"dtype": "U8", "shape": [1], "data_offsets": [212, 213]}}),
        json!({"m.weight": {"dtype": "U32", "shape": [2, 16], "data_offsets": [0, 128]},
               "m.scales": {"dtype": "U8", "shape": [2, 4], "data_offsets": [128, 136]}}),
    ];
    for (config, (header, data)) in headers.iter().zip([24u16, 144, 213, 136]).enumerate() {
        let mut input = vec![config as u8];
        input.extend(data.to_le_bytes());
        input.extend(header.to_string().bytes());
        std::fs::write(folder.join(format!("config{config}")), input)?;
    }
    Ok(())
}

/// A tensor's module, suffix, type and shape.
type Tensor<'a> = (&'a str, &'a str, &'a str, &'a [u16]);

/// One module, or two, of every dialect.
fn dialect_seeds(folder: &Path) -> std::io::Result<()> {
    const UP: &str = "model.layers.0.mlp.up_proj";
    let method = |method: &str, mut settings: Json| {
        settings["quant_method"] = method.into();
        json!({"hidden_size": 128, "quantization_config": settings})
    };
    let gptq = |bits: usize, group: i64, sym: bool, format: &str| {
        let settings =
            json!({"bits": bits, "group_size": group, "sym": sym, "checkpoint_format": format});
        method("gptq", settings)
    };
    let compressed = |format: &str, weights: Json| {
        let inputs = json!({"num_bits": 8, "type": "int", "strategy": "token", "dynamic": true});
        let group = json!({"targets": ["Linear", "re:model.*up"], "weights": weights,
            "input_activations": inputs});
        method("compressed-tensors", json!({"format": format, "config_groups": {"group_0": group}}))
    };
    let int = |bits: usize| json!({"num_bits": bits, "type": "int", "symmetric": true});
    // The groups of four columns in words: 0, 0, ... 1, 1, ...
    let mut order = Vec::new();
    (0..128u32).for_each(|column| order.extend((column % 2).to_le_bytes()));
    let middle = [0x77u8];
    let shape: Vec<u8> = [32u64, 128].iter().flat_map(|n| n.to_le_bytes()).collect();
    let seeds: Vec<(&str, Json, Vec<Tensor>, &[u8])> = vec![
        ("float", json!({}), vec![(UP, ".weight", "BF16", &[4, 8])], &[]),
        (
            "affine",
            json!({"hidden_size": 128, "quantization": {"bits": 4, "group_size": 64}}),
            vec![
                (UP, ".weight", "U32", &[2, 16]),
                (UP, ".scales", "BF16", &[2, 2]),
                (UP, ".biases", "BF16", &[2, 2]),
            ],
            &[],
        ),
        (
            "nvfp4",
            json!({"quantization": {"mode": "nvfp4"}}),
            vec![
                (UP, ".weight", "U32", &[2, 16]),
                (UP, ".scales", "U8", &[2, 8]),
                (UP, ".global_scale", "F32", &[]),
            ],
            &[],
        ),
        (
            "kquant",
            json!({"quantization": {"mode": "kquant", "per_tensor": {UP: "q4_k", "p": "iq2_xs"}}}),
            vec![
                (UP, ".weight", "U8", &[2, 288]),
                (UP, ".scales", "U8", &[1]),
                ("p", ".weight", "U8", &[3, 74]),
            ],
            &[],
        ),
        (
            "awq",
            method("awq", json!({"bits": 4, "group_size": 64, "version": "gemm"})),
            vec![
                (UP, ".qweight", "I32", &[128, 2]),
                (UP, ".qzeros", "I32", &[2, 2]),
                (UP, ".scales", "F16", &[2, 16]),
            ],
            &[],
        ),
        (
            "awq_gemv",
            method("awq", json!({"bits": 4, "group_size": 64, "version": "gemv"})),
            vec![
                (UP, ".qweight", "I32", &[16, 16]),
                (UP, ".qzeros", "I32", &[16, 2]),
                (UP, ".scales", "F16", &[16, 16]),
            ],
            &[],
        ),
        (
            "gptq",
            gptq(4, 64, true, "gptq"),
            vec![
                (UP, ".qweight", "I32", &[16, 8]),
                (UP, ".qzeros", "I32", &[2, 1]),
                (UP, ".scales", "F16", &[2, 8]),
            ],
            &middle,
        ),
        (
            "gptq_act",
            gptq(3, 64, false, "gptq_v2"),
            vec![
                (UP, ".g_idx", "I32", &[128]),
                (UP, ".qweight", "I32", &[12, 32]),
                (UP, ".qzeros", "I32", &[2, 3]),
                (UP, ".scales", "F16", &[2, 32]),
            ],
            &order,
        ),
        (
            "bitnet",
            method("bitnet", json!({"linear_class": "autobitlinear"})),
            vec![(UP, ".weight", "U8", &[4, 64]), (UP, ".weight_scale", "BF16", &[1])],
            &[0x18],
        ),
        (
            "fp8",
            method("fp8", json!({"weight_block_size": [16, 64], "activation_scheme": "dynamic"})),
            vec![(UP, ".weight", "F8_E4M3", &[20, 128]), (UP, ".weight_scale_inv", "F32", &[2, 2])],
            &[],
        ),
        (
            "int_quantized",
            compressed("int-quantized", int(8)),
            vec![
                (UP, ".weight", "I8", &[4, 64]),
                (UP, ".weight_scale", "BF16", &[4, 1]),
                (UP, ".weight_zero_point", "I8", &[4, 1]),
            ],
            &[],
        ),
        (
            "pack_quantized",
            compressed("pack-quantized", int(4)),
            vec![
                (UP, ".weight_shape", "I64", &[2]),
                (UP, ".weight_packed", "I32", &[32, 16]),
                (UP, ".weight_scale", "BF16", &[32, 2]),
                (UP, ".weight_zero_point", "I32", &[4, 2]),
            ],
            &shape,
        ),
        (
            "float_quantized",
            compressed("float-quantized", json!({"num_bits": 8, "type": "float"})),
            vec![(UP, ".weight", "F8_E4M3", &[4, 64]), (UP, ".weight_scale", "F32", &[4, 1])],
            &[],
        ),
    ];
    for (name, config, tensors, data) in seeds {
        std::fs::write(folder.join(name), input(&config, &tensors, data))?;
    }
    Ok(())
}

/// Every architecture, and every kind of rope settings.
fn config_seeds(folder: &Path) -> std::io::Result<()> {
    let rope = [
        json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
            "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}),
        json!({"rope_scaling": {"type": "linear", "factor": 2.0}}),
        json!({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6,
            "original_max_position_embeddings": 64, "beta_fast": 32, "attention_factor": 1.1}}),
        json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0,
            "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}}),
        json!({"sliding_window": 16, "sliding_window_pattern": 2, "final_logit_softcapping": 30.0}),
    ];
    for architecture in keeve_models::architectures() {
        for (index, rope) in rope.iter().enumerate() {
            let mut config = json!({"model_type": architecture, "hidden_size": 64,
                "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
                "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 100,
                "rms_norm_eps": 1e-6, "max_position_embeddings": 256, "tie_word_embeddings": true});
            let fields = config.as_object_mut().expect("an object");
            fields.extend(rope.as_object().expect("an object").clone());
            std::fs::write(folder.join(format!("{architecture}{index}")), config.to_string())?;
        }
    }
    let config = json!({"model_type": "gemma3", "text_config": {"num_hidden_layers": 2}});
    std::fs::write(folder.join("gemma3"), config.to_string())
}

/// How byte-level vocabularies spell bytes.
fn spelled() -> Vec<String> {
    let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 256..;
    let spell = |byte: u8| match plain(byte) {
        true => char::from(byte),
        false => others.next().and_then(char::from_u32).expect("a character"),
    };
    (0..=255).map(spell).map(String::from).collect()
}

fn tokenizer_json_seeds(folder: &Path) -> std::io::Result<()> {
    let vocabulary = |texts: &[&str]| -> serde_json::Map<String, Json> {
        texts.iter().enumerate().map(|(id, text)| ((*text).into(), id.into())).collect()
    };
    let added = |id: usize| {
        json!([{"id": id, "content": "</s>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}])
    };
    let bpe = |vocabulary: Json, merges: &[&str], fallback: bool| {
        json!({"type": "BPE", "dropout": null, "unk_token": null, "fuse_unk": fallback,
            "byte_fallback": fallback, "ignore_merges": false, "vocab": vocabulary, "merges": merges})
    };
    let letters =
        ["H", "e", "l", "o", ",", "\u{120}", "w", "r", "d", "1", "2", "He", "lo", "Hello", "</s>"];
    let byte_level = json!({"version": "1.0", "added_tokens": added(14), "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": " ?[A-Za-z]+|[0-9]{1,3}|\\s+(?!\\S)"},
             "behavior": "Isolated", "invert": false},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": bpe(vocabulary(&letters).into(), &["H e", "l o"], false)});
    let pieces = [
        "<unk>",
        "</s>",
        "<0x0A>",
        "<0xC3>",
        "<0xB6>",
        "\u{2581}",
        "H",
        "e",
        "l",
        "o",
        "\u{2581}H",
        "lo",
    ];
    let fallback = json!({"version": "1.0", "added_tokens": added(1),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": bpe(vocabulary(&pieces).into(), &["\u{2581} H", "l o"], true)});
    // Fewer kinds of components in a file, so that changes of one are not hidden by others.
    let unigram = json!({"version": "1.0", "added_tokens": added(1),
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"},
            {"type": "Strip", "strip_left": true, "strip_right": false},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true},
        "post_processor": null, "decoder": {"type": "Metaspace", "replacement": "\u{2581}"},
        "model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": [["<unk>", 0.0], ["</s>", 0.0],
            ["\u{2581}", -2.0], ["h", -3.0], ["e", -3.0], ["l", -3.5], ["o", -3.1], ["\u{2581}hello", -4.0]]}});
    let words = json!({"version": "1.0", "added_tokens": added(1),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["</s>", 1], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {"[UNK]": 0, "</s>": 1, "[CLS]": 2, "hello": 3, "he": 4, "##llo": 5, ",": 6, "w": 7}}});
    std::fs::write(folder.join("unigram"), unigram.to_string())?;
    std::fs::write(folder.join("words"), words.to_string())?;
    std::fs::write(folder.join("byte_level"), byte_level.to_string())?;
    std::fs::write(folder.join("fallback"), fallback.to_string())
}

fn tokenizer_gguf_seeds(folder: &Path) -> Outcome {
    let mut tokens = spelled();
    tokens.extend(["He", "lo", "</s>"].map(String::from));
    let mut types = vec![1; tokens.len()];
    types[258] = 3;
    let common = |model: &str, tokens: &[String], types: &[i32]| {
        vec![
            ("tokenizer.ggml.model", Value::string(model)),
            ("tokenizer.ggml.tokens", Value::Array(Array::of_strings(tokens))),
            ("tokenizer.ggml.token_type", Value::Array(Array::of_i32(types))),
            ("tokenizer.ggml.eos_token_id", Value::u32(258)),
        ]
    };
    for pre in ["gpt-2", "llama-bpe"] {
        let mut metadata = common("gpt2", &tokens, &types);
        metadata.push(("tokenizer.ggml.pre", Value::string(pre)));
        metadata.push(("tokenizer.ggml.merges", Value::Array(Array::of_strings(["H e", "l o"]))));
        gguf::write(&folder.join(pre), &metadata, [])?;
    }
    let mut tokens: Vec<String> = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).collect();
    let mut types = vec![6; 256];
    tokens.extend(["\u{2581}H", "ello", "</s>", "<mark>", "<unk>"].map(String::from));
    types.extend([1, 1, 3, 4, 2]);
    let scores: Vec<f32> = (0..tokens.len()).map(|id| -(id as f32)).collect();
    let mut metadata = common("llama", &tokens, &types);
    metadata.push(("tokenizer.ggml.scores", Value::Array(Array::of_f32(&scores))));
    metadata.push(("tokenizer.ggml.bos_token_id", Value::u32(1)));
    metadata.push(("tokenizer.ggml.add_space_prefix", Value::Bool(true)));
    gguf::write(&folder.join("scores"), &metadata, [])?;
    Ok(())
}

fn chat_seeds(folder: &Path) -> std::io::Result<()> {
    for (name, template) in [
        ("alternating", include_str!("../../engine/tests/data/chat/alternating.jinja")),
        ("dated", include_str!("../../engine/tests/data/chat/dated.jinja")),
        ("language", include_str!("../../engine/tests/data/chat/language.jinja")),
        ("thinking_tools", include_str!("../../engine/tests/data/chat/thinking_tools.jinja")),
    ] {
        std::fs::write(folder.join(name), template)?;
    }
    Ok(())
}

/// Each way to say what an answer must look like; the first byte says which.
fn grammar_seeds(folder: &Path) -> std::io::Result<()> {
    let schemas = [
        json!({"type": "object", "properties": {"name": {"type": "string", "minLength": 1, "maxLength": 9},
            "size": {"type": "integer", "minimum": 1, "maximum": 99, "multipleOf": 3}},
            "required": ["name"], "additionalProperties": false}),
        json!({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {
            "value": {"enum": [1, "a", null, 2.5]},
            "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}}}}),
        json!({"type": "array", "items": {"oneOf": [{"type": "string", "pattern": "^[a-c]{2,4}x?$"},
            {"type": "boolean"}]}, "minItems": 1, "maxItems": 4}),
        json!({"allOf": [{"type": ["string", "null"], "format": "date"}, {"not": {"const": "x"}}]}),
        json!({"if": {"properties": {"a": {"const": 1}}}, "then": {"required": ["b"]},
            "else": {"patternProperties": {"^c": {"type": "number"}}, "minProperties": 1}}),
        json!({"type": "array", "prefixItems": [{"type": "integer"}, true], "items": false,
            "contains": {"type": "integer"}, "uniqueItems": false}),
    ];
    for (index, schema) in schemas.iter().enumerate() {
        std::fs::write(folder.join(format!("schema{index}")), format!("\u{2}{schema}"))?;
    }
    let expressions = ["[a-z]{2,5}( [0-9]+)?", "(yes|no)", r"\d{3}-\d{4}\.\p{L}*"];
    for (index, expression) in expressions.iter().enumerate() {
        std::fs::write(folder.join(format!("regex{index}")), format!("\0{expression}"))?;
    }
    let grammars = [
        "start: \"a\" b* | /[0-9]+/\nb: \"b\" | \"(\" b \")\"\n",
        "start: T \" \" %json {\"type\": \"integer\"}\nT: /[ab]+/ & ~/a+/\n",
    ];
    for (index, grammar) in grammars.iter().enumerate() {
        std::fs::write(folder.join(format!("lark{index}")), format!("\u{1}{grammar}"))?;
    }
    Ok(())
}

/// Models in parts: see the target.
fn index_seeds(folder: &Path) -> Outcome {
    let seed = |kind: u8, parts: [&[u8]; 3]| {
        let mut input = vec![kind];
        for part in &parts[..2] {
            input.extend((part.len() as u16).to_le_bytes());
        }
        input.extend(parts.concat());
        input
    };
    let header = |name: &str| {
        json!({name: {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}).to_string()
    };
    let file = |number: usize| format!("model-0000{number}-of-00002.safetensors");
    let index = json!({"metadata": {"total_size": 32}, "weight_map": {"a": file(1), "b": file(2)}});
    let parts = [index.to_string(), header("a"), header("b")];
    std::fs::write(folder.join("index"), seed(0, parts.each_ref().map(|part| part.as_bytes())))?;
    let path = folder.join("part");
    let mut parts = Vec::new();
    for number in 0..3 {
        let mut metadata = vec![
            ("split.no", Value::Unsigned(ValueType::U16, number)),
            ("split.count", Value::Unsigned(ValueType::U16, 3)),
        ];
        if number == 0 {
            metadata.push(("split.tensors.count", Value::Signed(ValueType::I32, 3)));
            metadata.push(("general.architecture", Value::string("qwen3")));
        }
        let tensor = gguf::Announced {
            name: format!("blk.{number}.attn_norm.weight"),
            codec: Codec::F32,
            shape: vec![8],
        };
        gguf::write(&path, &metadata, [(tensor, &[1u8; 32][..])])?;
        parts.push(std::fs::read(&path)?);
    }
    std::fs::remove_file(&path)?;
    std::fs::write(folder.join("gguf"), seed(1, [&parts[0], &parts[1], &parts[2]]))?;
    Ok(())
}
