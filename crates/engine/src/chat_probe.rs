//! Finds out what forms of messages a template reads, by rendering conversations of words that nobody uses.
//!
//! APIs give content as text or as a list of parts, and arguments of tool calls as JSON text or as an
//! object. Templates often read one of these only: the other is printed as a data structure, is lost, or
//! ends in an error. Which it is shows in the characters that come from the messages: they should spell
//! the words and nothing else.

use std::collections::BTreeMap;

use keeve_jinja::{Char, Limits};
use serde_json::{Value, json};

use crate::chat::{ChatError, RenderOptions};
use crate::chat_message::{Arguments, Content, ContentForm, Message, Part};

/// What a template can read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Forms {
    /// The form of content by role.
    pub roles: BTreeMap<&'static str, ContentForm>,
    /// That of other roles.
    pub other: ContentForm,
    pub arguments: Arguments,
    /// A message without content is an error, and one with an empty text is not.
    pub needs_content: bool,
}

impl Forms {
    pub fn of(&self, role: &str) -> ContentForm {
        self.roles.get(role).copied().unwrap_or(self.other)
    }
}

/// Renders messages in the forms given.
pub(crate) type Render<'a> =
    dyn Fn(&[Message], &RenderOptions, &Forms, Limits) -> Result<Vec<Char>, ChatError> + 'a;

/// Conversations that templates accept, by role; most accept the first.
const SHAPES: [&[&str]; 4] = [
    &["system", "user", "assistant", "user"],
    &["user", "assistant", "user"],
    &["system", "user"],
    &["user"],
];

/// Words, one for each message. No alphabet, role or field of a message has them in it.
const WORDS: [&str; 4] = ["vokzaq", "pluwix", "jemtud", "ghibof"];

/// The words of a tool call: its id (some templates want nine letters), function, parameter and argument.
const CALL: [&str; 4] = ["qdrvzkwtb", "zubkij", "wefhup", "xaryk"];

/// What one probe may cost. A hostile template is given up after the first that costs more.
pub(crate) const LIMITS: Limits = Limits { steps: 500_000, characters: 4 << 20 };

/// Which content a role is given as text rather than as parts.
type AsText<'a> = &'a dyn Fn(&str) -> bool;

struct Probe<'a> {
    render: &'a Render<'a>,
}

/// Why no more is tried.
struct Costly;

pub(crate) fn probe(render: &Render) -> Forms {
    let probe = Probe { render };
    // What is too costly to find out is left as it is given.
    let mut forms = probe.contents().unwrap_or_default();
    if let Ok((arguments, needs_content)) = probe.calls(&forms) {
        (forms.arguments, forms.needs_content) = (arguments, needs_content);
    }
    forms
}

fn message(role: &str, word: &str, as_text: bool) -> Message {
    match as_text {
        true => Message::text(role, word),
        false => Message::parts(role, vec![Part::text(word)]),
    }
}

/// What came in with the messages, in lower case.
fn foreign(rendered: &[Char]) -> String {
    let foreign = rendered.iter().filter(|c| c.is_foreign());
    foreign.flat_map(|c| c.get().to_lowercase()).collect()
}

impl Probe<'_> {
    fn render(&self, messages: &[Message], forms: &Forms) -> Result<Option<Vec<Char>>, Costly> {
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        match (self.render)(messages, &options, forms, LIMITS) {
            Ok(rendered) => Ok(Some(rendered)),
            Err(ChatError::TooManySteps | ChatError::TooLong) => Err(Costly),
            Err(_) => Ok(None),
        }
    }

    /// How many messages of these roles are shown: the last one's word must be there, and nothing but words.
    fn shows(&self, shape: &[&str], as_text: AsText) -> Result<usize, Costly> {
        let messages = shape.iter().zip(WORDS);
        let messages: Vec<_> =
            messages.map(|(role, word)| message(role, word, as_text(role))).collect();
        let Some(rendered) = self.render(&messages, &Forms::default())? else { return Ok(0) };
        let mut shown = foreign(&rendered);
        let last = shown.contains(WORDS[shape.len() - 1]);
        let count = WORDS.iter().filter(|word| shown.contains(*word)).count();
        for word in WORDS {
            shown = shown.replace(word, " ");
        }
        Ok(if last && !shown.contains(char::is_alphanumeric) { count } else { 0 })
    }

    fn contents(&self) -> Result<Forms, Costly> {
        let bases: [AsText; 4] =
            [&|_| true, &|_| false, &|role| role != "user", &|role| role == "system"];
        let mut forms = Forms::default();
        for shape in SHAPES {
            if shape.iter().all(|role| forms.roles.contains_key(role)) {
                continue;
            }
            let mut best: Option<(usize, AsText)> = None;
            for base in bases {
                let count = self.shows(shape, base)?;
                if count > best.map_or(0, |(most, _)| most) {
                    best = Some((count, base));
                }
            }
            if let Some((most, base)) = best {
                for role in ["system", "user", "assistant"] {
                    if !shape.contains(&role) || forms.roles.contains_key(role) {
                        continue;
                    }
                    let turned = |other: &str| base(other) != (other == role);
                    let form = match (self.shows(shape, &turned)? >= most, base(role)) {
                        (true, _) => ContentForm::AsGiven,
                        (false, true) => ContentForm::TextOnly,
                        (false, false) => ContentForm::PartsOnly,
                    };
                    forms.roles.insert(role, form);
                }
            }
        }
        // A role that no conversation was accepted with is read as the user's messages are.
        forms.other = forms.of("user");
        if let Some(tool) = self.tool_content(&forms)? {
            forms.roles.insert("tool", tool);
        }
        Ok(forms)
    }

    /// A question, a tool call and, if there is one, its result.
    fn call(
        &self,
        arguments: Value,
        content: Option<&str>,
        result: Option<Message>,
    ) -> Vec<Message> {
        let [id, name, ..] = CALL;
        let call = json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}});
        let content = content.map(|text| Content::Text(text.to_owned()));
        let calling = Message {
            role: "assistant".to_owned(),
            content,
            tool_calls: Some(vec![call]),
            ..Message::default()
        };
        let result = result.map(|message| Message {
            tool_call_id: Some(id.to_owned()),
            name: Some(name.to_owned()),
            ..message
        });
        [Message::text("user", WORDS[0]), calling].into_iter().chain(result).collect()
    }

    fn tool_content(&self, forms: &Forms) -> Result<Option<ContentForm>, Costly> {
        let shows = |as_text: bool| -> Result<bool, Costly> {
            let result = message("tool", WORDS[1], as_text);
            let mut as_given = forms.clone();
            as_given.roles.insert("tool", ContentForm::AsGiven);
            let messages = self.call(json!({}), Some(""), Some(result));
            let Some(rendered) = self.render(&messages, &as_given)? else { return Ok(false) };
            let mut shown = foreign(&rendered);
            let there = shown.contains(WORDS[1]);
            for word in WORDS.into_iter().chain(CALL).chain(["function"]) {
                shown = shown.replace(word, " ");
            }
            Ok(there && !shown.contains(char::is_alphanumeric))
        };
        Ok(match (shows(true)?, shows(false)?) {
            (true, false) => Some(ContentForm::TextOnly),
            (false, true) => Some(ContentForm::PartsOnly),
            (true, true) => Some(ContentForm::AsGiven),
            (false, false) => None,
        })
    }

    /// What arguments of tool calls should be, and whether there must be content beside calls.
    fn calls(&self, forms: &Forms) -> Result<(Arguments, bool), Costly> {
        let [_, _, key, value] = CALL;
        let object = json!({key: value});
        let render = |arguments: Arguments, needs_content: bool| {
            let forms = Forms { arguments, needs_content, ..forms.clone() };
            let result = message("tool", WORDS[1], true);
            let messages = self.call(object.clone(), None, Some(result));
            let rendered = self.render(&messages, &forms)?;
            Ok::<_, Costly>(rendered.map(|text| text.iter().map(|c| c.get()).collect::<String>()))
        };
        let mut needs_content = false;
        if render(Arguments::Object, false)?.is_none() && render(Arguments::Text, false)?.is_none()
        {
            needs_content = render(Arguments::Object, true)?.is_some()
                || render(Arguments::Text, true)?.is_some();
        }
        // Python's quotes show an object that was printed, escaped ones a text that was quoted.
        let fits = |arguments: Arguments, wrong: String| -> Result<bool, Costly> {
            let shown = render(arguments, needs_content)?;
            Ok(shown.is_some_and(|text| text.contains(value) && !text.contains(&wrong)))
        };
        let as_object = fits(Arguments::Object, format!("'{key}'"))?;
        let arguments = match as_object || !fits(Arguments::Text, format!("\\\"{key}\\\""))? {
            true => Arguments::Object,
            false => Arguments::Text,
        };
        Ok((arguments, needs_content))
    }
}
