//! `ratoon run`: the master.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config::Overrides;
use crate::master;

/// What the master is told on the command line.
#[derive(Args)]
pub struct Options {
    /// The configuration; /etc/ratoon/NAME.toml when there is no command
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The instance's name; the configuration's or the program's when left out
    #[arg(long, value_name = "NAME", value_hint = clap::ValueHint::Other)]
    name: Option<String>,
    /// A socket to bind when systemd hands over none: 127.0.0.1:8080, [::]:80, /run/x.sock, name=ADDR
    #[arg(long, short, value_name = "ADDR")]
    listen: Vec<String>,
    /// Only probe the release on private sockets, and end (for `ratoon check --probe`)
    #[arg(long, hide = true)]
    probe_only: bool,
    #[command(flatten)]
    flags: Overrides,
}

/// Runs the master until it ends.
pub fn run(options: Options) -> ExitCode {
    let Options { config, name, listen, probe_only, flags } = options;
    master::run(master::Options { config, name, listen, probe_only, flags })
}
