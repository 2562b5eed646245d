//! The fields of a row of the table of keys, and the macros that make structs, readers, flags and schema from the rows.
//!
//! The rows are in `table.rs`; all code that lists keys uses [`Table`] and [`Key`].

use serde::Deserialize;
use serde_json::Value as Json;
use toml::de::ValueDeserializer;

use super::types::Config;

/// One table of the file, such as `[worker.limits]`.
pub(super) struct Table {
    /// The full name: `worker.limits`.
    pub(super) name: &'static str,
    /// Doc comment of the table, one line per element.
    pub(super) about: &'static [&'static str],
    pub(super) keys: &'static [Key],
}

/// One key.
pub(super) struct Key {
    /// The name in its table: `start_timeout`.
    pub(super) name: &'static str,
    /// The full name: `worker.start_timeout`.
    pub(super) full: &'static str,
    /// Doc comment, one line per element; literals stand between backquotes.
    pub(super) doc: &'static [&'static str],
    pub(super) default: DefaultValue,
    /// A value for the example where there is no default, in TOML.
    #[cfg_attr(not(test), expect(dead_code, reason = "the example is written by a test"))]
    pub(super) example: Option<&'static str>,
    pub(super) flag: Option<Flag>,
    /// Names in other programs, in lower case and without `_` and `-`, separated by spaces.
    pub(super) other_names: &'static str,
    /// JSON Schema of the value.
    pub(super) schema: fn() -> Json,
    /// The words of an enum; empty for another type.
    pub(super) words: fn() -> &'static [&'static str],
    /// Reads the value from the file into the configuration.
    pub(super) read: fn(&mut Config, ValueDeserializer<'_>) -> Result<(), toml::de::Error>,
}

/// The default of a key.
pub(super) enum DefaultValue {
    /// A value, in TOML.
    Value(&'static str),
    /// No value; the text says what holds then.
    None(&'static str),
}

/// A key as a flag of `ratoon run`.
pub(super) struct Flag {
    /// `workers|count N`: the names, and the placeholder of the value in the help (an enum shows its words there).
    pub(super) usage: &'static str,
    /// Whether the flag may be given several times.
    pub(super) repeated: bool,
    /// Reads the flag's value into the configuration.
    pub(super) read: fn(&mut Config, &str) -> Result<(), String>,
}

impl Flag {
    /// The flag's names without `--`: first the one that the help shows, then its aliases.
    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.usage.split(' ').next().unwrap_or_default().split('|')
    }

    /// The placeholder of the value in the help: `TIME`; empty for an enum.
    pub(super) fn value_name(&self) -> &'static str {
        self.usage.split_once(' ').map_or("", |(_, value)| value)
    }
}

/// The text of a doc comment without backquotes and asterisks.
pub(super) fn plain(text: &str) -> String {
    text.replace(['`', '*'], "").trim().to_owned()
}

/// A value as the file writes it, which becomes a field of the configuration.
pub(super) trait Field<T>: for<'de> Deserialize<'de> {
    /// The field's value.
    fn field(self) -> T;
}

/// A value of the file that JSON Schema can describe.
pub(super) trait Shape {
    /// JSON Schema (draft 7) of what may be written.
    fn schema() -> Json;

    /// The words of an enum; empty for another type.
    fn words() -> &'static [&'static str] {
        &[]
    }
}

/// The struct of one table, within the configuration.
pub(super) trait Section {
    /// This struct in the configuration.
    fn of(config: &mut Config) -> &mut Self;
}

/// The field's value for a default that the table writes as TOML.
pub(super) fn default_of<T, V: Field<T>>(text: &str) -> T {
    let value = ValueDeserializer::parse(text).and_then(V::deserialize);
    value.unwrap_or_else(|error| unreachable!("the default {text}: {error}")).field()
}

/// Makes the struct of each table, with `Default`, and the list `TABLES` of all tables. A row is
///
/// ```text
/// /// Doc comment.
/// key: FieldType as WrittenType, default "TOML", example "TOML", flag("names VALUE"), also "other names";
/// ```
///
/// where `none "what holds then"` can replace `default`, and everything after it may be left out. A flag that may be given
/// several times is `flag("names VALUE", Type => field)`: each value is appended to that field.
macro_rules! tables {
    ($(
        $(#[doc = $about:literal])*
        $table:literal => $struct:ident at $($place:ident).+ {$(
            $(#[doc = $doc:literal])*
            $key:ident: $field:ty as $written:ty, $how:ident $default:literal
            $(, example $example:literal)? $(, flag $flag:tt)? $(, also $also:literal)?;
        )*}
        $(with {$( $(#[doc = $with_doc:literal])* $with:ident: $with_type:ty; )*})?
    )*) => {
        $(
            $(#[doc = $about])*
            #[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
            #[serde(default)]
            pub struct $struct {
                $($(#[doc = $doc])* pub $key: $field,)*
                $($($(#[doc = $with_doc])* pub $with: $with_type,)*)?
            }

            impl Default for $struct {
                fn default() -> Self {
                    Self {
                        $($key: tables!(@default $how $field, $written, $default),)*
                        $($($with: Default::default(),)*)?
                    }
                }
            }

            impl $crate::config::row::Section for $struct {
                fn of(config: &mut $crate::config::Config) -> &mut Self {
                    &mut config.$($place).+
                }
            }
        )*

        /// Every table with its keys, in the order of the documentation.
        pub(super) static TABLES: &[$crate::config::row::Table] = &[$(
            $crate::config::row::Table {
                name: $table,
                about: &[$($about),*],
                keys: &[$(
                    $crate::config::row::Key {
                        name: stringify!($key),
                        full: concat!($table, ".", stringify!($key)),
                        doc: &[$($doc),*],
                        default: tables!(@default_text $how $default),
                        example: tables!(@first $(Some($example),)? None),
                        flag: tables!(@flag $struct, $key, $field, $written $(, $flag)?),
                        other_names: tables!(@first $($also,)? ""),
                        schema: <$written as $crate::config::row::Shape>::schema,
                        words: <$written as $crate::config::row::Shape>::words,
                        read: |config, value| {
                            let value = <$written as serde::Deserialize>::deserialize(value)?;
                            <$struct as $crate::config::row::Section>::of(config).$key =
                                $crate::config::row::Field::<$field>::field(value);
                            Ok(())
                        },
                    },
                )*],
            },
        )*];
    };
    (@default default $field:ty, $written:ty, $text:literal) => { $crate::config::row::default_of::<$field, $written>($text) };
    (@default none $field:ty, $written:ty, $words:literal) => { Default::default() };
    (@default_text default $text:literal) => { $crate::config::row::DefaultValue::Value($text) };
    (@default_text none $words:literal) => { $crate::config::row::DefaultValue::None($words) };
    (@first $first:expr $(, $rest:expr)*) => { $first };
    (@flag $struct:ident, $key:ident, $field:ty, $written:ty) => { None };
    (@flag $struct:ident, $key:ident, $field:ty, $written:ty, ($usage:literal)) => {
        Some($crate::config::row::Flag {
            usage: $usage,
            repeated: false,
            read: |config, text| {
                let value = $crate::config::values::from_flag::<$written>(text)?;
                <$struct as $crate::config::row::Section>::of(config).$key = $crate::config::row::Field::<$field>::field(value);
                Ok(())
            },
        })
    };
    (@flag $struct:ident, $key:ident, $field:ty, $written:ty, ($usage:literal, $each:ty => $into:ident)) => {
        Some($crate::config::row::Flag {
            usage: $usage,
            repeated: true,
            read: |config, text| {
                let value = $crate::config::values::from_flag::<$each>(text)?;
                <$struct as $crate::config::row::Section>::of(config).$into.push($crate::config::row::Field::field(value));
                Ok(())
            },
        })
    };
}
pub(super) use tables;

/// An enum whose values are words in the file: `/// Doc comment. Variant = "word",`.
macro_rules! words {
    ($(#[doc = $about:literal])* $enum:ident { $($(#[doc = $doc:literal])* $variant:ident = $word:literal,)+ }) => {
        $(#[doc = $about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $enum {
            $($(#[doc = $doc])* $variant,)+
        }

        impl $enum {
            /// Every word.
            const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word in the file.
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl $crate::config::values::Scalar for $enum {
            fn expected() -> String {
                $crate::config::values::one_of(Self::WORDS)
            }

            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("{} is unknown; expected {}", $crate::config::error::quoted(text), Self::expected())),
                }
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({ "enum": Self::WORDS })
            }

            fn words() -> &'static [&'static str] {
                Self::WORDS
            }
        }
        $crate::config::values::scalar!($enum);

        impl serde::Serialize for $enum {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.word())
            }
        }
    };
}
pub(super) use words;
