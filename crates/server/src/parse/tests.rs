use super::*;

/// A style of a notation without special tokens.
pub(super) fn style(name: &str) -> AnswerStyle {
    let notation = table::NOTATIONS.iter().find(|row| row.name == name).expect(name);
    AnswerStyle::new(Reasoning::default(), notation, false, None)
}

/// All tools of these tests.
pub(super) fn calls() -> Calls {
    let names = ["get", "put", "now", "f", "get_weather"];
    let tools = names.map(|name| (name.to_owned(), None)).to_vec();
    Calls { tools: Arc::new(ToolList(tools)), lenient: true, single: false }
}

/// What an answer becomes when it arrives in these pieces.
pub(super) fn in_pieces<'a>(
    pieces: impl Iterator<Item = &'a str>,
    style: &AnswerStyle,
    reasoning: bool,
    calls: Option<Calls>,
) -> Vec<Delta> {
    let mut parser = AnswerParser::new(style, reasoning, calls);
    let mut deltas: Vec<_> = pieces.flat_map(|piece| parser.push(piece)).collect();
    deltas.extend(parser.finish());
    merged(deltas)
}

/// Checks that an answer becomes the same whole, cut at any place, and character by character.
pub(super) fn however_cut(
    text: &str,
    style: &AnswerStyle,
    reasoning: bool,
    calls: Option<&Calls>,
    expected: &[Delta],
) {
    let parsed =
        |pieces: &[&str]| in_pieces(pieces.iter().copied(), style, reasoning, calls.cloned());
    assert_eq!(parsed(&[text]), expected, "{text:?} whole");
    let cuts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    for &cut in &cuts {
        let (left, right) = text.split_at(cut);
        assert_eq!(parsed(&[left, right]), expected, "{left:?} and {right:?}");
    }
    for size in [1, 2, 3, 5] {
        let ends: Vec<usize> = cuts.iter().copied().step_by(size).chain([text.len()]).collect();
        let pieces: Vec<&str> = ends.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
        assert_eq!(parsed(&pieces), expected, "{text:?} in pieces of {size}");
    }
}

fn always(text: &str, reasoning: bool, tools: Option<&str>, expected: &[Delta]) {
    let calls = tools.map(|_| calls());
    however_cut(text, &style(tools.unwrap_or("hermes")), reasoning, calls.as_ref(), expected);
}

pub(super) fn text(text: &str) -> Delta {
    Delta::Text(text.into())
}

pub(super) fn reasoning(text: &str) -> Delta {
    Delta::Reasoning(text.into())
}

pub(super) fn call(index: usize, name: &str, arguments: &str) -> [Delta; 2] {
    let start = Delta::ToolStart { index, id: None, name: name.into() };
    [start, Delta::ToolArguments { index, text: arguments.into() }]
}

#[test]
fn reasoning_is_split_from_the_answer() {
    always("plain < text", false, None, &[text("plain < text")]);
    let expected = [reasoning("\nhm </thin\n"), text("yes <think>")];
    always("<think>\nhm </thin\n</think>\n\nyes <think>", false, None, &expected);
    always("hm</think>\n\nyes", true, None, &[reasoning("hm"), text("yes")]);
    always("cut off", true, None, &[reasoning("cut off")]);
    always("<thin", false, None, &[text("<thin")]);
    always("<think></think>", false, None, &[]);
}

#[test]
fn tagged_calls_are_found_between_text() {
    let style = Some("hermes");
    let answer = "I look.\n<tool_call>\n{\"name\": \"get\", \"arguments\": {\"city\": \"Köln }\\\" {\", \"n\": [1, {}]}}\n</tool_call>\n<tool_call>\n{\"arguments\": {\"a\": 1}, \"name\": \"put\"}\n</tool_call>";
    let mut expected = vec![text("I look.")];
    expected.extend(call(0, "get", "{\"city\": \"Köln }\\\" {\", \"n\": [1, {}]}"));
    expected.extend(call(1, "put", "{\"a\": 1}"));
    always(answer, false, style, &expected);
    let answer = "<think>a</think>\n\n<tool_call>{\"name\":\"now\"}</tool_call>";
    let expected = [&[reasoning("a")][..], &call(0, "now", "{}")].concat();
    always(answer, false, style, &expected);
}

#[test]
fn what_is_no_call_stays_text() {
    let style = Some("hermes");
    always("a <tool_call> b", false, style, &[text("a <tool_call> b")]);
    always(
        "<tool_call>{\"x\": 1}</tool_call>",
        false,
        style,
        &[text("<tool_call>{\"x\": 1}</tool_call>")],
    );
    always("<tool_call>{\"na", false, style, &[text("<tool_call>{\"na")]);
    let bare = Some("llama-3");
    always("a {\"name\": \"f\"}", false, bare, &[text("a {\"name\": \"f\"}")]);
    always("{\"x\": 1}", false, bare, &[text("{\"x\": 1}")]);
}

#[test]
fn bare_calls_are_the_whole_answer() {
    let style = Some("llama-3");
    let answer = "\n{\"name\": \"get\", \"parameters\": {\"city\": \"Ulm\"}}; {\"name\": \"get\", \"parameters\": {\"city\": \"Bonn\"}}";
    let expected =
        [call(0, "get", "{\"city\": \"Ulm\"}"), call(1, "get", "{\"city\": \"Bonn\"}")].concat();
    always(answer, false, style, &expected);
}

#[test]
fn arguments_written_as_text_are_unwrapped() {
    let answer = "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>";
    always(answer, false, Some("hermes"), &call(0, "f", "{\"a\": 1}"));
}

#[test]
fn long_arguments_arrive_as_they_are_generated() {
    let mut parser = AnswerParser::new(&style("hermes"), false, Some(calls()));
    let begun = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"";
    assert_eq!(parser.push(begun), []);
    let long = "x".repeat(300);
    let given = call(0, "f", &format!("{{\"a\": \"{long}"));
    assert_eq!(parser.push(&long), given);
    assert_eq!(parser.push("yz"), [Delta::ToolArguments { index: 0, text: "yz".into() }]);
    assert_eq!(parser.complete_calls(), 0);
    parser.push("\"}}");
    assert_eq!(parser.complete_calls(), 1);
}

/// What an answer becomes in the pieces that a model's tokens are.
fn by_tokens(tokenizer: &[u8], text: &str, tools: &str) -> Vec<Delta> {
    let tokenizer = keeve_engine::Tokenizer::from_json(tokenizer, &[]).unwrap();
    let ids = tokenizer.encode(text, false, true).unwrap();
    assert!(ids.len() > 20, "{}", ids.len());
    let mut detokenizer = tokenizer.detokenizer(true);
    let mut parser = AnswerParser::new(&style(tools), false, Some(calls()));
    let mut deltas = vec![];
    for id in ids {
        deltas.extend(parser.push(&detokenizer.push(id).unwrap().unwrap_or_default()));
    }
    deltas.extend(parser.push(&detokenizer.finish().unwrap_or_default()));
    deltas.extend(parser.finish());
    merged(deltas)
}

#[test]
fn answers_of_qwen_in_its_tokens() {
    let tokenizer = include_bytes!("../../../../testdata/tokenizers/tok_qwen/tokenizer.json");
    // As Qwen3 writes them: reasoning, text, calls with characters of several tokens.
    let answer = "<think>\nThe user wants the weather in two cities, 東京 and Zürich.\n</think>\n\nI look it up.\n\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"東京\", \"days\": 3, \"units\": {\"temperature\": \"°C\"}}}\n</tool_call>\n<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Zürich \\\"</tool_call>\\\" 🌦\", \"days\": -1.5e3}}\n</tool_call><|im_end|>";
    let mut expected = vec![
        reasoning("\nThe user wants the weather in two cities, 東京 and Zürich.\n"),
        text("I look it up."),
    ];
    let first = "{\"city\": \"東京\", \"days\": 3, \"units\": {\"temperature\": \"°C\"}}";
    expected.extend(call(0, "get_weather", first));
    let second = "{\"city\": \"Zürich \\\"</tool_call>\\\" 🌦\", \"days\": -1.5e3}";
    expected.extend(call(1, "get_weather", second));
    assert_eq!(by_tokens(tokenizer, answer, "hermes"), expected);
}

#[test]
fn answers_of_llama_3_in_its_tokens() {
    let tokenizer = include_bytes!("../../../../testdata/tokenizers/tok_llama3/tokenizer.json");
    let answer = "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"São Paulo\", \"hours\": [6, 12, 18]}}; {\"name\": \"now\", \"parameters\": {}}<|eot_id|>";
    let mut expected =
        call(0, "get_weather", "{\"city\": \"São Paulo\", \"hours\": [6, 12, 18]}").to_vec();
    expected.extend(call(1, "now", "{}"));
    assert_eq!(by_tokens(tokenizer, answer, "llama-3"), expected);
    let answer = "The sum of the two numbers {1, 2} is 3, so no tool is needed here.<|eot_id|>";
    let said = answer.trim_end_matches("<|eot_id|>");
    assert_eq!(by_tokens(tokenizer, answer, "llama-3"), [text(said)]);
}
