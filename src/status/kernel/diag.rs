//! The messages of sock_diag(7): builds the requests and reads the answers.
//!
//! Law: every length is checked; invalid answers are left out.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use super::{Queue, netlink};

/// A socket's inode number, as the dumps and `/proc/PID/fd` have it.
pub(super) type Inode = u32;

/// The kernel's cookie of a socket, which no other socket ever has.
pub(super) type Cookie = u64;

const AF_UNIX: u8 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;

/// States of a socket, `enum` in the kernel's tcp_states.h; Unix sockets use the first and the last.
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;
/// Established, and the closing states in which a process may still hold the socket: FIN_WAIT1 and 2, CLOSE_WAIT, LAST_ACK, CLOSING.
const CONNECTED: u32 = 1 << ESTABLISHED | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// `struct inet_diag_req_v2` and `struct inet_diag_msg` without attributes, bytes.
const INET_REQUEST: usize = 56;
const INET_ANSWER: usize = 72;
/// `struct unix_diag_msg`, bytes.
const UNIX_ANSWER: usize = 16;
/// INET_DIAG_REQ_BYTECODE
const BYTECODE: u16 = 1;
/// The most ports with which the kernel's filter is used.
const PORTS_MAX: usize = 1000;

const UDIAG_SHOW_NAME: u32 = 0x01;
const UDIAG_SHOW_RQLEN: u32 = 0x10;
const UNIX_DIAG_NAME: u16 = 0;
const UNIX_DIAG_RQLEN: u16 = 4;

/// The sockets from the dumps.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    /// The accept queues of listening sockets.
    pub queues: HashMap<Inode, Queue>,
    /// Connections of the listening addresses that some process has accepted.
    pub connections: Vec<Connection>,
}

/// A connection that some process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Connection {
    pub inode: Inode,
    pub cookie: Cookie,
    /// The address of the peer of a TCP connection.
    pub peer: Option<SocketAddr>,
}

impl Sockets {
    /// Adds the TCP sockets at these local ports. After an error, sockets that were not read yet are missing.
    pub fn add_tcp(&mut self, six: bool, ports: &HashSet<u16>) {
        let request = tcp_request(six, ports);
        let _ = netlink::dump(&request, |answer| self.tcp_answer(answer, ports));
    }

    /// Adds the Unix sockets with these names.
    pub fn add_unix(&mut self, names: &HashSet<&[u8]>) {
        let _ = netlink::dump(&unix_request(), |answer| self.unix_answer(answer, names));
    }

    /// Reads one `struct inet_diag_msg`.
    fn tcp_answer(&mut self, answer: &[u8], ports: &HashSet<u16>) {
        let Some(head) = answer.get(..INET_ANSWER) else { return };
        let port = u16::from_be_bytes([head[4], head[5]]);
        let inode = number(head, 68);
        // Inode 0: no process has accepted the connection yet, or no process holds it any more.
        if inode == 0 || !ports.contains(&port) {
            return;
        }
        let state = head[1];
        if state == LISTEN {
            self.queues.insert(inode, Queue { waiting: number(head, 56).into(), max: number(head, 60).into() });
        } else if state < 32 && CONNECTED & (1 << state) != 0 {
            self.connections.push(Connection { inode, cookie: cookie(head, 44), peer: peer(head) });
        }
    }

    /// Reads one `struct unix_diag_msg` with its attributes.
    fn unix_answer(&mut self, answer: &[u8], names: &HashSet<&[u8]>) {
        let Some((head, rest)) = answer.split_at_checked(UNIX_ANSWER) else { return };
        let inode = number(head, 4);
        let mut name = None;
        let mut queue = None;
        for (kind, value) in netlink::attributes(rest) {
            match kind {
                UNIX_DIAG_NAME => name = Some(unix_name(value)),
                UNIX_DIAG_RQLEN if value.len() >= 8 => {
                    queue = Some(Queue { waiting: number(value, 0).into(), max: number(value, 4).into() });
                }
                _ => {}
            }
        }
        if inode == 0 || !name.is_some_and(|name| names.contains(name)) {
            return;
        }
        match (head[2], queue) {
            (LISTEN, Some(queue)) => drop(self.queues.insert(inode, queue)),
            // An accepted socket has the name of its listening socket.
            (ESTABLISHED, _) => self.connections.push(Connection { inode, cookie: cookie(head, 8), peer: None }),
            _ => {}
        }
    }
}

/// The number at this offset; the caller has checked the length.
fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn cookie(bytes: &[u8], at: usize) -> Cookie {
    Cookie::from(number(bytes, at)) | Cookie::from(number(bytes, at + 4)) << 32
}

/// The address of the peer in a `struct inet_diag_msg`; an IPv4 address that is mapped to IPv6 becomes IPv4 again.
fn peer(head: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes([head[6], head[7]]);
    let address = match head[0] {
        AF_INET => IpAddr::from(*head[24..].first_chunk::<4>()?),
        AF_INET6 => IpAddr::from(*head[24..].first_chunk::<16>()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

/// The name of a Unix socket without the zero bytes that end a path. An abstract name begins with a zero and is taken whole.
pub(super) fn unix_name(bytes: &[u8]) -> &[u8] {
    match bytes.first() {
        Some(0) | None => bytes,
        Some(_) => &bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())],
    }
}

/// `struct inet_diag_req_v2` for listening and connected sockets, and the filter of ports.
fn tcp_request(six: bool, ports: &HashSet<u16>) -> Vec<u8> {
    let mut request = vec![0; INET_REQUEST];
    request[0] = if six { AF_INET6 } else { AF_INET };
    request[1] = IPPROTO_TCP;
    request[4..8].copy_from_slice(&(CONNECTED | 1 << LISTEN).to_ne_bytes());
    if ports.len() <= PORTS_MAX {
        netlink::put_attribute(&mut request, BYTECODE, &port_filter(ports));
    }
    request
}

/// The kernel's filter program for "local port is one of these" (`struct inet_diag_bc_op`). It has conditional jumps forward: a jump
/// exactly to the end accepts the socket, a jump beyond the end rejects it.
fn port_filter(ports: &HashSet<u16>) -> Vec<u8> {
    const JMP: u8 = 1;
    const AT_LEAST: u8 = 2;
    const AT_MOST: u8 = 3;
    /// Two comparisons of eight bytes and a jump of four.
    const BLOCK: usize = 20;
    let mut program = Vec::with_capacity(ports.len() * BLOCK);
    let mut op = |code: u8, yes: u8, no: usize| {
        program.extend_from_slice(&[code, yes]);
        // The number fits, since there are at most PORTS_MAX blocks.
        program.extend_from_slice(&u16::try_from(no).unwrap_or(u16::MAX).to_ne_bytes());
    };
    for (n, port) in ports.iter().enumerate() {
        let after = (ports.len() - n - 1) * BLOCK;
        // For another port, jump to the next block, or from the last block beyond the end.
        let miss = if after == 0 { 4 } else { 0 };
        op(AT_LEAST, 8, BLOCK + miss);
        op(0, 0, usize::from(*port));
        op(AT_MOST, 8, BLOCK - 8 + miss);
        op(0, 0, usize::from(*port));
        op(JMP, 4, 4 + after);
    }
    program
}

/// `struct unix_diag_req` for listening and connected sockets, with names and queues.
fn unix_request() -> Vec<u8> {
    let mut request = vec![AF_UNIX, 0, 0, 0];
    request.extend_from_slice(&(1u32 << ESTABLISHED | 1 << LISTEN).to_ne_bytes());
    request.extend_from_slice(&0u32.to_ne_bytes());
    request.extend_from_slice(&(UDIAG_SHOW_NAME | UDIAG_SHOW_RQLEN).to_ne_bytes());
    // No cookie.
    request.extend_from_slice(&[0xff; 8]);
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    const COOKIE: Cookie = 0x1_0000_0002;

    fn tcp(state: u8, port: u16, inode: u32, queue: u32, max: u32) -> Vec<u8> {
        let mut message = vec![0; INET_ANSWER];
        message[0] = AF_INET;
        message[1] = state;
        message[4..6].copy_from_slice(&port.to_be_bytes());
        message[6..8].copy_from_slice(&4711u16.to_be_bytes());
        message[24..28].copy_from_slice(&[192, 0, 2, 7]);
        message[56..60].copy_from_slice(&queue.to_ne_bytes());
        message[60..64].copy_from_slice(&max.to_ne_bytes());
        message[44..52].copy_from_slice(&COOKIE.to_ne_bytes());
        message[68..72].copy_from_slice(&inode.to_ne_bytes());
        message
    }

    fn unix(state: u8, inode: u32, name: &[u8], queue: Option<(u32, u32)>) -> Vec<u8> {
        let mut message = vec![AF_UNIX, 1, state, 0];
        message.extend_from_slice(&inode.to_ne_bytes());
        message.extend_from_slice(&COOKIE.to_ne_bytes());
        netlink::put_attribute(&mut message, UNIX_DIAG_NAME, name);
        if let Some((waiting, max)) = queue {
            netlink::put_attribute(&mut message, UNIX_DIAG_RQLEN, &[waiting.to_ne_bytes(), max.to_ne_bytes()].concat());
        }
        message
    }

    #[test]
    fn tcp_sockets_are_told_apart() {
        let mut sockets = Sockets::default();
        let ports = HashSet::from([80]);
        for message in [tcp(LISTEN, 80, 7, 3, 128), tcp(ESTABLISHED, 80, 8, 0, 0), tcp(8, 80, 9, 0, 0)] {
            sockets.tcp_answer(&message, &ports);
        }
        // Not accepted yet; another port; TIME_WAIT; a state that does not exist; cut off.
        for message in [tcp(1, 80, 0, 0, 0), tcp(1, 81, 10, 0, 0), tcp(6, 80, 11, 0, 0), tcp(200, 80, 12, 0, 0)] {
            sockets.tcp_answer(&message, &ports);
        }
        sockets.tcp_answer(&tcp(1, 80, 13, 0, 0)[..INET_ANSWER - 1], &ports);
        assert_eq!(sockets.queues, HashMap::from([(7, Queue { waiting: 3, max: 128 })]));
        let peer = Some("192.0.2.7:4711".parse().expect("an address"));
        assert_eq!(sockets.connections, [8, 9].map(|inode| Connection { inode, cookie: COOKIE, peer }));
        let mut six = tcp(ESTABLISHED, 80, 14, 0, 0);
        six[0] = AF_INET6;
        let mut four_in_six = six.clone();
        six[24..40].copy_from_slice(&"2001:db8::7".parse::<std::net::Ipv6Addr>().expect("an address").octets());
        four_in_six[24..40].copy_from_slice(&"::ffff:192.0.2.7".parse::<std::net::Ipv6Addr>().expect("an address").octets());
        sockets.tcp_answer(&six, &ports);
        sockets.tcp_answer(&four_in_six, &ports);
        let peers: Vec<_> = sockets.connections[2..].iter().map(|it| it.peer.expect("a peer").to_string()).collect();
        assert_eq!(peers, ["[2001:db8::7]:4711", "192.0.2.7:4711"]);
    }

    #[test]
    fn unix_sockets_are_told_apart() {
        let mut sockets = Sockets::default();
        let names: HashSet<&[u8]> = HashSet::from([&b"/run/x.sock"[..], b"\0abstract"]);
        sockets.unix_answer(&unix(LISTEN, 7, b"/run/x.sock\0", Some((2, 16))), &names);
        sockets.unix_answer(&unix(ESTABLISHED, 8, b"/run/x.sock\0", Some((5, 0))), &names);
        sockets.unix_answer(&unix(ESTABLISHED, 9, b"\0abstract", None), &names);
        sockets.unix_answer(&unix(ESTABLISHED, 10, b"abstract", None), &names);
        sockets.unix_answer(&unix(LISTEN, 11, b"/run/x.sock\0", None), &names);
        sockets.unix_answer(&unix(ESTABLISHED, 0, b"\0abstract", None), &names);
        sockets.unix_answer(&[1, 1, 1], &names);
        assert_eq!(sockets.queues, HashMap::from([(7, Queue { waiting: 2, max: 16 })]));
        assert_eq!(sockets.connections, [8, 9].map(|inode| Connection { inode, cookie: COOKIE, peer: None }));
    }

    proptest::proptest! {
        #[test]
        fn hostile_answers_do_no_harm(bytes: Vec<u8>, port: u16) {
            let mut sockets = Sockets::default();
            sockets.tcp_answer(&bytes, &HashSet::from([port]));
            sockets.unix_answer(&bytes, &HashSet::from([&b"/x"[..]]));
        }
    }
}
