//! Fuzzing without a fuzzer.
//!
//! ```text
//! keeve-fuzz seeds FOLDER                 writes the seeds of each target to FOLDER/TARGET
//! keeve-fuzz TARGET FOLDER SECONDS [SEED] gives the target inputs made of its seeds and of the files in FOLDER/TARGET
//! keeve-fuzz TARGET FILE                  gives it one
//! ```

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use keeve_fuzz::targets::TARGETS;
use keeve_fuzz::{seeds, short};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    keeve_fuzz::let_caught_panics_pass();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, path, more @ ..] = &arguments[..] else {
        return Err("expected seeds FOLDER, or TARGET FOLDER SECONDS [SEED], or TARGET FILE".into());
    };
    let path = PathBuf::from(path);
    if name == "seeds" {
        return seeds::write(&path);
    }
    let target = TARGETS.iter().find(|(known, _)| known == name);
    let names = || TARGETS.map(|(name, _)| name).join(", ");
    let &(_, target) = target.ok_or_else(|| format!("{name:?} is none of {}", names()))?;
    let [seconds, more @ ..] = more else {
        let through = target(&std::fs::read(&path)?);
        return Ok(writeln!(std::io::stderr(), "got through: {through}")?);
    };
    let seconds = Duration::from_secs(seconds.parse()?);
    let seed = more.first().map_or(Ok(1), |seed| seed.parse())?;
    let inputs = inputs(name, &path)?;
    let begun = Instant::now();
    let outcome =
        short::run(target, &inputs, seed, &path.join("artifacts"), |_| begun.elapsed() < seconds);
    writeln!(std::io::stderr(), "{name}: {outcome:?}")?;
    if outcome.failed.is_some() { Err("an input failed".into()) } else { Ok(()) }
}

/// The seeds of a target, and files.
fn inputs(target: &str, folder: &Path) -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error>> {
    let mut inputs = seeds::of(target)?;
    if let Ok(files) = std::fs::read_dir(folder.join(target)) {
        let mut files: Vec<_> = files.flatten().map(|file| file.path()).collect();
        files.sort();
        for file in files {
            inputs.push(std::fs::read(file)?);
        }
    }
    Ok(inputs)
}
