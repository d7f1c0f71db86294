//! What was said, and how much of it the model is shown.

use std::path::Path;
use std::sync::Arc;

use keeve::engine::chat::Part;
use keeve::image::Patches;
use keeve::{Engine, Message, RenderOptions};
use keeve_files::{part, whole};
use serde_json::{Map, Value, json};

use crate::images::Image;
use crate::interrupt;

/// Larger files are no conversations.
const MAX_FILE: u64 = 16 << 20;

/// A conversation: a system prompt, then messages in turn, the person's first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    pub system: Option<String>,
    turns: Vec<Turn>,
    /// Variables of the chat template.
    pub template_args: Map<String, Value>,
}

/// What was said at a time, and what was shown with it.
#[derive(Debug, Clone, PartialEq)]
struct Turn {
    role: &'static str,
    text: String,
    images: Vec<Image>,
}

impl Turn {
    /// As the chat template takes it. Images come before the text.
    fn message(&self) -> Message {
        if self.images.is_empty() {
            return Message::text(self.role, &self.text);
        }
        let images = self.images.iter().map(|_| Part::image());
        Message::parts(self.role, images.chain([Part::text(&self.text)]).collect())
    }

    /// As a file has it: images by their paths.
    fn to_value(&self) -> Value {
        if self.images.is_empty() {
            return json!({ "role": self.role, "content": self.text });
        }
        let image = |image: &Image| json!({ "type": "image", "image": image.path });
        let mut content: Vec<_> = self.images.iter().map(image).collect();
        content.push(json!({ "type": "text", "text": self.text }));
        json!({ "role": self.role, "content": content })
    }
}

/// What the model is shown before it goes on with its reply.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Each image is one token here.
    pub ids: Vec<u32>,
    pub images: Vec<Arc<Patches>>,
    /// Messages at the beginning that were left out.
    pub left_out: usize,
}

impl Conversation {
    /// One in which nothing was said yet.
    pub fn new(system: Option<String>, template_args: Map<String, Value>) -> Self {
        Self { system, turns: vec![], template_args }
    }

    /// Forgets what was said, but not the system prompt.
    pub fn clear(&mut self) {
        self.turns.clear();
    }

    /// The person says something, and shows images with it.
    pub fn ask(&mut self, text: &str, images: Vec<Image>) {
        self.turns.push(Turn { role: "user", text: text.into(), images });
    }

    /// The model said something.
    pub fn reply(&mut self, text: &str) {
        self.turns.push(Turn { role: "assistant", text: text.into(), images: vec![] });
    }

    /// The person's last message is taken back. Gives the images that came with it.
    pub fn take_back(&mut self) -> Vec<Image> {
        self.turns.pop().map(|turn| turn.images).unwrap_or_default()
    }

    /// The messages, the system prompt first.
    fn messages(&self, left_out: usize) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::text("system", text));
        system.chain(self.turns[left_out..].iter().map(Turn::message)).collect()
    }

    /// The conversation as tokens, with `reply` as the beginning of the model's answer, so that at
    /// most `window` tokens are left when `room` more have been generated.
    ///
    /// If that is too much, the oldest question and its answer are left out, then the next, and finally
    /// the oldest tokens of the reply; never the system prompt or the last question. What remains is a
    /// conversation of its own: its tokens have positions from zero, and what changed is computed again.
    pub fn prompt(
        &self,
        engine: &Engine,
        reply: &[u32],
        window: usize,
        room: usize,
    ) -> Result<Prompt, String> {
        let options = RenderOptions {
            add_generation_prompt: true,
            extra: self.template_args.clone(),
            ..RenderOptions::default()
        };
        let mut left_out = 0;
        loop {
            let messages = self.messages(left_out);
            let ids = interrupt::until(|| engine.chat_prompt(&messages, &options));
            let mut ids = ids.map_err(|error| error.to_string())?;
            let shown = || self.turns[left_out..].iter().flat_map(|turn| &turn.images);
            let images = shown().map(|image| image.patches.clone()).collect();
            // The place of each image is one of its tokens already.
            let tokens = ids.len() + shown().map(|image| image.tokens - 1).sum::<usize>();
            if tokens + reply.len() + room <= window {
                ids.extend(reply);
                return Ok(Prompt { ids, images, left_out });
            }
            if left_out + 2 < self.turns.len() {
                left_out += 2;
                continue;
            }
            let Some(kept) = window.checked_sub(tokens + room).filter(|_| !reply.is_empty()) else {
                return Err(format!(
                    "this message and the system prompt are {tokens} tokens, but the window is {window}, \
                     of which {room} are for the reply"
                ));
            };
            ids.extend(&reply[reply.len() - kept.min(reply.len())..]);
            return Ok(Prompt { ids, images, left_out });
        }
    }

    /// Writes the conversation to a file, which is replaced as a whole.
    pub fn save(&self, path: &Path) -> Result<usize, String> {
        let system = self.system.iter().map(|text| json!({ "role": "system", "content": text }));
        let messages: Vec<_> = system.chain(self.turns.iter().map(Turn::to_value)).collect();
        let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = serde_json::to_string_pretty(&json!({ "messages": messages }))
            .map_err(|error| problem(&error))?;
        part::replace(path, (text + "\n").as_bytes()).map_err(|error| problem(&error))?;
        Ok(messages.len())
    }

    /// Reads a conversation from a file: an object with `messages`, or the messages alone. Images are
    /// read from their own files by `image`.
    pub fn load(
        &self,
        path: &Path,
        image: &dyn Fn(&Path) -> Result<Image, String>,
    ) -> Result<Self, String> {
        let problem = |problem: &str| format!("{}: {problem}", path.display());
        let text =
            whole::read(path, MAX_FILE, "a conversation").map_err(|error| error.to_string())?;
        let mut value: Value = serde_json::from_slice(&text)
            .map_err(|error| problem(&format!("is no JSON: {error}")))?;
        let list = match value.get_mut("messages") {
            Some(messages) => messages.take(),
            None => value,
        };
        let Value::Array(list) = list else {
            return Err(problem("has no list of 'messages'"));
        };
        let mut loaded = Self { system: None, turns: vec![], ..self.clone() };
        for (index, message) in list.iter().enumerate() {
            let Some((role, text, paths)) = parts(message) else {
                return Err(problem(&format!(
                    "message {index} has no 'role' and 'content', expected to be a text, or texts and images"
                )));
            };
            let expected = if loaded.turns.len().is_multiple_of(2) { "user" } else { "assistant" };
            match role {
                "system" if index == 0 && paths.is_empty() => loaded.system = Some(text),
                role if role == expected => {
                    let images = paths.into_iter().map(image).collect::<Result<_, _>>()?;
                    loaded.turns.push(Turn { role: expected, text, images });
                }
                _ => {
                    let role: String = role.escape_debug().take(20).collect();
                    return Err(problem(&format!(
                        "message {index} is from '{role}', expected '{expected}'"
                    )));
                }
            }
        }
        if loaded.turns.len() % 2 == 1 {
            return Err(problem("ends with a question, expected the reply to it"));
        }
        Ok(loaded)
    }

    /// How many messages there are, the system prompt apart.
    pub fn len(&self) -> usize {
        self.turns.len()
    }
}

/// Role, text and images of a message in a file, if it is one.
fn parts(message: &Value) -> Option<(&str, String, Vec<&Path>)> {
    let role = message.get("role")?.as_str()?;
    let content = match message.get("content")? {
        Value::String(text) => return Some((role, text.clone(), vec![])),
        content => content.as_array()?,
    };
    let (mut texts, mut images) = (vec![], vec![]);
    for part in content {
        match part.get("type")?.as_str()? {
            "text" => texts.push(part.get("text")?.as_str()?),
            "image" => images.push(Path::new(part.get("image")?.as_str()?)),
            _ => return None,
        }
    }
    Some((role, texts.join("\n"), images))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use keeve::EngineOptions;

    use super::*;

    fn conversation() -> Conversation {
        let mut conversation =
            Conversation { system: Some("Be kind.".into()), ..Default::default() };
        for turn in 0..6 {
            conversation.ask(
                &format!("Question number {turn}, and some words to fill the window?"),
                vec![],
            );
            conversation.reply(&format!("Answer number {turn}."));
        }
        conversation.ask("The last question?", vec![]);
        conversation
    }

    fn no_image(path: &Path) -> Result<Image, String> {
        Err(format!("{}: there are no images here", path.display()))
    }

    #[test]
    fn images_are_saved_by_their_paths_and_counted_by_their_tokens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        let image = |path: &Path| {
            let patches = Arc::new(Patches::new(vec![0.5; 16], [1, 4, 4]));
            Ok::<_, String>(Image { path: path.into(), patches, tokens: 4 })
        };
        let shown = image(Path::new("a picture.png")).unwrap();
        let mut talk = Conversation::default();
        talk.ask("What is this?", vec![shown.clone(), shown.clone()]);
        talk.reply("A picture, twice.");
        assert_eq!(talk.save(&path), Ok(2));
        assert_eq!(Conversation::default().load(&path, &image), Ok(talk.clone()));
        assert_eq!(talk.messages(0)[0].images(), 2);
        talk.ask("And this?", vec![shown.clone()]);
        assert_eq!(talk.take_back(), [shown]);
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        let mut talk = conversation();
        talk.take_back();
        assert_eq!(talk.save(&path), Ok(13));
        assert_eq!(Conversation::default().load(&path, &no_image), Ok(talk.clone()));
        fs::write(
            &path,
            r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#,
        )
        .unwrap();
        let loaded = talk.load(&path, &no_image).unwrap();
        assert_eq!((loaded.len(), loaded.system), (2, None));
    }

    #[test]
    fn files_that_are_no_conversations_are_one_clear_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let user = r#"{"role": "user", "content": "a"}"#;
        for (text, expected) in [
            ("", "is no JSON"),
            ("\u{0}\u{1b}[", "is no JSON"),
            ("{}", "no list of 'messages'"),
            (r#"[{"role": "user", "content": [{"type": "video"}]}]"#, "message 0 has no"),
            (r#"[{"role": "user", "content": [{"type": "image", "image": "a.png"}]}]"#, "a.png"),
            (r#"{"messages": 3}"#, "no list of 'messages'"),
            ("[1]", "message 0 has no 'role' and 'content'"),
            (r#"[{"role": "user", "content": [1]}]"#, "message 0 has no"),
            (r#"[{"role": "assistant", "content": "a"}]"#, "from 'assistant', expected 'user'"),
            (&format!("[{user}, {user}]"), "message 1 is from 'user', expected 'assistant'"),
            (&format!("[{user}]"), "ends with a question"),
            (&"[".repeat(100_000), "is no JSON"),
        ] {
            fs::write(&path, text).unwrap();
            let problem = Conversation::default().load(&path, &no_image).unwrap_err();
            assert!(problem.contains(expected) && !problem.contains('\n'), "{problem}");
        }
        assert!(
            Conversation::default()
                .load(folder.path(), &no_image)
                .unwrap_err()
                .contains("expected a file")
        );
        assert!(Conversation::default().load(&folder.path().join("no"), &no_image).is_err());
    }

    #[test]
    fn the_oldest_leave_when_the_window_is_full() {
        let options = EngineOptions { threads: Some(1), ..EngineOptions::default() };
        let engine = Engine::load(&keeve::demo_model().unwrap(), &options, &|_| true).unwrap();
        let talk = conversation();
        let whole = talk.prompt(&engine, &[], 2048, 64).unwrap();
        assert_eq!(whole.left_out, 0);
        // In the whole, and exactly as if what is left were all there ever was.
        let part = talk.prompt(&engine, &[], whole.ids.len(), 64).unwrap();
        assert!(part.left_out > 0 && part.left_out.is_multiple_of(2));
        let rest = Conversation { turns: talk.turns[part.left_out..].to_vec(), ..talk.clone() };
        assert_eq!(part.ids, rest.prompt(&engine, &[], 2048, 64).unwrap().ids);
        // The reply counts; when only it can give way, its oldest tokens leave.
        let reply: Vec<u32> = (1000..1200).collect();
        let tight = talk.prompt(&engine, &reply, 120, 40).unwrap();
        assert_eq!((tight.left_out, tight.ids.len()), (12, 80));
        assert_eq!(tight.ids.last(), Some(&1199));
        let head = Conversation { turns: talk.turns[12..].to_vec(), ..talk.clone() };
        let head = head.prompt(&engine, &[], 2048, 0).unwrap().ids;
        assert_eq!(tight.ids[..head.len()], head);
        // A question that is too long by itself is refused.
        assert!(
            talk.prompt(&engine, &[], head.len() + 5, 10).unwrap_err().contains("the window is")
        );
    }
}
