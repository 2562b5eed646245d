//! JSON Schema (draft 7, which TOML editors read) of the file, made from the table of keys.

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use toml::de::ValueDeserializer;

use super::keys;
use super::row::{DefaultValue, Key, plain};

/// The schema of a whole file.
pub fn schema() -> Json {
    let mut schema = table("");
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("Configuration of a Ratoon instance");
    schema["required"] = json!(["worker"]);
    schema["properties"]["worker"]["required"] = json!(["command"]);
    schema
}

/// The schema of the table `name` (`""`: the top).
fn table(name: &str) -> Json {
    let keys = keys::table(name).map_or(&[][..], |table| table.keys);
    let mut properties: Map<String, Json> = keys.iter().map(|key| (key.name.to_owned(), value(key))).collect();
    properties.extend(keys::tables_of(name).map(|(own, full)| (own.to_owned(), table(full))));
    let mut schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
    if let Some(table) = keys::table(name) {
        schema["description"] = json!(text(table.about));
    }
    schema
}

/// The schema of one key's value.
fn value(key: &Key) -> Json {
    let mut schema = (key.schema)();
    let mut description = text(key.doc);
    match key.default {
        DefaultValue::Value(default) => {
            schema["default"] = ValueDeserializer::parse(default).and_then(Json::deserialize).unwrap_or_default();
        }
        DefaultValue::None(words) => description += &format!(" Default: {}.", plain(words)),
    }
    schema["description"] = json!(description);
    schema
}

/// A doc comment as one paragraph without markup.
fn text(lines: &[&str]) -> String {
    plain(&lines.concat())
}
