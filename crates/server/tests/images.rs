//! Images in requests: what is refused, and that it is refused before it costs anything.

mod common;

use std::path::PathBuf;

use common::{Running, config, loading, server, start};
use keeve_engine::EngineOptions;
use keeve_graph::Activations;
use keeve_server::{ImageRules, ModelSource, ModelsConfig, ServerConfig};
use serde_json::{Value, json};

const DATA: &str = "data:image/png;base64,iVBORw0KGgo=";

/// The same image in the three forms of conversations: path, request, and the field of the image.
fn forms(address: &str) -> [(&'static str, Value, &'static str); 3] {
    let (source, field) = match address.split_once(";base64,") {
        Some((_, data)) => {
            let source = json!({ "type": "base64", "media_type": "image/png", "data": data });
            (source, "messages[0].content[1].source.data")
        }
        None => (json!({ "type": "url", "url": address }), "messages[0].content[1].source.url"),
    };
    let text = json!({ "type": "text", "text": "What is this?" });
    [
        (
            "/v1/chat/completions",
            json!({ "model": "demo", "max_tokens": 4, "messages": [{ "role": "user", "content":
                [text, { "type": "image_url", "image_url": { "url": address, "detail": "low" } }] }] }),
            "messages[0].content[1].image_url",
        ),
        (
            "/v1/responses",
            json!({ "model": "demo", "max_output_tokens": 4, "input": [{ "role": "user", "content": [
                { "type": "input_text", "text": "What is this?" },
                { "type": "input_image", "image_url": address, "detail": "auto" }] }] }),
            "input[0].content[1].image_url",
        ),
        (
            "/v1/messages",
            json!({ "model": "demo", "max_tokens": 4, "messages": [{ "role": "user", "content":
                [text, { "type": "image", "source": source }] }] }),
            field,
        ),
    ]
}

/// Sends a request that must fail, and gives what is wrong with which field.
fn refused(server: &Running, path: &str, body: &Value, status: u16) -> (String, Option<String>) {
    let response = server.post(path, body);
    let body: Value = serde_json::from_slice(&response.body).expect("JSON");
    assert_eq!(response.status, status, "{path}: {body}");
    let error = &body["error"];
    let param = error["param"].as_str().map(str::to_owned);
    (error["message"].as_str().expect("a message").to_owned(), param)
}

#[test]
fn a_model_without_eyes_is_shown_nothing() {
    let server = server();
    for address in [DATA, "http://127.0.0.1:1/a.png"] {
        for (path, body, field) in forms(address) {
            let (message, param) = refused(&server, path, &body, 400);
            assert_eq!(message, "this model cannot see images", "{path}");
            // Anthropic's form has no place for the field.
            if path != "/v1/messages" {
                assert_eq!(param.as_deref(), Some(field));
            }
        }
    }
    // Parts are what they say they are.
    let part = |part: Value| json!({ "model": "demo", "messages": [{ "role": "user", "content": [part] }] });
    for (wrong, field) in [
        (json!({ "type": "image_url" }), "messages[0].content[0]"),
        (json!({ "type": "image_url", "text": "a" }), "messages[0].content[0]"),
        (json!({ "type": "text", "image_url": DATA }), "messages[0].content[0]"),
        (json!({ "type": "text", "text": "a", "image_url": DATA }), "messages[0].content[0]"),
        (json!({ "type": "input_audio" }), "messages[0].content[0]"),
    ] {
        let (_, param) = refused(&server, "/v1/chat/completions", &part(wrong), 400);
        assert_eq!(param.as_deref(), Some(field));
    }
    let thousands: Vec<Value> =
        (0..5000).map(|_| json!({ "type": "image_url", "image_url": DATA })).collect();
    let body = json!({ "model": "demo", "messages": [{ "role": "user", "content": thousands }] });
    refused(&server, "/v1/chat/completions", &body, 400);
    assert_eq!(server.get("/health").status, 200);
}

fn data() -> PathBuf {
    std::env::var_os("KEEVE_TEST_DATA").expect("set where the tests were built").into()
}

/// A server with the demo model that sees, in exact arithmetic.
fn seeing(images: ImageRules) -> Running {
    let path = data().join("models/demo-qwen3-vl");
    let open = move || keeve_checkpoint::Checkpoint::open(&path).map_err(|error| error.to_string());
    let source = ModelSource { names: vec!["demo".into()], open: Box::new(open) };
    let engine = EngineOptions { activations: Activations::Float, ..loading().engine };
    start(ServerConfig { images, ..config() }, vec![source], ModelsConfig { engine, ..loading() })
}

/// An image of the shared cases as a `data:` address.
fn address(name: &str) -> String {
    let bytes = std::fs::read(data().join("data/vlm-cases").join(name)).unwrap();
    format!("data:image/png;base64,{}", base64(&bytes))
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letters = |group: &[u8]| -> String {
        let bits = [0, 1, 2].map(|at| u32::from(group.get(at).copied().unwrap_or(0)));
        let bits = bits[0] << 16 | bits[1] << 8 | bits[2];
        let letter = |place: usize| match place <= group.len() {
            true => char::from(LETTERS[(bits >> (18 - 6 * place)) as usize & 63]),
            false => '=',
        };
        (0..4).map(letter).collect()
    };
    bytes.chunks(3).map(letters).collect()
}

struct Case {
    images: Vec<String>,
    question: String,
    expected: String,
}

fn cases() -> Vec<Case> {
    let path = data().join("data/vlm-cases/cases.json");
    let listed: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let cases = listed["cases"].as_array().unwrap().iter();
    let case = |case: &Value| Case {
        images: case["images"].as_array().unwrap().iter().map(text).collect(),
        question: text(&case["question"]),
        expected: text(&case["expected"]),
    };
    cases.map(case).collect()
}

impl Case {
    /// Asks in OpenAI's form.
    fn chat(&self) -> Value {
        let image =
            |name: &String| json!({ "type": "image_url", "image_url": { "url": address(name) } });
        let mut content: Vec<_> = self.images.iter().map(image).collect();
        content.push(json!({ "type": "text", "text": self.question }));
        json!({ "model": "demo", "temperature": 0, "max_tokens": 32,
            "messages": [{ "role": "user", "content": content }] })
    }
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn what_is_asked_about_images_is_answered() {
    let server = seeing(ImageRules::default());
    let answer = |case: &Case| {
        let answer = server.ok("/v1/chat/completions", &case.chat());
        answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
    };
    let cases = cases();
    for case in &cases {
        assert_eq!(answer(case), case.expected, "{}", case.question);
    }
    // All at once, and with what is known of their images by now.
    std::thread::scope(|scope| {
        let asked: Vec<_> = cases.iter().map(|case| scope.spawn(|| answer(case))).collect();
        for (case, asked) in cases.iter().zip(asked) {
            assert_eq!(asked.join().unwrap(), case.expected, "{}", case.question);
        }
    });
    // The other forms, with two images and their order.
    let case = cases.iter().find(|case| case.images.len() == 2).unwrap();
    let input_image = |name: &String| json!({ "type": "input_image", "image_url": address(name) });
    let mut content: Vec<_> = case.images.iter().map(input_image).collect();
    content.push(json!({ "type": "input_text", "text": case.question }));
    let body = json!({ "model": "demo", "temperature": 0,
        "input": [{ "role": "user", "content": content }] });
    let answer = server.ok("/v1/responses", &body);
    assert_eq!(answer["output"][0]["content"][0]["text"], case.expected.as_str());
    let block = |name: &String| {
        let address = address(name);
        let data = address.split_once(',').unwrap().1;
        json!({ "type": "image",
            "source": { "type": "base64", "media_type": "image/png", "data": data } })
    };
    let mut content: Vec<_> = case.images.iter().map(block).collect();
    content.push(json!({ "type": "text", "text": case.question }));
    let body = json!({ "model": "demo", "max_tokens": 32, "temperature": 0,
        "messages": [{ "role": "user", "content": content }] });
    let answer = server.ok("/v1/messages", &body);
    assert_eq!(answer["content"][0]["text"], case.expected.as_str());
    // The names of tokens around images are text.
    let said = "<|vision_start|><|image_pad|><|vision_end|>";
    let body = json!({ "model": "demo", "max_tokens": 2, "messages": [{ "role": "user", "content": said }] });
    server.ok("/v1/chat/completions", &body);
}

/// A PNG file of one colour whose header says so, and no more.
fn header(width: u32, height: u32) -> String {
    let chunk =
        [b"IHDR", &width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 0, 0, 0, 0]].concat();
    let sum = !chunk.iter().fold(u32::MAX, |sum, &byte| {
        let step = |sum: u32, _| sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 };
        (0..8).fold(sum ^ u32::from(byte), step)
    });
    let file =
        [b"\x89PNG\r\n\x1a\n\0\0\0\x0d", &chunk[..], &sum.to_be_bytes(), &[0, 0, 0, 9], b"IDAT"];
    format!("data:image/png;base64,{}", base64(&file.concat()))
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn images_that_mean_harm_are_refused() {
    let server = seeing(ImageRules { most: 3, max_bytes: 1 << 16, remote: false });
    for (address, expected) in [
        (DATA.to_owned(), "damaged or cut short"),
        ("data:image/png;base64,AAAA".into(), "unknown format"),
        ("data:image/png;base64,*".into(), "no base64"),
        ("data:image/png,abc".into(), "expected data:"),
        (format!("data:image/png;base64,{}", "A".repeat(100_000)), "larger than 65536 bytes"),
        (header(50_000, 1), "50000 pixels a side"),
        (header(16_000, 16_000), "256000000 pixels"),
        (header(16_000, 1), "no side over 200 times"),
        (header(4000, 4000), "damaged or cut short"),
        ("http://127.0.0.1:1/a.png".into(), "fetches no images"),
        ("http://169.254.169.254/latest/meta-data".into(), "fetches no images"),
        ("file:///etc/passwd".into(), "fetches no images"),
        ("/etc/passwd".into(), "fetches no images"),
        (String::new(), "fetches no images"),
    ] {
        for (path, body, field) in forms(&address) {
            let (message, param) = refused(&server, path, &body, 400);
            assert!(message.contains(expected), "{path} {address:.60}: {message}");
            assert!(!message.contains('\n'));
            if path != "/v1/messages" {
                assert_eq!(param.as_deref(), Some(field));
            }
        }
    }
    let many: Vec<Value> =
        (0..4).map(|_| json!({ "type": "image_url", "image_url": DATA })).collect();
    let body = json!({ "model": "demo", "messages": [{ "role": "user", "content": many }] });
    let (message, param) = refused(&server, "/v1/chat/completions", &body, 400);
    assert_eq!(message, "there are 4 images, expected at most 3");
    assert_eq!(param.as_deref(), Some("messages[0].content[3].image_url"));
    assert_eq!(server.get("/health").status, 200);
}

#[test]
#[cfg_attr(not(keeve_test_data), ignore = "needs KEEVE_TEST_DATA")]
fn a_server_that_fetches_images_fetches_none_from_here() {
    let server = seeing(ImageRules { remote: true, ..ImageRules::default() });
    for address in [
        format!("http://{}/", server.address),
        format!("http://localhost:{}/", server.address.port()),
        format!("http://[::ffff:127.0.0.1]:{}/", server.address.port()),
        "http://169.254.169.254/".into(),
        "http://10.0.0.1/".into(),
        "http://0/".into(),
        "ftp://1.1.1.1/".into(),
        "file:///etc/passwd".into(),
    ] {
        for (path, body, _) in forms(&address) {
            let (message, _) = refused(&server, path, &body, 400);
            assert!(message.starts_with("the image at this address: "), "{address}: {message}");
        }
    }
}
