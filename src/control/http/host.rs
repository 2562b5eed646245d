//! Checks the host of a request on `status.listen`. Without the check a web page could read the status by DNS rebinding.
//!
//! Law: only hosts that nobody else can point at this machine are answered: an address literal, `localhost`, the machine's own
//! names, and those of `status.hosts`. A request without a host is answered, because it comes from no browser.

use std::net::{Ipv4Addr, Ipv6Addr};

use hyper::header::{HOST, HeaderMap};
use hyper::http::Uri;

/// The names of this machine, in lower case.
#[derive(Debug, Default)]
pub struct OwnNames(Vec<String>);

impl OwnNames {
    /// The node's name, the first label of that name, and the names on the same lines of `hosts` (hosts(5)).
    pub fn new(node: &str, hosts: &str) -> Self {
        let node = plain(node).to_ascii_lowercase();
        let first = node.split('.').next().unwrap_or_default().to_owned();
        let mut names: Vec<String> = vec![node, first];
        let of_line = |line: &str| -> Vec<String> {
            let line = line.split('#').next().unwrap_or_default();
            line.split_whitespace().skip(1).map(|name| plain(name).to_ascii_lowercase()).collect()
        };
        let beside: Vec<String> =
            hosts.lines().map(of_line).filter(|line| line.iter().any(|name| names.contains(name))).flatten().collect();
        names.extend(beside);
        names.retain(|name| !name.is_empty());
        OwnNames(names)
    }

    /// The present names of this machine. Reads a file, so call it at the start of a server, not for each request.
    pub fn of_machine() -> Self {
        let node = rustix::system::uname();
        Self::new(&node.nodename().to_string_lossy(), &std::fs::read_to_string("/etc/hosts").unwrap_or_default())
    }
}

/// The first host of a request for which the server does not answer; `None` when all are accepted.
pub fn foreign(uri: &Uri, headers: &HeaderMap, own: &OwnNames, configured: &[String]) -> Option<String> {
    let target = uri.authority().map(|authority| authority.as_str().as_bytes());
    let named = headers.get_all(HOST).iter().map(|value| value.as_bytes());
    target
        .into_iter()
        .chain(named)
        .find(|host| !std::str::from_utf8(host).is_ok_and(|host| answers_for(host, own, configured)))
        .map(|host| String::from_utf8_lossy(host).into_owned())
}

fn answers_for(host: &str, own: &OwnNames, configured: &[String]) -> bool {
    let host = host.trim();
    if host.is_empty() {
        return true;
    }
    if let Some(literal) = host.strip_prefix('[') {
        return literal.split_once(']').is_some_and(|(address, rest)| {
            address.parse::<Ipv6Addr>().is_ok() && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
        });
    }
    let name = match host.split_once(':') {
        Some((name, port)) if is_port(port) => name,
        Some(_) => return false,
        None => host,
    };
    let name = plain(name).to_ascii_lowercase();
    name.parse::<Ipv4Addr>().is_ok() || name == "localhost" || own.0.contains(&name) || configured.contains(&name)
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A name without the final dot, which stands for the DNS root.
fn plain(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_names_are_those_beside_the_node_in_hosts() {
        let hosts = "127.0.0.1 localhost\n127.0.1.1 web1.example.org web1 # the node\n192.0.2.7 other.example.org other\n";
        let own = OwnNames::new("Web1", hosts);
        let answers = |host: &str| answers_for(host, &own, &["status.example.org".to_owned()]);
        for host in ["web1", "WEB1:9090", "web1.example.org.", "status.example.org", "127.0.0.1:1", "[::1]:9", "localhost", ""] {
            assert!(answers(host), "{host}");
        }
        for host in
            ["other", "other.example.org", "the", "example.org", "::1", "[::1]x", "[::1", "web1:", "web1:99999999", "127.1"]
        {
            assert_eq!(answers(host), host == "web1:", "{host}");
        }
        let own = OwnNames::new("web1.example.org", "");
        assert!(answers_for("web1", &own, &[]) && answers_for("web1.example.org", &own, &[]));
        assert!(!answers_for("evil", &OwnNames::new("", " \n#\n"), &[]));
    }

    #[test]
    fn every_host_of_a_request_counts() {
        let own = OwnNames::default();
        let mut headers = HeaderMap::new();
        let uri: Uri = "/status".parse().expect("a target");
        assert_eq!(foreign(&uri, &headers, &own, &[]), None);
        headers.append(HOST, "localhost".parse().expect("a value"));
        assert_eq!(foreign(&uri, &headers, &own, &[]), None);
        let absolute: Uri = "http://evil.example/status".parse().expect("a target");
        assert_eq!(foreign(&absolute, &headers, &own, &[]).as_deref(), Some("evil.example"));
        headers.append(HOST, hyper::header::HeaderValue::from_bytes(b"\xff.example").expect("a value"));
        assert_eq!(foreign(&uri, &headers, &own, &[]).as_deref(), Some("\u{fffd}.example"));
    }
}
