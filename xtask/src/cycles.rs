//! Import cycles between the files of a crate.
//!
//! A file depends on another if a path in its code leads there: `use` declarations, and paths written out that
//! begin with `crate`, `super` or `self`. A name that a module re-exports belongs to the file that it comes from.
//! Tests are left out: files named `tests`, and what stands behind `#[cfg(test)]`.
//!
//! This reads text, not Rust: macros that make paths are not seen, and strings with quotes in them may hide some.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module, by the names that lead to it.
type Module = Vec<String>;

/// What the files of a crate import.
#[derive(Debug, Default)]
pub struct Imports {
    /// Of each file, the others.
    of: BTreeMap<Module, BTreeSet<Module>>,
}

impl Imports {
    /// Reads the sources of a crate.
    ///
    /// # Errors
    /// If a folder or file cannot be read.
    pub fn read(folder: &Path) -> Result<Self, String> {
        let mut files = BTreeMap::new();
        read_folder(folder, &mut vec![], &mut files)?;
        Ok(Self::of(&files))
    }

    /// The imports of sources, by module.
    fn of(files: &BTreeMap<Module, String>) -> Self {
        let parsed: BTreeMap<_, _> = files
            .iter()
            .map(|(module, text)| (module, paths(module, &without_tests(text))))
            .collect();
        let find = |path: &[String]| {
            let mut path = path.to_vec();
            // Re-exports lead on, but not in circles.
            for _ in 0..8 {
                let length =
                    (0..=path.len()).rev().find(|&end| files.contains_key(&path[..end]))?;
                let (module, rest) = path.split_at(length);
                let next =
                    rest.first().and_then(|name| parsed[&module.to_vec()].exported.get(name));
                let Some(next) = next else { return Some(module.to_vec()) };
                path = next.iter().chain(&rest[1..]).cloned().collect();
            }
            None
        };
        let targets = |module: &Module| {
            let found = parsed[module].used.iter().filter_map(|path| find(path));
            // Everybody may name the root.
            found.filter(|target| target != module && !target.is_empty()).collect()
        };
        Self { of: files.keys().map(|module| (module.clone(), targets(module))).collect() }
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.of.len()
    }

    /// How many imports there are.
    pub fn imports(&self) -> usize {
        self.of.values().map(BTreeSet::len).sum()
    }

    /// Files that import each other in a circle, each group once.
    pub fn cycles(&self) -> Vec<BTreeSet<Module>> {
        let reached: BTreeMap<_, _> =
            self.of.keys().map(|from| (from, self.reached(from))).collect();
        let mut cycles = BTreeSet::new();
        for (from, to) in &reached {
            let circle: BTreeSet<_> =
                to.iter().filter(|other| reached[other].contains(*from)).cloned().collect();
            cycles.insert(circle);
        }
        cycles.retain(|circle| !circle.is_empty());
        cycles.into_iter().collect()
    }

    /// All that a file leads to.
    fn reached(&self, from: &Module) -> BTreeSet<Module> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<_> = self.of[from].iter().collect();
        while let Some(next) = open.pop() {
            if reached.insert(next.clone()) {
                open.extend(&self.of[next]);
            }
        }
        reached
    }

    /// A circle, a line for each file and what it imports of it.
    pub fn shown(&self, circle: &BTreeSet<Module>) -> String {
        let name = |module: &Module| module.join("::");
        let line = |module: &Module| {
            let others: Vec<_> = self.of[module].intersection(circle).map(name).collect();
            format!("  {} imports {}\n", name(module), others.join(", "))
        };
        circle.iter().map(line).collect()
    }
}

/// Reads the sources of a folder and those below.
fn read_folder(
    folder: &Path,
    module: &mut Module,
    files: &mut BTreeMap<Module, String>,
) -> Result<(), String> {
    let problem = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(problem)? {
        let path = entry.map_err(problem)?.path();
        let Some(stem) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        if stem == "tests" {
            continue;
        }
        let is_own = matches!(stem, "mod" | "lib" | "main");
        module.extend((!is_own).then(|| stem.to_owned()));
        if path.is_dir() {
            read_folder(&path, module, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path);
            let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
            files.insert(module.clone(), text);
        }
        if !is_own {
            module.pop();
        }
    }
    Ok(())
}

/// Code without comments, and without what stands behind `#[cfg(test)]`.
fn without_tests(text: &str) -> String {
    let lines = text.lines().map(|line| line.split("//").next().unwrap_or(line));
    let mut code: String = lines.flat_map(|line| [line, "\n"]).collect();
    while let Some(start) = code.find("#[cfg(test)]") {
        let rest = &code[start..];
        // An item ends with its first semicolon, or with the brace that closes its first one.
        let end = match (rest.find(';'), rest.find('{')) {
            (Some(semicolon), brace) if brace.is_none_or(|brace| semicolon < brace) => {
                semicolon + 1
            }
            (_, Some(brace)) => brace + closing(&rest[brace..]),
            _ => rest.len(),
        };
        let item = rest["#[cfg(test)]".len()..].trim_start();
        let is_use = item.starts_with("use ") || item.starts_with("pub(crate) use ");
        let end = if is_use { rest.find(';').map_or(end, |semicolon| semicolon + 1) } else { end };
        code.replace_range(start..start + end, "");
    }
    code
}

/// Bytes up to the end of the brace that closes the one that the text begins with.
fn closing(text: &str) -> usize {
    let mut depth = 0usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    text.len()
}

/// The paths of a file, from the root of the crate on.
#[derive(Debug, Default)]
struct Paths {
    used: Vec<Module>,
    /// Names that are re-exported, and what they are.
    exported: BTreeMap<String, Module>,
}

/// Finds the paths of a file.
fn paths(module: &Module, code: &str) -> Paths {
    let mut found = Paths::default();
    let mut rest = String::new();
    let mut left = code;
    while let Some(at) = left.find("use ") {
        let (before, from) = left.split_at(at);
        rest.push_str(before);
        let starts_a_word = !before.ends_with(|last: char| last.is_alphanumeric() || last == '_');
        let Some(end) = from.find(';').filter(|_| starts_a_word) else {
            rest.push_str(&from[..4]);
            left = &from[4..];
            continue;
        };
        let last_line = before.rsplit(['\n', ';', '}']).next().unwrap_or(before);
        for (path, name) in tree(&from[4..end], &[]) {
            let Some(path) = absolute(module, &path) else { continue };
            if last_line.trim_start().starts_with("pub") {
                found.exported.insert(name, path.clone());
            }
            found.used.push(path);
        }
        left = &from[end..];
    }
    rest.push_str(left);
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    for path in rest.split(|c: char| !is_part(c)).filter(|path| path.contains("::")) {
        let path: Module = path.split("::").filter(|n| !n.is_empty()).map(str::to_owned).collect();
        let is_here = path.first().is_some_and(|n| matches!(&**n, "crate" | "self" | "super"));
        found.used.extend(absolute(module, &path).filter(|_| is_here));
    }
    found
}

/// The paths of a `use` declaration, and the names that they get.
fn tree(text: &str, before: &[String]) -> Vec<(Module, String)> {
    let text = text.trim();
    let names = |text: &str| -> Module {
        let parts = text.split("::").map(str::trim).filter(|name| !name.is_empty());
        before.iter().cloned().chain(parts.map(str::to_owned)).collect()
    };
    let Some((head, inner)) = text.split_once('{') else {
        let (path, name) = text.split_once(" as ").unwrap_or((text, ""));
        let mut path = names(path);
        let own = path.last().cloned().unwrap_or_default();
        if own == "self" {
            path.pop();
        }
        return vec![(path, if name.is_empty() { own } else { name.trim().into() })];
    };
    let before = names(head);
    let inner = &inner[..inner.rfind('}').unwrap_or(inner.len())];
    let (mut parts, mut depth) = (vec![String::new()], 0i32);
    for c in inner.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        match parts.last_mut() {
            Some(part) if (c, depth) != (',', 0) => part.push(c),
            _ => parts.push(String::new()),
        }
    }
    let parts = parts.iter().filter(|part| !part.trim().is_empty());
    parts.flat_map(|part| tree(part, &before)).collect()
}

/// A path from the root of the crate on. One that begins with another name may be that of a child.
fn absolute(module: &Module, path: &[String]) -> Option<Module> {
    let supers = path.iter().take_while(|name| *name == "super").count();
    let (base, rest) = match path.first()?.as_str() {
        "crate" => (&module[..0], &path[1..]),
        "self" => (&module[..], &path[1..]),
        "super" => (&module[..module.len().checked_sub(supers)?], &path[supers..]),
        _ => (&module[..], path),
    };
    Some(base.iter().chain(rest).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(name: &str) -> Module {
        name.split("::").filter(|name| !name.is_empty()).map(str::to_owned).collect()
    }

    fn imports(files: &[(&str, &str)]) -> Imports {
        Imports::of(&files.iter().map(|(name, text)| (module(name), (*text).to_owned())).collect())
    }

    #[test]
    fn circles_are_found_through_folders_re_exports_and_written_paths() {
        let found = imports(&[
            ("", "mod a; mod b; mod c;"),
            ("a", "use crate::b::{Hub, inner::{self, Other as Third}};"),
            ("b", "pub(crate) use self::deep::Hub;\nmod inner; mod deep;"),
            ("b::deep", "fn f() { crate::c::g() }"),
            ("b::inner", ""),
            ("c", "use super::a::f; // crate::b::deep"),
        ]);
        assert_eq!((found.files(), found.imports()), (6, 5));
        let circle: BTreeSet<_> = ["a", "b::deep", "c"].map(module).into();
        assert_eq!(found.cycles(), std::slice::from_ref(&circle));
        assert!(found.shown(&circle).contains("  c imports a\n"));
    }

    #[test]
    fn tests_and_comments_do_not_count() {
        let found = imports(&[
            ("", ""),
            ("a", "use crate::b::B;"),
            (
                "b",
                "// use crate::a;\n#[cfg(test)]\nuse crate::a::{A, C};\n#[cfg(test)]\nmod tests { use crate::a::A; }",
            ),
        ]);
        assert_eq!(found.cycles(), Vec::<BTreeSet<Module>>::new());
        assert_eq!(found.imports(), 1);
    }

    #[test]
    fn the_cpu_backend_has_no_circles() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/cpu/src");
        let found = Imports::read(&sources).expect("the sources of keeve-cpu");
        assert!(found.files() > 50 && found.imports() > 200, "{} files", found.files());
        let circles: Vec<_> = found.cycles().iter().map(|circle| found.shown(circle)).collect();
        assert!(circles.is_empty(), "files import each other:\n{}", circles.join("\n"));
    }
}
