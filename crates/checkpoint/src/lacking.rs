//! What a folder holds instead of a model that can be read, and what can be done about it.

use crate::Error;
use crate::files::Files;

/// Endings of files of weights in formats that can hold programs or need the program that wrote them.
const OTHER_WEIGHTS: [&str; 9] =
    [".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".npz", ".onnx", ".tflite"];

/// Endings that downloaders give to files that have not come whole.
const UNFINISHED: [&str; 6] =
    [".incomplete", ".aria2", ".crdownload", ".part", ".download", ".keeve-part"];

/// Why the folder's weights cannot be read, given that it has no safetensors file of a model.
pub(crate) fn weights(files: &dyn Files) -> Error {
    let names = match files.names() {
        Ok(names) => names,
        Err(error) => return error,
    };
    let ending = |endings: &[&str]| {
        let ends = |name: &&String| endings.iter().any(|ending| name.ends_with(ending));
        names.iter().find(ends).map(|name| crate::error::shown(name))
    };
    let has = |name: &str| names.iter().any(|other| other == name);
    let beginning = |start: &str| {
        let begins = |name: &&String| name.starts_with(start) && name.ends_with(".safetensors");
        names.iter().find(begins).map(|name| crate::error::shown(name))
    };
    let problem = if let Some(name) = ending(&UNFINISHED) {
        format!("holds no weights but {name}, a download that is not finished")
    } else if has("adapter_config.json") || has("adapters.safetensors") {
        "holds an adapter (LoRA), not a model; merge it into the model that it was trained for, for example with PEFT's merge_and_unload".into()
    } else if let Some(name) = beginning("consolidated") {
        format!(
            "has its weights only in the layout of its makers ({name}); take the files in Hugging Face's layout, model*.safetensors"
        )
    } else if let Some(name) = ending(&OTHER_WEIGHTS) {
        format!(
            "has its weights only as {name}, a format that keeve does not read (such files may run programs when they are loaded); load them with transformers and save them with save_pretrained, which writes safetensors"
        )
    } else if let Some(name) = ending(&[".gguf", ".GGUF"]) {
        format!(
            "holds no safetensors files; to use {name} or another of its GGUF files, give its path"
        )
    } else {
        "holds neither model.safetensors.index.json nor model*.safetensors".into()
    };
    Error::file(files.path(), problem)
}

/// Why a folder is no model's, given that it has neither a config nor a GGUF file.
pub(crate) fn model(files: &dyn Files) -> Error {
    let names = files.names().unwrap_or_default();
    let has = |name: &str| names.iter().any(|other| other == name);
    let safetensors = names.iter().find(|name| name.ends_with(".safetensors"));
    let problem = if has("adapter_config.json") || has("adapters.safetensors") {
        return weights(files);
    } else if has("params.json") {
        "holds params.json instead of config.json: the layout of the model's makers; take the files in Hugging Face's layout"
            .into()
    } else if let Some(name) = safetensors {
        let name = crate::error::shown(name);
        format!("holds {name}, but no config.json, which says what model it is")
    } else {
        let inner = names.iter().filter(|name| files.is_model(name)).collect::<Vec<_>>();
        match &inner[..] {
            [] => "holds neither config.json nor a GGUF file".into(),
            [name, ..] => {
                let name = crate::error::shown(name);
                format!("holds neither config.json nor a GGUF file; its folder {name} does")
            }
        }
    };
    Error::file(files.path(), problem)
}
