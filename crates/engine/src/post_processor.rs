//! The tokens that a `tokenizer.json` puts around a text.
//!
//! Read from the post-processor instead of run by the `tokenizers` crate: a template may name the text five hundred times,
//! or a second text that there is not.

use serde_json::Value;

use crate::tokenizer::TokenizerError;

/// The most tokens around a text. Published files have two.
const MAX_TOKENS: usize = 256;

/// Ids before and after a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Around {
    pub before: Vec<u32>,
    pub after: Vec<u32>,
}

impl Around {
    /// Reads the post-processor section.
    ///
    /// # Errors
    /// If it does not put the one text somewhere once, or names a token that it does not define.
    pub fn from_json(processor: &Value) -> Result<Self, TokenizerError> {
        let mut around = Self::default();
        around.wrap(processor)?;
        Ok(around)
    }

    fn wrap(&mut self, processor: &Value) -> Result<(), TokenizerError> {
        let (before, after) = match processor.get("type").and_then(Value::as_str) {
            Some("Sequence") => {
                let steps = processor.get("processors").and_then(Value::as_array);
                return steps.into_iter().flatten().try_for_each(|step| self.wrap(step));
            }
            // BERT and its like write a token as its text and its id.
            Some("BertProcessing" | "RobertaProcessing") => {
                let id = |name: &str| {
                    let id = processor.get(name).and_then(|token| token.get(1)).and_then(id);
                    id.ok_or_else(|| wrong(format!("'{name}' is not a text and an id")))
                };
                (vec![id("cls")?], vec![id("sep")?])
            }
            Some("TemplateProcessing") => template(processor)?,
            // It moves offsets, which nothing here looks at.
            Some("ByteLevel") | None => return Ok(()),
            Some(other) => return Err(wrong(format!("{other:?} is not known"))),
        };
        // Later steps go around what earlier ones made.
        self.before.splice(0..0, before);
        self.after.extend(after);
        if self.before.len() + self.after.len() > MAX_TOKENS {
            return Err(wrong(format!("more than {MAX_TOKENS} tokens are put around a text")));
        }
        Ok(())
    }
}

/// The tokens of a template for one text.
fn template(processor: &Value) -> Result<(Vec<u32>, Vec<u32>), TokenizerError> {
    let single = processor.get("single").and_then(Value::as_array);
    let single = single.ok_or_else(|| wrong("a template without 'single'".into()))?;
    let (mut before, mut after, mut texts) = (vec![], vec![], 0);
    for piece in single {
        if let Some(sequence) = piece.pointer("/Sequence/id") {
            if sequence != "A" {
                return Err(wrong(format!("the template for one text names sequence {sequence}")));
            }
            texts += 1;
            continue;
        }
        let name = piece.pointer("/SpecialToken/id").and_then(Value::as_str);
        let name =
            name.ok_or_else(|| wrong("a template's piece is neither text nor token".into()))?;
        let ids = processor.get("special_tokens").and_then(|tokens| tokens.get(name));
        let ids = ids.and_then(|token| token.get("ids")).and_then(Value::as_array);
        let ids: Option<Vec<u32>> = ids.and_then(|ids| ids.iter().map(id).collect());
        let short: String = name.chars().take(40).collect();
        let ids = ids.ok_or_else(|| wrong(format!("the template's token {short:?} has no ids")))?;
        if texts == 0 { &mut before } else { &mut after }.extend(ids);
    }
    match texts {
        1 => Ok((before, after)),
        _ => Err(wrong(format!(
            "the template for one text has the text {texts} times, expected once"
        ))),
    }
}

fn id(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|id| u32::try_from(id).ok())
}

fn wrong(problem: String) -> TokenizerError {
    TokenizerError::Parse(format!("post_processor: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn templates_and_pairs_of_tokens_nest() {
        let token = |name: &str, id: u32| json!({"id": name, "ids": [id], "tokens": [name]});
        let template = json!({"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "b", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
            {"SpecialToken": {"id": "e", "type_id": 0}}],
            "pair": [], "special_tokens": {"b": token("b", 1), "e": token("e", 2)}});
        let bert = json!({"type": "BertProcessing", "sep": ["s", 4], "cls": ["c", 3]});
        let nothing = json!({"type": "ByteLevel"});
        let all = json!({"type": "Sequence", "processors": [nothing, template, bert]});
        let around = Around::from_json(&all).unwrap();
        assert_eq!((around.before, around.after), (vec![3, 1], vec![2, 4]));
        assert_eq!(Around::from_json(&Value::Null).unwrap(), Around::default());
    }

    #[test]
    fn templates_that_lie_are_refused() {
        let a = json!({"Sequence": {"id": "A", "type_id": 0}});
        let b = json!({"Sequence": {"id": "B", "type_id": 0}});
        let x = json!({"SpecialToken": {"id": "x", "type_id": 0}});
        for (single, expected) in [
            (vec![a.clone(), a.clone()], "2 times"),
            (vec![], "0 times"),
            (vec![b], "names sequence \"B\""),
            (vec![x, a], "token \"x\" has no ids"),
        ] {
            let template =
                json!({"type": "TemplateProcessing", "single": single, "special_tokens": {}});
            let error = Around::from_json(&template).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let many: Vec<u32> = vec![1; 300];
        let single = json!([{"SpecialToken": {"id": "x"}}, {"Sequence": {"id": "A"}}]);
        let template = json!({"type": "TemplateProcessing", "single": single,
            "special_tokens": {"x": {"id": "x", "ids": many}}});
        assert!(Around::from_json(&template).unwrap_err().to_string().contains("more than 256"));
    }
}
