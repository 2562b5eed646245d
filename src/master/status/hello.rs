//! The log lines of a master whose first generation serves: its addresses and, without systemd, commands for the user at a terminal.

/// The line that says that a generation serves.
pub fn serving(generation: u64, target: u32, addresses: &[&str]) -> String {
    let on = if addresses.is_empty() { String::new() } else { format!(" on {}", addresses.join(", ")) };
    format!("generation {generation} is serving: {target}/{target} ready{on}")
}

/// Commands for a second terminal. `tcp`: the address of a TCP socket.
pub fn hints(instance: &str, tcp: Option<&str>) -> Vec<String> {
    let program = std::env::args().next().unwrap_or_else(|| "ratoon".to_owned());
    let mut hints = vec![
        "in a second terminal:".to_owned(),
        format!("  {program} status {instance}     what the workers do"),
        format!("  {program} reload {instance}     a new generation, then the old one drains"),
    ];
    if let Some(address) = tcp {
        let address = address.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
        hints.push(format!("  while curl -fsS http://{address}/; do :; done     some load; it stops at the first lost request"));
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_an_address_that_can_be_reached() {
        assert_eq!(serving(1, 2, &[]), "generation 1 is serving: 2/2 ready");
        assert_eq!(serving(1, 2, &["[::]:80", "/run/x"]), "generation 1 is serving: 2/2 ready on [::]:80, /run/x");
        assert!(hints("web", Some("[::]:80")).last().is_some_and(|hint| hint.contains(" http://[::1]:80/;")));
        assert_eq!(hints("web", None).len(), 3);
    }
}
