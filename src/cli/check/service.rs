//! Finds the user that the service of a configuration runs as, and checks as that user.

use std::path::Path;
use std::process::{Command, Stdio};

use super::{Findings, machine, summary, warning_of_canary};
use crate::config;
use crate::sys::accounts::{self, User};
use crate::sys::credentials::own_uid;
use crate::sys::spawn::{Identity, as_user};

/// Directory of the configurations of the units.
const CONFIGURATIONS: &str = "/etc/ratoon";

/// The user as whom the service runs, if it is another one than the user of this process: `named`, else `User=` of the unit.
///
/// # Errors
/// There is no such user.
pub(super) fn user(file: &Path, named: Option<&str>) -> Result<Option<User>, String> {
    let user = match named {
        Some(name) => Some(accounts::user(name).ok_or_else(|| format!("--user {name}: there is no such user"))?),
        None => instance(file)
            .as_deref()
            .and_then(unit_user)
            .map(|name| {
                accounts::user(&name).ok_or_else(|| {
                    format!("User={name} of the unit: there is no such user; make one (`useradd --system {name}`)")
                })
            })
            .transpose()?,
    };
    Ok(user.filter(|user| user.uid != own_uid()))
}

/// Checks the file and the objects that it names, as the service's user. Returns a summary of what would run, and the findings.
pub(super) fn check(file: &Path, user: Option<&User>) -> Result<(String, Findings), String> {
    let as_service = || {
        let config = config::load(file).map_err(|error| error.to_string())?;
        let mut found = machine::check(&config, instance(file).is_some());
        found.warnings.extend(warning_of_canary(&config));
        Ok((summary(&config), found))
    };
    match user {
        Some(user) => match identity(user) {
            Some(identity) => {
                as_user(&identity, as_service).map_err(|error| format!("cannot check as user {}: {error}", user.name))?
            }
            None => {
                let (line, mut found) = as_service()?;
                found.warnings.push(format!(
                    "the service runs as {}; checked as user {} (sudo checks as that user)",
                    user.name,
                    own_uid()
                ));
                Ok((line, found))
            }
        },
        None => as_service(),
    }
}

/// The rights of a user; `None` unless this process is root and can take them.
pub(super) fn identity(user: &User) -> Option<Identity> {
    (own_uid() == 0).then(|| Identity { uid: user.uid, gid: user.gid, groups: user.groups.clone() })
}

/// The instance whose unit reads this file.
fn instance(file: &Path) -> Option<String> {
    let path = std::path::absolute(file).ok()?;
    let name = path.file_name()?.to_str()?.strip_suffix(".toml")?;
    (path.parent()? == Path::new(CONFIGURATIONS)).then(|| name.to_owned())
}

/// `User=` of the instance's unit, drop-ins included; `None` when the unit has none, or when systemd does not answer.
fn unit_user(instance: &str) -> Option<String> {
    let unit = format!("ratoon@{instance}.service");
    let said = Command::new("systemctl")
        .args(["show", "--property=User", "--value", "--", &unit])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let user = String::from_utf8(said.stdout).ok()?.trim().to_owned();
    (said.status.success() && !user.is_empty()).then_some(user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_is_the_name_of_a_file_in_etc() {
        assert_eq!(instance(Path::new("/etc/ratoon/web.toml")).as_deref(), Some("web"));
        for other in ["/etc/ratoon/web", "/etc/ratoon/old/web.toml", "web.toml"] {
            assert_eq!(instance(Path::new(other)), None, "{other}");
        }
    }
}
