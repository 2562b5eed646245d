//! Descriptors that a worker attaches to notifications and whose last close does not return: the master goes on.

use super::harness::{Place, Signal, eventually, processes};
use super::puppet::Puppet;

/// A FUSE file system of one file, `file`, whose FLUSH is never answered. A child of the puppet mounts it in a mount namespace of its
/// own, opens the file and sends its descriptor. The server is a child of that child, so that neither waits for itself.
const FUSE: &str = r#"
import ctypes, struct
def serve(fuse):
    attr = lambda ino, mode: struct.pack('<6Q10I', ino, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
    while True:
        try:
            request = os.read(fuse, 1 << 17)
        except OSError:
            return
        _, opcode, unique, node = struct.unpack_from('<IIQQ', request)
        body, error = b'', 0
        if opcode == 26:
            body = struct.pack('<4I2H2I2H8I', 7, 31, 0, 0, 16, 12, 4096, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)[:64]
        elif opcode == 1:
            body = struct.pack('<4Q2I', 2, 0, 60, 60, 0, 0) + attr(2, 0o100644)
        elif opcode == 3:
            body = struct.pack('<Q2I', 60, 0, 0) + attr(node, 0o40755 if node == 1 else 0o100644)
        elif opcode == 14:
            body = struct.pack('<Q2I', 1, 0, 0)
        elif opcode in (2, 25):
            # FORGET has no answer; FLUSH gets none.
            continue
        else:
            error = -38
        os.write(fuse, struct.pack('<IiQ', 16 + len(body), error, unique) + body)
def hang():
    libc = ctypes.CDLL(None, use_errno=True)
    def call(result, what):
        if result != 0:
            raise OSError(ctypes.get_errno(), what)
    call(libc.unshare(0x20000), 'unshare')
    call(libc.mount(b'none', b'/', None, 0x44000, None), 'private mounts')
    place = os.path.dirname(sys.argv[1]) + '/fuse'
    os.makedirs(place, exist_ok=True)
    fuse = os.open('/dev/fuse', os.O_RDWR)
    options = f'fd={fuse},rootmode=40000,user_id=0,group_id=0'.encode()
    call(libc.mount(b'hang', place.encode(), b'fuse', 6, options), 'mount')
    server = os.fork()
    if server == 0:
        serve(fuse)
        os._exit(0)
    os.close(fuse)
    with open(sys.argv[1] + '.server.new', 'w') as text:
        text.write(str(server))
    os.rename(sys.argv[1] + '.server.new', sys.argv[1] + '.server')
    file = os.open(place + '/file', os.O_RDONLY)
    say(b'STATUS=attached', fds=[file])
    open(sys.argv[1] + '.sent', 'w').close()
    time.sleep(1000)
def attempt():
    try:
        hang()
    except BaseException as error:
        open(sys.argv[1] + '.error', 'w').write(repr(error))
child(attempt)
"#;

/// The FUSE server. Its end makes every FLUSH that waits return.
struct Server(u32);

impl Drop for Server {
    fn drop(&mut self) {
        processes::signal(self.0, Signal::KILL);
    }
}

#[test]
#[ignore = "needs root"]
fn descriptor_of_a_hanging_file_system_does_not_stop_the_master() {
    let place = Place::new();
    let puppet = Puppet::in_slot(&place, 0);
    let master = place.pool("ready = 'notify'\ncount = 2\nstart_timeout = '1h'", "").launch();
    master.wait("the puppet is ready", |status| status["workers_ready"] == 1);
    assert_eq!(puppet.run(FUSE), "");
    let (server, error) = (master.place.path("puppet.server"), master.place.path("puppet.error"));
    let why = || std::fs::read_to_string(&error).unwrap_or_default();
    eventually("the file system is mounted", || (server.exists() || error.exists()).then_some(()), why);
    assert!(server.exists(), "no FUSE: {}", why());
    let _server = Server(master.place.read("puppet.server").parse().expect("a pid"));
    let sent = master.place.path("puppet.sent");
    eventually("the descriptor is sent", || (sent.exists() || error.exists()).then_some(()), why);
    master.place.write("gate.1", "");
    let status = master.wait("the neighbour is ready", |status| status["workers_ready"] == 2);
    assert!(status["workers"].to_string().contains("attached"), "{status:#}");
    // The worker itself is heard, too.
    puppet.run("say(b'STATUS=on and on')");
    master.wait("the worker is heard", |status| status["workers"].to_string().contains("on and on"));
}

/// A connection with unsent bytes and an hour of SO_LINGER: its last close waits until the peer closes.
const LINGER: &str = "import struct
server = socket.create_server(('127.0.0.1', 0))
near = socket.create_connection(server.getsockname())
far, _ = server.accept()
near.settimeout(0)
try:
    while True:
        near.send(bytes(65536))
except BlockingIOError:
    pass
near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 3600))
say(b'STATUS=attached', fds=[near.fileno()])
say(b'STATUS=behind it')
near.close()";

#[test]
fn descriptor_whose_close_hangs_silences_only_its_worker() {
    let place = Place::new();
    let puppet = Puppet::in_slot(&place, 0);
    let master = place.pool("ready = 'notify'\ncount = 2\nstart_timeout = '1h'", "").launch();
    master.wait("the puppet is ready", |status| status["workers_ready"] == 1);
    // While the master is stopped, so that the last reference is the one in the datagram.
    master.signal(Signal::STOP);
    assert_eq!(puppet.run(LINGER), "");
    master.signal(Signal::CONT);
    master.wait_for_log("its last close has not returned for 2s");
    master.place.write("gate.1", "");
    let status = master.wait("the neighbour is ready", |status| status["workers_ready"] == 2);
    let said = status["workers"].to_string();
    assert!(said.contains("attached") && !said.contains("behind it"), "{status:#}");
    puppet.run("far.close()");
    master.wait("the worker is heard again", |status| status["workers"].to_string().contains("behind it"));
    let log = master.log();
    assert_eq!(log.matches("its last close has not returned").count(), 1, "{log}");
}

#[test]
fn worker_that_ends_behind_a_descriptor_that_hangs_is_heard_to_its_end() {
    let place = Place::new();
    let puppet = Puppet::in_slot(&place, 0);
    place.write("gate.1", "");
    let master = place.pool("ready = 'notify'\ncount = 2", "").start();
    master.signal(Signal::STOP);
    puppet.run(&format!("{LINGER}\nsay(b'STATUS=my last words')\nos.kill(os.getpid(), signal.SIGKILL)"));
    master.signal(Signal::CONT);
    let status = master.wait("its end is seen", |status| status["worker_crashes"] == 1);
    assert_eq!(super::harness::master::last_failure(&status)["last_status"], "my last words", "{status:#}");
    master.wait("it is replaced", |status| status["workers_ready"] == 2);
    master.signal(Signal::TERM);
    assert_eq!(master.end().code(), Some(0), "{}", master.log());
}
