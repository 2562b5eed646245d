//! The interfaces: the shipped texts, which `GetInterfaceDescription` returns, and the table of methods.

use crate::api::Request;

/// The type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A number from 0.
    Number,
    /// A number from 0 that may be left out.
    OptionalNumber,
    /// A flag that may be left out.
    Flag,
    /// A string.
    Text,
}

/// The action of a method.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// `org.varlink.service.GetInfo`
    GetInfo,
    /// `org.varlink.service.GetInterfaceDescription`
    GetInterfaceDescription,
    /// Answers at once.
    Ping,
    /// Sets the level of the log.
    SetLogLevel,
    /// The environment of the master.
    GetEnvironment,
    /// The status document.
    GetStatus,
    /// The releases that are kept.
    GetHistory,
    /// The stream of changes.
    Monitor,
    /// A change of the pool, whose reply has no parameters, or those of the outcome.
    Change(Change, Output),
}

/// A change of the pool; its parameters are in the call.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// A change without parameters.
    Plain(Request),
    /// [`Request::Undo`]
    Undo,
    /// [`Request::Scale`]
    Scale,
    /// [`Request::Recycle`]
    Recycle,
    /// [`Request::Pause`]
    Pause,
}

/// Which parameters the reply to a change has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// Those of the outcome.
    Outcome,
    /// None.
    Nothing,
}

/// A method, its parameters, and its action.
pub(super) type Method = (&'static str, &'static [(&'static str, Kind)], Action);

/// Whether polkit may ask a person for authentication: a parameter of each change.
pub(super) const INTERACTIVE: &str = "allowInteractiveAuthentication";
/// The parameters of a change that has none of its own.
const PLAIN: &[(&str, Kind)] = &[(INTERACTIVE, Kind::Flag)];

/// A change without parameters of its own.
const fn plain(request: Request) -> Action {
    Action::Change(Change::Plain(request), Output::Outcome)
}

/// All methods.
pub(super) const METHODS: &[Method] = &[
    ("org.varlink.service.GetInfo", &[], Action::GetInfo),
    ("org.varlink.service.GetInterfaceDescription", &[("interface", Kind::Text)], Action::GetInterfaceDescription),
    ("io.systemd.service.Ping", &[], Action::Ping),
    ("io.systemd.service.Reload", PLAIN, Action::Change(Change::Plain(Request::Reload), Output::Nothing)),
    ("io.systemd.service.SetLogLevel", &[("level", Kind::OptionalNumber), (INTERACTIVE, Kind::Flag)], Action::SetLogLevel),
    ("io.systemd.service.GetEnvironment", PLAIN, Action::GetEnvironment),
    ("org.ratoon1.Manager.GetStatus", &[], Action::GetStatus),
    ("org.ratoon1.Manager.GetHistory", &[], Action::GetHistory),
    ("org.ratoon1.Manager.Monitor", &[], Action::Monitor),
    ("org.ratoon1.Manager.Reload", PLAIN, plain(Request::Reload)),
    (
        "org.ratoon1.Manager.Undo",
        &[("generation", Kind::OptionalNumber), (INTERACTIVE, Kind::Flag)],
        Action::Change(Change::Undo, Output::Outcome),
    ),
    ("org.ratoon1.Manager.Probe", PLAIN, plain(Request::Probe)),
    ("org.ratoon1.Manager.Abort", PLAIN, plain(Request::Abort)),
    ("org.ratoon1.Manager.Promote", PLAIN, plain(Request::Promote)),
    (
        "org.ratoon1.Manager.Scale",
        &[("workers", Kind::Number), (INTERACTIVE, Kind::Flag)],
        Action::Change(Change::Scale, Output::Outcome),
    ),
    ("org.ratoon1.Manager.ScaleAuto", PLAIN, plain(Request::ScaleAuto)),
    (
        "org.ratoon1.Manager.Recycle",
        &[("worker", Kind::OptionalNumber), (INTERACTIVE, Kind::Flag)],
        Action::Change(Change::Recycle, Output::Outcome),
    ),
    (
        "org.ratoon1.Manager.Pause",
        &[("timeout_usec", Kind::OptionalNumber), (INTERACTIVE, Kind::Flag)],
        Action::Change(Change::Pause, Output::Outcome),
    ),
    ("org.ratoon1.Manager.Resume", PLAIN, plain(Request::Resume)),
    ("org.ratoon1.Manager.Upgrade", PLAIN, plain(Request::Upgrade)),
];

/// The interfaces and their texts; the first is that of the protocol itself.
pub(super) const INTERFACES: [(&str, &str); 3] = [
    (
        "org.varlink.service",
        "# The interface that each varlink service has.\ninterface org.varlink.service\n\n# Information about the service.\nmethod GetInfo() -> \
         (vendor: string, product: string, version: string, url: string, interfaces: []string)\n\n# The description of an \
         interface.\nmethod GetInterfaceDescription(interface: string) -> (description: string)\n\nerror InterfaceNotFound(interface: \
         string)\nerror MethodNotFound(method: string)\nerror MethodNotImplemented(method: string)\nerror \
         InvalidParameter(parameter: string)\nerror PermissionDenied()\nerror ExpectedMore()\n",
    ),
    ("io.systemd.service", include_str!("../../../systemd/varlink/io.systemd.service.varlink")),
    ("org.ratoon1.Manager", include_str!("../../../systemd/varlink/org.ratoon1.Manager.varlink")),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The parameters of a method in an interface's text: names and types between the first pair of brackets.
    fn parameters(text: &str, method: &str) -> Vec<(String, String)> {
        let start = text.find(&format!("method {method}(")).unwrap_or_else(|| panic!("no {method}"));
        let list = &text[start + method.len() + "method (".len()..];
        let list: String = list[..list.find(')').unwrap()].lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        let pairs = list.split(',').filter_map(|field| field.trim().split_once(": "));
        pairs.map(|(name, kind)| (name.trim().to_owned(), kind.trim().to_owned())).collect()
    }

    #[test]
    fn table_has_the_methods_and_parameters_of_the_texts() {
        let mut told = 0;
        for (interface, text) in INTERFACES {
            told += text.lines().filter(|line| line.starts_with("method ")).count();
            for (name, known, _) in METHODS.iter().filter(|(name, ..)| name.rsplit_once('.').unwrap().0 == interface) {
                let known: Vec<_> = known
                    .iter()
                    .map(|(name, kind)| {
                        let kind = match kind {
                            Kind::Number => "int",
                            Kind::OptionalNumber => "?int",
                            Kind::Flag => "?bool",
                            Kind::Text => "string",
                        };
                        ((*name).to_owned(), kind.to_owned())
                    })
                    .collect();
                assert_eq!(parameters(text, name.rsplit_once('.').unwrap().1), known, "{name}");
            }
        }
        assert_eq!(told, METHODS.len(), "methods of the texts, and of the table");
    }
}
