//! The D-Bus front end against a real `dbus-daemon` of the test's own, with `busctl` as the client and a loop of the
//! test's own behind it.

mod access;
mod bus;
mod changes;
#[path = "../support/dice.rs"]
mod dice;
mod fuzz;
mod hostile;
mod instance;
mod link;
mod reads;
mod signals;
mod undone;
mod upgrade;
