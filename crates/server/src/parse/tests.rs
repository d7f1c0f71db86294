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
