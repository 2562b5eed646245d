//! Addresses of sockets, as far as `bind` needs to compare them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libc::{sockaddr, socklen_t};

/// An address that a server can listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// IPv4 or IPv6, with the port. An IPv4 address that is mapped into IPv6 is its IPv4 address.
    Inet(IpAddr, u16),
    /// The path of a Unix socket; an abstract name begins with a NUL byte (unix(7)).
    Unix(Vec<u8>),
}

impl Address {
    /// Reads what the kernel reads. `None`: another family, or too short.
    ///
    /// # Safety
    /// `length` bytes can be read at `address`.
    pub unsafe fn read(address: *const sockaddr, length: socklen_t) -> Option<Address> {
        if address.is_null() || (length as usize) < size_of::<libc::sa_family_t>() {
            return None;
        }
        // SAFETY: The caller promises `length` bytes.
        let bytes = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), length as usize) };
        let family = u16::from_ne_bytes([bytes[0], bytes[1]]);
        match i32::from(family) {
            libc::AF_INET if bytes.len() >= size_of::<libc::sockaddr_in>() => {
                let port = u16::from_be_bytes([bytes[2], bytes[3]]);
                Some(Address::Inet(Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]).into(), port))
            }
            libc::AF_INET6 if bytes.len() >= size_of::<libc::sockaddr_in6>() => {
                let port = u16::from_be_bytes([bytes[2], bytes[3]]);
                let octets: [u8; 16] = bytes[8..24].try_into().ok()?;
                Some(Address::Inet(Ipv6Addr::from(octets).to_canonical(), port))
            }
            libc::AF_UNIX => {
                let path = &bytes[2..];
                let end = if path.first() == Some(&0) {
                    path.len()
                } else {
                    path.iter().position(|byte| *byte == 0).unwrap_or(path.len())
                };
                (end > 0).then(|| Address::Unix(path[..end].to_vec()))
            }
            _ => None,
        }
    }

    /// Reads an address as the master writes it: `127.0.0.1:8080`, `[::]:80`, `/run/x.sock`, `@abstract`.
    pub fn parse(text: &str) -> Option<Address> {
        if text.starts_with('/') {
            return Some(Address::Unix(text.into()));
        }
        if let Some(name) = text.strip_prefix('@') {
            return Some(Address::Unix([b"\0", name.as_bytes()].concat()));
        }
        let address: SocketAddr = text.parse().ok()?;
        Some(Address::Inet(address.ip().to_canonical(), address.port()))
    }

    /// Whether a socket that is bound to `self` serves a program which asks for `wanted`: the same port, and the same address or the
    /// wildcard on one of the sides. Port 0 asks for any port, and is served by none.
    pub fn serves(&self, wanted: &Address) -> bool {
        match (self, wanted) {
            (Address::Inet(ours, port), Address::Inet(theirs, wanted_port)) => {
                *wanted_port != 0 && port == wanted_port && (ours == theirs || ours.is_unspecified() || theirs.is_unspecified())
            }
            (ours, theirs) => ours == theirs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Address;

    fn inet(address: &str, port: u16) -> Address {
        Address::Inet(address.parse().expect("an address"), port)
    }

    #[test]
    fn addresses_of_the_master_are_read() {
        assert_eq!(Address::parse("127.0.0.1:80"), Some(inet("127.0.0.1", 80)));
        assert_eq!(Address::parse("[::ffff:127.0.0.1]:80"), Some(inet("127.0.0.1", 80)));
        assert_eq!(Address::parse("/run/x.sock"), Some(Address::Unix(b"/run/x.sock".to_vec())));
        assert_eq!(Address::parse("@x"), Some(Address::Unix(b"\0x".to_vec())));
        assert_eq!(Address::parse(""), None);
    }

    #[test]
    fn socket_serves_its_own_address_and_the_wildcard() {
        for (ours, theirs, serves) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "0.0.0.0", true),
            ("0.0.0.0", "127.0.0.1", true),
            ("::", "0.0.0.0", true),
            ("127.0.0.1", "::", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(inet(ours, 80).serves(&inet(theirs, 80)), serves, "{ours} for {theirs}");
            assert!(!inet(ours, 80).serves(&inet(theirs, 81)), "{ours}");
        }
        assert!(!inet("0.0.0.0", 0).serves(&inet("0.0.0.0", 0)));
    }

    #[test]
    fn unix_socket_serves_its_own_path_only() {
        let path = Address::Unix(b"/run/web".to_vec());
        assert!(path.serves(&path.clone()));
        assert!(!path.serves(&Address::Unix(b"/run/web2".to_vec())));
        assert!(!path.serves(&inet("0.0.0.0", 80)));
    }
}
