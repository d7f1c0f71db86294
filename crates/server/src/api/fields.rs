//! Kinds of fields that requests have.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::{Schema, SchemaType};
use utoipa::openapi::{ObjectBuilder, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::error::ApiError;

/// A field that cannot change the answer: taken, and not used.
#[derive(Debug, Clone)]
pub(crate) struct Unused;

/// Anything but null, which is what `Option` adds: only one alternative of `oneOf` may hold.
fn anything(description: &str) -> RefOr<Schema> {
    use utoipa::openapi::Type::{Array, Boolean, Number, Object, String};
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter([Object, Array, String, Number, Boolean]))
        .description(Some(description))
        .into()
}

impl PartialSchema for Unused {
    fn schema() -> RefOr<Schema> {
        anything("A field that cannot change the answer: taken, and not used.")
    }
}

impl ToSchema for Unused {}

impl<'de> Deserialize<'de> for Unused {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        Skipped::deserialize(source).map(|Skipped| Self)
    }
}

/// Any value. (serde's own type for that is what tells unknown fields from known ones: `body.rs` would name this one.)
struct Skipped;

impl<'de> Deserialize<'de> for Skipped {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        Given::deserialize(source).map(|_| Self)
    }
}

/// A field that would change the answer and is not honoured. Clients send such fields also where they ask
/// for nothing by them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Given {
    /// `false`, or an empty text, list or object.
    Nothing,
    Number(f64),
    Something,
}

impl Given {
    /// Refuses the field unless it asks for nothing, or for the number at which it changes nothing.
    pub fn refuse(
        given: Option<&Self>,
        neutral: f64,
        name: &str,
        why: &str,
    ) -> Result<(), ApiError> {
        match given {
            None | Some(Self::Nothing) => Ok(()),
            Some(Self::Number(number)) if *number == neutral => Ok(()),
            Some(_) => Err(ApiError::field(name, format!("{name} is not supported: {why}"))),
        }
    }
}

impl PartialSchema for Given {
    fn schema() -> RefOr<Schema> {
        anything(
            "A field that would change the answer and is not honoured: refused unless it asks for nothing.",
        )
    }
}

impl ToSchema for Given {}

impl<'de> Deserialize<'de> for Given {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Given;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<Given, E> {
                Ok(Given::Nothing)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Given, E> {
                Ok(if value { Given::Something } else { Given::Nothing })
            }

            fn visit_i64<E>(self, value: i64) -> Result<Given, E> {
                Ok(Given::Number(value as f64))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Given, E> {
                Ok(Given::Number(value as f64))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Given, E> {
                Ok(Given::Number(value))
            }

            fn visit_str<E>(self, value: &str) -> Result<Given, E> {
                Ok(if value.is_empty() { Given::Nothing } else { Given::Something })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Given, A::Error> {
                let mut given = Given::Nothing;
                while list.next_element::<Skipped>()?.is_some() {
                    given = Given::Something;
                }
                Ok(given)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Given, A::Error> {
                let mut given = Given::Nothing;
                while map.next_entry::<String, Skipped>()?.is_some() {
                    given = Given::Something;
                }
                Ok(given)
            }
        }
        source.deserialize_any(Any)
    }
}

/// Text, or something that is no text. (serde's own way to say so reads everything twice, and forgets which
/// field was wrong.)
// The description is derived, and reads the attribute of the derived `Serialize`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum TextOr<T> {
    Text(String),
    Other(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for TextOr<T> {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = TextOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, or a list or object")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<TextOr<T>, E> {
                Ok(TextOr::Text(text.to_owned()))
            }

            fn visit_string<E: Error>(self, text: String) -> Result<TextOr<T>, E> {
                Ok(TextOr::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<TextOr<T>, A::Error> {
                T::deserialize(SeqAccessDeserializer::new(list)).map(TextOr::Other)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TextOr<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(TextOr::Other)
            }
        }
        source.deserialize_any(Either(PhantomData))
    }
}

/// Null as absent, for fields that have a value of their own where they are.
pub(crate) fn or_default<'de, D, T>(source: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(source)?.unwrap_or_default())
}

/// A number of tokens; -1 is as many as fit. Numbers may be written with a fraction that is none.
pub(crate) fn most_tokens<'de, D: Deserializer<'de>>(source: D) -> Result<Option<u32>, D::Error> {
    match Option::<f64>::deserialize(source)? {
        None => Ok(None),
        Some(-1.0) => Ok(Some(u32::MAX)),
        Some(count) if count.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&count) => {
            Ok(Some(count as u32))
        }
        Some(count) => Err(D::Error::custom(format!(
            "{count} is no number of tokens, expected a whole number, or -1 for as many as fit"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_nothing_is_told_from_what_does() {
        for (text, given) in [
            ("false", Given::Nothing),
            ("\"\"", Given::Nothing),
            ("[]", Given::Nothing),
            ("{}", Given::Nothing),
            ("0", Given::Number(0.0)),
            ("-1", Given::Number(-1.0)),
            ("1.5", Given::Number(1.5)),
            ("true", Given::Something),
            ("\"a\"", Given::Something),
            ("[null]", Given::Something),
            ("{\"a\": []}", Given::Something),
        ] {
            assert_eq!(serde_json::from_str::<Given>(text).unwrap(), given, "{text}");
        }
        assert_eq!(serde_json::from_str::<Option<Given>>("null").unwrap(), None);
        let refused = |given| Given::refuse(Some(&given), 1.0, "x", "why").is_err();
        assert!(!refused(Given::Nothing) && !refused(Given::Number(1.0)));
        assert!(refused(Given::Number(0.0)) && refused(Given::Something));
    }

    #[test]
    fn text_or_a_list_is_told_apart_and_errors_keep_their_place() {
        type Either = TextOr<Vec<u32>>;
        assert!(matches!(serde_json::from_str("\"a\""), Ok(Either::Text(text)) if text == "a"));
        assert!(
            matches!(serde_json::from_str("[1, 2]"), Ok(Either::Other(list)) if list == [1, 2])
        );
        assert!(serde_json::from_str::<Either>("1").is_err());
        let mut source = serde_json::Deserializer::from_str("[1, -1]");
        let error = serde_path_to_error::deserialize::<_, Either>(&mut source).unwrap_err();
        assert_eq!(error.path().to_string(), "[1]");
    }
}
