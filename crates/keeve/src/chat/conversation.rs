//! What was said, and how much of it the model is shown.

use std::fs;
use std::path::Path;

use keeve::{Engine, Message, RenderOptions};
use serde_json::{Map, Value, json};

/// Larger files are no conversations.
const MAX_FILE: u64 = 16 << 20;

/// A conversation: a system prompt, then messages in turn, the person's first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Conversation {
    pub system: Option<String>,
    turns: Vec<Message>,
    /// Variables of the chat template.
    pub template_args: Map<String, Value>,
}

/// What the model is shown before it goes on with its reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub ids: Vec<u32>,
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

    /// The person says something.
    pub fn ask(&mut self, text: &str) {
        self.turns.push(Message::text("user", text));
    }

    /// The model said something.
    pub fn reply(&mut self, text: &str) {
        self.turns.push(Message::text("assistant", text));
    }

    /// The person's last message is taken back.
    pub fn take_back(&mut self) {
        self.turns.pop();
    }

    /// The messages, the system prompt first.
    fn messages(&self, left_out: usize) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::text("system", text));
        system.chain(self.turns[left_out..].iter().cloned()).collect()
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
            let mut ids =
                engine.chat_prompt(&messages, &options).map_err(|error| error.to_string())?;
            if ids.len() + reply.len() + room <= window {
                ids.extend(reply);
                return Ok(Prompt { ids, left_out });
            }
            if left_out + 2 < self.turns.len() {
                left_out += 2;
                continue;
            }
            let Some(kept) = window.checked_sub(ids.len() + room).filter(|_| !reply.is_empty())
            else {
                return Err(format!(
                    "this message and the system prompt are {} tokens, but the window is {window}, of \
                     which {room} are for the reply",
                    ids.len()
                ));
            };
            ids.extend(&reply[reply.len() - kept.min(reply.len())..]);
            return Ok(Prompt { ids, left_out });
        }
    }

    /// Writes the conversation to a file, which is replaced as a whole.
    pub fn save(&self, path: &Path) -> Result<usize, String> {
        let messages = self.messages(0);
        let problem = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = serde_json::to_string_pretty(&json!({ "messages": messages }))
            .map_err(|error| problem(&error))?;
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        fs::write(&new, text + "\n").map_err(|error| problem(&error))?;
        fs::rename(&new, path).map_err(|error| problem(&error))?;
        Ok(messages.len())
    }

    /// Reads a conversation from a file: an object with `messages`, or the messages alone.
    pub fn load(&self, path: &Path) -> Result<Self, String> {
        let problem = |problem: &str| format!("{}: {problem}", path.display());
        let size = fs::metadata(path).map_err(|error| problem(&error.to_string()))?;
        if !size.is_file() || size.len() > MAX_FILE {
            return Err(problem("is no conversation: expected a file of at most 16 MiB"));
        }
        let text = fs::read(path).map_err(|error| problem(&error.to_string()))?;
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
            let field = |name: &str| message.get(name).and_then(Value::as_str);
            let (Some(role), Some(content)) = (field("role"), field("content")) else {
                return Err(problem(&format!(
                    "message {index} has no 'role' and 'content', both expected to be texts"
                )));
            };
            let expected = if loaded.turns.len() % 2 == 0 { "user" } else { "assistant" };
            match role {
                "system" if index == 0 => loaded.system = Some(content.into()),
                role if role == expected => loaded.turns.push(Message::text(role, content)),
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

#[cfg(test)]
mod tests {
    use keeve::EngineOptions;

    use super::*;

    fn conversation() -> Conversation {
        let mut conversation =
            Conversation { system: Some("Be kind.".into()), ..Default::default() };
        for turn in 0..6 {
            conversation
                .ask(&format!("Question number {turn}, and some words to fill the window?"));
            conversation.reply(&format!("Answer number {turn}."));
        }
        conversation.ask("The last question?");
        conversation
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("talk.json");
        let mut talk = conversation();
        talk.take_back();
        assert_eq!(talk.save(&path), Ok(13));
        assert_eq!(Conversation::default().load(&path), Ok(talk.clone()));
        fs::write(
            &path,
            r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]"#,
        )
        .unwrap();
        let loaded = talk.load(&path).unwrap();
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
            (r#"{"messages": 3}"#, "no list of 'messages'"),
            ("[1]", "message 0 has no 'role' and 'content'"),
            (r#"[{"role": "user", "content": [1]}]"#, "message 0 has no"),
            (r#"[{"role": "assistant", "content": "a"}]"#, "from 'assistant', expected 'user'"),
            (&format!("[{user}, {user}]"), "message 1 is from 'user', expected 'assistant'"),
            (&format!("[{user}]"), "ends with a question"),
            (&"[".repeat(100_000), "is no JSON"),
        ] {
            fs::write(&path, text).unwrap();
            let problem = Conversation::default().load(&path).unwrap_err();
            assert!(problem.contains(expected) && !problem.contains('\n'), "{problem}");
        }
        assert!(
            Conversation::default().load(folder.path()).unwrap_err().contains("expected a file")
        );
        assert!(Conversation::default().load(&folder.path().join("no")).is_err());
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
        assert!(part.left_out > 0 && part.left_out % 2 == 0);
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
