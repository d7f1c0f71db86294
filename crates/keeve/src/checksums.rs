//! Whether files are what is known of them: the hub's cache names each by its hash, and many models come with a list.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use keeve::Checkpoint;
use keeve_files::whole::{self, MIB};

/// Lists of SHA-256 sums as `sha256sum` (GNU coreutils) writes them, by the names that people give them.
const LISTS: [&str; 5] =
    ["SHA256SUMS", "SHA256SUMS.txt", "sha256sums.txt", "sha256sum.txt", "checksums.sha256"];

/// What was found.
#[derive(Default)]
pub struct Checked {
    /// Files that are what is known of them.
    pub right: usize,
    /// Those that are not, a sentence each.
    pub problems: Vec<String>,
}

/// Compares the files of a model with what is known of them. `stopped` ends it.
pub fn check(checkpoint: &Checkpoint, stopped: &dyn Fn() -> bool) -> Checked {
    let path = checkpoint.path();
    let folder = match path.is_dir() {
        true => path,
        false => {
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
        }
    };
    let mut files: Vec<PathBuf> =
        checkpoint.files().iter().map(|file| folder.join(&file.name)).collect();
    if path.is_dir() {
        files.extend(["config.json", "tokenizer.json"].map(|name| folder.join(name)));
    }
    let listed = lists(folder);
    let mut checked = Checked::default();
    for file in files.iter().filter(|file| file.is_file()) {
        if stopped() {
            break;
        }
        let Some((source, hash)) = known(file, &listed) else { continue };
        let shown = file.display();
        let length = std::fs::metadata(file).map(|found| found.len());
        let found =
            length.and_then(|length| keeve::hub::has_hash(&hash, length, File::open(file)?));
        match found {
            Ok(Some(true)) => checked.right += 1,
            Ok(Some(false)) => checked.problems.push(format!(
                "{shown}: its content does not have the checksum {hash}, which {source} gives"
            )),
            Ok(None) => {}
            Err(error) => checked.problems.push(format!("{shown}: {error}")),
        }
    }
    checked
}

/// The hash that a file should have, and what says so.
fn known(file: &Path, listed: &HashMap<String, (String, String)>) -> Option<(String, String)> {
    if let Ok(blob) = file.canonicalize()
        && blob.parent().and_then(Path::file_name).is_some_and(|folder| folder == "blobs")
        && let Some(name) = blob.file_name().and_then(|name| name.to_str())
    {
        return Some(("its name in the hub's cache".into(), name.into()));
    }
    let name = file.file_name()?.to_str()?;
    let own = format!("{name}.sha256");
    if let Some(list) = read(&file.with_file_name(&own)) {
        let hash = list.split_whitespace().next()?.to_ascii_lowercase();
        return Some((own, hash));
    }
    listed.get(name).cloned()
}

/// The lists in a folder: by a file's name, the list and the hash.
fn lists(folder: &Path) -> HashMap<String, (String, String)> {
    let mut found = HashMap::new();
    for list in LISTS {
        for line in read(&folder.join(list)).iter().flat_map(|text| text.lines()) {
            // "HASH  NAME", or "HASH *NAME" for binary files.
            let Some((hash, name)) = line.split_once(char::is_whitespace) else { continue };
            let name = name.trim_start_matches([' ', '*']).trim_start_matches("./");
            found.insert(name.to_owned(), (list.to_owned(), hash.to_ascii_lowercase()));
        }
    }
    found
}

fn read(path: &Path) -> Option<String> {
    whole::text(path, MIB, "a list of checksums").ok()
}
