//! Calls of every kind from a stranger on the bus: each is answered or refused, and nothing reaches the pool that should not.
//!
//! `RATOON_FUZZ` is how many calls. (Bytes that are no message never get past the bus.)

use std::time::Duration;

use zbus::{Str, Structure, Variant};

use super::bus::Bus;
use super::dice::{Dice, count};
use super::instance::Instance;

const PATHS: [&[u8]; 7] = [
    b"/",
    b"/org",
    b"/org/ratoon1",
    b"/org/ratoon1/worker",
    b"/org/ratoon1/worker/1",
    b"/org/ratoon1/worker/99",
    b"/org/freedesktop/LogControl1",
];
const INTERFACES: [&[u8]; 7] = [
    b"org.ratoon1.Manager",
    b"org.ratoon1.Worker",
    b"org.freedesktop.DBus.Properties",
    b"org.freedesktop.DBus.ObjectManager",
    b"org.freedesktop.DBus.Introspectable",
    b"org.freedesktop.DBus.Peer",
    b"org.freedesktop.LogControl1",
];
// None that a stranger's polkit would be asked for: that has tests of its own.
const MEMBERS: [&[u8]; 10] = [
    b"GetStatus",
    b"Get",
    b"GetAll",
    b"Set",
    b"GetManagedObjects",
    b"Introspect",
    b"Ping",
    b"GetMachineId",
    b"Nothing",
    b"Reload2",
];
const TEXTS: [&[u8]; 8] =
    [b"", b"org.ratoon1.Manager", b"org.ratoon1.Worker", b"State", b"Id", b"LastReload", b"LogLevel", b"\xf0\x9f\x8c\xb1"];

fn name(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("names are text")
}

/// A value of any type, nested no deeper than this.
fn value(dice: &mut Dice, depth: usize) -> Variant<'static> {
    match dice.below(if depth == 0 { 8 } else { 11 }) {
        0 => Variant::U8(dice.next() as u8),
        1 => Variant::Bool(dice.next().is_multiple_of(2)),
        2 => Variant::I64(dice.next() as i64),
        3 => Variant::U64(dice.next()),
        4 => Variant::F64(f64::from_bits(dice.next())),
        5..=7 => Variant::Str(Str::from(name(dice.pick(&TEXTS)).to_owned())),
        8 => Variant::Variant(Box::new(value(dice, depth - 1))),
        9 => Variant::from((0..dice.below(5)).map(|_| dice.next()).collect::<Vec<u64>>()),
        _ => {
            let mut parts = Structure::builder();
            for _ in 0..=dice.below(3) {
                parts.push_value(value(dice, depth - 1));
            }
            parts.build().map_or(Variant::U8(0), Variant::Structure)
        }
    }
}

#[tokio::test]
async fn any_call_is_answered_or_refused() {
    let bus = Bus::start();
    let instance = Instance::new(&bus, "web");
    let client = instance.client().await;
    let mut dice = Dice(0x5EED);
    for _ in 0..count(2_000) {
        let (path, interface, member) = (name(dice.pick(&PATHS)), name(dice.pick(&INTERFACES)), name(dice.pick(&MEMBERS)));
        let interface = (dice.below(8) != 0).then_some(interface);
        let destination = Some(instance.name());
        let answer = match dice.below(4) {
            0 => call(client.call_method(destination, path, interface, member, &())).await,
            1 => {
                call(client.call_method(
                    destination,
                    path,
                    interface,
                    member,
                    &(name(dice.pick(&TEXTS)), name(dice.pick(&TEXTS))),
                ))
                .await
            }
            2 => call(client.call_method(destination, path, interface, member, &(name(dice.pick(&TEXTS))))).await,
            _ => {
                let mut parts = Structure::builder();
                for _ in 0..=dice.below(3) {
                    parts.push_value(value(&mut dice, 3));
                }
                let Ok(body) = parts.build() else { continue };
                call(client.call_method(destination, path, interface, member, &body)).await
            }
        };
        assert!(answer, "no answer to {path} {interface:?} {member}");
    }
    instance.assert_unasked();
    assert_eq!(instance.property(&bus, "State")["data"], "running");
}

/// Whether there was an answer, of whatever kind.
async fn call(answer: impl Future<Output = zbus::Result<zbus::Message>>) -> bool {
    match tokio::time::timeout(Duration::from_secs(30), answer).await {
        Ok(Ok(_) | Err(zbus::Error::MethodError(..) | zbus::Error::FDO(_))) => true,
        Ok(Err(error)) => panic!("{error}"),
        Err(_) => false,
    }
}
