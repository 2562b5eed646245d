//! The files of a new instance: their content, and writing all of them or none.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use super::Manager;
use super::find::User;
use super::server;
use crate::config;

/// The settings of a new instance.
pub(super) struct Instance {
    pub(super) name: String,
    pub(super) manager: Manager,
    /// Lines of the socket unit's drop-in.
    pub(super) listen: Vec<String>,
    /// Whether an IPv6 address has the same port as an IPv4 address.
    pub(super) v6_only: bool,
    pub(super) user: Option<User>,
    pub(super) directory: PathBuf,
    pub(super) command: Vec<String>,
    pub(super) workers: Option<u32>,
    pub(super) ready: Option<String>,
}

impl Instance {
    /// Writes all files below `base`; returns their paths. If one of the files exists, none is written.
    pub(super) fn write(&self, base: &Path) -> Result<Vec<PathBuf>, String> {
        let files: Vec<(PathBuf, String)> = self.files().into_iter().map(|(path, text)| (base.join(path), text)).collect();
        if let Some((path, text)) = files.first() {
            config::parse(text, path).map_err(|error| error.to_string())?;
        }
        let there: Vec<String> = files
            .iter()
            .filter(|(path, _)| path.symlink_metadata().is_ok())
            .map(|(path, _)| path.display().to_string())
            .collect();
        if !there.is_empty() {
            return Err(format!(
                "{} there already: nothing is overwritten; edit it, remove it, or take another name",
                match there.as_slice() {
                    [one] => format!("{one} is"),
                    all => format!("{} are", all.join(" and ")),
                }
            ));
        }
        let mut written = Vec::new();
        for (path, text) in files {
            if let Err(error) = create(&path, &text) {
                written.iter().for_each(|path: &PathBuf| drop(fs::remove_file(path)));
                let hint = if error.kind() == std::io::ErrorKind::PermissionDenied { "; use sudo, or --root" } else { "" };
                return Err(format!("cannot write {}: {error}{hint}; nothing is written", path.display()));
            }
            written.push(path);
        }
        Ok(written)
    }

    /// The paths, relative to the base, and texts of all files; the configuration is the first.
    fn files(&self) -> Vec<(String, String)> {
        let name = &self.name;
        let (configuration, units) = match self.manager {
            Manager::System => ("etc/ratoon", "etc/systemd/system"),
            Manager::User => ("ratoon", "systemd/user"),
        };
        let mut files = vec![
            (format!("{configuration}/{name}.toml"), self.configuration()),
            (format!("{units}/ratoon@{name}.socket.d/listen.conf"), self.socket()),
            (format!("{units}/ratoon@{name}.service.d/instance.conf"), self.service()),
        ];
        if let Some(user) = &self.user {
            files.push((format!("etc/dbus-1/system.d/ratoon-{name}.conf"), policy(name, user)));
        }
        files
    }

    fn configuration(&self) -> String {
        let address = self.listen.first().and_then(|line| line.split_once('=')).map_or("", |(_, address)| address);
        let is_port = address.bytes().all(|byte| byte.is_ascii_digit());
        let address = if is_port { format!("0.0.0.0:{address}") } else { address.to_owned() };
        configuration(&self.name, &self.command, &self.directory, &address, self.workers, self.ready.as_deref())
    }

    fn socket(&self) -> String {
        let mut text =
            format!("# Where {} listens; systemd holds the socket.\n[Socket]\n{}\n", self.name, self.listen.join("\n"));
        if self.v6_only {
            text += "# Else the IPv6 socket would take the port of the IPv4 one, too.\nBindIPv6Only=ipv6-only\n";
        }
        if self.listen.iter().all(|line| line.starts_with("ListenStream=/")) {
            text += "# A path has no TCP_NODELAY; systemd would warn.\nNoDelay=no\n";
        }
        text
    }

    fn service(&self) -> String {
        let mut text = format!(
            "# What {} needs beyond ratoon@.service; what is closed there, and how to open it, stands beside it.\n",
            self.name
        );
        text += "[Service]\n";
        if let Some(user) = &self.user {
            text += &format!("User={}\n# Without root there is nothing left to be allowed.\nCapabilityBoundingSet=\n", user.name);
        }
        let temporary = ["/tmp", "/var/tmp"].iter().any(|place| self.directory.starts_with(place));
        if self.manager == Manager::System {
            if temporary {
                text += "# The workers' directory is there.\nPrivateTmp=no\n";
            }
            text += "# Where workers may write: /var/lib/NAME, made by systemd, or another directory.\n";
            text += &format!("#StateDirectory={}\n#ReadWritePaths=/srv/{}\n", self.name, self.name);
        }
        text
    }

    /// The message about the written files, with the commands to type next.
    pub(super) fn next(&self, written: &[PathBuf]) -> String {
        let name = &self.name;
        let mut text: String = written.iter().map(|path| format!("wrote {}\n", path.display())).collect();
        if let Some(user) = self.user.as_ref().filter(|user| user.guessed) {
            let directory = self.directory.display();
            text += &format!("\nIt will run as {}, who owns {directory}; --user names another.\n", user.name);
        } else if self.manager == Manager::System && self.user.is_none() {
            text += "\nIts workers will run as root: set worker.user in the configuration, or take --user.\n";
        }
        let systemctl = if self.manager == Manager::System { "systemctl" } else { "systemctl --user" };
        let mut lines = vec![(format!("{systemctl} daemon-reload"), "")];
        if self.user.is_some() {
            lines.push(("systemctl reload dbus".to_owned(), "its name on the bus; leave it out where there is none"));
        }
        lines.extend([
            (format!("{systemctl} enable --now ratoon@{name}.socket"), "listens; the first connection would start it"),
            (format!("{systemctl} start ratoon@{name}"), "returns when all workers are ready"),
            (format!("ratoon status {name}"), ""),
            (format!("{systemctl} reload ratoon@{name}"), "after each deployment: fails when the new one does not come up"),
        ]);
        if self.manager == Manager::User {
            lines.push(("loginctl enable-linger".to_owned(), "it goes on when you log out"));
        }
        let width = lines.iter().map(|(line, _)| line.len()).max().unwrap_or(0);
        text += "\nNext:\n";
        for (line, what) in lines {
            let line = format!("  {line:<width$}    {}", if what.is_empty() { String::new() } else { format!("# {what}") });
            text += line.trim_end();
            text.push('\n');
        }
        text.pop();
        text
    }
}

/// The text of the configuration. `address` is the first one that it listens on.
pub(super) fn configuration(
    name: &str,
    command: &[String],
    directory: &Path,
    address: &str,
    workers: Option<u32>,
    ready: Option<&str>,
) -> String {
    let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
    let list = |words: &[String]| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", ");
    let advice = server::advice(command, directory, address);
    let command = advice.as_ref().map_or(command, |advice| &advice.command);
    let mut text = format!(
        "# The pool {name}. All keys: man ratoon.toml, /usr/share/doc/ratoon/examples/web.toml. Read again at each reload.\n\n\
         [worker]\ncommand = [{}]\ndirectory = {}\n",
        list(command),
        quoted(&directory.display().to_string())
    );
    match workers {
        Some(workers) => text += &format!("count = {workers}\n"),
        None => text += "#count = 4    # in place of one for each CPU\n",
    }
    match (ready, &advice) {
        (Some(ready), _) => text += &format!("ready = {}\n", quoted(ready)),
        (None, None) => text += "#ready = \"running\"    # for a program that does not say READY=1, see sd_notify(3)\n",
        (None, Some(_)) => {}
    }
    if let Some(advice) = advice {
        text += &advice.worker;
        text += "\n[reload]\n";
        if let Some((check, why)) = advice.check {
            text += &format!("# {why}\ncheck = [{}]\n", list(&check));
        }
        text += "# One worker of a new release is asked for this page first, on a socket that no client can reach: an error that shows at the first request\n\
                 # costs nothing. Name a page that answers 200 to 399 and changes nothing. It costs one more start of the application for each reload.\n\
                 #probe = \"GET /\"\n";
    }
    text
}

/// The policy by which the bus lets this user own the instance's names.
fn policy(name: &str, user: &User) -> String {
    let own = crate::control::dbus::encode(name);
    format!(
        "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN\"\n \
         \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n\
         <!-- The user of this instance may own its names; see /usr/share/dbus-1/system.d/org.ratoon1.conf. -->\n\
         <busconfig>\n  <policy user=\"{}\">\n    <allow own=\"org.ratoon1.{own}\"/>\n    <allow own=\"org.ratoon1\"/>\n  </policy>\n\
         </busconfig>\n",
        user.uid
    )
}

/// Makes a new file, with the directories above it.
fn create(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    let done = file.write_all(text.as_bytes());
    if done.is_err() {
        let _ = fs::remove_file(path);
    }
    done
}
