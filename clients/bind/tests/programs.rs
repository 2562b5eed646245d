//! Real programs that bind their own address, under the library: each takes the handed socket.
//!
//! Needs python3; the tests with PHP and Java are run by `tests/clients`, after `tests/setup` has installed them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Longer than any program here takes to start on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn library() -> PathBuf {
    // Beside the test: target/debug/deps/programs-… and target/debug/libratoon_bind.so.
    let test = std::env::current_exe().expect("this program's path");
    test.ancestors()
        .map(|place| place.join("libratoon_bind.so"))
        .find(|path| path.exists())
        .expect("cargo build makes libratoon_bind.so")
}

/// A program under the library; killed when dropped.
struct Program {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Program {
    /// Starts `arguments` with `sockets` as descriptors from 3 on.
    fn start(arguments: &[&str], sockets: Vec<OwnedFd>) -> Program {
        Program::start_with(arguments, sockets, true)
    }

    fn start_with(arguments: &[&str], sockets: Vec<OwnedFd>, preload: bool) -> Program {
        let mut command = Command::new(arguments[0]);
        command.args(&arguments[1..]).env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_PID", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        if preload {
            command.env("LD_PRELOAD", library());
        }
        let numbers: Vec<RawFd> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
        // SAFETY: Only dup2 and fcntl are called between fork and exec.
        unsafe {
            command.pre_exec(move || {
                // First out of the way of each other.
                let high: Vec<RawFd> = numbers.iter().map(|fd| libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, 100)).collect();
                for (fd, place) in high.iter().zip(3..) {
                    if libc::dup2(*fd, place) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Program { child, lines }
    }

    /// The next line that the program prints.
    #[track_caller]
    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line within the deadline")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port().to_string();
    (listener, port)
}

fn copy(listener: &TcpListener) -> OwnedFd {
    listener.try_clone().expect("a descriptor").into()
}

/// One HTTP request; the whole answer.
#[track_caller]
fn get(port: &str) -> String {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    stream.write_all(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Whether the open file that all workers share is non-blocking.
fn is_nonblocking(listener: &TcpListener) -> bool {
    // SAFETY: F_GETFL takes no argument.
    unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_GETFL) & libc::O_NONBLOCK != 0 }
}

/// The longest accept queue of a listening socket: `tcpi_sacked` of tcp_info (tcp(7)).
fn backlog(listener: &TcpListener) -> u32 {
    let mut info = [0u32; 32];
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: `info` has room for `length` bytes.
    let result = unsafe {
        libc::getsockopt(listener.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut length)
    };
    assert_eq!(result, 0);
    info[7]
}

const BIND: &str = "import socket, sys, fcntl, os
s = socket.socket(int(sys.argv[3]) if len(sys.argv) > 3 else socket.AF_INET)
s.bind((sys.argv[1], int(sys.argv[2])))
s.listen(1)
";

#[test]
fn bind_takes_the_socket_of_the_port() {
    for address in ["127.0.0.1", "0.0.0.0"] {
        let (listener, port) = listener();
        let serve = format!("{BIND}\nprint('listens', flush=True)\nc, _ = s.accept()\nc.recv(999)\nc.sendall(b'accepted')");
        let program = Program::start(&["python3", "-c", &serve, address, &port], vec![copy(&listener)]);
        assert_eq!(program.line(), "listens");
        assert_eq!(get(&port), "accepted");
    }
}

#[test]
fn bind_fails_without_the_library() {
    let (listener, port) = listener();
    let attempt = format!("try:\n    exec({BIND:?})\nexcept OSError as error: print(error.errno, flush=True)");
    let program = Program::start_with(&["python3", "-c", &attempt, "127.0.0.1", &port], vec![copy(&listener)], false);
    assert_eq!(program.line(), libc::EADDRINUSE.to_string());
}

#[test]
fn ipv6_wildcard_takes_the_socket_of_an_ipv4_address() {
    let (listener, port) = listener();
    let serve = format!("{BIND}\nprint('listens', flush=True)\nc, _ = s.accept()\nc.recv(999)\nc.sendall(b'accepted')");
    let family = libc::AF_INET6.to_string();
    let program = Program::start(&["python3", "-c", &serve, "::", &port, &family], vec![copy(&listener)]);
    assert_eq!(program.line(), "listens");
    assert_eq!(get(&port), "accepted");
}

#[test]
fn exact_address_goes_before_the_wildcard() {
    let wildcard = reusable("0.0.0.0", 0);
    let port = wildcard.local_addr().expect("an address").port();
    let exact = reusable("127.0.0.9", port);
    let name = format!("{BIND}\nprint(s.getsockname()[0], flush=True)");
    let sockets = vec![copy(&wildcard), copy(&exact)];
    let program = Program::start(&["python3", "-c", &name, "127.0.0.9", &port.to_string()], sockets);
    assert_eq!(program.line(), "127.0.0.9");
}

/// A listening socket with SO_REUSEPORT: with it a wildcard and one of its addresses can listen at one port.
fn reusable(address: &str, port: u16) -> TcpListener {
    let address: std::net::Ipv4Addr = address.parse().expect("an address");
    // SAFETY: Plain system calls on values of this function; the descriptor is owned by the listener.
    unsafe {
        let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0);
        assert!(fd >= 0);
        let listener = TcpListener::from_raw_fd(fd);
        let on: libc::c_int = 1;
        let length = size_of_val(&on) as libc::socklen_t;
        assert_eq!(libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, (&raw const on).cast(), length), 0);
        let mut name: libc::sockaddr_in = std::mem::zeroed();
        name.sin_family = libc::AF_INET as libc::sa_family_t;
        name.sin_port = port.to_be();
        name.sin_addr.s_addr = u32::from(address).to_be();
        let length = size_of_val(&name) as libc::socklen_t;
        assert_eq!(libc::bind(fd, (&raw const name).cast(), length), 0, "{}", std::io::Error::last_os_error());
        assert_eq!(libc::listen(fd, 128), 0);
        listener
    }
}

#[test]
fn other_port_is_bound_as_written() {
    let (listener, port) = listener();
    let name = format!("{BIND}\nprint(s.getsockname()[1], flush=True)");
    let program = Program::start(&["python3", "-c", &name, "127.0.0.1", "0"], vec![copy(&listener)]);
    assert_ne!(program.line(), port);
}

#[test]
fn probed_worker_takes_the_private_socket_for_the_public_address() {
    let (listener, port) = listener();
    // Nobody listens at the public address while the private socket stands in for it.
    let serve = format!("{BIND}\nprint('bound', flush=True)\nc, _ = s.accept()\nc.recv(999)\nc.sendall(b'private')");
    let public = "RATOON_PROBE_ADDRESSES=127.0.0.1:1 /run/other";
    let program = Program::start(&["env", public, "python3", "-c", &serve, "127.0.0.1", "1"], vec![copy(&listener)]);
    assert_eq!(program.line(), "bound");
    assert_eq!(get(&port), "private");
}

#[test]
fn listen_keeps_the_backlog() {
    let (listener, port) = listener();
    let before = backlog(&listener);
    let listen = format!("{BIND}\nprint('listens', flush=True)\ninput()");
    let program = Program::start(&["python3", "-c", &listen, "127.0.0.1", &port], vec![copy(&listener)]);
    assert_eq!(program.line(), "listens");
    assert!(before > 1);
    assert_eq!(backlog(&listener), before);
}

#[test]
fn blocking_accept_waits_on_the_shared_socket() {
    let (listener, port) = listener();
    let serve = format!("{BIND}\nprint(s.getblocking(), flush=True)\nc, _ = s.accept()\nc.recv(999)\nc.sendall(b'accepted')");
    let program = Program::start(&["python3", "-c", &serve, "127.0.0.1", &port], vec![copy(&listener)]);
    assert_eq!(program.line(), "True");
    assert!(is_nonblocking(&listener), "another worker would block when this one is faster");
    assert_eq!(get(&port), "accepted");
}

#[test]
fn nonblocking_is_remembered_and_never_cleared() {
    let (listener, port) = listener();
    // CPython's setblocking is ioctl(FIONBIO).
    let flags = format!(
        "{BIND}
def nonblocking(): return bool(fcntl.fcntl(s, fcntl.F_GETFL) & os.O_NONBLOCK)
s.setblocking(False)
try: s.accept()
except BlockingIOError: print('would block', nonblocking(), flush=True)
s.setblocking(True)
print(nonblocking(), flush=True)
fcntl.fcntl(s, fcntl.F_SETFL, os.O_NONBLOCK)
print(nonblocking(), flush=True)
fcntl.fcntl(s, fcntl.F_SETFL, 0)
print(nonblocking(), flush=True)
input()"
    );
    let program = Program::start(&["python3", "-c", &flags, "127.0.0.1", &port], vec![copy(&listener)]);
    assert_eq!([(); 4].map(|()| program.line()), ["would block True", "False", "True", "False"]);
    assert!(is_nonblocking(&listener));
}

#[test]
fn blocking_accept_ends_after_its_timeout() {
    let (listener, port) = listener();
    let wait = format!(
        "{BIND}
import struct
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack('ll', 0, 1000))
try: s.accept()
except BlockingIOError: print('timed out', flush=True)"
    );
    let program = Program::start(&["python3", "-c", &wait, "127.0.0.1", &port], vec![copy(&listener)]);
    assert_eq!(program.line(), "timed out");
}

#[test]
fn number_that_is_used_again_is_another_socket() {
    let (listener, port) = listener();
    let reuse = format!(
        "{BIND}
number = s.fileno()
s.close()
a, b = socket.socketpair()
os.dup2(a.fileno(), number)
c = socket.socket(fileno=number)
c.setblocking(False)
print(bool(fcntl.fcntl(c, fcntl.F_GETFL) & os.O_NONBLOCK), bool(fcntl.fcntl(a, fcntl.F_GETFL) & os.O_NONBLOCK), flush=True)
c.setblocking(True)
print(bool(fcntl.fcntl(a, fcntl.F_GETFL) & os.O_NONBLOCK), flush=True)"
    );
    let program = Program::start(&["python3", "-c", &reuse, "127.0.0.1", &port], vec![copy(&listener)]);
    assert_eq!([program.line(), program.line()], ["True True", "False"]);
}

#[test]
fn copies_and_children_accept_too() {
    let (listener, port) = listener();
    let serve = format!(
        "{BIND}
d = s.dup()
s.close()
print('listens', flush=True)
if os.fork() == 0:
    c, _ = d.accept()
    c.recv(999)
    c.sendall(b'child')
    os._exit(0)
os.wait()
c, _ = d.accept()
c.recv(999)
c.sendall(b'parent')"
    );
    let program = Program::start(&["python3", "-c", &serve, "127.0.0.1", &port], vec![copy(&listener)]);
    assert_eq!(program.line(), "listens");
    assert_eq!([get(&port), get(&port)], ["child", "parent"]);
}

#[test]
fn unix_socket_is_taken_by_its_path() {
    let directory = std::env::temp_dir().join(format!("ratoon-bind-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let path = directory.join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let serve = "import socket, sys
s = socket.socket(socket.AF_UNIX)
s.bind(sys.argv[1])
s.listen(1)
print('listens', flush=True)
c, _ = s.accept()
c.sendall(b'accepted')";
    let program = Program::start(&["python3", "-c", serve, path.to_str().expect("UTF-8")], vec![listener.into()]);
    assert_eq!(program.line(), "listens");
    let mut answer = String::new();
    std::os::unix::net::UnixStream::connect(&path).expect("a connection").read_to_string(&mut answer).expect("an answer");
    assert_eq!(answer, "accepted");
    std::fs::remove_dir_all(&directory).expect("removed");
}

#[test]
#[ignore = "needs php; tests/clients runs it"]
fn php_serves_on_the_handed_socket() {
    let (listener, port) = listener();
    let directory = std::env::temp_dir().join(format!("ratoon-bind-php-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    std::fs::write(directory.join("index.php"), "<?php echo 'hello from php';").expect("a script");
    let root = directory.to_str().expect("UTF-8");
    let _program = Program::start(&["php", "-S", &format!("127.0.0.1:{port}"), "-t", root], vec![copy(&listener)]);
    assert!(get(&port).ends_with("hello from php"));
    std::fs::remove_dir_all(&directory).expect("removed");
}

#[test]
#[ignore = "needs a JDK; tests/clients runs it"]
fn java_serves_on_the_handed_socket() {
    let (listener, port) = listener();
    let directory = std::env::temp_dir().join(format!("ratoon-bind-java-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let source = directory.join("Hello.java");
    let text = r#"
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
public class Hello {
    public static void main(String[] arguments) throws Exception {
        HttpServer server = HttpServer.create(new InetSocketAddress(Integer.parseInt(arguments[0])), 0);
        server.createContext("/", exchange -> {
            byte[] body = "hello from java".getBytes();
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }
}
"#;
    std::fs::write(&source, text).expect("a program");
    let _program = Program::start(&["java", source.to_str().expect("UTF-8"), &port], vec![copy(&listener)]);
    assert!(get(&port).ends_with("hello from java"));
    assert!(is_nonblocking(&listener));
    std::fs::remove_dir_all(&directory).expect("removed");
}
