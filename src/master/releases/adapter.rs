//! `worker.adapter`: what an unmodified server is started with, so that it takes the sockets, says `READY=1` and drains without loss.
//!
//! The adapters themselves are the worker libraries of `clients/`. Law: the variables of the configuration are kept; what an adapter needs
//! is appended to them.

mod elf;
mod files;

use std::ffi::CString;
use std::path::{Path, PathBuf};

pub use files::clear;

use crate::config::{Adapter, Worker};
use crate::master::releases::script;
use crate::sys::program::Program;

/// The file name of the library of the adapter `bind`.
const LIBRARY: &str = "libratoon_bind.so";
/// The variables to which an adapter may append.
pub const VARIABLES: [&str; 6] = ["NODE_OPTIONS", "PYTHONPATH", "GUNICORN_CMD_ARGS", "RUBYLIB", "RUBYOPT", "LD_PRELOAD"];

/// The command and the variables with which the adapter starts a release.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Adapted {
    /// The command that replaces the configured one.
    pub command: Option<Vec<String>>,
    /// Variables, with the text between the present value and the addition, and the addition.
    additions: Vec<(&'static str, &'static str, String)>,
    /// A warning for the log and for the requester of the reload.
    pub warning: Option<String>,
}

impl Adapted {
    /// Appends to the variables of the workers.
    pub fn extend(&self, env: &mut Vec<CString>) {
        for (name, separator, addition) in &self.additions {
            let prefix = format!("{name}=");
            let at = env.iter().position(|entry| entry.as_bytes().starts_with(prefix.as_bytes()));
            let present = at.map_or(&b""[..], |at| &env[at].as_bytes()[prefix.len()..]);
            let separator = if present.is_empty() { "" } else { separator };
            let value = [prefix.as_bytes(), present, separator.as_bytes(), addition.as_bytes()].concat();
            match (at, CString::new(value)) {
                (Some(at), Ok(entry)) => env[at] = entry,
                (None, Ok(entry)) => env.push(entry),
                (_, Err(_)) => {}
            }
        }
    }

    fn with(additions: impl IntoIterator<Item = (&'static str, &'static str, String)>) -> Adapted {
        Adapted { additions: additions.into_iter().collect(), ..Adapted::default() }
    }
}

/// Returns the command and the variables that the configured adapter needs. `directory` is the workers' directory, `listens` whether
/// they get a listening socket. Blocks.
///
/// # Errors
/// The adapter is configured by its name and cannot be had.
pub fn adapt(
    config: &Worker,
    program: &Program,
    directory: &Path,
    runtime_directory: Option<&Path>,
    listens: bool,
) -> Result<Adapted, String> {
    let adapter = match config.adapter {
        Adapter::Auto if listens && is_run_by_node(&config.command, program) => Adapter::Node,
        Adapter::Auto => Adapter::None,
        named => named,
    };
    let adapted = match adapter {
        Adapter::Auto | Adapter::None => return Ok(Adapted::default()),
        Adapter::Bind => library(config).map(|library| bind(&library, program)),
        Adapter::Node | Adapter::Asgi | Adapter::Rack => {
            let unpacked = runtime_directory.ok_or_else(|| "there is no runtime directory".to_owned()).and_then(files::unpack);
            unpacked.and_then(|files| text_of(&files).map(str::to_owned)).map(|files| match adapter {
                Adapter::Node => node(&files),
                Adapter::Rack => rack(&files),
                _ => asgi(&files, &config.command, program, directory),
            })
        }
    };
    match (adapted, config.adapter) {
        (Err(why), Adapter::Auto) => {
            let warning = format!("the adapter for Node.js cannot be used: {why}; the program runs as it is");
            Ok(Adapted { warning: Some(warning), ..Adapted::default() })
        }
        (adapted, _) => adapted.map_err(|why| format!("worker.adapter = \"{}\": {why}", config.adapter.word())),
    }
}

fn text_of(path: &Path) -> Result<&str, String> {
    path.to_str()
        .filter(|text| !text.contains([':', '\n']))
        .ok_or_else(|| format!("the path {path:?} cannot be written into variables"))
}

/// Whether the program is Node.js, or a script of Node.js such as npm.
fn is_run_by_node(command: &[String], program: &Program) -> bool {
    let is_node = |path: &Path| path.file_name().is_some_and(|name| name == "node" || name == "nodejs");
    let named = command.first().is_some_and(|name| is_node(Path::new(name)));
    named
        || is_node(program.path())
        || script::interpreter(program).is_some_and(|words| words.iter().any(|word| is_node(Path::new(word))))
}

fn node(files: &str) -> Adapted {
    // Node.js splits the variable at spaces; between quotation marks a backslash keeps the next character.
    let quoted = format!("{files}/node/adapter.js").replace('\\', "\\\\").replace('"', "\\\"");
    Adapted::with([("NODE_OPTIONS", " ", format!("--require \"{quoted}\""))])
}

fn rack(files: &str) -> Adapted {
    // RUBYOPT cannot hold a path with a space; a list of directories can.
    Adapted::with([("RUBYLIB", ":", format!("{files}/ruby")), ("RUBYOPT", " ", "-rratoon/adapter".to_owned())])
}

/// Python finds the library. The command of uvicorn and hypercorn becomes `python -m ratoon.asgi`, gunicorn gets a configuration.
fn asgi(files: &str, command: &[String], program: &Program, directory: &Path) -> Adapted {
    let mut adapted = Adapted::with([("PYTHONPATH", ":", format!("{files}/python"))]);
    let name = Path::new(&command[0]).file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let module = (command.get(1).map(String::as_str) == Some("-m")).then(|| command.get(2)).flatten();
    let server = module.map_or(name, String::as_str);
    match server {
        "uvicorn" | "hypercorn" => {
            let arguments = &command[if module.is_some() { 3 } else { 1 }..];
            let python = if module.is_some() { Some(vec![command[0].clone()]) } else { python_of(program) };
            match python {
                Some(mut words) => {
                    words.extend(["-m", "ratoon.asgi", "--server", server].map(str::to_owned));
                    words.extend_from_slice(arguments);
                    adapted.command = Some(words);
                }
                None => {
                    adapted.warning = Some(format!(
                        "worker.adapter = \"asgi\": the Python of {} is not known; write worker.command = [\"python\", \"-m\", \"ratoon.asgi\", …]",
                        program.path().display()
                    ));
                }
            }
        }
        "gunicorn" => {
            let has = |word: &String| ["-c", "--config"].iter().any(|flag| word == flag || word.starts_with(&format!("{flag}=")));
            if command.iter().any(has) || directory.join("gunicorn.conf.py").exists() {
                adapted.warning = Some(
                    "worker.adapter = \"asgi\": gunicorn has a configuration of its own; begin it with `from ratoon.gunicorn import *`, or it \
                     says READY=1 before it has loaded the application"
                        .to_owned(),
                );
            } else {
                adapted.additions.push(("GUNICORN_CMD_ARGS", " ", "--config python:ratoon.gunicorn".to_owned()));
            }
        }
        _ => {}
    }
    adapted
}

/// The Python that runs a script, as the first words of a command.
fn python_of(program: &Program) -> Option<Vec<String>> {
    let is_python = |word: &String| Path::new(word).file_name().is_some_and(|name| name.to_string_lossy().starts_with("python"));
    let words = script::interpreter(program)?;
    if words.first().is_some_and(is_python) {
        return Some(words);
    }
    // `#!/usr/bin/env python3` looks it up as the master does; a virtual environment with a long path has it beside its scripts.
    let beside = || Some(program.path().parent()?.join("python")).filter(|path| path.exists())?.to_str().map(str::to_owned);
    words.into_iter().find(is_python).or_else(beside).map(|python| vec![python])
}

/// The library of the adapter `bind`: the configured one, that of the package, or the one beside this program.
fn library(config: &Worker) -> Result<String, String> {
    let own = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let home = own.parent().unwrap_or(Path::new("/usr/bin"));
    let places: Vec<PathBuf> = match &config.adapter_library {
        Some(configured) => vec![configured.clone()],
        None => vec![home.join("../lib/ratoon").join(LIBRARY), home.join(LIBRARY)],
    };
    let Some(found) = places.iter().find_map(|place| std::fs::canonicalize(place).ok()) else {
        let looked: Vec<_> = places.iter().map(|place| place.display().to_string()).collect();
        return Err(format!("there is no {LIBRARY} at {}; name it by worker.adapter_library", looked.join(" and ")));
    };
    let text = text_of(&found)?;
    // LD_PRELOAD is split at spaces and colons, and knows no quotation marks.
    if text.contains(char::is_whitespace) {
        return Err(format!("LD_PRELOAD cannot name {text:?}, for its space; name a copy of it by worker.adapter_library"));
    }
    Ok(text.to_owned())
}

fn bind(library: &str, program: &Program) -> Adapted {
    let mut adapted = Adapted::with([("LD_PRELOAD", ":", library.to_owned())]);
    let executed =
        script::interpreter(program).and_then(|words| words.into_iter().next()).map_or(program.path().to_owned(), PathBuf::from);
    adapted.warning = elf::ignores_preload(&executed).map(|why| {
        format!(
            "worker.adapter = \"bind\" has no effect on {}: {why}, and the loader ignores LD_PRELOAD (ld.so(8)); only programs that it \
             starts may take the socket",
            executed.display()
        )
    });
    adapted
}

#[cfg(test)]
mod tests;
