//! Listening sockets that only the workers of an earlier program hold: neither systemd nor the store has them.
//!
//! Law: a generation without these sockets is never started, because its commit would end the workers that still accept on them.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Whether one of the processes holds a listening socket, TCP or Unix. A process that cannot be looked at counts as one that holds none.
pub(super) fn any_listens(processes: impl IntoIterator<Item = u32>) -> bool {
    processes.into_iter().any(listens)
}

fn listens(pid: u32) -> bool {
    let of_process = Path::new("/proc").join(pid.to_string());
    let listening = listening_sockets(&of_process.join("net"));
    let descriptors = fs::read_dir(of_process.join("fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|descriptor| fs::read_link(descriptor.path()).ok()).any(|target| {
        let target = target.to_string_lossy();
        target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')).is_some_and(|inode| listening.contains(inode))
    })
}

/// Inodes of the listening sockets of a network namespace (proc_pid_net(5)).
fn listening_sockets(net: &Path) -> HashSet<String> {
    /// TCP_LISTEN, as /proc/net/tcp has it.
    const TCP_LISTEN: &str = "0A";
    /// `__SO_ACCEPTCON`, as /proc/net/unix has it.
    const ACCEPTS: &str = "00010000";
    // File, column of the state, its value, column of the inode.
    let tables = [("tcp", 3, TCP_LISTEN, 9), ("tcp6", 3, TCP_LISTEN, 9), ("unix", 3, ACCEPTS, 6)];
    let mut inodes = HashSet::new();
    for (file, state, wanted, inode) in tables {
        for line in fs::read_to_string(net.join(file)).unwrap_or_default().lines() {
            let columns: Vec<&str> = line.split_whitespace().collect();
            if columns.get(state) == Some(&wanted) {
                inodes.extend(columns.get(inode).map(|inode| (*inode).to_owned()));
            }
        }
    }
    inodes
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixListener;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process whose standard input is this descriptor.
    fn holder(stdin: Stdio) -> Child {
        Command::new("sleep").arg("1000").stdin(stdin).spawn().expect("sleep")
    }

    fn end(mut child: Child) {
        child.kill().expect("killed");
        child.wait().expect("reaped");
    }

    #[test]
    fn listening_sockets_of_a_process_are_seen() {
        let directory = tempfile::tempdir().expect("a directory");
        let tcp: OwnedFd = TcpListener::bind("127.0.0.1:0").expect("a port").into();
        let six: OwnedFd = TcpListener::bind("[::1]:0").expect("a port").into();
        let unix: OwnedFd = UnixListener::bind(directory.path().join("socket")).expect("a socket").into();
        for socket in [tcp, six, unix] {
            let child = holder(socket.into());
            assert!(any_listens([child.id()]));
            end(child);
        }
    }

    #[test]
    fn other_descriptors_are_no_listening_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let client: OwnedFd = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("connected").into();
        let child = holder(client.into());
        assert!(!any_listens([child.id()]));
        end(child);
        // No such process: PID_MAX_LIMIT is 1 << 22.
        assert!(!any_listens([1 << 23]));
    }
}
