//! Lines that begin with a slash.

use std::path::PathBuf;

use super::settings::Setting;

/// What a slash command asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Help,
    Clear,
    /// Show the system prompt, or set it (to nothing, by `-`).
    System(Option<String>),
    /// Show a setting, or set it.
    Set(Setting, Option<String>),
    Sampling,
    /// Show the model an image with what is said next.
    Image(PathBuf),
    Load(PathBuf),
    Save(PathBuf),
    History(History),
    Quit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    On,
    Off,
    Clear,
}

/// Commands that are no settings: name, arguments, what they do.
const COMMANDS: [(&str, &str, &str); 9] = [
    ("help", "", "show this"),
    ("clear", "", "forget the conversation"),
    ("system", "[TEXT|-]", "show, set or remove the system prompt"),
    ("sampling", "", "show all of the settings below"),
    ("image", "FILE", "show the model an image with what you say next; may be given several times"),
    ("load", "FILE", "go on with a conversation that was saved"),
    ("save", "FILE", "save the conversation, as JSON"),
    ("history", "on|off|clear", "keep what is typed for later, do not, or forget all of it"),
    ("quit", "", "leave (as Ctrl-D does)"),
];

pub const HISTORY: [&str; 3] = ["on", "off", "clear"];

/// The names of all commands, with their slashes.
pub fn names() -> impl Iterator<Item = String> {
    let settings = Setting::ALL.into_iter().map(Setting::name);
    COMMANDS.into_iter().map(|command| command.0).chain(settings).map(|name| format!("/{name}"))
}

/// What `/help` says.
pub fn help() -> String {
    let mut text = String::new();
    for (name, arguments, what) in COMMANDS {
        text += &format!("{:30} {what}\n", format!("/{name} {arguments}"));
    }
    for setting in Setting::ALL {
        text += &format!("{:30} show or set it\n", format!("/{} [NUMBER]", setting.name()));
    }
    text + "Tab completes commands and files. Ctrl-C stops a reply, and leaves where there is none.\n"
}

/// Reads a line; `None` if it is no command but something to say.
pub fn parse(line: &str) -> Option<Result<Command, String>> {
    let rest = line.strip_prefix('/')?;
    let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let argument = argument.trim();
    let given = (!argument.is_empty()).then(|| argument.to_owned());
    let alone = |command| match &given {
        Some(_) => Err(format!("/{name} takes nothing after it")),
        None => Ok(command),
    };
    let file = || given.clone().map(PathBuf::from).ok_or_else(|| format!("/{name} needs a file"));
    Some(match name {
        "help" => alone(Command::Help),
        "clear" => alone(Command::Clear),
        "sampling" => alone(Command::Sampling),
        "quit" | "exit" => alone(Command::Quit),
        "system" => Ok(Command::System(given)),
        "image" => file().map(Command::Image),
        "load" => file().map(Command::Load),
        "save" => file().map(Command::Save),
        "history" => match argument {
            "on" => Ok(Command::History(History::On)),
            "off" => Ok(Command::History(History::Off)),
            "clear" => Ok(Command::History(History::Clear)),
            _ => Err("/history needs on, off or clear".into()),
        },
        _ => match Setting::ALL.into_iter().find(|setting| setting.name() == name) {
            Some(setting) => Ok(Command::Set(setting, given)),
            None => Err(format!("there is no command /{name}; /help lists them")),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_others_are_things_to_say() {
        assert_eq!(parse("hello /help"), None);
        assert_eq!(parse("/help "), Some(Ok(Command::Help)));
        assert_eq!(
            parse("/system  Be brief. "),
            Some(Ok(Command::System(Some("Be brief.".into()))))
        );
        assert_eq!(parse("/temp 0.5"), Some(Ok(Command::Set(Setting::Temp, Some("0.5".into())))));
        assert_eq!(parse("/top-k"), Some(Ok(Command::Set(Setting::TopK, None))));
        assert_eq!(parse("/image a b.png"), Some(Ok(Command::Image("a b.png".into()))));
        assert_eq!(parse("/load a b.json"), Some(Ok(Command::Load("a b.json".into()))));
        assert_eq!(parse("/history off"), Some(Ok(Command::History(History::Off))));
        for wrong in [
            "/",
            "/nothing",
            "/image",
            "/load",
            "/save ",
            "/history",
            "/history maybe",
            "/quit now",
        ] {
            assert!(matches!(parse(wrong), Some(Err(_))), "{wrong}");
        }
        // Each name that is completed and explained is one that is understood.
        for name in names() {
            assert!(help().contains(&name));
            let unknown = format!("there is no command {name}; /help lists them");
            assert_ne!(parse(&name), Some(Err(unknown)));
        }
    }
}
