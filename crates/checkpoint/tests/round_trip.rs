//! What is written reads back the same, and a file appears only when it is complete.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use keeve_checkpoint::gguf::{self, Array, Value, ValueType};
use keeve_checkpoint::{Checkpoint, StoredType, mlx, safetensors};
use keeve_codec::{Codec, Float, PackedTensor, Parts};

/// Bytes that differ from place to place.
fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|n| (n * 7 + n / 256) as u8).collect()
}

fn announced(name: &str, kind: StoredType, shape: &[usize]) -> safetensors::Announced {
    safetensors::Announced { name: name.into(), kind, shape: shape.into() }
}

#[test]
fn safetensors_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    let other = |name: &str| StoredType::Other(name.into());
    let tensors = [
        (announced("f32 \"quoted\" é", StoredType::F32, &[2, 3]), noise(24)),
        (announced("bf16", StoredType::Codec(Codec::BF16), &[5]), noise(10)),
        (announced("bytes", StoredType::U8, &[3, 1, 1]), noise(3)),
        (announced("words", StoredType::U32, &[2]), noise(8)),
        (announced("i64", other("I64"), &[]), noise(8)),
        (announced("f4", other("F4"), &[4]), noise(2)),
        (announced("empty", StoredType::Codec(Codec::F16), &[0, 7]), noise(0)),
    ];
    let given = tensors.iter().map(|(tensor, bytes)| (tensor.clone(), bytes.as_slice()));
    safetensors::write(&path, given, &[("format", "mlx")]).unwrap();
    let read = safetensors::open(&path).unwrap();
    assert_eq!(read.metadata, [("format".to_string(), "mlx".to_string())]);
    assert_eq!(read.tensors.len(), tensors.len());
    for ((tensor, bytes), found) in tensors.iter().zip(&read.tensors) {
        assert_eq!(found.name, tensor.name);
        assert_eq!(found.kind, tensor.kind);
        assert_eq!(found.shape, tensor.shape);
        assert_eq!(&*found.data, bytes.as_slice());
    }
    let file = std::fs::read(&path).unwrap();
    // The format's own library reads the same.
    let theirs = ::safetensors::SafeTensors::deserialize(&file).unwrap();
    for (tensor, bytes) in &tensors {
        let found = theirs.tensor(&tensor.name).unwrap();
        assert_eq!(found.dtype().to_string(), tensor.kind.to_string());
        assert_eq!((found.shape(), found.data()), (tensor.shape.as_slice(), bytes.as_slice()));
    }
    let header = u64::from_le_bytes(file[..8].try_into().unwrap());
    assert_eq!((8 + header) % 64, 0, "the data section is aligned");
}

#[test]
fn gguf_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.gguf");
    let metadata = [
        ("u8", Value::Unsigned(ValueType::U8, 200)),
        ("i8", Value::Signed(ValueType::I8, -100)),
        ("u16", Value::Unsigned(ValueType::U16, 60_000)),
        ("i16", Value::Signed(ValueType::I16, -30_000)),
        ("u32", Value::u32(4_000_000_000)),
        ("i32", Value::Signed(ValueType::I32, -2_000_000_000)),
        ("u64", Value::Unsigned(ValueType::U64, u64::MAX)),
        ("i64", Value::Signed(ValueType::I64, i64::MIN)),
        ("f32", Value::F32(1e-6)),
        ("f64", Value::F64(1e-300)),
        ("bool", Value::Bool(true)),
        ("text", Value::string("é\n")),
        ("texts", Value::Array(Array::of_strings(["", "ab", "é"]))),
        ("ints", Value::Array(Array::of_i32(&[-1, 2]))),
        ("floats", Value::Array(Array::of_f32(&[]))),
    ];
    let in_ggml = |codec: &Codec| {
        codec.is_float() || codec.is_blocks() && ![Codec::Pq2_0, Codec::Ptq1_0].contains(codec)
    };
    let tensors: Vec<(gguf::Announced, Vec<u8>)> = Codec::PLAIN
        .into_iter()
        .filter(in_ggml)
        .map(|codec| {
            let bytes = noise(3 * 2 * codec.row_bytes(256).unwrap());
            let (name, shape) = (format!("t.{codec}"), vec![3, 2, 256]);
            (gguf::Announced { name, codec, shape }, bytes)
        })
        .chain([(
            gguf::Announced { name: "vector".into(), codec: Codec::F32, shape: vec![3] },
            noise(12),
        )])
        .collect();
    let given = tensors.iter().map(|(tensor, bytes)| (tensor.clone(), bytes.as_slice()));
    gguf::write(&path, &metadata, given).unwrap();
    let read = gguf::open(&path).unwrap();
    assert_eq!(read.version, 3);
    let found: Vec<(&str, Value)> =
        read.metadata.iter().map(|(key, value)| (key, value.clone())).collect();
    assert_eq!(found, metadata);
    assert_eq!(read.metadata.real("f32").unwrap(), Some(1e-6), "the shortest decimal");
    let Some(Value::Array(texts)) = read.metadata.get("texts") else { panic!("no texts") };
    let texts: Vec<&[u8]> = texts.strings().unwrap().collect();
    assert_eq!(texts, [&b""[..], b"ab", "é".as_bytes()]);
    assert_eq!(read.tensors.len(), tensors.len());
    let start = std::fs::metadata(&path).unwrap().len();
    assert_eq!(start % 32, 0);
    for ((tensor, bytes), found) in tensors.iter().zip(&read.tensors) {
        assert_eq!(found.name, tensor.name);
        assert_eq!(found.kind, StoredType::Codec(tensor.codec));
        assert_eq!(found.shape, tensor.shape);
        assert_eq!(&*found.data, bytes.as_slice());
        assert_eq!(found.data.as_ptr() as usize % 32, 0, "mapped files keep the alignment");
    }
}

fn packed(codec: Codec, experts: usize, rows: usize, cols: usize) -> PackedTensor {
    let geometry = codec.geometry();
    let count = experts * rows;
    let scales = match codec {
        Codec::Affine { group, scale, .. } => {
            Some(noise(count * cols / usize::from(group) * scale.bytes()))
        }
        _ => None,
    };
    let parts = Parts {
        data: noise(count * cols / geometry.block * geometry.block_bytes).into(),
        biases: scales.clone().map(|scales| scales.into_iter().rev().collect::<Vec<u8>>().into()),
        scales: scales.map(Into::into),
        global_scale: None,
    };
    PackedTensor::new(codec, experts, rows, cols, parts).unwrap()
}

/// Writes a model with this writer, opens it and compares all tensors.
fn mlx_round_trip(tensors: &[(String, Vec<usize>, PackedTensor)]) -> serde_json::Value {
    let folder = tempfile::tempdir().unwrap();
    let quantization = mlx::write(&folder.path().join("model.safetensors"), tensors).unwrap();
    // Nothing but the quantization: what the reader needs must be in it.
    let config = serde_json::json!({"quantization": quantization});
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(checkpoint.tensors().len(), tensors.len());
    for (name, shape, tensor) in tensors {
        let info = checkpoint.info(name).unwrap();
        assert_eq!(&info.shape, shape, "{name}");
        assert_eq!(info.codec, Some(tensor.codec()), "{name}");
        assert_eq!(&checkpoint.tensor(name).unwrap(), tensor, "{name}");
    }
    config["quantization"].clone()
}

#[test]
fn mlx_kquant_reads_back() {
    let mut tensors: Vec<_> = Codec::PLAIN
        .into_iter()
        .filter(|codec| codec.is_float() || codec.is_blocks())
        .map(|codec| (format!("m.{codec}.weight"), vec![3, 512], packed(codec, 1, 3, 512)))
        .collect();
    let name = "m.layers.0.mlp.switch_mlp.up_proj.weight".to_string();
    tensors.push((name, vec![2, 3, 256], packed(Codec::Q6K, 2, 3, 256)));
    tensors.push(("m.norm.weight".into(), vec![5], packed(Codec::BF16, 1, 1, 5)));
    let quantization = mlx_round_trip(&tensors);
    assert_eq!(quantization["mode"], "kquant");
    assert_eq!(quantization["per_tensor"]["m.q4_k"], "q4_k");
    assert_eq!(quantization["per_tensor"].as_object().unwrap().len(), 28, "floats are not listed");
}

#[test]
fn mlx_affine_reads_back() {
    let mut tensors = Vec::new();
    for scale in [Float::F32, Float::F16, Float::Bf16] {
        for bits in Codec::AFFINE_BITS {
            for group in Codec::AFFINE_GROUPS {
                let codec = Codec::Affine { bits, group, scale };
                let name = format!("m.{}.b{bits}g{group}.weight", scale.name());
                tensors.push((name, vec![3, 384], packed(codec, 1, 3, 384)));
            }
        }
    }
    // The most common pair becomes the default.
    let common = Codec::Affine { bits: 5, group: 64, scale: Float::F16 };
    let name = "m.switch_mlp.up_proj.weight".to_string();
    tensors.push((name, vec![2, 3, 128], packed(common, 2, 3, 128)));
    tensors.push(("m.norm.weight".into(), vec![5], packed(Codec::F16, 1, 1, 5)));
    let quantization = mlx_round_trip(&tensors);
    assert_eq!(quantization["bits"], 5);
    assert_eq!(quantization["group_size"], 64);
    assert_eq!(quantization["m.f32.b1g128"]["bits"], 1);
    assert!(quantization.get("m.f32.b5g64").is_none(), "the default needs no entry");
}

#[test]
fn floats_alone_need_no_quantization() {
    let tensors = [("a.weight".to_string(), vec![2, 2], packed(Codec::F16, 1, 2, 2))];
    assert_eq!(mlx_round_trip(&tensors), serde_json::Value::Null);
}

#[test]
fn writers_refuse_what_they_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let announce = |name: &str, codec, shape: &[usize]| mlx::Announced {
        name: name.into(),
        codec,
        shape: shape.into(),
    };
    let affine = Codec::Affine { bits: 4, group: 64, scale: Float::F16 };
    let int8 = "int8".parse().unwrap();
    for (tensors, expected) in [
        (vec![announce("a.weight", int8, &[1, 32])], "is int8, which has no layout in MLX"),
        (
            vec![
                announce("a.weight", affine, &[1, 64]),
                announce("b.weight", Codec::Q4K, &[1, 256]),
            ],
            "ggml's codecs and others together",
        ),
        (vec![announce("a", Codec::Q4K, &[1, 256])], "must end in '.weight'"),
        (vec![announce("a.weight", Codec::Q4K, &[256])], "needs rows and columns"),
        (vec![announce("a.weight", Codec::Q4K, &[1, 100])], "does not divide a row of 100"),
        (vec![announce("a", Codec::F32, &[1 << 62])], "addressable"),
        (vec![announce("a", Codec::F32, &[1]), announce("a", Codec::F32, &[1])], "written twice"),
    ] {
        let error = mlx::Writer::create(&path, &tensors).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("model.safetensors"), "{error}");
    }
    // Another codec of the same size is caught.
    let mut writer = mlx::Writer::create(&path, &[announce("a", Codec::F16, &[4])]).unwrap();
    let error = writer.tensor("a", &packed(Codec::BF16, 1, 1, 4)).unwrap_err().to_string();
    assert!(error.contains("'a' is bf16, f16 was announced"), "{error}");
    drop(writer);
    let gguf = |metadata: &[(&str, Value)], codec, shape: &[usize]| {
        let tensor = gguf::Announced { name: "t".into(), codec, shape: shape.into() };
        gguf::Writer::create(&path, metadata, &[tensor]).map(|_| ()).unwrap_err().to_string()
    };
    let one = Value::u32(1);
    for (error, expected) in [
        (gguf(&[("general.alignment", one.clone())], Codec::F32, &[1]), "set by the writer"),
        (gguf(&[("k", one.clone()), ("k", one)], Codec::F32, &[1]), "'k' would be written twice"),
        (gguf(&[], affine, &[64]), "is affine4-g64, which GGUF cannot hold"),
        (gguf(&[], Codec::Q4K, &[64]), "cannot be written"),
        (gguf(&[], Codec::F32, &[1, 1, 1, 1, 1]), "too many dimensions"),
        (gguf(&[], Codec::F32, &[1 << 40, 1 << 40]), "too large to address"),
    ] {
        assert!(error.contains(expected), "{error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn a_file_appears_only_when_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.safetensors");
    std::fs::write(&path, b"old").unwrap();
    let tensors = [announced("a", StoredType::U8, &[2]), announced("b", StoredType::U8, &[1])];
    let start = || safetensors::Writer::create(&path, &tensors, &[]).unwrap();
    let message = |result: Result<(), keeve_checkpoint::Error>| result.unwrap_err().to_string();

    let mut writer = start();
    assert!(message(writer.tensor("a", &[1])).contains("'a' has 1 bytes, 2 were announced"));
    assert!(message(writer.tensor("b", &[1])).contains("'b' was written where 'a' was announced"));
    writer.tensor("a", &[1, 2]).unwrap();
    assert!(message(writer.finish()).contains("'b' was announced but not written"));
    drop(start());
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");

    let mut writer = start();
    writer.tensor("a", &[1, 2]).unwrap();
    writer.tensor("b", &[3]).unwrap();
    assert!(message(writer.tensor("c", &[])).contains("'c' was not announced"));
    // A mapping of the old file survives its replacement.
    writer.finish().unwrap();
    assert_eq!(safetensors::open(&path).unwrap().tensors[1].data[0], 3);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn shards_are_read_together() {
    let folder = tempfile::tempdir().unwrap();
    let tensor = |name: &str, file: &str| {
        let path = folder.path().join(file);
        safetensors::write(&path, [(announced(name, StoredType::F32, &[1]), &noise(4)[..])], &[])
            .unwrap();
    };
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    tensor("a", "model-00001-of-00002.safetensors");
    tensor("b", "model-00002-of-00002.safetensors");
    tensor("c", "other.safetensors");
    let names = |checkpoint: &Checkpoint| -> Vec<String> {
        checkpoint.tensors().map(|info| info.name.clone()).collect()
    };
    let by_name = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(names(&by_name), ["a", "b"]);
    assert_eq!(by_name.files().len(), 2);
    assert_eq!(by_name.files()[1].name, "model-00002-of-00002.safetensors");
    let index = serde_json::json!({"weight_map": {"b": "model-00002-of-00002.safetensors",
                                                  "c": "other.safetensors"}});
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    assert_eq!(names(&Checkpoint::open(folder.path()).unwrap()), ["b", "c"]);
    let error = by_name.tensor("x").unwrap_err().to_string();
    assert!(error.ends_with("tensor 'x' is not in the model"), "{error}");
}
