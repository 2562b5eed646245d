//! Writes the completions of bash, zsh and fish below a root directory, where packages of Debian have them: `completions ROOT`.
//! `packaging/stage` runs it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use ratoon::cli::{Shell, completions};

const FILES: [(Shell, &str, &str); 3] = [
    (Shell::Bash, "usr/share/bash-completion/completions", "ratoon"),
    (Shell::Zsh, "usr/share/zsh/vendor-completions", "_ratoon"),
    (Shell::Fish, "usr/share/fish/vendor_completions.d", "ratoon.fish"),
];

fn main() -> ExitCode {
    let Some(root) = std::env::args_os().nth(1) else {
        eprintln!("completions: name the root directory");
        return ExitCode::from(2);
    };
    match write(Path::new(&root)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("completions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes all of them below `root`.
///
/// # Errors
/// The file, and what failed there.
pub fn write(root: &Path) -> Result<(), String> {
    for (shell, directory, name) in FILES {
        let directory = root.join(directory);
        let file = directory.join(name);
        let written = fs::create_dir_all(&directory).and_then(|()| fs::write(&file, completions(shell)));
        written.map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}
