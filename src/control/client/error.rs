//! Why a request to a master failed, with a hint.

use std::path::PathBuf;
use std::time::Duration;

use crate::control::paths;

/// The reason why a request failed.
#[derive(Debug)]
pub enum Error {
    /// There is no socket at the path.
    Missing(PathBuf),
    /// No process listens on the socket.
    Dead(PathBuf),
    /// The user may not open the socket.
    Denied(PathBuf),
    /// The user may not change the pool; the message is the master's.
    Forbidden(String),
    /// The path does not fit into a Unix socket's address.
    TooLong(PathBuf),
    /// The answer did not come within this time.
    Silent(PathBuf, Duration),
    /// The connection broke.
    Broken(PathBuf, String),
    /// The answer cannot be read, or is an error: HTTP status and message.
    Answer(PathBuf, u16, String),
}

impl std::error::Error for Error {}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Missing(path) => write!(
                f,
                "no instance listens at {}: there is no such socket; `ratoon list` shows those that run",
                path.display()
            ),
            Error::Dead(path) => write!(
                f,
                "the master of {} is dead: its control socket is there, but nobody listens; start it again \
                 (`systemctl start` its unit) and look into its journal for why it ended",
                path.display()
            ),
            Error::Denied(path) => {
                write!(f, "no permission to open {}: run this as root or as the user that the master runs as", path.display())
            }
            Error::Forbidden(words) => write!(f, "not permitted: {words}"),
            Error::TooLong(path) => write!(
                f,
                "the path {} has {} bytes, but a Unix socket's address holds {}; use a shorter one",
                path.display(),
                path.as_os_str().len(),
                paths::LONGEST
            ),
            Error::Silent(path, waited) => write!(
                f,
                "the master of {} did not answer within {} s: it is stopped, or at its limit of descriptors (LimitNOFILE=), or the \
                 machine is overloaded; look at its process and journal",
                path.display(),
                waited.as_secs()
            ),
            Error::Broken(path, why) => {
                write!(f, "the connection to {} ended before the answer ({why}): the master went away", path.display())
            }
            Error::Answer(path, status, words) => {
                write!(f, "{} answered {status}: {words}", path.display())
            }
        }
    }
}
