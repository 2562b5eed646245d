//! Reading a call and its parameters, and the errors that answer it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::interfaces::Kind;

/// A call of a method.
#[derive(Debug, Deserialize)]
pub(super) struct Call {
    /// The name of the method with its interface.
    pub method: String,
    #[serde(default)]
    pub parameters: Option<Map<String, Value>>,
    /// The caller wants no reply.
    #[serde(default)]
    pub oneway: bool,
    /// The caller takes more than one reply.
    #[serde(default)]
    pub more: bool,
    /// The caller wants another protocol on this connection.
    #[serde(default)]
    pub upgrade: bool,
}

/// A reply.
#[derive(Debug, Serialize)]
pub(super) struct Reply<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
    pub parameters: &'a Value,
    /// More replies to the same call follow.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub continues: bool,
}

/// An error reply.
#[derive(Debug, PartialEq)]
pub(super) struct Fault {
    /// The name of the error with its interface.
    pub name: String,
    pub parameters: Value,
}

impl Fault {
    /// An error of `org.ratoon1.Manager` whose only parameter is the reason.
    pub fn reason(name: &str, reason: impl Into<String>) -> Fault {
        Fault::ours(name, json!({ "reason": reason.into() }))
    }

    /// An error of `org.ratoon1.Manager`.
    pub fn ours(name: &str, parameters: Value) -> Fault {
        Fault { name: format!("org.ratoon1.Manager.{name}"), parameters }
    }

    /// The error for a missing parameter, one of another type, or one that the method does not have.
    pub fn invalid(parameter: &str) -> Fault {
        Fault::service("InvalidParameter", json!({ "parameter": parameter }))
    }

    /// An error of `org.varlink.service`.
    pub fn service(name: &str, parameters: Value) -> Fault {
        Fault { name: format!("org.varlink.service.{name}"), parameters }
    }
}

/// The parameters of a call, checked against those of its method.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Parameters(Map<String, Value>);

impl Parameters {
    /// Checks the parameters of a call; `null` is the same as no parameter.
    ///
    /// # Errors
    /// [`Fault::invalid`]
    pub fn check(given: Option<Map<String, Value>>, known: &[(&str, Kind)]) -> Result<Parameters, Fault> {
        let mut given = given.unwrap_or_default();
        given.retain(|_, value| !value.is_null());
        if let Some(name) = given.keys().find(|name| !known.iter().any(|(known, _)| known == name)) {
            return Err(Fault::invalid(name));
        }
        for (name, kind) in known {
            let fits = match (kind, given.get(*name)) {
                (Kind::Number, Some(value)) | (Kind::OptionalNumber, Some(value)) => value.as_u64().is_some(),
                (Kind::Flag, Some(value)) => value.is_boolean(),
                (Kind::Text, Some(value)) => value.is_string(),
                (Kind::OptionalNumber | Kind::Flag, None) => true,
                (Kind::Number | Kind::Text, None) => false,
            };
            if !fits {
                return Err(Fault::invalid(name));
            }
        }
        Ok(Parameters(given))
    }

    /// A number; `None` when it is not given.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(Value::as_u64)
    }

    /// A flag; `false` when it is not given.
    pub fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// A text; empty when it is not given.
    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: Value) -> Result<Parameters, Fault> {
        let known = [("workers", Kind::Number), ("worker", Kind::OptionalNumber), ("interactive", Kind::Flag)];
        Parameters::check(given.as_object().cloned(), &known)
    }

    #[test]
    fn parameters_are_read_by_name_and_type() {
        let parameters = check(json!({ "workers": 4, "worker": null, "interactive": true })).unwrap();
        assert_eq!((parameters.number("workers"), parameters.number("worker")), (Some(4), None));
        assert!(parameters.flag("interactive"));
    }

    #[test]
    fn wrong_parameter_is_named() {
        for (given, name) in [
            (json!({}), "workers"),
            (json!({ "workers": "4" }), "workers"),
            (json!({ "workers": -4 }), "workers"),
            (json!({ "workers": 4.5 }), "workers"),
            (json!({ "workers": 4, "worker": [] }), "worker"),
            (json!({ "workers": 4, "interactive": 1 }), "interactive"),
            (json!({ "workers": 4, "force": true }), "force"),
        ] {
            assert_eq!(check(given.clone()), Err(Fault::invalid(name)), "{given}");
        }
    }
}
