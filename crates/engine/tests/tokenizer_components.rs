//! Every component type of a `tokenizer.json` against the `tokenizers` crate, and files that make texts grow.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use keeve_engine::tokenizer::Tokenizer;
use proptest::prelude::*;
use serde_json::{Value, json};

const TOKENS: [&str; 28] = [
    "[UNK]",
    "<s>",
    "</s>",
    "<pad>",
    "hello",
    "##lo",
    "##",
    "\u{2581}the",
    "\u{2581}",
    "a",
    "b",
    "ab",
    "a</w>",
    "</w>",
    "|",
    " .",
    "n't",
    "<0xE4>",
    "<0xBD>",
    "<0xA0>",
    "<0x41>",
    "\u{120}b",
    "\u{10a}",
    "\u{e4}\u{bd}",
    "x y",
    "!",
    "'",
    "\u{fffd}",
];

fn added(content: &str, id: usize) -> Value {
    json!({"id": id, "content": content, "special": true, "normalized": false, "lstrip": false, "rstrip": false,
        "single_word": false})
}

/// A tokenizer of words, with the given sections.
fn tokenizer_json(sections: &[(&str, Value)]) -> Value {
    let vocab: serde_json::Map<String, Value> =
        TOKENS.iter().enumerate().map(|(id, text)| ((*text).to_owned(), id.into())).collect();
    let mut json = json!({"version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added("<s>", 1), added("</s>", 2)], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "[UNK]"}});
    for (name, section) in sections {
        json[*name] = section.clone();
    }
    json
}

fn ours(json: &Value) -> Result<Tokenizer, String> {
    Tokenizer::from_json(json.to_string().as_bytes(), &[]).map_err(|error| error.to_string())
}

fn theirs(json: &Value) -> tokenizers::Tokenizer {
    json.to_string().parse().unwrap()
}

fn sequence(decoders: &[Value]) -> Value {
    json!({"type": "Sequence", "decoders": decoders})
}

fn decoders() -> Vec<Value> {
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let pattern = json!({"type": "Replace", "pattern": {"Regex": "[a-b]+"}, "content": "_"});
    let strip = |start: usize, stop: usize| json!({"type": "Strip", "content": " ", "start": start, "stop": stop});
    let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": scheme, "split": true});
    let (fallback, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let word_piece =
        |cleanup: bool| json!({"type": "WordPiece", "prefix": "##", "cleanup": cleanup});
    let bpe = json!({"type": "BPEDecoder", "suffix": "</w>"});
    let ctc = |cleanup: bool| json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": cleanup});
    vec![
        Value::Null,
        byte_level.clone(),
        metaspace("always"),
        metaspace("never"),
        metaspace("first"),
        word_piece(true),
        word_piece(false),
        bpe.clone(),
        ctc(true),
        ctc(false),
        fallback.clone(),
        fuse.clone(),
        replace("a", "\u{2581}\u{2581}"),
        pattern.clone(),
        strip(1, 0),
        sequence(&[]),
        sequence(&[replace("\u{2581}", " "), fallback.clone(), fuse.clone(), strip(1, 0)]),
        sequence(&[replace("\u{2581}", " "), fallback.clone(), strip(1, 0), fuse.clone()]),
        sequence(&[replace("\u{2581}", " "), fallback.clone(), pattern.clone()]),
        sequence(&[fallback, fuse.clone(), replace("he", "\u{2581}"), replace("ab", "a")]),
        sequence(&[bpe.clone(), fuse.clone(), strip(0, 2)]),
        sequence(&[sequence(&[metaspace("always")]), fuse.clone(), strip(2, 1)]),
        sequence(&[word_piece(true), replace("hello", "x")]),
        sequence(&[byte_level.clone(), replace("lo", "\u{e9}"), strip(1, 1)]),
        sequence(&[replace("\u{2581}", "\u{120}"), byte_level]),
        sequence(&[ctc(true), replace("e", "i"), fuse]),
        sequence(&[bpe, word_piece(false), pattern]),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Pushed one by one, ids become what the library makes of all of them.
    #[test]
    fn every_decoder_streams_what_the_library_decodes(
        ids in prop::collection::vec(0u32..28, 1..14),
        skip_special: bool,
    ) {
        for decoder in decoders() {
            let json = tokenizer_json(&[("decoder", decoder.clone())]);
            // The library subtracts past zero where there are no tokens (BPEDecoder), or where all of a short one is
            // stripped (Strip): then it says nothing.
            let library = || theirs(&json).decode(&ids, skip_special);
            let Ok(expected) = catch_unwind(AssertUnwindSafe(library)) else { continue };
            let expected = expected.unwrap();
            prop_assert_eq!(ours(&json).unwrap().decode(&ids, skip_special).unwrap(), expected, "{}", decoder);
        }
    }
}

const TEXTS: [&str; 14] = [
    "",
    " ",
    "hello world",
    "Hello,  World! it's 12345",
    "<s>a b</s>  x",
    "H\u{c9}llo na\u{ef}ve e\u{301}\u{323} \u{fb01}ne \u{ff21}",
    "\u{6771}\u{4eac}a\u{65e5}\u{672c} \u{1f680}\u{1f680}",
    "a\nb\n\nc\t\u{3000}d\u{a0}e",
    "\u{0}\u{1}\u{fffd}x\u{200b}",
    "aaaa   bbbb--cc_dd",
    "\u{2581}a\u{2581}b",
    "12 345\u{664}\u{665} \u{bd}",
    "supercalifragilisticexpialidociousaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "l'\u{e9}t\u{e9} \"q\" (x)",
];

/// Ids equal the library's, whatever there is, and are no fewer than their bound.
fn same_ids(sections: &[(&str, Value)]) {
    let json = tokenizer_json(sections);
    let (ours, theirs) = (ours(&json).unwrap(), theirs(&json));
    for text in TEXTS {
        for special in [false, true] {
            let ids = ours.encode(text, special, true).unwrap();
            let expected = theirs.encode_fast(text, special).unwrap();
            assert_eq!(ids, expected.get_ids(), "{sections:?} {text:?}");
            assert!(ours.least_tokens(text) <= ids.len(), "{sections:?} {text:?}");
        }
    }
}

#[test]
fn every_model_encodes_as_the_library_does() {
    let letters = || ('!'..='~').chain("\u{120}\u{10a}\u{109}\u{2581}\u{c3}\u{a9}".chars());
    let vocab = |more: &[&str]| -> serde_json::Map<String, Value> {
        let texts = more.iter().map(|text| (*text).to_owned()).chain(letters().map(String::from));
        texts.enumerate().map(|(id, text)| (text, id.into())).collect()
    };
    let bpe = |more: &[&str], merges: &[&str], fields: Value| {
        let mut model = json!({"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab(more), "merges": merges});
        for (name, value) in fields.as_object().unwrap() {
            model[name] = value.clone();
        }
        model
    };
    let split = ("pre_tokenizer", json!({"type": "Whitespace"}));
    let bytes: Vec<String> = (0..256).map(|byte| format!("<0x{byte:02X}>")).collect();
    let bytes: Vec<&str> = bytes.iter().map(String::as_str).collect();
    for model in [
        bpe(&["he", "ll", "hell"], &["h e", "l l", "he ll"], json!({})),
        bpe(&["[UNK]", "he"], &["h e"], json!({"unk_token": "[UNK]", "fuse_unk": true})),
        bpe(&["[UNK]", "he"], &["h e"], json!({"unk_token": "[UNK]"})),
        bpe(&["##e", "##l", "he"], &["h ##e"], json!({"continuing_subword_prefix": "##"})),
        bpe(&["o</w>", "lo</w>"], &["l o</w>"], json!({"end_of_word_suffix": "</w>"})),
        bpe(&bytes, &[], json!({"byte_fallback": true})),
        bpe(&["hello"], &[], json!({"ignore_merges": true})),
    ] {
        same_ids(&[("model", model), ("added_tokens", json!([])), split.clone()]);
    }
    let pieces: Vec<Value> = std::iter::once(json!(["[UNK]", 0.0]))
        .chain(letters().map(|letter| json!([letter.to_string(), -3.0])))
        .chain([json!(["hell", -1.0]), json!(["\u{2581}a", -1.5])])
        .collect();
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
    let unigram = json!({"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": false});
    same_ids(&[("model", unigram), ("added_tokens", json!([])), ("pre_tokenizer", metaspace)]);
    let word_piece = json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100, "vocab": vocab(&["[UNK]", "hello", "##a", "##b", "wor", "##ld"])});
    same_ids(&[("model", word_piece), ("added_tokens", json!([])), split]);
    same_ids(&[]);
}

#[test]
fn every_component_before_the_model_works_as_in_the_library() {
    let normalizers = [
        json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null, "lowercase": true}),
        json!({"type": "Strip", "strip_left": true, "strip_right": true}),
        json!({"type": "StripAccents"}),
        json!({"type": "NFC"}),
        json!({"type": "NFD"}),
        json!({"type": "NFKC"}),
        json!({"type": "NFKD"}),
        json!({"type": "Lowercase"}),
        json!({"type": "Nmt"}),
        json!({"type": "Prepend", "prepend": "\u{2581}"}),
        json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"}),
        json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}),
        json!({"type": "ByteLevel"}),
        json!({"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}]}),
    ];
    for normalizer in normalizers {
        same_ids(&[("normalizer", normalizer)]);
    }
    let punctuation = |behavior: &str| json!({"type": "Punctuation", "behavior": behavior});
    let pre_tokenizers = [
        Value::Null,
        json!({"type": "BertPreTokenizer"}),
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}),
        json!({"type": "CharDelimiterSplit", "delimiter": "-"}),
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true}),
        json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "never", "split": false}),
        json!({"type": "Whitespace"}),
        json!({"type": "WhitespaceSplit"}),
        punctuation("Removed"),
        punctuation("Isolated"),
        punctuation("MergedWithPrevious"),
        punctuation("MergedWithNext"),
        punctuation("Contiguous"),
        json!({"type": "Split", "pattern": {"Regex": "\\d"}, "behavior": "Removed", "invert": false}),
        json!({"type": "Split", "pattern": {"String": "l"}, "behavior": "Isolated", "invert": true}),
        json!({"type": "Digits", "individual_digits": true}),
        json!({"type": "UnicodeScripts"}),
        json!({"type": "FixedLength", "length": 3}),
        json!({"type": "Sequence", "pretokenizers": [{"type": "Whitespace"}, {"type": "Digits", "individual_digits": false}]}),
    ];
    for pre_tokenizer in pre_tokenizers {
        same_ids(&[("pre_tokenizer", pre_tokenizer)]);
    }
    let template = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}, "</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    for processor in [
        json!({"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]}),
        json!({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1], "trim_offsets": true, "add_prefix_space": true}),
        byte_level.clone(),
        template.clone(),
        json!({"type": "Sequence", "processors": [byte_level, template]}),
    ] {
        same_ids(&[("post_processor", processor)]);
    }
}

#[test]
fn dropout_is_not_applied_and_told() {
    let model = json!({"type": "BPE", "dropout": 0.9, "unk_token": null, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
        "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]});
    let json = tokenizer_json(&[("model", model), ("added_tokens", json!([]))]);
    let tokenizer = ours(&json).unwrap();
    for _ in 0..20 {
        assert_eq!(tokenizer.encode("ab", false, false).unwrap(), [2]);
    }
    assert!(tokenizer.notes()[0].contains("dropout"));
}

#[test]
fn files_that_make_texts_grow_are_refused_in_one_line() {
    let grow = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"});
    let many = |kind: &str, field: &str, count: usize, one: Value| json!({"type": kind, field: vec![one; count]});
    let a = json!({"Sequence": {"id": "A", "type_id": 0}});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let long = "x".repeat(1 << 20);
    let twice =
        json!({"type": "TemplateProcessing", "single": [a, a], "pair": [], "special_tokens": {}});
    let none = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "q", "type_id": 0}}, a],
        "pair": [], "special_tokens": {}});
    let past = json!({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "q", "type_id": 0}}, a],
        "pair": [], "special_tokens": {"q": {"id": "q", "ids": [99], "tokens": ["q"]}}});
    let second = json!({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "B", "type_id": 0}}], "pair": [], "special_tokens": {}});
    let charsmap = |map: &str| json!({"type": "Precompiled", "precompiled_charsmap": map});
    for (field, value, expected) in [
        ("normalizer", many("Sequence", "normalizers", 12, grow.clone()), "times as long"),
        (
            "normalizer",
            json!({"type": "Prepend", "prepend": long}),
            "'prepend' of Prepend has 1048576 bytes",
        ),
        (
            "normalizer",
            json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "x".repeat(9999)}),
            "times as long",
        ),
        ("normalizer", charsmap("/////wAAAAAAAAAA"), "precompiled_charsmap"),
        ("normalizer", charsmap("AAAA"), "precompiled_charsmap"),
        ("normalizer", charsmap("!"), "not base64"),
        (
            "pre_tokenizer",
            many("Sequence", "pretokenizers", 3000, byte_level.clone()),
            "more than 128 components",
        ),
        ("pre_tokenizer", many("Sequence", "pretokenizers", 20, byte_level), "times as long"),
        (
            "post_processor",
            json!({"type": "TemplateProcessing", "single": vec![a.clone(); 500], "pair": [], "special_tokens": {}}),
            "more than 128 components",
        ),
        ("post_processor", twice, "2 times"),
        ("post_processor", none, "post_processor"),
        ("post_processor", past, "99"),
        ("post_processor", second, "names sequence"),
        (
            "decoder",
            json!({"type": "Replace", "pattern": {"String": "a"}, "content": long}),
            "'content' of Replace",
        ),
        (
            "model",
            json!({"type": "WordLevel", "vocab": {"x": 0, long.as_str(): 1}, "unk_token": "x"}),
            "model.vocab has a text of 1048576 bytes",
        ),
        (
            "model",
            json!({"type": "Unigram", "unk_id": 0, "vocab": [["x", 0.0], ["y".repeat(9999), -1.0]]}),
            "model.vocab has a text of 9999 bytes",
        ),
        (
            "model",
            json!({"type": "Unigram", "unk_id": 0,
                "vocab": (1..400).map(|count| json!(["x".repeat(count), -1.0])).collect::<Vec<_>>()}),
            "begin one another",
        ),
        (
            "model",
            json!({"type": "WordPiece", "vocab": {"x": 0}, "unk_token": "x",
                "continuing_subword_prefix": "##", "max_input_chars_per_word": 1u64 << 40}),
            "model.max_input_chars_per_word is 1099511627776",
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"x": 0}, "merges": [], "continuing_subword_prefix": long}),
            "model.continuing_subword_prefix has 1048576 bytes",
        ),
        (
            "model",
            json!({"type": "BPE", "vocab": {"x": 0}, "merges": [], "end_of_word_suffix": long}),
            "model.end_of_word_suffix has 1048576 bytes",
        ),
        (
            "decoder",
            many("Sequence", "decoders", 300, json!({"type": "Fuse"})),
            "more than 128 components",
        ),
        ("added_tokens", json!([added(&long, 28)]), "added token 28 has 1048576 bytes"),
        (
            "added_tokens",
            Value::Array(
                (0..1000).map(|id| added(&format!("{id}{}", "x".repeat(16000)), 28 + id)).collect(),
            ),
            "added tokens have",
        ),
    ] {
        let error = ours(&tokenizer_json(&[(field, value)])).unwrap_err();
        assert!(error.contains(expected) && !error.contains('\n'), "{field}: {error}");
        assert!(error.len() < 400, "{field}: {error}");
    }
}

/// What a file may do within its limits is limited again by the text.
#[test]
fn texts_that_would_become_too_long_are_refused_and_ordinary_ones_are_not() {
    let grow = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaaaa"});
    let normalizer = json!({"type": "Sequence", "normalizers": [grow, grow, grow]});
    let tokenizer = ours(&tokenizer_json(&[("normalizer", normalizer)])).unwrap();
    let error = tokenizer.encode(&"a".repeat(1 << 17), false, true).unwrap_err().to_string();
    assert!(error.contains("131072"), "{error}");
    assert_eq!(tokenizer.encode(&"b ".repeat(1 << 17), false, true).unwrap().len(), 1 << 17);
}
