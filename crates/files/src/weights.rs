//! Which files of a folder hold a model's weights, by their names and by the index.
//!
//! Others read: every `model*.safetensors` whatever the index says (ml-explore/mlx-lm `mlx_lm/utils.py`);
//! `model.safetensors` before the index (huggingface/transformers `src/transformers/modeling_utils.py`); every
//! `*.safetensors` but those that the index does not name (vllm-project/vllm
//! `vllm/model_executor/model_loader/weight_utils.py`). Here the index decides if all its files are there. If not, it
//! was either left over from another version of the model, and then a whole set of files stands beside it, or the
//! download broke off.

use std::collections::{BTreeMap, BTreeSet};

/// The file that says which tensor is in which file.
pub const INDEX: &str = "model.safetensors.index.json";

/// The name of the file of a model in one.
const WHOLE: &str = "model.safetensors";

const EXTENSION: &str = ".safetensors";

/// Beginnings of the names of safetensors files that are no model, or one in another layout.
const OTHERS: [&str; 6] =
    ["adapter", "consolidated", "lora", "optimizer", "rng_state", "training_args"];

/// The files that hold the weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// Their names, sorted.
    pub files: Vec<String>,
    /// What was done otherwise than names or index say, in a sentence.
    pub notes: Vec<String>,
}

/// Why there are none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// No file in the folder has such a name.
    None,
    /// A file is not there. The rest is the end of a sentence that begins with its name.
    File(String, String),
    /// The set is not whole, or there are several. The end of a sentence that begins with the folder's name.
    Folder(String),
}

/// Whether a name is that of a file of weights in the folder itself, as far as its name tells.
pub fn is_weights(name: &str) -> bool {
    name.to_ascii_lowercase().ends_with(EXTENSION)
        && !name.starts_with('.')
        && !name.contains(['/', '\\'])
        && !OTHERS.iter().any(|other| name.starts_with(other))
}

/// Chooses among the files `names` of a folder. `indexed`: the files that the index names, if there is one.
///
/// # Errors
/// If there are none, one is missing, or it is not clear which ones make up the model.
pub fn choose<'a>(
    names: impl IntoIterator<Item = &'a str>,
    indexed: Option<&BTreeSet<String>>,
) -> Result<Chosen, Problem> {
    let names: BTreeSet<&str> = names.into_iter().collect();
    let Some(indexed) = indexed else { return by_name(&names) };
    let missing = indexed.iter().find(|name| !names.contains(name.as_str()));
    if missing.is_none() && !indexed.is_empty() {
        let mut notes = vec![];
        if names.contains(WHOLE) && !indexed.contains(WHOLE) {
            notes.push(format!("{WHOLE} is not read: {INDEX} names other files"));
        }
        return Ok(Chosen { files: indexed.iter().cloned().collect(), notes });
    }
    // What the index names stays a set with a hole in it, whatever else is there.
    let others = names.iter().copied().filter(|name| !indexed.contains(*name)).collect();
    let sure = |chosen: &Chosen| {
        chosen.files.iter().any(|name| name == WHOLE || Counted::read(name).is_some())
    };
    match (by_name(&others), missing) {
        (Ok(mut chosen), _) if sure(&chosen) || missing.is_none() => {
            let what = missing.map_or("no file".into(), |name| format!("{name}, which is missing"));
            let read = range(&chosen.files);
            chosen.notes.push(format!("{INDEX} names {what}; {read} is read instead"));
            Ok(chosen)
        }
        (_, Some(missing)) => {
            Err(Problem::File(missing.clone(), format!("is missing, but {INDEX} names it")))
        }
        (problem, None) => problem,
    }
}

/// The files that `given`, one of the folder's, is or is a part of, where it is not among those chosen.
///
/// # Errors
/// If other parts are missing.
pub fn of_file(given: &str, names: &[String]) -> Result<Vec<String>, Problem> {
    let Some(counted) = Counted::read(given) else { return Ok(vec![given.into()]) };
    let set =
        names.iter().filter(|name| Counted::read(name).is_some_and(|it| it.is_beside(&counted)));
    let set: Vec<String> = set.cloned().collect();
    counted.whole(set.len()).map(|()| set)
}

fn by_name(names: &BTreeSet<&str>) -> Result<Chosen, Problem> {
    let all: Vec<&str> = names.iter().copied().filter(|name| is_weights(name)).collect();
    let usual: Vec<&str> = all.iter().copied().filter(|name| name.starts_with("model")).collect();
    let found = if usual.is_empty() { all } else { usual };
    let (mut sets, mut files) = (BTreeMap::<_, Vec<&str>>::new(), Vec::new());
    for name in found {
        match Counted::read(name) {
            Some(counted) => sets.entry((counted.prefix, counted.count)).or_default().push(name),
            None => files.push(name),
        }
    }
    let counted: Vec<(Counted<'_>, Vec<&str>)> =
        sets.into_values().filter_map(|set| Some((Counted::read(set.first()?)?, set))).collect();
    let (whole, broken): (Vec<_>, Vec<_>) =
        counted.into_iter().partition(|(counted, set)| counted.whole(set.len()).is_ok());
    let mut notes = vec![];
    if files.contains(&WHOLE) {
        let left: Vec<String> =
            whole.iter().chain(&broken).map(|(counted, _)| counted.pattern()).collect();
        if !left.is_empty() {
            notes.push(format!("{} is not read: {WHOLE} is there", left.join(" and ")));
        }
    } else if let [(first, set), rest @ ..] = &whole[..] {
        if let Some((other, _)) = rest.iter().find(|(other, _)| other.prefix == first.prefix) {
            let (one, other) = (first.pattern(), other.pattern());
            return Err(Problem::Folder(format!(
                "holds two whole sets of files, {one} and {other}; remove one of them"
            )));
        }
        files.extend(set);
        files.extend(rest.iter().flat_map(|(_, set)| set));
        notes.extend(broken.iter().map(|(counted, set)| {
            let (found, count, pattern) = (set.len(), counted.count, counted.pattern());
            format!("{found} of the {count} files {pattern} are not read: the others are missing")
        }));
    } else if let Some((counted, set)) = broken.first() {
        counted.whole(set.len())?;
    }
    if files.is_empty() {
        return Err(Problem::None);
    }
    files.sort_unstable();
    Ok(Chosen { files: files.into_iter().map(Into::into).collect(), notes })
}

/// Files for a person.
fn range(files: &[String]) -> String {
    match files {
        [] => "nothing".into(),
        [one] => one.clone(),
        [first, .., last] => format!("{first} to {last}"),
    }
}

/// The name of a file that is one of so many: `<prefix>-00001-of-00002.safetensors`.
struct Counted<'a> {
    prefix: &'a str,
    /// How many there are, with its zeros.
    count: &'a str,
}

impl<'a> Counted<'a> {
    fn read(name: &'a str) -> Option<Self> {
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let stem = name.get(..name.len().checked_sub(EXTENSION.len())?)?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-').or_else(|| rest.rsplit_once('_'))?;
        (is_weights(name) && digits(count) && digits(number)).then_some(Self { prefix, count })
    }

    fn is_beside(&self, other: &Self) -> bool {
        (self.prefix, self.count) == (other.prefix, other.count)
    }

    fn pattern(&self) -> String {
        format!("{}-*-of-{}{EXTENSION}", self.prefix, self.count)
    }

    /// Checks that `found` files are all.
    fn whole(&self, found: usize) -> Result<(), Problem> {
        if self.count.parse() == Ok(found) {
            return Ok(());
        }
        let (count, pattern) = (self.count.trim_start_matches('0'), self.pattern());
        Err(Problem::Folder(format!("holds {found} of the {count} files {pattern}")))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn index(files: &[&str]) -> BTreeSet<String> {
        files.iter().map(|name| name.to_string()).collect()
    }

    fn parts(count: usize, of: &[usize]) -> Vec<String> {
        of.iter().map(|n| format!("model-{n:05}-of-{count:05}.safetensors")).collect()
    }

    /// What is chosen from `names`, and whether with a note; or the problem.
    fn chosen(
        names: &[&str],
        indexed: Option<&BTreeSet<String>>,
    ) -> Result<(Vec<String>, bool), Problem> {
        choose(names.iter().copied(), indexed)
            .map(|chosen| (chosen.files, !chosen.notes.is_empty()))
    }

    fn refs(names: &[String]) -> Vec<&str> {
        names.iter().map(String::as_str).collect()
    }

    #[test]
    fn an_index_whose_files_are_there_decides() {
        let two = parts(2, &[1, 2]);
        let all = [refs(&two), vec!["config.json", "x.safetensors"]].concat();
        assert_eq!(chosen(&all, Some(&index(&refs(&two)))), Ok((two.clone(), false)));
        let all = [refs(&two), vec![WHOLE]].concat();
        assert_eq!(chosen(&all, Some(&index(&refs(&two)))), Ok((two.clone(), true)));
        assert_eq!(chosen(&all, Some(&index(&[WHOLE]))), Ok((vec![WHOLE.into()], false)));
    }

    #[test]
    fn an_index_that_was_left_over_does_not() {
        let stale = index(&refs(&parts(2, &[1, 2])));
        assert_eq!(chosen(&[WHOLE], Some(&stale)), Ok((vec![WHOLE.into()], true)));
        let three = parts(3, &[1, 2, 3]);
        assert_eq!(chosen(&refs(&three), Some(&stale)), Ok((three.clone(), true)));
        // An index that names nothing.
        assert_eq!(chosen(&refs(&three), Some(&index(&[]))), Ok((three.clone(), true)));
        // One named file is there, and so is the model in one.
        let names = [parts(2, &[1]), vec![WHOLE.into()]].concat();
        assert_eq!(chosen(&refs(&names), Some(&stale)), Ok((vec![WHOLE.into()], true)));
    }

    #[test]
    fn a_broken_download_stays_one() {
        let missing =
            |name: &str| Problem::File(name.into(), format!("is missing, but {INDEX} names it"));
        let two = parts(2, &[1, 2]);
        let stale = index(&refs(&two));
        assert_eq!(chosen(&refs(&two[..1]), Some(&stale)), Err(missing(&two[1])));
        assert_eq!(chosen(&["config.json"], Some(&stale)), Err(missing(&two[0])));
        // Neither does a part of another set help, nor a file whose name says nothing.
        let names = [parts(3, &[1, 2]), vec!["model-extra.safetensors".into()]].concat();
        assert_eq!(chosen(&refs(&names[..2]), Some(&stale)), Err(missing(&two[0])));
        assert_eq!(chosen(&refs(&names[2..]), Some(&stale)), Err(missing(&two[0])));
        // What the index names is not whole, even if it is called so.
        let named = index(&[WHOLE, "model-mtp.safetensors"]);
        assert_eq!(chosen(&[WHOLE], Some(&named)), Err(missing("model-mtp.safetensors")));
    }

    #[test]
    fn names_decide_without_an_index() {
        let (two, four) = (parts(2, &[1, 2]), parts(4, &[1, 3]));
        assert_eq!(chosen(&refs(&two), None), Ok((two.clone(), false)));
        assert_eq!(
            chosen(&[&refs(&two)[..], &refs(&four)].concat(), None),
            Ok((two.clone(), true))
        );
        let problem = "holds 2 of the 4 files model-*-of-00004.safetensors".into();
        assert_eq!(chosen(&refs(&four), None), Err(Problem::Folder(problem)));
        let other = parts(1, &[1]);
        let twice = chosen(&[&refs(&two)[..], &refs(&other)].concat(), None);
        assert!(
            matches!(twice, Err(Problem::Folder(problem)) if problem.contains("two whole sets"))
        );
        assert_eq!(
            chosen(&[&refs(&two)[..], &[WHOLE]].concat(), None),
            Ok((vec![WHOLE.into()], true))
        );
        // Names that others give; adapters and Mistral's own layout are no models.
        for name in ["gptq_model-4bit-128g.safetensors", "weights.00.safetensors", "M.SAFETENSORS"]
        {
            let names = [name, "adapter_model.safetensors", "consolidated.safetensors"];
            assert_eq!(chosen(&names, None), Ok((vec![name.into()], false)), "{name}");
        }
        assert_eq!(chosen(&["adapter_model.safetensors", "x.bin"], None), Err(Problem::None));
    }

    #[test]
    fn a_part_that_is_given_stands_for_its_set() {
        let names = [parts(2, &[1, 2]), parts(3, &[1]), vec!["x.safetensors".into()]].concat();
        assert_eq!(of_file(&names[1], &names), Ok(names[..2].to_vec()));
        assert_eq!(of_file("x.safetensors", &names), Ok(vec!["x.safetensors".into()]));
        assert!(of_file(&names[2], &names).is_err());
    }
}
