//! Waits for the socket of a bus by inotify(7) on the nearest directory that exists, so that a machine without D-Bus is not
//! woken for polling.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::sys::poll::Poll;

/// Returns when a file with the name of `socket` is made, or, with `or_there`, at once if there is one already.
///
/// # Errors
/// When inotify is not available (its limits are reached): the caller uses a timer instead.
pub(super) async fn appears(socket: &Path, or_there: bool) -> io::Result<()> {
    loop {
        // Finds the nearest ancestor that exists, and below it the next step of the path to the socket.
        let mut step = socket;
        let directory = loop {
            let Some(parent) = step.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
                return Err(io::Error::other(format!("{} has no directory", socket.display())));
            };
            if parent.is_dir() {
                break parent;
            }
            step = parent;
        };
        let name = step.file_name().unwrap_or_default();
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(
            &watch,
            directory,
            WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR,
        )?;
        // The step may have been made between the check and the watch.
        if step == socket {
            if or_there && socket.exists() {
                return Ok(());
            }
        } else if step.is_dir() {
            continue;
        }
        let came = wait_for(&watch, name).await?;
        if came && step == socket {
            return Ok(());
        }
    }
}

/// Waits until `name` is made (`true`), or the directory itself goes away (`false`).
async fn wait_for(watch: &OwnedFd, name: &OsStr) -> io::Result<bool> {
    let poll = Poll::new()?;
    poll.add(watch, 0)?;
    let poll = Arc::new(poll).watched()?;
    let mut buffer = [MaybeUninit::uninit(); 1024];
    loop {
        let mut ready = poll.readable().await?;
        let mut events = inotify::Reader::new(watch, &mut buffer);
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            match event.file_name() {
                Some(file) if file.to_bytes() == name.as_bytes() => return Ok(true),
                Some(_) => {}
                None => return Ok(false),
            }
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn within<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("in time")
    }

    #[tokio::test]
    async fn sees_a_socket_that_comes_with_its_directories() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("run/dbus/socket");
        let path = socket.clone();
        let waiting = tokio::spawn(async move { appears(&path, true).await });
        std::fs::create_dir(directory.path().join("other")).unwrap();
        std::fs::create_dir(directory.path().join("run")).unwrap();
        tokio::task::yield_now().await;
        std::fs::create_dir(directory.path().join("run/dbus")).unwrap();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        std::fs::write(&socket, "").unwrap();
        within(waiting).await.unwrap().unwrap();
        within(appears(&socket, true)).await.unwrap();
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_waited_out() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("dbus/socket");
        std::fs::write(directory.path().join("dbus"), "").unwrap();
        let path = socket.clone();
        let waiting = tokio::spawn(async move { appears(&path, true).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        std::fs::remove_file(directory.path().join("dbus")).unwrap();
        std::fs::create_dir(directory.path().join("dbus")).unwrap();
        std::fs::write(&socket, "").unwrap();
        within(waiting).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_dead_socket_must_be_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        std::fs::write(&socket, "").unwrap();
        let path = socket.clone();
        let waiting = tokio::spawn(async move { appears(&path, false).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        std::fs::remove_file(&socket).unwrap();
        std::fs::write(&socket, "").unwrap();
        within(waiting).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_goes_away_is_waited_for_again() {
        let directory = tempfile::tempdir().unwrap();
        let inner = directory.path().join("dbus");
        std::fs::create_dir(&inner).unwrap();
        let socket = inner.join("socket");
        let path = socket.clone();
        let waiting = tokio::spawn(async move { appears(&path, true).await });
        tokio::task::yield_now().await;
        std::fs::remove_dir(&inner).unwrap();
        tokio::task::yield_now().await;
        std::fs::create_dir(&inner).unwrap();
        std::fs::write(&socket, "").unwrap();
        within(waiting).await.unwrap().unwrap();
    }
}
