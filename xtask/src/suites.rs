//! The suites: which tests of the crates here they are, what must pass, and what came out.
//!
//! A suite is an ordinary test that finds its data through an environment variable (see [`test`]) and says on
//! standard output how far it came:
//!
//! ```text
//! peers: WHAT | PASSED | OF | NOTES
//! peers fails: WHAT | CASE | WHY
//! ```

use std::fmt::Write;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::sources::{Folder, root};

/// A test and what it needs.
pub struct Suite {
    /// What `--only` calls it.
    pub name: &'static str,
    /// The sources it reads.
    pub sources: &'static [&'static str],
    /// Whether it runs Python packages (`KEEVE_PEERS_PYTHON`).
    pub python: bool,
    /// The arguments of `cargo test`.
    test: &'static [&'static str],
    /// What else the test is given, after `--`.
    after: &'static [&'static str],
    /// What it reports, and how much of it must pass.
    reports: &'static [Report],
}

/// A line of the table.
struct Report {
    what: &'static str,
    passed: usize,
    of: usize,
}

const fn report(what: &'static str, passed: usize, of: usize) -> Report {
    Report { what, passed, of }
}

/// Every suite. The figures are those of docs/peers.md.
const SUITES: [Suite; 5] = [
    Suite {
        name: "vocabularies",
        sources: &["llama.cpp"],
        python: false,
        test: &["-p", "keeve-engine", "--test", "gguf_tokenizers"],
        after: &["vocabularies_of_llama_cpp", "--ignored"],
        reports: &[report("llama.cpp vocabularies", 708, 708)],
    },
    Suite {
        name: "templates",
        sources: &["llama.cpp"],
        python: true,
        test: &["-p", "keeve", "--test", "peer_templates"],
        after: &["--ignored"],
        reports: &[report("chat templates", 1458, 1506)],
    },
    Suite {
        name: "schemas",
        sources: &["JSON-Schema-Test-Suite"],
        python: false,
        test: &["-p", "keeve-engine", "--lib"],
        after: &["the_public_suite", "--ignored"],
        reports: &[
            report("JSON Schema 2020-12", 1455, 1690),
            report("JSON Schema 2019-09", 1461, 1649),
            report("JSON Schema 7", 1165, 1259),
            report("JSON Schema 6", 995, 1081),
            report("JSON Schema 4", 781, 856),
        ],
    },
    Suite {
        name: "minilm",
        sources: &["minilm"],
        python: true,
        test: &["-p", "keeve", "--test", "peer_tokenizers"],
        after: &[],
        reports: &[report("all-MiniLM-L6-v2 tokenizer", 968, 968)],
    },
    Suite {
        name: "models",
        sources: &["models"],
        python: false,
        test: &["-p", "keeve", "--test", "real_models"],
        after: &[],
        reports: &[
            report("SmolLM2-135M-Instruct Q4_1", 23, 23),
            report("Gemma 3 270M Q4_K_M", 23, 23),
        ],
    },
];

/// What came of a line of the table.
pub struct Row {
    what: String,
    version: String,
    passed: usize,
    of: usize,
    notes: String,
    /// How many must pass, of how many; `None` if nothing is known of this line.
    least: Option<(usize, usize)>,
    /// Whether the test itself failed.
    failed: bool,
}

impl Row {
    /// What is worse than it must be.
    pub fn problem(&self) -> Option<String> {
        let Self { what, passed, of, .. } = self;
        match self.least {
            None => {
                Some(format!("{what}: no figure is known for it, add one to xtask/src/suites.rs"))
            }
            Some((least, _)) if *passed < least => {
                Some(format!("{what}: {passed} of {of} passed, expected {least}"))
            }
            Some((_, all)) if *of < all => Some(format!("{what}: {of} cases, expected {all}")),
            Some(_) if self.failed => Some(format!("{what}: the test failed")),
            Some(_) => None,
        }
    }
}

/// The suites of these names; all of them if there are none.
///
/// # Errors
/// If one is not known.
pub fn wanted(only: &[String]) -> Result<Vec<&'static Suite>, String> {
    let names = || SUITES.iter().map(|suite| suite.name).collect::<Vec<_>>().join(", ");
    if let Some(other) = only.iter().find(|name| !SUITES.iter().any(|suite| suite.name == **name)) {
        return Err(format!("--only: no suite is called '{other}', expected {}", names()));
    }
    Ok(SUITES
        .iter()
        .filter(|suite| only.is_empty() || only.iter().any(|name| name == suite.name))
        .collect())
}

/// Runs a suite. What it does not report counts as nothing passed.
pub fn run(suite: &Suite, folder: &Folder, whole: bool) -> Vec<Row> {
    let versions: Vec<_> = suite.sources.iter().map(|source| folder.version(source)).collect();
    let version = versions.join(", ");
    let (lines, failed) = match test(suite, folder, whole) {
        Ok(done) => done,
        Err(problem) => {
            eprintln!("{}: {problem}", suite.name);
            (vec![], true)
        }
    };
    let mut rows: Vec<Row> = lines.iter().filter_map(|line| read(line)).collect();
    for row in &mut rows {
        row.version.clone_from(&version);
        row.failed = failed;
        let known = suite.reports.iter().find(|report| report.what == row.what);
        row.least = known.map(|report| (report.passed, report.of));
    }
    for report in suite.reports {
        if !rows.iter().any(|row| row.what == report.what) {
            rows.push(Row {
                what: report.what.into(),
                version: version.clone(),
                passed: 0,
                of: report.of,
                notes: "did not report".into(),
                least: Some((report.passed, report.of)),
                failed,
            });
        }
    }
    rows
}

/// Runs the test; gives what it printed, and whether it failed.
fn test(suite: &Suite, folder: &Folder, whole: bool) -> Result<(Vec<String>, bool), String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root())
        .arg("test")
        .args(suite.test)
        .args(["--", "--nocapture"])
        .args(suite.after);
    command.env("KEEVE_PEERS", &folder.data).env("KEEVE_REAL_MODELS", folder.data.join("models"));
    command.env("KEEVE_PEER_VOCAB", folder.data.join("llama.cpp/models"));
    command.env("KEEVE_JSON_SCHEMA_SUITE", folder.data.join("JSON-Schema-Test-Suite"));
    if whole {
        command.env("KEEVE_PEERS_WHOLE", "1");
    }
    if let Some(python) = &folder.python {
        command.env("KEEVE_PEERS_PYTHON", python);
    }
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("'{}': {error}", command.get_program().to_string_lossy()))?;
    let mut lines = vec![];
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.map_err(|error| format!("what the test prints: {error}"))?;
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            eprintln!("{line}");
            lines.push(line);
        }
    }
    let status = child.wait().map_err(|error| format!("the test: {error}"))?;
    Ok((lines, !status.success()))
}

/// A line of a test that says how far it came. The test's name may stand before it.
fn read(line: &str) -> Option<Row> {
    let (_, said) = line.split_once("peers: ")?;
    let mut fields = said.splitn(4, '|').map(str::trim);
    let what = fields.next()?.to_owned();
    let passed = fields.next()?.parse().ok()?;
    let of = fields.next()?.parse().ok()?;
    let notes = fields.next().unwrap_or_default().to_owned();
    Some(Row { what, version: String::new(), passed, of, notes, least: None, failed: false })
}

/// The rows in Markdown.
pub fn table(rows: &[Row]) -> String {
    let mut text =
        String::from("| suite | version | passed | of | notes |\n|---|---|---|---|---|\n");
    for Row { what, version, passed, of, notes, .. } in rows {
        let _ = writeln!(text, "| {what} | {version} | {passed} | {of} | {notes} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(line: &str, least: (usize, usize)) -> Row {
        Row { least: Some(least), ..read(line).unwrap() }
    }

    #[test]
    fn lines_of_tests_are_read() {
        let row = row("test a::b ... peers: Some thing | 7 | 8 | with | bars", (7, 8));
        assert_eq!(
            (&*row.what, row.passed, row.of, &*row.notes),
            ("Some thing", 7, 8, "with | bars")
        );
        assert_eq!(row.problem(), None);
        assert!(table(&[row]).contains("| Some thing |  | 7 | 8 | with | bars |"));
        assert!(read("peers: short | 7").is_none() && read("peers fails: a | b | c").is_none());
    }

    #[test]
    fn a_drop_is_a_problem() {
        let fails = |line: &str, least| row(line, least).problem().is_some();
        assert!(!fails("peers: a | 8 | 8 |", (7, 8)) && !fails("peers: a | 7 | 9 |", (7, 8)));
        assert!(fails("peers: a | 6 | 8 |", (7, 8)), "fewer pass");
        assert!(fails("peers: a | 7 | 7 |", (7, 8)), "cases are gone");
        assert!(read("peers: a | 7 | 7 |").unwrap().problem().is_some(), "nobody knows it");
        assert!(Row { failed: true, ..row("peers: a | 8 | 8 |", (8, 8)) }.problem().is_some());
    }

    #[test]
    fn suites_are_asked_for_by_name() {
        assert_eq!(wanted(&[]).unwrap().len(), SUITES.len());
        let names = |suites: Vec<&Suite>| suites.iter().map(|suite| suite.name).collect::<Vec<_>>();
        assert_eq!(names(wanted(&["models".into()]).unwrap()), ["models"]);
        assert!(wanted(&["sing".into()]).is_err_and(|problem| problem.contains("sing")));
    }

    #[test]
    fn every_source_of_a_suite_exists() {
        for source in SUITES.iter().flat_map(|suite| suite.sources) {
            assert!(crate::sources::SOURCES.iter().any(|known| known.name == *source), "{source}");
        }
    }
}
