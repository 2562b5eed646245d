//! The front ends beside the control socket: the status address, D-Bus and varlink.
//!
//! Law: the pool serves without them. A front end that cannot start is logged; it is no reason to end.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crate::api::Handle;
use crate::config::Config;
use crate::control::dbus::{self, Bus, LogControl};
use crate::control::{http, varlink};
use crate::master::log::journal::{Journal, Level, Record, Target};
use crate::sys::credentials::own_uid;

/// The socket of `status.listen`; `None` if none is configured, or if it cannot be bound, which is logged.
pub fn bind_status(config: &Config, journal: &Journal) -> Option<OwnedFd> {
    let address = config.status.listen.as_ref()?;
    let bound = listen(address);
    bound.map_err(|error| journal.log(Record::new(Level::Error, format!("status.listen = {address:?}: {error}")))).ok()
}

/// Serves a copy of the status socket within a tokio runtime.
///
/// # Errors
/// The runtime does not take the socket, or no descriptor is left.
pub fn serve_status(
    socket: &OwnedFd,
    handle: &Handle,
    registry: &Arc<http::ConnectionRegistry>,
) -> std::io::Result<tokio::task::AbortHandle> {
    let copy = socket.try_clone()?;
    let is_unix = rustix::net::sockopt::socket_domain(socket)? == rustix::net::AddressFamily::UNIX;
    let listener = if is_unix {
        http::Listener::Unix(tokio::net::UnixListener::from_std(copy.into())?)
    } else {
        http::Listener::Tcp(tokio::net::TcpListener::from_std(copy.into())?)
    };
    Ok(tokio::spawn(http::serve_with(listener, handle.clone(), None, registry.clone())).abort_handle())
}

/// D-Bus and varlink. Stop them at the end, so that their callers get their answers.
pub struct Fronts {
    bus: dbus::Service,
    varlink: Option<varlink::Service>,
}

impl Fronts {
    /// Starts both. `socket`: that of varlink, or why there is none.
    pub fn start(
        handle: &Handle,
        socket: std::io::Result<varlink::Served>,
        instance: &str,
        journal: &Journal,
        under_systemd: bool,
    ) -> Fronts {
        Fronts {
            bus: start_bus(handle, instance, journal, under_systemd),
            varlink: start_varlink(handle, socket, journal, under_systemd),
        }
    }

    /// Ends both: answers that the loop has already given are sent (for up to a second), then the connections are closed.
    pub async fn stop(self) {
        let varlink = async {
            if let Some(varlink) = self.varlink {
                varlink.stop().await;
            }
        };
        tokio::join!(self.bus.stop(), varlink);
    }
}

fn start_bus(handle: &Handle, instance: &str, journal: &Journal, under_systemd: bool) -> dbus::Service {
    let log = journal.clone();
    let options = dbus::Options {
        instance: instance.to_owned(),
        unit: under_systemd.then(own_unit).flatten(),
        own_uid: own_uid(),
        bus: Bus::choose(own_uid()),
        bus_is_expected: under_systemd,
        log: Arc::new(move |level, line| {
            let level = match level {
                dbus::Level::Warning => Level::Warning,
                dbus::Level::Info => Level::Info,
            };
            log.log(Record::new(level, line));
        }),
        log_control: Arc::new(JournalControl(journal.clone())),
    };
    dbus::spawn(handle.announcing(), options)
}

/// `None` if there is no socket, which is logged.
fn start_varlink(
    handle: &Handle,
    socket: std::io::Result<varlink::Served>,
    journal: &Journal,
    under_systemd: bool,
) -> Option<varlink::Service> {
    let options = varlink::Options {
        own_uid: own_uid(),
        unit: under_systemd.then(own_unit).flatten(),
        bus: Bus::choose(own_uid()),
        log_control: Arc::new(JournalControl(journal.clone())),
    };
    let started = socket.map(|socket| varlink::spawn(socket, handle.announcing(), options));
    started.map_err(|error| journal.log(Record::new(Level::Warning, format!("no varlink: cannot bind its socket: {error}")))).ok()
}

/// Binds the address of `status.listen`.
///
/// # Errors
/// Those of bind(2).
pub fn listen(address: &str) -> std::io::Result<OwnedFd> {
    if address.starts_with('/') {
        crate::master::listeners::sockets::check_directory(Path::new(address)).map_err(std::io::Error::other)?;
        // Only a socket that no process accepts on is removed; any other file makes bind(2) fail.
        let is_socket =
            std::fs::symlink_metadata(address).is_ok_and(|it| std::os::unix::fs::FileTypeExt::is_socket(&it.file_type()));
        if is_socket && std::os::unix::net::UnixStream::connect(address).is_err() {
            let _ = std::fs::remove_file(address);
        }
        let listener = std::os::unix::net::UnixListener::bind(address)?;
        listener.set_nonblocking(true)?;
        return Ok(listener.into());
    }
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener.into())
}

/// The unit of this process, from its control group: `ratoon@web.service`.
pub fn own_unit() -> Option<String> {
    unit_of(&std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn unit_of(groups: &str) -> Option<String> {
    // On a machine with both cgroup hierarchies systemd may use either one.
    let paths = groups.lines().filter_map(|line| line.strip_prefix("0::").or_else(|| Some(line.split_once(":name=systemd:")?.1)));
    paths.flat_map(|path| path.rsplit('/')).find(|part| part.ends_with(".service")).map(str::to_owned)
}

/// `org.freedesktop.LogControl1` over the master's log.
struct JournalControl(Journal);

impl LogControl for JournalControl {
    fn level(&self) -> String {
        self.0.level().as_str().to_owned()
    }

    fn set_level(&self, level: &str) -> Result<(), String> {
        self.0.set_level(level.parse()?);
        Ok(())
    }

    fn target(&self) -> String {
        match self.0.target() {
            Target::Journal => "journal",
            Target::Stderr => "console",
        }
        .to_owned()
    }

    fn set_target(&self, target: &str) -> Result<(), String> {
        self.0.set_target(match target {
            "journal" => Target::Journal,
            "console" => Target::Stderr,
            "auto" => Target::choose(),
            other => return Err(format!("{other:?} is no target that ratoon can log to: take journal, console or auto")),
        });
        Ok(())
    }

    fn identifier(&self) -> String {
        self.0.syslog_identifier().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_is_found_also_from_a_group_below_it() {
        let unit = |groups| unit_of(groups);
        assert_eq!(
            unit("0::/system.slice/system-ratoon.slice/ratoon@web.service/master\n").as_deref(),
            Some("ratoon@web.service")
        );
        assert_eq!(unit("12:pids:/x\n1:name=systemd:/system.slice/a.service\n0::/\n").as_deref(), Some("a.service"));
        assert_eq!(unit("9:name=systemd:/\n0::/system.slice/a.service\n").as_deref(), Some("a.service"));
        assert_eq!(unit("0::/user.slice/session-1.scope\n"), None);
    }
}
