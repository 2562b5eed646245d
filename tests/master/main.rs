//! The real program with real processes: everything that needs no real systemd.
//!
//! systemd is played by the test (a notify socket, and sockets handed over as `LISTEN_FDS`); workers are the examples
//! `chaos` and `hello`, and small scripts. Every test has a directory of its own, waits for what happens instead of
//! sleeping, and leaves no process behind, even when it fails.

mod balance;
mod birth;
mod canary;
mod canary_part;
mod config;
mod counts;
mod elastic;
mod fallback;
#[path = "../support/load.rs"]
mod generator;
mod hang;
mod harness;
mod hostile;
mod idle;
mod instances;
mod life;
mod load;
mod pause;
mod pinned;
mod preload;
mod preload_killed;
mod preload_languages;
mod previous;
mod probe;
mod queue;
mod recycle;
mod reload;
mod scale;
mod sockets;
mod start;
mod stop;
mod undo;
mod upgrade;
mod varlink;
mod watch;
mod zero;
