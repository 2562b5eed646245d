//! The texts of an order: the program's path, arguments and environment, in one buffer that the order owns.

use std::ffi::{CStr, c_char};

use super::child::{LastVariable, Start, Texts};
use super::{DIGITS, Plan, SpawnRequest};

/// Offset of a text in the buffer, bytes.
type Place = usize;

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    fn add(&mut self, text: &CStr) -> Place {
        let place = self.bytes.len();
        self.bytes.extend_from_slice(text.to_bytes_with_nul());
        place
    }

    /// Adds a text without a NUL in it.
    fn say(&mut self, text: &str) -> Place {
        let place = self.bytes.len();
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        place
    }

    /// Adds `NAME=` and room for digits after it. Returns the offsets of the variable and of its digits.
    fn room(&mut self, name: &str) -> (Place, Place) {
        let place = self.bytes.len();
        self.bytes.extend_from_slice(name.as_bytes());
        let digits = self.bytes.len();
        self.bytes.resize(digits + DIGITS, 0);
        (place, digits)
    }
}

/// Makes the texts of a worker. Its environment is the generation's, its own, and the variables whose digits only the child knows.
pub(super) fn texts(plan: &Plan, request: &SpawnRequest<'_>, next: i32) -> Texts {
    let mut buffer = Buffer::default();
    let argv: Vec<Place> = request.argv.as_ref().unwrap_or(&plan.argv).iter().map(|word| buffer.add(word)).collect();
    let starts: Vec<(Place, bool, Place, Option<Vec<Place>>)> = plan
        .program
        .starts()
        .iter()
        .map(|start| {
            let head = start.head.as_ref().map(|head| head.iter().map(|word| buffer.add(word)).collect());
            (buffer.add(&start.path), start.same, buffer.add(&start.execute), head)
        })
        .collect();

    let listens = !plan.listeners.is_empty();
    let wanted = |entry: &&std::ffi::CString| listens || !entry.to_bytes().starts_with(b"LISTEN_FD");
    let fixed = request.plan_env.as_ref().unwrap_or(&plan.env).iter().chain(&request.env).filter(wanted);
    let mut env: Vec<Place> = fixed.map(|entry| buffer.add(entry)).collect();
    if request.scoreboard.is_some() {
        env.push(buffer.say(&format!("RATOON_SCOREBOARD={}", next - 1 - i32::from(request.fork.is_some()))));
    }
    if request.fork.is_some() {
        env.push(buffer.say(&format!("RATOON_FORK={}", next - 1)));
    }
    let mut place = |name: &str, wanted: bool| {
        wanted.then(|| {
            let (place, digits) = buffer.room(name);
            env.push(place);
            digits
        })
    };
    let listen_pid = place("LISTEN_PID=", listens);
    let watchdog_pid = place("WATCHDOG_PID=", request.watchdog_pid);
    // The last variable, so that a child without such a number can end the list here.
    let listen_pidfdid = place("LISTEN_PIDFDID=", listens);

    let mut bytes = buffer.bytes;
    let base = bytes.as_mut_ptr();
    let digits = |place: Option<Place>| place.map_or(std::ptr::null_mut(), |place| base.wrapping_add(place));
    let list = |places: &[Place]| -> Vec<*const c_char> {
        let pointers = places.iter().map(|place| base.wrapping_add(*place).cast_const().cast());
        pointers.chain([std::ptr::null()]).collect()
    };
    let text = |place: Place| base.wrapping_add(place).cast_const().cast();
    let starts = starts.into_iter().map(|(path, same, execute, head)| Start {
        path: text(path),
        same,
        execute: text(execute),
        argv: head.map(|head| list(&[head, argv.iter().skip(1).copied().collect()].concat())),
    });
    let starts = starts.collect();
    let mut env = list(&env);
    // The last entry before the null.
    let entry = env.as_mut_ptr().wrapping_add(env.len().saturating_sub(2));
    let last = listen_pidfdid.is_some().then(|| LastVariable { digits: digits(listen_pidfdid), entry });
    Texts {
        starts,
        argv: list(&argv),
        env,
        listen_pid: digits(listen_pid),
        watchdog_pid: digits(watchdog_pid),
        listen_pidfdid: last,
        _bytes: bytes,
    }
}
