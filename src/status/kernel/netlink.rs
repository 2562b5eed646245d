//! One request to the kernel over netlink(7), and its answers.

use std::io;
use std::time::Duration;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `struct nlmsghdr`, bytes.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST and NLM_F_DUMP (root and match).
const REQUEST_DUMP: u16 = 0x01 | 0x300;
/// The kernel fills at most 32 KiB at once.
const BUFFER: usize = 64 * 1024;
/// Timeout of a receive. The kernel makes a dump while it is read, so no wait is expected; the timeout bounds one all the same.
const WITHIN: Duration = Duration::from_millis(250);
/// Sequence number of the request, which the answers carry.
const SEQUENCE: u32 = 1;

/// Sends a sock_diag(7) dump request and calls `each` with every answer, without its header.
///
/// # Errors
/// No netlink here (RestrictAddressFamilies=), the kernel refuses the request, or the answer is cut off.
pub(super) fn dump(request: &[u8], mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(WITHIN))?;
    rustix::net::connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    let length = u32::try_from(HEADER + request.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut message = Vec::with_capacity(HEADER + request.len());
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend_from_slice(&REQUEST_DUMP.to_ne_bytes());
    message.extend_from_slice(&SEQUENCE.to_ne_bytes());
    message.extend_from_slice(&0u32.to_ne_bytes());
    message.extend_from_slice(request);
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    loop {
        let (filled, whole) = rustix::io::retry_on_intr(|| rustix::net::recv(&socket, &mut buffer[..], RecvFlags::TRUNC))?;
        if whole > BUFFER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a netlink answer was cut off"));
        }
        if take(&buffer[..filled], &mut each)? {
            return Ok(());
        }
    }
}

/// Reads one datagram of answers; `true` when it was the last.
fn take(mut bytes: &[u8], each: &mut impl FnMut(&[u8])) -> io::Result<bool> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "a netlink answer makes no sense");
    if bytes.is_empty() {
        return Err(broken());
    }
    while let Some(header) = bytes.get(..HEADER) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let sequence = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        let body = bytes.get(HEADER..length).ok_or_else(broken)?;
        if sequence == SEQUENCE {
            match kind {
                NLMSG_DONE => return Ok(true),
                NLMSG_ERROR => {
                    let code = body.get(..4).and_then(|four| four.try_into().ok()).map_or(0, i32::from_ne_bytes);
                    return Err(if code < 0 { io::Error::from_raw_os_error(code.saturating_neg()) } else { broken() });
                }
                SOCK_DIAG_BY_FAMILY => each(body),
                _ => {}
            }
        }
        bytes = bytes.get(align(length)..).unwrap_or_default();
    }
    Ok(false)
}

/// The attributes (`struct nlattr`) in these bytes, up to the first that is invalid.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let header = bytes.get(..4)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Appends an attribute. A value longer than an attribute can be is left out.
pub(super) fn put_attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let Ok(length) = u16::try_from(4 + value.len()) else { return };
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    bytes.resize(align(bytes.len()), 0);
}

fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&2u16.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(body);
        bytes.resize(align(bytes.len()), 0);
        bytes
    }

    fn bodies(bytes: &[u8]) -> (Vec<Vec<u8>>, io::Result<bool>) {
        let mut seen = Vec::new();
        let result = take(bytes, &mut |body| seen.push(body.to_vec()));
        (seen, result)
    }

    #[test]
    fn several_answers_in_one_datagram_and_the_end() {
        let bytes =
            [message(20, 1, b"abc"), message(20, 1, b"defg"), message(20, 2, b"not ours"), message(3, 1, &[0; 4])].concat();
        let (seen, result) = bodies(&bytes);
        assert_eq!(seen, [b"abc".to_vec(), b"defg".to_vec()]);
        assert!(result.expect("well formed"));
        assert!(!bodies(&message(20, 1, b"x")).1.expect("well formed"));
    }

    #[test]
    fn refusals_and_nonsense() {
        let refused = bodies(&message(2, 1, &(-1i32).to_ne_bytes())).1.expect_err("EPERM");
        assert_eq!(refused.raw_os_error(), Some(1));
        assert!(bodies(&message(2, 1, &i32::MIN.to_ne_bytes())).1.is_err());
        assert!(bodies(&message(2, 1, b"")).1.is_err());
        assert!(bodies(b"").1.is_err());
        // A length of 0 must not loop forever, and a length that is too large must not read beyond the end.
        for length in [0u32, 15, 17, u32::MAX] {
            let mut bytes = message(20, 1, b"");
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert!(bodies(&bytes).1.is_err(), "{length}");
        }
    }

    #[test]
    fn attributes_come_back() {
        let mut bytes = Vec::new();
        put_attribute(&mut bytes, 4, b"12345");
        put_attribute(&mut bytes, 0, b"");
        let seen: Vec<_> = attributes(&bytes).collect();
        assert_eq!(seen, [(4, &b"12345"[..]), (0, b"")]);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0);
    }

    proptest::proptest! {
        #[test]
        fn hostile_bytes_do_no_harm(bytes: Vec<u8>) {
            let _ = bodies(&bytes);
            let _ = attributes(&bytes).count();
        }
    }
}
