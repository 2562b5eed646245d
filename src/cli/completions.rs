//! `ratoon completions SHELL`: the completion script of a shell, on stdout, with the names of running instances.

use std::process::ExitCode;

use clap::ValueEnum;
use clap_complete::generate;

use super::screen::say;

/// A shell that completions are written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// Bash, with the package bash-completion
    Bash,
    /// Fish
    Fish,
    /// Zsh
    Zsh,
}

#[derive(clap::Args)]
pub(super) struct Options {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub(super) fn run(options: &Options) -> ExitCode {
    say(&completions(options.shell));
    ExitCode::SUCCESS
}

/// The completion script of a shell.
pub fn completions(shell: Shell) -> String {
    let generator = match shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Fish => clap_complete::Shell::Fish,
        Shell::Zsh => clap_complete::Shell::Zsh,
    };
    let mut script = Vec::new();
    generate(generator, &mut super::command(), "ratoon", &mut script);
    with_instances(shell, &String::from_utf8_lossy(&script))
}

/// Shell code that prints the names of the instances whose control sockets the user can see.
const INSTANCES: &str = r#"for control in /run/ratoon/*/control "${XDG_RUNTIME_DIR:-/nonexistent}"/ratoon/*/control; do
        [ -S "$control" ] && control=${control%/control} && echo "${control##*/}"
    done 2>/dev/null"#;

/// The script, extended to complete a NAME with the names of instances.
fn with_instances(shell: Shell, script: &str) -> String {
    match shell {
        Shell::Bash => {
            let list = format!("_ratoon_instances() {{\n    {INSTANCES}\n}}\n\n");
            // A verb with a NAME has --control; clap itself offers nothing for the NAME.
            let named = |line: &str| match line.strip_suffix('"') {
                Some(words) if words.trim_start().starts_with("opts=") && words.contains(" --control ") => {
                    format!("{words} $(_ratoon_instances)\"\n")
                }
                _ => format!("{line}\n"),
            };
            list + &script.lines().map(named).collect::<String>()
        }
        Shell::Zsh => {
            let list = format!(
                "_ratoon_instances() {{\n    setopt localoptions nullglob\n    local control\n    local -a names\n    \
                 names=($({INSTANCES}))\n    compadd -a names\n}}\n"
            );
            // The line of a NAME: `'::name -- The instance; a single number is a GENERATION:_default'`.
            let named = |line: &str| match line.trim_start().starts_with("'::name -- The instance") {
                true => line.replace(":_default'", ":_ratoon_instances'") + "\n",
                false => format!("{line}\n"),
            };
            let named = script.lines().map(named).collect::<String>();
            // The first line is #compdef.
            let (first, rest) = named.split_once('\n').unwrap_or((&named, ""));
            format!("{first}\n\n{list}{rest}")
        }
        Shell::Fish => {
            let list = INSTANCES.replace('\'', "\\'");
            format!(
                "{script}complete -c ratoon -n \"__fish_seen_subcommand_from abort history logs pause promote recycle reload resume scale status top undo upgrade\" -f \
                 -a \"(sh -c '{list}')\"\n"
            )
        }
    }
}
