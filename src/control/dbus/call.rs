//! Reads a call: the object, the method, and whether the arguments have the types of the method. No other module reads headers of
//! calls.

use std::pin::Pin;

use zbus::export::futures_core::Stream;
use zbus::export::serde::Serialize;
use zbus::message::Flags;
use zbus::wire::DynamicDeserialize;
use zbus::{Connection, DynamicType, Message, MessageStream};

use super::{
    INTROSPECTABLE, LOG_CONTROL, LOG_PATH, MANAGER, MANAGER_PATH, OBJECT_MANAGER, PEER, PROPERTIES, WORKER, WORKERS_PATH, clean,
};

/// The standard error names that are used here.
pub(super) mod error {
    pub const ACCESS_DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
    pub const FAILED: &str = "org.freedesktop.DBus.Error.Failed";
    pub const INTERACTION: &str = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";
    pub const INVALID_ARGS: &str = "org.freedesktop.DBus.Error.InvalidArgs";
    pub const LIMITS: &str = "org.freedesktop.DBus.Error.LimitsExceeded";
    pub const READ_ONLY: &str = "org.freedesktop.DBus.Error.PropertyReadOnly";
    pub const UNKNOWN_INTERFACE: &str = "org.freedesktop.DBus.Error.UnknownInterface";
    pub const UNKNOWN_METHOD: &str = "org.freedesktop.DBus.Error.UnknownMethod";
    pub const UNKNOWN_OBJECT: &str = "org.freedesktop.DBus.Error.UnknownObject";
    pub const UNKNOWN_PROPERTY: &str = "org.freedesktop.DBus.Error.UnknownProperty";
}

/// An error for the caller: a D-Bus error name and a sentence.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub name: &'static str,
    pub text: String,
}

impl Fault {
    pub fn new(name: &'static str, text: impl Into<String>) -> Self {
        Self { name, text: text.into() }
    }
}

impl From<zbus::Error> for Fault {
    fn from(error: zbus::Error) -> Self {
        Self::new(error::FAILED, error.to_string())
    }
}

/// An object that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    /// `/org/ratoon1`.
    Manager,
    /// `/org/ratoon1/worker/ID`; there may be no such worker.
    Worker(u64),
    /// `/org/freedesktop/LogControl1`.
    Log,
    /// A path that only leads to others.
    Branch,
}

impl Object {
    pub fn find(path: &str) -> Option<Self> {
        match path {
            MANAGER_PATH => Some(Self::Manager),
            LOG_PATH => Some(Self::Log),
            "/" | "/org" | "/org/freedesktop" | WORKERS_PATH => Some(Self::Branch),
            _ => {
                let id = path.strip_prefix(WORKERS_PATH)?.strip_prefix('/')?;
                // A worker has exactly one path: "+7" and "07" are not accepted.
                let number = id.parse().ok()?;
                (id == format!("{number}")).then_some(Self::Worker(number))
            }
        }
    }

    /// The interface of the object that has properties.
    pub fn own_interface(self) -> Option<&'static str> {
        match self {
            Self::Manager | Self::Worker(_) | Self::Log => self.interfaces().first().copied(),
            Self::Branch => None,
        }
    }

    /// The interfaces of the object, its own one first.
    pub fn interfaces(self) -> &'static [&'static str] {
        match self {
            Self::Manager => &[MANAGER, OBJECT_MANAGER, PROPERTIES, INTROSPECTABLE, PEER],
            Self::Worker(_) => &[WORKER, PROPERTIES, INTROSPECTABLE, PEER],
            Self::Log => &[LOG_CONTROL, PROPERTIES, INTROSPECTABLE, PEER],
            Self::Branch => &[PROPERTIES, INTROSPECTABLE, PEER],
        }
    }
}

/// A method that can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Reload,
    Abort,
    Promote,
    Scale,
    ScaleAuto,
    Recycle,
    Pause,
    Resume,
    Upgrade,
    Undo,
    GetStatus,
    GetHistory,
    GetManagedObjects,
    Get,
    GetAll,
    Set,
    Introspect,
    Ping,
    GetMachineId,
}

/// The table of methods: interface, name, types of the arguments.
const METHODS: &[(&str, &str, &str, Method)] = &[
    (MANAGER, "Reload", "", Method::Reload),
    (MANAGER, "Abort", "", Method::Abort),
    (MANAGER, "Promote", "", Method::Promote),
    (MANAGER, "Scale", "u", Method::Scale),
    (MANAGER, "ScaleAuto", "", Method::ScaleAuto),
    (MANAGER, "Recycle", "t", Method::Recycle),
    (MANAGER, "Pause", "", Method::Pause),
    (MANAGER, "Resume", "", Method::Resume),
    (MANAGER, "Upgrade", "", Method::Upgrade),
    (MANAGER, "Undo", "t", Method::Undo),
    (MANAGER, "GetStatus", "", Method::GetStatus),
    (MANAGER, "GetHistory", "", Method::GetHistory),
    (OBJECT_MANAGER, "GetManagedObjects", "", Method::GetManagedObjects),
    (PROPERTIES, "Get", "ss", Method::Get),
    (PROPERTIES, "GetAll", "s", Method::GetAll),
    (PROPERTIES, "Set", "ssv", Method::Set),
    (INTROSPECTABLE, "Introspect", "", Method::Introspect),
    (PEER, "Ping", "", Method::Ping),
    (PEER, "GetMachineId", "", Method::GetMachineId),
];

/// A call whose object, method and arguments match.
#[derive(Clone)]
pub(super) struct Call {
    pub message: Message,
    pub object: Object,
    pub method: Method,
}

impl Call {
    /// Reads a message of type method call; `living` tells whether there is a worker with this id.
    ///
    /// # Errors
    /// The error for the caller when the call is invalid.
    pub fn read(message: &Message, living: impl Fn(u64) -> bool) -> Result<Self, Fault> {
        let header = message.header();
        let path = header.path().map_or("", |path| path.as_str());
        let interface = header.interface().map(|interface| interface.as_str());
        let member = header.member().map_or("", |member| member.as_str());
        let object = match Object::find(path) {
            Some(Object::Worker(id)) if !living(id) => None,
            // The specification demands that Peer answers on every path.
            None if interface == Some(PEER) => Some(Object::Branch),
            object => object,
        };
        let unknown = || Fault::new(error::UNKNOWN_OBJECT, format!("there is no object {path} here"));
        let object = object.ok_or_else(unknown)?;
        let interfaces = object.interfaces();
        if let Some(interface) = interface.filter(|interface| !interfaces.contains(interface)) {
            return Err(Fault::new(error::UNKNOWN_INTERFACE, format!("{path} has no interface {interface}")));
        }
        // A call may leave the interface out; no two interfaces of an object share a method's name.
        let row = METHODS.iter().find(|(known, name, ..)| {
            *name == member && interfaces.contains(known) && interface.is_none_or(|interface| interface == *known)
        });
        let unknown = || Fault::new(error::UNKNOWN_METHOD, format!("{path} has no method {member}"));
        let (_, _, takes, method) = row.ok_or_else(unknown)?;
        let given = message.body().signature().to_string_no_parens();
        if given != *takes {
            let text = format!("{member} takes arguments of the types '{takes}', not '{given}'");
            return Err(Fault::new(error::INVALID_ARGS, text));
        }
        Ok(Self { message: message.clone(), object, method: *method })
    }

    /// The arguments of the call.
    ///
    /// # Errors
    /// When the body does not have the form of its signature.
    pub fn arguments<T>(&self) -> Result<T, Fault>
    where
        T: for<'a> DynamicDeserialize<'a>,
    {
        let body = self.message.body();
        body.deserialize().map_err(|error| Fault::new(error::INVALID_ARGS, error.to_string()))
    }

    /// The unique name of the caller; the bus vouches for it.
    pub fn caller(&self) -> String {
        caller(&self.message)
    }

    /// Whether the caller waits for the answer.
    pub fn wants_reply(&self) -> bool {
        wants_reply(&self.message)
    }

    /// Whether the caller allows polkit to ask a person for authentication.
    pub fn interactive(&self) -> bool {
        self.message.primary_header().flags().contains(Flags::ALLOW_INTERACTIVE_AUTH)
    }

    /// The message that answers the call.
    ///
    /// # Errors
    /// When the message would be larger than D-Bus allows.
    pub fn reply<B: Serialize + DynamicType>(&self, body: &B) -> Result<Message, Fault> {
        Ok(Message::method_return(&self.message.header()).build(body)?)
    }
}

pub(super) fn caller(message: &Message) -> String {
    message.header().sender().map(|sender| sender.as_str().to_owned()).unwrap_or_default()
}

pub(super) fn wants_reply(message: &Message) -> bool {
    !message.primary_header().flags().contains(Flags::NO_REPLY_EXPECTED)
}

/// The error message to the caller of `message`.
pub(super) fn refuse(message: &Message, fault: &Fault) -> zbus::Result<Message> {
    Message::error(&message.header(), fault.name).build(&clean(&fault.text))
}

/// Calls a method of the bus itself.
pub(super) async fn bus<B>(connection: &Connection, method: &str, body: &B) -> zbus::Result<Message>
where
    B: Serialize + DynamicType,
{
    let name = "org.freedesktop.DBus";
    connection.call_method(Some(name), "/org/freedesktop/DBus", Some(name), method, body).await
}

/// The next message of a stream; `None` when the connection is lost.
pub(super) async fn next(stream: &mut MessageStream) -> Option<zbus::Result<Message>> {
    std::future::poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    use super::*;

    fn call(path: &str, interface: Option<&str>, member: &str) -> zbus::message::Builder<'static> {
        let builder = Message::method_call(path.to_owned(), member.to_owned());
        match interface {
            Some(interface) => builder.interface(interface.to_owned()),
            None => builder,
        }
    }

    fn read(message: &Message) -> Result<(Object, Method), &'static str> {
        match Call::read(message, |id| id == 7) {
            Ok(call) => Ok((call.object, call.method)),
            Err(fault) => Err(fault.name),
        }
    }

    #[test]
    fn each_path_has_one_spelling() {
        assert_eq!(Object::find("/org/ratoon1"), Some(Object::Manager));
        assert_eq!(Object::find("/org/ratoon1/worker/18446744073709551615"), Some(Object::Worker(u64::MAX)));
        for path in ["", "/org/ratoon1/", "/org/ratoon1/worker/", "/org/ratoon1/worker/07", "/org/ratoon1/worker/+7", "/com"] {
            assert_eq!(Object::find(path), None, "{path}");
        }
        assert_eq!(Object::find("/org/ratoon1/worker/18446744073709551616"), None);
    }

    #[test]
    fn a_call_must_fit_its_method() {
        let reload = call(MANAGER_PATH, Some(MANAGER), "Reload");
        assert_eq!(read(&reload.clone().build(&()).unwrap()), Ok((Object::Manager, Method::Reload)));
        assert_eq!(read(&reload.build(&1u32).unwrap()), Err(error::INVALID_ARGS));
        let scale = call(MANAGER_PATH, Some(MANAGER), "Scale");
        assert_eq!(read(&scale.clone().build(&4u32).unwrap()), Ok((Object::Manager, Method::Scale)));
        assert_eq!(read(&scale.clone().build(&"4").unwrap()), Err(error::INVALID_ARGS));
        assert_eq!(read(&scale.clone().build(&(4u32, 5u32)).unwrap()), Err(error::INVALID_ARGS));
        assert_eq!(read(&scale.build(&()).unwrap()), Err(error::INVALID_ARGS));
    }

    #[test]
    fn the_interface_may_be_left_out_and_must_not_be_wrong() {
        let build = |path: &str, interface, member: &str| call(path, interface, member).build(&()).unwrap();
        assert_eq!(read(&build(MANAGER_PATH, None, "Reload")), Ok((Object::Manager, Method::Reload)));
        assert_eq!(read(&build(MANAGER_PATH, Some(WORKER), "Reload")), Err(error::UNKNOWN_INTERFACE));
        assert_eq!(read(&build(MANAGER_PATH, Some(PEER), "Reload")), Err(error::UNKNOWN_METHOD));
        assert_eq!(read(&build(LOG_PATH, None, "Reload")), Err(error::UNKNOWN_METHOD));
        assert_eq!(read(&build("/nowhere", Some(PEER), "Ping")), Ok((Object::Branch, Method::Ping)));
        assert_eq!(read(&build("/nowhere", None, "Ping")), Err(error::UNKNOWN_OBJECT));
    }

    #[test]
    fn only_living_workers_are_objects() {
        let build = |path: &str| call(path, Some(INTROSPECTABLE), "Introspect").build(&()).unwrap();
        assert_eq!(read(&build("/org/ratoon1/worker/7")), Ok((Object::Worker(7), Method::Introspect)));
        assert_eq!(read(&build("/org/ratoon1/worker/8")), Err(error::UNKNOWN_OBJECT));
    }

    proptest! {
        #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

        /// Every message becomes a call with its arguments, or a fault that says what is wrong.
        #[test]
        fn every_message_is_a_call_or_a_fault(
            path in "(/|/org|/org/ratoon1|/org/ratoon1/worker/[0-9+]{0,22}|/org/freedesktop/LogControl1|(/[a-z_0-9]{1,9}){1,4})",
            interface in prop::option::of("(org[.]ratoon1[.](Manager|Worker)|org[.]freedesktop[.](LogControl1|DBus[.](Peer|Properties|Introspectable|ObjectManager))|[a-z]{1,5}[.][a-z]{1,5})"),
            member in "(Reload|Scale|Recycle|Get|GetAll|Set|Introspect|Ping|[A-Za-z_]{1,12})",
            body in 0..8,
            text in "[^\\x00]{0,20}",
            number: u64,
        ) {
            prop_assume!(zbus::ObjectPath::try_from(path.as_str()).is_ok());
            let builder = call(&path, interface.as_deref(), &member);
            let message = match body {
                0 => builder.build(&()),
                1 => builder.build(&number),
                2 => builder.build(&u32::try_from(number % 1000).unwrap()),
                3 => builder.build(&text),
                4 => builder.build(&(&text, &text)),
                5 => builder.build(&(&text, &text, zbus::Variant::from(number))),
                6 => builder.build(&(zbus::Variant::from(vec![text.as_str()]), number)),
                _ => builder.build(&((&text, &text),)),
            };
            match Call::read(&message.unwrap(), |id| id < 1000) {
                Err(fault) => prop_assert!(!fault.text.is_empty()),
                Ok(call) => match call.method {
                    Method::Scale => prop_assert!(call.arguments::<u32>().is_ok()),
                    Method::Recycle => prop_assert_eq!(call.arguments::<u64>(), Ok(number)),
                    Method::Get => prop_assert_eq!(call.arguments::<(String, String)>(), Ok((text.clone(), text))),
                    Method::GetAll => prop_assert_eq!(call.arguments::<String>(), Ok(text)),
                    _ => {}
                },
            }
        }
    }
}
