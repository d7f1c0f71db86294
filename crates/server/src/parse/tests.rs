use super::*;

/// What an answer becomes when it arrives in pieces of so many characters.
fn parsed(text: &str, size: usize, reasoning: bool, tools: Option<ToolStyle>) -> Vec<Delta> {
    let mut parser = AnswerParser::new(reasoning, tools);
    let characters: Vec<char> = text.chars().collect();
    let mut deltas = vec![];
    for piece in characters.chunks(size) {
        deltas.extend(parser.push(&piece.iter().collect::<String>()));
    }
    deltas.extend(parser.finish());
    merged(deltas)
}

fn always(text: &str, reasoning: bool, tools: Option<ToolStyle>, expected: &[Delta]) {
    for size in [1, 2, 3, 5, 8, 1000] {
        assert_eq!(parsed(text, size, reasoning, tools), expected, "{text:?} in pieces of {size}");
    }
}

fn text(text: &str) -> Delta {
    Delta::Text(text.into())
}

fn reasoning(text: &str) -> Delta {
    Delta::Reasoning(text.into())
}

fn call(index: usize, name: &str, arguments: &str) -> [Delta; 2] {
    let start = Delta::ToolStart { index, name: name.into() };
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
    let style = Some(ToolStyle::Tagged);
    let answer = "I look.\n<tool_call>\n{\"name\": \"get\", \"arguments\": {\"city\": \"Köln }\\\" {\", \"n\": [1, {}]}}\n</tool_call>\n<tool_call>\n{\"arguments\": {\"a\": 1}, \"name\": \"put\"}\n</tool_call>";
    let mut expected = vec![text("I look.\n")];
    expected.extend(call(0, "get", "{\"city\": \"Köln }\\\" {\", \"n\": [1, {}]}"));
    expected.extend(call(1, "put", "{\"a\": 1}"));
    always(answer, false, style, &expected);
    let answer = "<think>a</think>\n\n<tool_call>{\"name\":\"now\"}</tool_call>";
    let expected = [&[reasoning("a")][..], &call(0, "now", "{}")].concat();
    always(answer, false, style, &expected);
}

#[test]
fn what_is_no_call_stays_text() {
    let style = Some(ToolStyle::Tagged);
    always("a <tool_call> b", false, style, &[text("a <tool_call> b")]);
    always(
        "<tool_call>{\"x\": 1}</tool_call>",
        false,
        style,
        &[text("<tool_call>{\"x\": 1}</tool_call>")],
    );
    always("<tool_call>{\"na", false, style, &[text("<tool_call>{\"na")]);
    let bare = Some(ToolStyle::Bare);
    always("a {\"name\": \"f\"}", false, bare, &[text("a {\"name\": \"f\"}")]);
    always("{\"x\": 1}", false, bare, &[text("{\"x\": 1}")]);
}

#[test]
fn bare_calls_are_the_whole_answer() {
    let style = Some(ToolStyle::Bare);
    let answer = "\n{\"name\": \"get\", \"parameters\": {\"city\": \"Ulm\"}}; {\"name\": \"get\", \"parameters\": {\"city\": \"Bonn\"}}";
    let expected =
        [call(0, "get", "{\"city\": \"Ulm\"}"), call(1, "get", "{\"city\": \"Bonn\"}")].concat();
    always(answer, false, style, &expected);
}

#[test]
fn arguments_written_as_text_are_unwrapped() {
    let answer = "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>";
    always(answer, false, Some(ToolStyle::Tagged), &call(0, "f", "{\"a\": 1}"));
}

#[test]
fn arguments_arrive_as_they_are_generated() {
    let mut parser = AnswerParser::new(false, Some(ToolStyle::Tagged));
    parser.push("<tool_call>{\"name\": \"f\", \"arguments\": {\"a\"");
    assert_eq!(parser.push(": 12"), [Delta::ToolArguments { index: 0, text: ": 12".into() }]);
    assert_eq!(parser.complete_calls(), 0);
    parser.push("}}");
    assert_eq!(parser.complete_calls(), 1);
}

/// What an answer becomes in the pieces that a model's tokens are.
fn by_tokens(tokenizer: &[u8], text: &str, tools: ToolStyle) -> Vec<Delta> {
    let tokenizer = keeve_engine::Tokenizer::from_json(tokenizer, &[]).unwrap();
    let ids = tokenizer.encode(text, false, true).unwrap();
    assert!(ids.len() > 20, "{}", ids.len());
    let mut detokenizer = tokenizer.detokenizer(true);
    let mut parser = AnswerParser::new(false, Some(tools));
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
        text("I look it up.\n\n"),
    ];
    let first = "{\"city\": \"東京\", \"days\": 3, \"units\": {\"temperature\": \"°C\"}}";
    expected.extend(call(0, "get_weather", first));
    let second = "{\"city\": \"Zürich \\\"</tool_call>\\\" 🌦\", \"days\": -1.5e3}";
    expected.extend(call(1, "get_weather", second));
    assert_eq!(by_tokens(tokenizer, answer, ToolStyle::Tagged), expected);
}

#[test]
fn answers_of_llama_3_in_its_tokens() {
    let tokenizer = include_bytes!("../../../../testdata/tokenizers/tok_llama3/tokenizer.json");
    let answer = "{\"name\": \"get_weather\", \"parameters\": {\"city\": \"São Paulo\", \"hours\": [6, 12, 18]}}; {\"name\": \"now\", \"parameters\": {}}<|eot_id|>";
    let mut expected =
        call(0, "get_weather", "{\"city\": \"São Paulo\", \"hours\": [6, 12, 18]}").to_vec();
    expected.extend(call(1, "now", "{}"));
    assert_eq!(by_tokens(tokenizer, answer, ToolStyle::Bare), expected);
    let answer = "The sum of the two numbers {1, 2} is 3, so no tool is needed here.<|eot_id|>";
    let said = answer.trim_end_matches("<|eot_id|>");
    assert_eq!(by_tokens(tokenizer, answer, ToolStyle::Bare), [text(said)]);
}
