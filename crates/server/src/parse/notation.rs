//! How models write their tool calls: what a notation is made of. All of them are in [`table`](super::table).

/// How a family of models writes tool calls.
///
/// An answer is text, then `open`, calls, `close`, and so on; each call stands between `call_open`
/// and `call_close`. Any of these may be empty. Whitespace between them is up to the model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Notation {
    pub name: &'static str,
    pub open: &'static str,
    pub close: &'static str,
    pub call_open: &'static str,
    pub call_close: &'static str,
    pub form: Form,
    /// What stands between `open` and the first call, between calls, and before `close`.
    pub layout: [&'static str; 3],
    /// Whether several calls share one `open`.
    pub shared: bool,
    /// Whether the whole answer may be calls without `open`.
    pub unmarked: bool,
    /// The name of another notation that such models fall into.
    pub also: &'static str,
}

/// How one call is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `{"name": ..., "arguments": {...}}`, with these keys.
    Object { name: &'static str, arguments: &'static str },
    /// `{"NAME": {...}}`.
    Keyed,
    /// The name, then the arguments as JSON: `before NAME after {...} tail`.
    Named {
        before: &'static str,
        /// What ends the name; the first is how it is written.
        after: &'static [&'static str],
        id: Identifier,
        tail: &'static str,
    },
    /// The name, then each argument as text between markers: `NAME after`, then
    /// `key_open KEY key_close value_open VALUE value_close`.
    Tagged(Tags),
    /// `NAME(key=value, ...)` with values as Python writes them.
    Python,
    /// `call:NAME{key:value,...}` with strings between marks of their own.
    Braces { quote: &'static str },
    /// The name and `">`, then each argument as an element, in which there may be others, `mark` before each tag:
    /// `mark<KEY>VALUEmark</KEY>`.
    Elements { mark: &'static str },
}

/// Where the identifier of a call is, if the model writes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identifier {
    None,
    /// Behind this marker.
    Behind(&'static str),
    /// It is all that stands before the last of `after`'s first: `functions.NAME:0`.
    Qualified,
}

/// The markers of [`Form::Tagged`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tags {
    /// What ends the name; empty where whitespace or the next marker does.
    pub name_close: &'static str,
    /// Behind the name, perhaps after attributes.
    pub after: &'static str,
    pub key_open: &'static str,
    pub key_close: &'static str,
    /// Behind the key, perhaps after attributes.
    pub value_open: &'static str,
    pub value_close: &'static str,
    /// The attribute that a value which is a string has, and the one that others have.
    pub attributes: [&'static str; 2],
    /// What stands on both sides of a value.
    pub around: &'static str,
}

impl Notation {
    /// What a call begins with: everything that is not the model's own.
    pub fn opener(&self) -> &'static str {
        if self.open.is_empty() { self.call_open } else { self.open }
    }

    /// All fixed pieces that say which notation it is.
    pub fn markers(&self) -> impl Iterator<Item = &'static str> {
        let form: Vec<&'static str> = match self.form {
            Form::Object { .. } | Form::Keyed | Form::Python => vec![],
            Form::Named { before, after, id, .. } => {
                let id = match id {
                    Identifier::Behind(marker) => marker,
                    Identifier::None | Identifier::Qualified => "",
                };
                let mut list = vec![before, id];
                list.extend(after);
                list
            }
            Form::Tagged(tags) => vec![
                tags.name_close,
                tags.after,
                tags.key_open,
                tags.key_close,
                tags.value_open,
                tags.value_close,
            ],
            Form::Braces { quote } => vec![quote],
            Form::Elements { mark } => vec![mark],
        };
        let around = [self.open, self.close, self.call_open, self.call_close];
        around.into_iter().chain(form).filter(|marker| !marker.is_empty())
    }
}
