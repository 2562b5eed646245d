//! Values of more than one word: a command, environment files, environment variables.
//!
//! Law: nothing leaves here that `execve(2)` would choke on or cut short.

use std::fmt;
use std::path::PathBuf;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use toml::Spanned;

use super::environment::{assignment, check_name, check_value};
use super::values::{Scalar, scalar};
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

/// Somebody wrote a command line where a list belongs: show the list, when it is plain what it would be.
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

/// One path, or a list of them.
#[derive(Clone, Debug)]
pub(super) struct Paths(pub Vec<PathBuf>);

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathsVisitor;
        impl<'de> Visitor<'de> for PathsVisitor {
            type Value = Paths;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"a path or a list of paths, such as "/etc/default/web" (with a leading - it may be missing)"#)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Paths, E> {
                FileOrNone::from_text(text).map(|path| Paths(vec![path.0])).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Paths, A::Error> {
                Ok(Paths(elements::<FileOrNone, A>(seq)?.into_iter().map(|path| path.0).collect()))
            }
        }
        deserializer.deserialize_any(PathsVisitor)
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
}
scalar!(FileOrNone);

/// One name of a host, or a list of them.
#[derive(Clone, Debug)]
pub(super) struct HostNames(pub Vec<String>);

impl<'de> Deserialize<'de> for HostNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct HostNamesVisitor;
        impl<'de> Visitor<'de> for HostNamesVisitor {
            type Value = HostNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(r#"a list of hosts' names, such as ["status.example.org"]"#)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<HostNames, E> {
                HostName::from_text(text).map(|name| HostNames(vec![name.0])).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<HostNames, A::Error> {
                Ok(HostNames(elements::<HostName, A>(seq)?.into_iter().map(|name| name.0).collect()))
            }
        }
        deserializer.deserialize_any(HostNamesVisitor)
    }
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
                // The table gives them by name; the order in the file is what its author will look for.
                variables.sort_by_key(|(place, ..)| *place);
                Ok(Variables(variables.into_iter().map(|(_, name, value)| (name, value)).collect()))
            }
        }
        deserializer.deserialize_any(VariablesVisitor)
    }
}

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
