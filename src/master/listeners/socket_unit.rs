//! Finds addresses of the socket unit for which systemd passed no socket. When the addresses of an active socket unit are changed,
//! the new addresses have no socket until the unit is restarted, and only the journal says so.
//!
//! Law: another thread asks systemd. A systemd that does not answer changes nothing.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::master::fronts;
use crate::master::listeners::ListenerSet;
use crate::master::releases::command::{self, Cancel};
use crate::master::task_result::{TaskResult, TaskResults};
use crate::master::tasks::Tasks;

/// The time limit of systemctl(1).
const LIMIT: Duration = Duration::from_secs(20);

impl ListenerSet {
    /// Compares the listening sockets with the addresses of the instance's socket units, on another thread.
    pub(in crate::master) fn look_at_socket_units(&self, instance: Arc<str>, tasks: &Tasks, results: TaskResults) {
        let have: Vec<String> = self.addresses().into_iter().map(str::to_owned).collect();
        // Nothing waits for the result, so systemctl's own deadline is the only one. A thread that cannot start is not reported
        // here: other reports are more important then.
        let _ = tasks.start(LIMIT, move |_, job| {
            let service = fronts::own_unit().unwrap_or_else(|| format!("ratoon@{instance}.service"));
            if let Some(why) = missing(&service, &have, &job.cancel) {
                let _ = results.send(TaskResult::SocketsMissing(why));
            }
        });
    }
}

/// Asks systemd for the socket units of a service. Returns a sentence if one of their addresses has no socket in `have`.
fn missing(service: &str, have: &[String], cancel: &Cancel) -> Option<String> {
    let units = ask(&["--property=TriggeredBy", service], cancel)?;
    let units: Vec<&str> = properties(&units, "TriggeredBy").flat_map(str::split_ascii_whitespace).collect();
    let units = units.into_iter().filter(|unit| unit.ends_with(".socket"));
    units.filter_map(|unit| judge(&ask(&["--property=Listen", unit], cancel)?, service, unit, have)).next()
}

fn ask(arguments: &[&str], cancel: &Cancel) -> Option<String> {
    let mut command = Command::new("systemctl");
    // A user's systemd runs below user@UID.service, so a process below that unit asks the user's systemd.
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    if groups.contains("/user@") {
        command.arg("--user");
    }
    command.arg("show").args(arguments).stdin(Stdio::null());
    command::finish(command, &[], LIMIT, cancel).ok()
}

fn properties<'a>(said: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    said.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix('='))
}

/// Returns a sentence for the unit's addresses without a socket. `said` has a line `Listen=127.0.0.1:8080 (Stream)` for each address.
fn judge(said: &str, service: &str, unit: &str, have: &[String]) -> Option<String> {
    let lost: Vec<&str> = properties(said, "Listen")
        .filter_map(|listen| {
            let (address, kind) = listen.rsplit_once(" (")?;
            let comparable = address.starts_with(|first: char| first.is_ascii_digit() || matches!(first, '[' | '/' | '@'));
            let known = matches!(kind, "Stream)" | "Datagram)" | "SequentialPacket)") && comparable && !address.ends_with(":0");
            (known && !have.iter().any(|it| it == address)).then_some(address)
        })
        .collect();
    (!lost.is_empty()).then(|| {
        let addresses = lost.join(", ");
        format!(
            "systemd passed no socket for {addresses}, which {unit} names: it was changed while it was active, so nothing listens \
             there. Type: systemctl stop {service} && systemctl restart {unit} && systemctl start {service}"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(said: &str, have: &[&str]) -> Option<String> {
        let have: Vec<String> = have.iter().map(|it| (*it).to_owned()).collect();
        judge(said, "ratoon@web.service", "ratoon@web.socket", &have)
    }

    #[test]
    fn addresses_without_a_socket_are_named_with_what_to_type() {
        let said = "Listen=127.0.0.1:8080 (Stream)\nListen=[::]:80 (Stream)\nListen=/run/web.sock (Stream)\n";
        assert_eq!(judged(said, &["/run/web.sock", "[::]:80", "127.0.0.1:8080"]), None);
        let why = judged(said, &["127.0.0.1:8080"]).expect("two are missing");
        assert!(why.starts_with("systemd passed no socket for [::]:80, /run/web.sock, which ratoon@web.socket names"), "{why}");
        assert!(why.contains("systemctl restart ratoon@web.socket && systemctl start ratoon@web.service"), "{why}");
    }

    #[test]
    fn addresses_that_cannot_be_compared_are_left_out() {
        for said in ["", "Listen=\n", "Listen=127.0.0.1:0 (Stream)", "Listen=/run/fifo (FIFO)", "Listen=vsock::80 (Stream)", "x"]
        {
            assert_eq!(judged(said, &[]), None, "{said}");
        }
        assert!(judged("Listen=@web (Datagram)", &[]).is_some());
    }
}
