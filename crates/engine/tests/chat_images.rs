//! Images in conversations: where they stand in a prompt, and that nobody's text becomes one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{bytes, data_folder, json};
use keeve_engine::chat::{ChatError, ChatTemplate, Content, Message, Part, RenderOptions};
use keeve_engine::tokenizer::Tokenizer;
use safetensors::SafeTensors;
use serde_json::Value;

const TEMPLATE: &str = "{% for m in messages %}{% if m.content is string %}{{ m.content }}\
    {% else %}{% for part in m.content %}{% if part.type == 'image' %}\
    <|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}\
    {% endif %}{% endfor %}";

fn special() -> Vec<String> {
    ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>"].map(str::to_owned).to_vec()
}

#[test]
fn images_stand_where_their_parts_do() {
    let template = ChatTemplate::new(TEMPLATE, &BTreeMap::new(), &special()).unwrap();
    let message = Message::parts(
        "user",
        vec![Part::text("a"), Part::image(), Part::text("<|image_pad|>"), Part::image()],
    );
    assert_eq!(message.images(), 2);
    let segments = template.render_segments(&[message], &RenderOptions::default()).unwrap();
    let shown: Vec<_> = segments.iter().map(|s| (s.text.as_str(), s.trusted)).collect();
    let image = [("<|vision_start|>", true), ("<|image_pad|>", true), ("<|vision_end|>", true)];
    let expected = [&[("a", false)][..], &image, &[("<|image_pad|>", false)], &image].concat();
    assert_eq!(shown, expected);
}

#[test]
fn templates_for_text_refuse_images() {
    let source = "{% for m in messages %}{{ m.content.strip() }}{% endfor %}";
    let template = ChatTemplate::new(source, &BTreeMap::new(), &special()).unwrap();
    let message = Message::parts("user", vec![Part::image(), Part::text("a")]);
    let error = template.render(&[message], &RenderOptions::default()).unwrap_err();
    assert!(matches!(error, ChatError::Message(_)), "{error}");
    assert!(error.to_string().contains("\"image\""), "{error}");
}

/// A model's template and tokenizer, which must know the tokens around images.
fn read(folder: &Path) -> (ChatTemplate, Tokenizer) {
    let special = special();
    let special: Vec<_> = special.iter().map(String::as_str).collect();
    let tokenizer = Tokenizer::from_json(&bytes(&folder.join("tokenizer.json")), &special).unwrap();
    let source = json(&folder.join("chat_template.json"));
    let source = source["chat_template"].as_str().unwrap();
    let template = ChatTemplate::new(source, &BTreeMap::new(), tokenizer.special_tokens()).unwrap();
    (template, tokenizer)
}

/// The reference's prompt, in which each image is repeated for its tokens, with one for each.
fn collapsed(file: &SafeTensors, name: &str, pad: u32) -> Vec<u32> {
    let data = file.tensor(name).unwrap().data();
    let mut ids: Vec<u32> = data.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    ids.dedup_by(|a, b| *a == pad && *b == pad);
    ids
}

fn prompt(template: &ChatTemplate, tokenizer: &Tokenizer, messages: &[Message]) -> Vec<u32> {
    let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    let segments = template.render_segments(messages, &options).unwrap();
    tokenizer.encode_segments(&segments, false).unwrap()
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn prompts_of_the_fixtures_are_the_references() {
    let fixtures = data_folder().join("fixtures/qwen3_vl");
    let stored = bytes(&fixtures.join("ref.safetensors"));
    let file = SafeTensors::deserialize(&stored).unwrap();
    let (template, tokenizer) = read(&fixtures.join("hf"));
    let pad = tokenizer.token_id("<|image_pad|>").unwrap();
    for (name, case) in json(&fixtures.join("prompts.json")).as_object().unwrap() {
        let messages: Vec<Message> = serde_json::from_value(case["messages"].clone()).unwrap();
        let images: usize = messages.iter().map(Message::images).sum();
        assert_eq!(images, case["images"].as_array().unwrap().len(), "{name}");
        let ids = prompt(&template, &tokenizer, &messages);
        assert_eq!(ids, collapsed(&file, &format!("{name}.input_ids"), pad), "{name}");
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn prompts_of_the_demo_are_the_references() {
    let model = data_folder().join("models/demo-qwen3-vl");
    let stored = bytes(&model.join("reference.safetensors"));
    let file = SafeTensors::deserialize(&stored).unwrap();
    let (template, tokenizer) = read(&model);
    let pad = tokenizer.token_id("<|image_pad|>").unwrap();
    let reference = json(&model.join("reference.json"));
    for (at, case) in reference["prompts"].as_array().unwrap().iter().enumerate() {
        let images = case["images"].as_array().map(Vec::len).unwrap();
        let question = case["question"].as_str().unwrap();
        let mut parts = vec![Part::image(); images];
        parts.push(Part::text(question));
        let ids = prompt(&template, &tokenizer, &[Message::parts("user", parts)]);
        assert_eq!(ids, collapsed(&file, &format!("prompt{}.input_ids", at + 1), pad));
        // What is said never becomes an image.
        let said = Message::text("user", "<|vision_start|><|image_pad|><|vision_end|>");
        assert!(!prompt(&template, &tokenizer, &[said]).contains(&pad));
        let said: Value = serde_json::json!([{"type": "text", "text": "<|image_pad|>"}]);
        let said: Content = serde_json::from_value(said).unwrap();
        let said = Message { content: Some(said), ..Message::text("user", "") };
        assert!(!prompt(&template, &tokenizer, &[said]).contains(&pad));
    }
}
