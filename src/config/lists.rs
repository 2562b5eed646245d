//! Values that are more than one word: a command, environment files, environment variables.
//!
//! Law: execve(2) neither refuses nor truncates a value that is accepted here.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Value as Json, json};
use toml::Spanned;

use super::environment::{assignment, check_name, check_value};
use super::row::{Field, Shape};
use super::values::{Scalar, field, scalar};
use super::words::{FilePath, HostName};

/// A program and its arguments.
#[derive(Clone, Debug)]
pub(super) struct Argv(pub Vec<String>);

const ARGV: &str = r#"a list with one word an element, such as ["/usr/bin/my-server", "--flag"]"#;

impl<'de> Deserialize<'de> for Argv {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ArgvVisitor;
        impl<'de> Visitor<'de> for ArgvVisitor {
            type Value = Argv;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(ARGV)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Argv, E> {
                Err(E::custom(one_string(text)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Argv, A::Error> {
                let words: Vec<Argument> = elements(seq)?;
                match words.first() {
                    Some(program) if !program.0.is_empty() => Ok(Argv(words.into_iter().map(|word| word.0).collect())),
                    Some(_) => Err(A::Error::custom(format!("the program's name is empty; expected {ARGV}"))),
                    None => Err(A::Error::custom(format!("the list is empty; expected {ARGV}"))),
                }
            }
        }
        deserializer.deserialize_any(ArgvVisitor)
    }
}

impl Shape for Argv {
    fn schema() -> Json {
        json!({ "type": "array", "items": { "type": "string" }, "minItems": 1 })
    }
}

field!(Argv => Vec<String>);

/// The error for a command line written in place of a list; it shows the list, if the words are unambiguous.
fn one_string(text: &str) -> String {
    let plain =
        text.len() <= 200 && text.chars().all(|c| c.is_ascii_graphic() && !"'\"\\$`|&;<>(){}*?#~".contains(c) || c == ' ');
    let words: Vec<&str> = text.split_whitespace().collect();
    if plain && !words.is_empty() {
        format!("no shell splits a command into words; write the list {words:?}")
    } else {
        format!("no shell reads a command; expected {ARGV}, or [\"/bin/sh\", \"-c\", \"exec …\"]")
    }
}

/// One word of a command.
struct Argument(String);

impl Scalar for Argument {
    fn expected() -> String {
        "a word in quotes".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.contains('\0') {
            return Err("a NUL byte cannot be part of a word of a command".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    fn from_number(number: i128) -> Result<Self, String> {
        Err(format!("{number} is a number; write it in quotes: \"{number}\""))
    }
}
scalar!(Argument);

/// One value, or a list of them.
#[derive(Clone, Debug)]
pub(super) struct OneOrMore<T>(pub Vec<T>);

/// A value that may be an element of a list.
pub(super) trait Listed: Scalar {
    /// Completes the sentence "expected …" for the list.
    const LIST: &'static str;
}

impl<'de, T: Listed + Deserialize<'de>> Deserialize<'de> for OneOrMore<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMoreVisitor<T>(PhantomData<T>);
        impl<'de, T: Listed + Deserialize<'de>> Visitor<'de> for OneOrMoreVisitor<T> {
            type Value = OneOrMore<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::LIST)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<OneOrMore<T>, E> {
                T::from_text(text).map(|value| OneOrMore(vec![value])).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<OneOrMore<T>, A::Error> {
                elements(seq).map(OneOrMore)
            }
        }
        deserializer.deserialize_any(OneOrMoreVisitor(PhantomData))
    }
}

impl<T: Listed> Shape for OneOrMore<T> {
    fn schema() -> Json {
        let one = <T as Scalar>::schema();
        json!({ "anyOf": [one, { "type": "array", "items": one }] })
    }
}

impl<T: Listed + Field<U> + for<'de> Deserialize<'de>, U> Field<Vec<U>> for OneOrMore<T> {
    fn field(self) -> Vec<U> {
        self.0.into_iter().map(T::field).collect()
    }
}

/// A path, with a leading `-` when the file may be missing.
#[derive(Clone, Debug)]
pub(super) struct FileOrNone(pub PathBuf);

impl Scalar for FileOrNone {
    fn expected() -> String {
        "a path".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        FilePath::from_text(text.strip_prefix('-').unwrap_or(text))?;
        Ok(Self(PathBuf::from(text)))
    }

    fn schema() -> Json {
        json!({ "type": "string", "pattern": "^(-.|[^-])" })
    }
}
scalar!(FileOrNone);
field!(FileOrNone => PathBuf);

impl Listed for FileOrNone {
    const LIST: &'static str = r#"a path or a list of paths, such as "/etc/default/web" (with a leading - it may be missing)"#;
}

impl Listed for HostName {
    const LIST: &'static str = r#"a list of hosts' names, such as ["status.example.org"]"#;
}

/// Environment variables, as a table or as a list of assignments.
#[derive(Clone, Debug)]
pub(super) struct Variables(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Variables {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VariablesVisitor;
        impl<'de> Visitor<'de> for VariablesVisitor {
            type Value = Variables;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"a table such as { A = "1", B = "2" } or a list such as ["A=1", "B=2"]"#)
            }

            fn visit_str<E: Error>(self, _: &str) -> Result<Variables, E> {
                Err(E::custom(r#"text does not fit here; write a list with one assignment an element, such as ["A=1", "B=2"]"#))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Variables, A::Error> {
                Ok(Variables(elements::<Assignment, A>(seq)?.into_iter().map(|a| (a.0, a.1)).collect()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Variables, A::Error> {
                let mut variables: Vec<(usize, String, String)> = Vec::new();
                while let Some(name) = map.next_key::<Spanned<VariableName>>()? {
                    let place = name.span().start;
                    let name = name.into_inner().0;
                    let value = map.next_value::<VariableValue>()?.0;
                    check_value(&name, &value).map_err(A::Error::custom)?;
                    variables.push((place, name, value));
                }
                // The table gives the variables by name; the author of the file expects the order of the file.
                variables.sort_by_key(|(place, ..)| *place);
                Ok(Variables(variables.into_iter().map(|(_, name, value)| (name, value)).collect()))
            }
        }
        deserializer.deserialize_any(VariablesVisitor)
    }
}

impl Shape for Variables {
    fn schema() -> Json {
        let name = "[A-Za-z_][A-Za-z0-9_]*";
        let table = json!({
            "type": "object",
            "propertyNames": { "pattern": format!("^{name}$") },
            "additionalProperties": { "type": ["string", "integer"] },
        });
        let list = json!({ "type": "array", "items": { "type": "string", "pattern": format!("^{name}=") } });
        json!({ "anyOf": [table, list] })
    }
}

field!(Variables => Vec<(String, String)>);

/// `NAME=value`
#[derive(Clone, Debug)]
pub(super) struct Assignment(pub String, pub String);

impl Scalar for Assignment {
    fn expected() -> String {
        r#"an assignment such as "NAME=value""#.to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        assignment(text).map(|(name, value)| Self(name, value))
    }
}
scalar!(Assignment);

impl Field<(String, String)> for Assignment {
    fn field(self) -> (String, String) {
        (self.0, self.1)
    }
}

struct VariableName(String);

impl Scalar for VariableName {
    fn expected() -> String {
        "the name of a variable".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        check_name(text).map(|()| Self(text.to_owned()))
    }

    fn from_number(number: i128) -> Result<Self, String> {
        Self::from_text(&number.to_string())
    }
}
scalar!(VariableName);

struct VariableValue(String);

impl Scalar for VariableValue {
    fn expected() -> String {
        "the variable's value in quotes".to_owned()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }

    fn from_number(number: i128) -> Result<Self, String> {
        Ok(Self(number.to_string()))
    }
}
scalar!(VariableValue);

fn elements<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(mut seq: A) -> Result<Vec<T>, A::Error> {
    let mut all = Vec::new();
    while let Some(element) = seq.next_element()? {
        all.push(element);
    }
    Ok(all)
}
