//! Connects to the bus, and connects again whenever the bus comes back. Each change is logged once.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::time::Instant;
use zbus::address::Address;
use zbus::address::transport::{Transport, UnixSocket};
use zbus::connection::Builder;
use zbus::{Connection, MessageStream};

use super::serve::{Ended, serve};
use super::wire::Wire;
use super::{Level, Shared, appear};

/// The first pause before another attempt; doubled each time.
const SHORTEST: Duration = Duration::from_millis(100);
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(30);
/// Lifetime of a connection from which on the pauses start short again.
const GOOD: Duration = Duration::from_secs(1);

/// Connects and serves until the master ends or stops the front end.
pub(super) async fn run(shared: Arc<Shared>) {
    let mut pause = SHORTEST;
    let mut said_absent = false;
    loop {
        let connected = tokio::select! {
            connected = connect(&shared.options.bus.address) => connected,
            () = shared.ending() => return,
        };
        let absence = match connected {
            Ok(connection) => {
                let since = Instant::now();
                // Made before the connection's reader runs, so that no message is missed.
                let messages = MessageStream::from(&connection);
                // A separate task: if a message makes it panic, only the connection is lost.
                let served = tokio::spawn(serve(connection.clone(), messages, shared.clone())).await;
                let ended = served.unwrap_or_else(|problem| Ended::Lost(format!("an error of ours: {problem}")));
                // Closed here, and not when the last clone is dropped, because the old connection must give up its names.
                let _ = connection.close().await;
                match ended {
                    Ended::Stopped => return,
                    Ended::Lost(why) => {
                        let text = format!("the message bus is gone ({why}); connecting again when it is back");
                        shared.say(Level::Warning, text);
                        said_absent = true;
                    }
                }
                if since.elapsed() >= GOOD {
                    pause = SHORTEST;
                }
                Absence::default()
            }
            Err(absence) => {
                if !said_absent && (shared.options.bus_is_expected || !absence.missing) {
                    let address = &shared.options.bus.address;
                    let text =
                        format!("no message bus at {address} ({}): everything works without D-Bus until it comes", absence.why);
                    shared.say(Level::Info, text);
                    said_absent = true;
                }
                absence
            }
        };
        tokio::select! {
            came = wait(&absence, pause) => pause = if came { SHORTEST } else { (pause * 2).min(LONGEST) },
            () = shared.ending() => return,
        }
    }
}

/// Waits before the next attempt; returns whether the socket was made again meanwhile.
async fn wait(absence: &Absence, pause: Duration) -> bool {
    let came = async {
        match &absence.socket {
            Some(socket) => appear::appears(socket, absence.missing).await.is_ok(),
            None => false,
        }
    };
    tokio::select! {
        // Without inotify only the timer is left.
        true = came => true,
        // The timer is off while the socket is missing, since no attempt can succeed until it appears.
        () = tokio::time::sleep(pause), if !absence.missing => false,
        else => {
            tokio::time::sleep(pause).await;
            false
        }
    }
}

/// The reason why there is no connection.
#[derive(Default)]
pub(super) struct Absence {
    pub why: String,
    /// The path of the bus's socket, if it has one.
    socket: Option<PathBuf>,
    /// Whether there is no such file.
    missing: bool,
}

impl From<zbus::Error> for Absence {
    fn from(error: zbus::Error) -> Self {
        Self { why: error.to_string(), ..Self::default() }
    }
}

/// Connects to the first of the addresses that answers. There is no timeout for a bus that accepts the connection and then sends
/// nothing: the wait costs nothing, and if the bus dies the connection ends.
pub(super) async fn connect(addresses: &str) -> Result<Connection, Absence> {
    let mut absence = Absence { why: "its address is empty".into(), ..Absence::default() };
    for address in addresses.split(';').filter(|address| !address.is_empty()) {
        match connect_to(address).await {
            Ok(connection) => return Ok(connection),
            Err(why) => absence = why,
        }
    }
    Err(absence)
}

async fn connect_to(address: &str) -> Result<Connection, Absence> {
    let address: Address = address.parse()?;
    let Transport::Unix(unix) = address.transport() else {
        return Ok(Builder::address(address).build().await?);
    };
    let (path, file) = match unix.path() {
        UnixSocket::File(path) => (path.clone(), true),
        UnixSocket::Abstract(name) => (PathBuf::from(std::ffi::OsStr::from_bytes(&[b"\0", name.as_bytes()].concat())), false),
        _ => return Err(Absence { why: "it names a directory, not a socket".into(), ..Absence::default() }),
    };
    match UnixStream::connect(&path).await {
        Ok(stream) => Ok(Builder::socket(Wire(stream)).build().await?),
        Err(error) => {
            let missing = file && error.kind() == io::ErrorKind::NotFound;
            Err(Absence { why: error.to_string(), socket: file.then_some(path), missing })
        }
    }
}
