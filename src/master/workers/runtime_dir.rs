//! The runtime directory: the control socket, the workers' notify sockets, and the inotify watch for both.
//!
//! Law: a socket that another process removes (a cleaner of /tmp, an administrator) is bound again at once. The instance removes the
//! sockets and the directory at its end.

use std::fs;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::task::JoinHandle;

use crate::api::Handle;
use crate::control::listen::Control;
use crate::control::{http, paths, varlink};
use crate::master::releases::adapter;
use crate::master::state::fds::Outgoing;
use crate::master::state::{self, CONTROL, LOCK, VARLINK};
use crate::master::workers::WorkerSet;
use crate::master::workers::processes::Token;
use crate::pool::WorkerId;
use crate::sys::credentials::own_uid;
use crate::sys::notify::NotifySocket;

/// The directory below the runtime directory that holds the workers' sockets.
const NOTIFY: &str = "notify";

/// The control socket, and the directory with it and the notify sockets. Dropping it removes them.
pub struct RuntimeDir {
    control: Control,
    directory: PathBuf,
    handle: Handle,
    registry: Arc<http::ConnectionRegistry>,
    serving: Option<JoinHandle<()>>,
    /// The server of varlink's socket.
    varlink: Option<varlink::Sockets>,
    /// `None` when the kernel gives no inotify instance: then a removed socket is not bound again.
    inotify: Option<OwnedFd>,
    watches: Watches,
}

#[derive(Clone, Copy, Default)]
struct Watches {
    own: i32,
    notify: i32,
}

/// The removed sockets and directories.
#[derive(Debug, Default, PartialEq, Eq)]
struct Removed {
    control: bool,
    varlink: bool,
    directory: bool,
    sockets: Vec<WorkerId>,
}

impl RuntimeDir {
    /// Takes over a bound control socket, and makes the directory for notify sockets. Notify sockets of a dead master are removed,
    /// unless `go_on`: then this master goes on with them.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(
        control: Control,
        directory: PathBuf,
        handle: Handle,
        registry: Arc<http::ConnectionRegistry>,
        go_on: bool,
    ) -> Result<RuntimeDir, String> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok();
        let mut dir = RuntimeDir {
            control,
            directory,
            handle,
            registry,
            serving: None,
            varlink: None,
            inotify,
            watches: Watches::default(),
        };
        if !go_on {
            let _ = fs::remove_dir_all(dir.notify());
        }
        dir.make().map_err(|error| format!("cannot make {}: {error}", dir.notify().display()))?;
        Ok(dir)
    }

    /// The handle by which front ends send requests to the loop.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The descriptors and the state of the control socket, for the next program of this process.
    pub(in crate::master) fn save<'a>(&'a self, fds: &mut Outgoing<'a>) -> state::Control {
        let (listener, lock) = self.control.descriptors();
        state::Control {
            directory: self.directory.as_path().into(),
            made: self.control.made(),
            listener: fds.lend(CONTROL.to_owned(), listener),
            lock: fds.lend(LOCK.to_owned(), lock),
            identity: self.control.identity(),
            varlink: self.control.varlink_parts().map(|(socket, identity)| (fds.lend(VARLINK.to_owned(), socket), identity)),
        }
    }

    /// The socket of varlink, for a server; also the one that is bound again after it was removed. Connections wait in its queue while no
    /// program serves it.
    ///
    /// # Errors
    /// The socket cannot be bound, or the process has no free descriptor.
    pub fn open_varlink(&mut self) -> std::io::Result<varlink::Served> {
        let (sockets, served) = varlink::served(self.control.open_varlink()?.listener()?);
        self.varlink = Some(sockets);
        Ok(served)
    }

    /// The directory of the workers' notify sockets.
    pub fn notify(&self) -> PathBuf {
        self.directory.join(NOTIFY)
    }

    /// The path of a worker's notify socket.
    pub fn notify_path(&self, worker: WorkerId) -> PathBuf {
        let mut path = self.notify();
        path.push(worker.to_string());
        path
    }

    /// Readable (EPOLLIN) when a file in the directory, or the directory, was removed.
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(AsFd::as_fd)
    }

    /// Starts to serve the control socket. Call it within a tokio runtime.
    ///
    /// # Errors
    /// tokio cannot register the socket.
    pub fn serve(&mut self) -> Result<(), String> {
        let listener = self.control.listener().and_then(tokio::net::UnixListener::from_std);
        let listener = http::Listener::Unix(listener.map_err(|error| format!("control socket: {error}"))?);
        let serving = tokio::spawn(http::serve_with(listener, self.handle.clone(), Some(own_uid()), self.registry.clone()));
        if let Some(former) = self.serving.replace(serving) {
            former.abort();
        }
        Ok(())
    }

    /// Makes the directories, and adds the inotify watches.
    fn make(&mut self) -> std::io::Result<()> {
        let notify = self.notify();
        fs::create_dir_all(&notify)?;
        // By path: the runtime directory of a root master belongs to root (control/listen.rs).
        // Workers of other users must reach their own socket, and need not list the sockets of other workers.
        fs::set_permissions(&notify, fs::Permissions::from_mode(0o711))?;
        if let Some(inotify) = &self.inotify {
            let gone = WatchFlags::DELETE | WatchFlags::MOVED_FROM | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
            let own = inotify::add_watch(inotify, &self.directory, gone | WatchFlags::ONLYDIR);
            let below = inotify::add_watch(inotify, &notify, gone | WatchFlags::ONLYDIR);
            self.watches = Watches { own: own.unwrap_or(-1), notify: below.unwrap_or(-1) };
        }
        Ok(())
    }

    fn removed(&self) -> Removed {
        let mut removed = Removed::default();
        let Some(inotify) = &self.inotify else { return removed };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().and_then(|name| name.to_str().ok());
            let directory = event.events().intersects(ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::QUEUE_OVERFLOW);
            match name {
                _ if directory => removed.directory = true,
                Some(paths::SOCKET) if event.wd() == self.watches.own => removed.control = true,
                Some(varlink::SOCKET) if event.wd() == self.watches.own => removed.varlink = true,
                Some(NOTIFY) if event.wd() == self.watches.own => removed.directory = true,
                Some(name) if event.wd() == self.watches.notify => removed.sockets.extend(name.parse::<WorkerId>()),
                Some(_) | None => {}
            }
        }
        removed
    }
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        // This runs before the drop of the control socket, which removes the runtime directory.
        // The directory is empty by now: remove_dir needs no descriptor, remove_dir_all would need one.
        if fs::remove_dir(self.notify()).is_err() {
            let _ = fs::remove_dir_all(self.notify());
        }
        adapter::clear(&self.directory);
    }
}

impl WorkerSet {
    /// Handles removed files in the runtime directory: makes the ones again that are still needed.
    pub(in crate::master) fn directory_changed(&mut self) {
        let removed = self.runtime_dir.removed();
        if removed.directory {
            if let Err(why) = self.restore_directory() {
                self.log.warn(format!("the runtime directory was removed and cannot be made again: {why}"));
            }
            return;
        }
        if removed.control {
            self.control_again();
        }
        if removed.varlink {
            self.varlink_again();
        }
        for worker in removed.sockets {
            self.socket_again(worker);
        }
    }

    /// Makes the runtime directory again, with the control socket and the notify sockets.
    pub(in crate::master) fn restore_directory(&mut self) -> std::io::Result<()> {
        self.runtime_dir.make()?;
        self.control_again();
        self.varlink_again();
        for worker in self.processes.keys().copied().collect::<Vec<_>>() {
            self.socket_again(worker);
        }
        Ok(())
    }

    /// The socket of varlink, for a server; see [`RuntimeDir::open_varlink`].
    ///
    /// # Errors
    /// The socket cannot be bound, or the process has no free descriptor.
    pub(in crate::master) fn open_varlink(&mut self) -> std::io::Result<varlink::Served> {
        self.runtime_dir.open_varlink()
    }

    fn control_again(&mut self) {
        if self.runtime_dir.control.is_there() {
            return;
        }
        let again =
            self.runtime_dir.control.bind_again().map_err(|error| error.to_string()).and_then(|()| self.runtime_dir.serve());
        self.log.warn(match again {
            Ok(()) => "the control socket was removed: it is there again".to_owned(),
            Err(why) => format!("the control socket was removed and cannot be bound again: {why}"),
        });
    }

    fn varlink_again(&mut self) {
        let RuntimeDir { control, varlink, .. } = &mut self.runtime_dir;
        let Some(socket) = control.varlink().filter(|socket| !socket.is_there()) else { return };
        let again = socket.bind_again().and_then(|()| socket.listener());
        self.log.warn(match again {
            Ok(listener) => {
                if let Some(varlink) = varlink {
                    varlink.replace(listener);
                }
                "the socket of varlink was removed: it is there again".to_owned()
            }
            Err(error) => format!("the socket of varlink was removed and cannot be bound again: {error}"),
        });
    }

    /// Binds a second notify socket at the path of a worker's notify socket that was removed.
    fn socket_again(&mut self, worker: WorkerId) {
        let path = self.runtime_dir.notify_path(worker);
        let Some(process) = self.processes.get_mut(&worker).filter(|_| !exists(&path)) else { return };
        let bound = NotifySocket::bind(&path, process.owner());
        let watched = bound.and_then(|socket| {
            self.poll.add(&socket, Token::Notify(worker).to_u64())?;
            Ok(socket)
        });
        match watched {
            Ok(socket) => process.notify_again = Some(socket),
            Err(error) => {
                self.log.warn(format!("the notify socket of worker {worker} was removed and cannot be bound again: {error}"))
            }
        }
    }
}

fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}
