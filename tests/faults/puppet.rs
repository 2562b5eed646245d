//! A worker that runs what the test says: a Python program that takes lines of Python over a socket.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use super::harness::{Place, TIMEOUT, eventually};

/// `say(bytes)` is a datagram to its own notify socket, or to another; what is assigned to `answer` comes back.
const PROGRAM: &str = r#"import array, os, random, signal, socket, sys, time
own = os.environ['NOTIFY_SOCKET']
mouth = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
def say(data, to=own, fds=()):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', fds))] if fds else []
    mouth.sendmsg([data], rights, 0, to)
def child(body):
    pid = os.fork()
    if pid == 0:
        peer.close()
        ear.close()
        try:
            body()
        finally:
            os._exit(0)
    return pid
def child_of_its_own(body):
    def alone():
        os.setsid()
        body()
    os.waitpid(child(alone), 0)
ear = socket.socket(socket.AF_UNIX)
ear.bind(sys.argv[1] + '.new')
ear.listen(8)
os.rename(sys.argv[1] + '.new', sys.argv[1])
say(b'READY=1')
while True:
    peer, _ = ear.accept()
    text = b''
    while chunk := peer.recv(65536):
        text += chunk
    answer = ''
    try:
        exec(text.decode())
    except Exception as error:
        answer = repr(error)
    peer.sendall(str(answer).encode())
    peer.close()
"#;

/// Strings of a worker that the test holds in its hand.
pub struct Puppet {
    ear: PathBuf,
}

impl Puppet {
    /// Lets the workers of `v1` in this slot be puppets; the others are what they were.
    pub fn in_slot(place: &Place, slot: u32) -> Puppet {
        place.write("puppet.py", PROGRAM);
        let script = format!(
            "[ $RATOON_SLOT != {slot} ] || exec /usr/bin/python3 PLACE/puppet.py PLACE/puppet\n\
             export CHAOS_GATE=PLACE/gate.$RATOON_SLOT"
        );
        place.wrap("v1", &script);
        Puppet { ear: place.path("puppet") }
    }

    /// The same, but the puppet does not say that it is ready.
    pub fn unready_in_slot(place: &Place, slot: u32) -> Puppet {
        let puppet = Puppet::in_slot(place, slot);
        place.write("puppet.py", &PROGRAM.replace("say(b'READY=1')\n", ""));
        puppet
    }

    /// Runs this to its end, and gives what it assigned to `answer`, or the error.
    #[track_caller]
    pub fn run(&self, python: &str) -> String {
        let mut stream = eventually("the puppet listens", || UnixStream::connect(&self.ear).ok(), String::new);
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout");
        stream.write_all(python.as_bytes()).expect("the puppet hears");
        stream.shutdown(Shutdown::Write).expect("the puppet hears");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the puppet answers");
        answer
    }
}
