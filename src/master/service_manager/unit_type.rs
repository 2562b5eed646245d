//! The type of the unit in which the master runs. `Type=notify-reload`, set by a drop-in, starts two generations at each reload,
//! because systemd then sends SIGHUP and also runs `ExecReload=`.
//!
//! Law: the type is read on a thread, not on the loop; a machine that does not report it gets no warning.

use std::process::{Command, Stdio};

/// The warning, if the type of this process's unit is wrong.
pub fn complaint() -> Option<String> {
    let (is_users, unit) = unit_of(&std::fs::read_to_string("/proc/self/cgroup").ok()?)?;
    let mut command = Command::new("systemctl");
    if is_users {
        command.arg("--user");
    }
    let said =
        command.args(["show", "--property=Type", "--value", &unit]).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    judge(String::from_utf8_lossy(&said.stdout).trim(), &unit)
}

/// The innermost service of a control group path, and whether a user's manager runs it.
fn unit_of(cgroup: &str) -> Option<(bool, String)> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let unit = path.split('/').rfind(|part| part.ends_with(".service"))?;
    let is_users = path.split('/').any(|part| part.starts_with("user@") && part.ends_with(".service") && part != unit);
    Some((is_users, unit.to_owned()))
}

fn judge(kind: &str, unit: &str) -> Option<String> {
    (kind == "notify-reload").then(|| {
        format!(
            "Type=notify-reload makes two generations of each `systemctl reload {unit}`, and hides that a reload failed: take it out of \
             the drop-in (`systemctl cat {unit}` shows which), so that Type=notify of ratoon@.service holds"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_type_is_asked_of_the_innermost_service() {
        let of = |cgroup: &str| unit_of(cgroup).map(|(is_users, unit)| format!("{is_users} {unit}"));
        let system = "0::/system.slice/system-ratoon.slice/ratoon@web.service/master\n";
        assert_eq!(of(system).as_deref(), Some("false ratoon@web.service"));
        let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/ratoon@web.service/master\n";
        assert_eq!(of(user).as_deref(), Some("true ratoon@web.service"));
        assert_eq!(of("0::/\n"), None);
        assert_eq!(of("1:cpu:/x.service\n"), None);
    }

    #[test]
    fn unit_type_is_told_only_when_wrong() {
        assert_eq!(judge("notify", "ratoon@web.service"), None);
        let said = judge("notify-reload", "ratoon@web.service").unwrap();
        assert!(said.contains("`systemctl cat ratoon@web.service`"), "{said}");
    }
}
