//! Chooses the bus: the system bus, or the session bus when the master is not root and there is one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A message bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bus {
    /// The address of the bus, in the form of the D-Bus specification; several are separated by `;`.
    pub address: String,
    /// Whether this is the system bus: it has other users, and polkit can be asked there.
    pub system: bool,
}

impl Bus {
    /// The bus for a master that runs as `uid`. `DBUS_SYSTEM_BUS_ADDRESS` and `DBUS_SESSION_BUS_ADDRESS` are respected.
    pub fn choose(uid: u32) -> Self {
        Self::choose_from(uid, |name| std::env::var_os(name), Path::exists)
    }

    fn choose_from(uid: u32, variable: impl Fn(&str) -> Option<OsString>, exists: impl Fn(&Path) -> bool) -> Self {
        // A value that is not UTF-8 can't be an address: addresses escape such bytes.
        let address = |name| variable(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
        if uid != 0 {
            if let Some(address) = address("DBUS_SESSION_BUS_ADDRESS") {
                return Self { address, system: false };
            }
            let socket = variable("XDG_RUNTIME_DIR").map(|directory| PathBuf::from(directory).join("bus"));
            if let Some(socket) = socket.filter(|socket| exists(socket)) {
                return Self { address: unix_path(&socket), system: false };
            }
        }
        let system = || unix_path(Path::new("/run/dbus/system_bus_socket"));
        Self { address: address("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(system), system: true }
    }
}

/// A path as an address: bytes that the specification does not allow unescaped become `%xx`.
fn unix_path(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut address = String::from("unix:path=");
    for &byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"-_/.\\*".contains(&byte) {
            address.push(byte.into());
        } else {
            address.push_str(&format!("%{byte:02x}"));
        }
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(uid: u32, variables: &[(&str, &str)], there: bool) -> (String, bool) {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let bus = Bus::choose_from(uid, variable, |_| there);
        (bus.address, bus.system)
    }

    #[test]
    fn root_uses_the_system_bus_even_with_a_session() {
        let session = ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/tmp/session");
        assert_eq!(choose(0, &[session], true), ("unix:path=/run/dbus/system_bus_socket".into(), true));
        let system = ("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/tmp/system");
        assert_eq!(choose(0, &[session, system], true), ("unix:path=/tmp/system".into(), true));
    }

    #[test]
    fn others_use_the_session_bus_where_one_is_there() {
        let runtime = ("XDG_RUNTIME_DIR", "/run/user/1000");
        assert_eq!(choose(1000, &[runtime], true), ("unix:path=/run/user/1000/bus".into(), false));
        assert_eq!(choose(1000, &[runtime], false), ("unix:path=/run/dbus/system_bus_socket".into(), true));
        assert_eq!(choose(1000, &[], true), ("unix:path=/run/dbus/system_bus_socket".into(), true));
        let session = ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/tmp/session");
        assert_eq!(choose(1000, &[session, runtime], true), ("unix:path=/tmp/session".into(), false));
        assert_eq!(choose(1000, &[("DBUS_SESSION_BUS_ADDRESS", ""), runtime], true).0, "unix:path=/run/user/1000/bus");
    }

    #[test]
    fn odd_paths_are_escaped() {
        assert_eq!(unix_path(Path::new("/tmp/a b,c;d")), "unix:path=/tmp/a%20b%2cc%3bd");
    }
}
