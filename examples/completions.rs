//! Writes the completions of bash, zsh and fish below a root directory, where packages of Debian have them: `completions ROOT`.
//! `packaging/deb` runs it.

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap_complete::{Shell, generate_to};

const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "usr/share/bash-completion/completions"),
    (Shell::Zsh, "usr/share/zsh/vendor-completions"),
    (Shell::Fish, "usr/share/fish/vendor_completions.d"),
];

fn main() -> ExitCode {
    let Some(root) = std::env::args_os().nth(1) else {
        eprintln!("completions: name the root directory");
        return ExitCode::from(2);
    };
    for (shell, directory) in SHELLS {
        let directory = Path::new(&root).join(directory);
        let written = fs::create_dir_all(&directory)
            .and_then(|()| generate_to(shell, &mut ratoon::cli::command(), "ratoon", &directory))
            .and_then(|file| match shell {
                // bash-completion looks for the name of the command.
                Shell::Bash => fs::rename(&file, directory.join("ratoon")),
                _ => Ok(()),
            });
        if let Err(error) = written {
            eprintln!("completions: {shell}: {}: {error}", directory.display());
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
