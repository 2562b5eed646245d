//! The BPF program by which the kernel chooses the socket of a new connection in a reuseport group.
//!
//! Law: only the given sockets get connections, each an equal share of the source ports. With a canary its sockets together get exactly
//! their part of the source ports, each an equal share of that, and the others share the rest.
//!
//! The source ports of a Linux client for one destination advance by 2 to 16, 9 on average, so a run of 16 ports has about two
//! connections. Therefore the socket changes every 16 ports. With 128 connections on four slots, the fullest slot has on average 1.11
//! times its share; with the kernel's hash or at random it would have 1.17 times. Connections of other clients, or of many clients,
//! are spread as at random.

use crate::sys::reuseport::{INSTRUCTIONS_MAX, Instruction};

/// The index of a socket in its group, in the kernel's order.
pub type Place = u32;

/// The sockets of a group that get new connections.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// The sockets that share all connections, or those that the canary does not get; in ascending order.
    pub places: Vec<Place>,
    /// The sockets of the canary, in ascending order.
    pub canary: Vec<Place>,
    /// The number of connections, of each [`Self::of`], that go to the canary.
    pub part: u32,
    /// See [`Self::part`].
    pub of: u32,
}

impl Targets {
    /// These sockets, in equal shares.
    pub fn equal(places: Vec<Place>) -> Targets {
        Targets { places, ..Targets::default() }
    }
}

/// Consecutive ports that go to one slot, as a power of two: 4 means 16 ports.
const TURN: u32 = 4;

// Instruction codes of <linux/bpf_common.h>: BPF_CLASS | BPF_SIZE or BPF_OP | BPF_MODE or BPF_SRC.
const LOAD_BYTE: u16 = 0x30;
const LOAD_HALF_AT_X: u16 = 0x48;
const LOAD_WORD: u16 = 0x20;
const X_IS: u16 = 0x01;
/// Sets X to four times the lower four bits of a byte: the length of an IPv4 header, bytes.
const X_IS_HEADER: u16 = 0xb1;
const SHIFT_RIGHT: u16 = 0x74;
const MODULO: u16 = 0x94;
const DIVIDE: u16 = 0x34;
const MULTIPLY: u16 = 0x24;
const ADD: u16 = 0x04;
const SUBTRACT_X: u16 = 0x1c;
const X_IS_A: u16 = 0x07;
const A_IS_X: u16 = 0x87;
/// Stores A in a word of scratch memory, and loads it again.
const STORE: u16 = 0x02;
const LOAD_STORED: u16 = 0x60;
const JUMP: u16 = 0x05;
const IF_EQUAL: u16 = 0x15;
const IF_AT_LEAST: u16 = 0x35;
const RETURN: u16 = 0x06;
const RETURN_A: u16 = 0x16;

/// The offset of the packet's IP header (`SKF_NET_OFF`). Offset 0 of the filter is behind the TCP header.
const IP: u32 = -0x10_0000_i32 as u32;
/// The offset of the packet's hash (`SKF_AD_OFF + SKF_AD_RXHASH`).
const HASH: u32 = (-0x1000_i32 + 32) as u32;
const TCP: u32 = 6;
/// The most instructions outside the tables of runs. [`PER_RUN`] is the most instructions for each run of places in a table.
const HEAD: usize = 32;
const PER_RUN: usize = 3;
/// The most instructions of both tables.
const TABLES: usize = INSTRUCTIONS_MAX - HEAD;

fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, yes: 0, no: 0, k }
}

/// The program for these sockets. Without any it chooses the first one of the group.
pub fn program(targets: &Targets) -> Vec<Instruction> {
    let Targets { places, canary, part, of } = targets;
    let has_canary = !canary.is_empty() && *part > 0 && part < of;
    if !has_canary {
        let all = if places.is_empty() { canary } else { places };
        let (runs, count) = runs(all, TABLES);
        if count <= 1 {
            return vec![plain(RETURN, all.first().copied().unwrap_or(0))];
        }
        return [number_of_turn(), vec![plain(MODULO, count)], table(&runs)].concat();
    }
    let (canary, canaries) = runs(canary, TABLES / 2);
    let (places, others) = runs(places, TABLES / 2);
    if others == 0 {
        return program(&Targets::equal(targets.canary.clone()));
    }
    // Of `of` turns, `part` go to the canary, evenly spaced: turn T if (T * part) modulo `of` is below `part`. Turn T comes after C turns of the
    // canary, T * part / `of` rounded up, and T - C of the others; so many turns of a side choose among its places.
    let canary = [vec![plain(A_IS_X, 0), plain(MODULO, canaries)], table(&canary)].concat();
    let others = [vec![plain(LOAD_STORED, 0), plain(SUBTRACT_X, 0), plain(MODULO, others)], table(&places)].concat();
    let split = vec![
        plain(STORE, 0),
        plain(MULTIPLY, *part),
        plain(ADD, of - 1),
        plain(DIVIDE, *of),
        plain(X_IS_A, 0),
        plain(LOAD_STORED, 0),
        plain(MULTIPLY, *part),
        plain(MODULO, *of),
        Instruction { code: IF_AT_LEAST, yes: 0, no: 1, k: *part },
        plain(JUMP, canary.len() as u32),
    ];
    [number_of_turn(), split, canary, others].concat()
}

/// Loads the number of the turn: the source port without its last bits, or the hash of the packet where the port cannot be found.
fn number_of_turn() -> Vec<Instruction> {
    vec![
        plain(LOAD_BYTE, IP),
        plain(SHIFT_RIGHT, 4),
        Instruction { code: IF_EQUAL, yes: 2, no: 0, k: 6 },
        plain(X_IS_HEADER, IP),
        plain(JUMP, 5),
        // IPv6: behind extension headers the ports are not at offset 40, so the hash is used instead.
        plain(LOAD_BYTE, IP + 6),
        Instruction { code: IF_EQUAL, yes: 2, no: 0, k: TCP },
        plain(LOAD_WORD, HASH),
        plain(JUMP, 3),
        plain(X_IS, 40),
        // The source port.
        plain(LOAD_HALF_AT_X, IP),
        plain(SHIFT_RIGHT, TURN),
    ]
}

/// Maps an index in the list of places to the place at that index, and returns it.
fn table(runs: &[(u32, Place)]) -> Vec<Instruction> {
    let mut program = Vec::new();
    for (index, place) in runs.iter().rev() {
        if place == index {
            program.push(Instruction { code: IF_AT_LEAST, yes: 0, no: 1, k: *index });
            program.push(plain(RETURN_A, 0));
        } else {
            program.push(Instruction { code: IF_AT_LEAST, yes: 0, no: 2, k: *index });
            program.push(plain(ADD, place - index));
            program.push(plain(RETURN_A, 0));
        }
    }
    program.push(plain(RETURN, 0));
    program
}

/// The runs of consecutive places, as (index in the list, place), and the number of places in all runs. With more runs than fit into
/// `room` instructions, the places at the end are left out and get no connections.
fn runs(places: &[Place], room: usize) -> (Vec<(u32, Place)>, u32) {
    let mut runs: Vec<(u32, Place)> = Vec::new();
    let mut count = 0;
    let mut next = None;
    for place in places.iter().copied() {
        if next != Some(place) {
            if (runs.len() + 1) * PER_RUN > room {
                break;
            }
            runs.push((count, place));
        }
        count += 1;
        next = place.checked_add(1);
    }
    (runs, count)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn equal(places: &[Place]) -> Vec<Instruction> {
        program(&Targets::equal(places.to_vec()))
    }

    /// The data of a packet that the program reads.
    #[derive(Clone, Default)]
    struct Packet {
        from_ip: Vec<u8>,
        hash: u32,
    }

    fn four(port: u16, options: u8) -> Packet {
        let mut from_ip = vec![0; 20 + usize::from(options) * 4];
        from_ip[0] = 0x40 | (5 + options);
        from_ip.extend(port.to_be_bytes());
        Packet { from_ip, hash: 0 }
    }

    fn six(port: u16, next: u8) -> Packet {
        let mut from_ip = vec![0; 40];
        from_ip[0] = 0x60;
        from_ip[6] = next;
        from_ip.extend(port.to_be_bytes());
        Packet { from_ip, hash: 12_346 }
    }

    /// Runs a program as the kernel does. A load outside the packet ends the program with 0.
    fn run(program: &[Instruction], packet: &Packet) -> u32 {
        let (mut a, mut x, mut stored, mut at) = (0_u32, 0_u32, 0_u32, 0);
        let load = |k: u32, width: usize| -> Option<u32> {
            let begin = usize::try_from(k.wrapping_sub(IP)).ok()?;
            let bytes = packet.from_ip.get(begin..begin + width)?;
            Some(bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte)))
        };
        loop {
            let one = program[at];
            at += 1;
            let loaded = |value: Option<u32>| value.ok_or(());
            let step = match one.code {
                LOAD_BYTE => loaded(load(one.k, 1)).map(|value| a = value),
                LOAD_HALF_AT_X => loaded(load(one.k.wrapping_add(x), 2)).map(|value| a = value),
                LOAD_WORD if one.k == HASH => loaded(Some(packet.hash)).map(|value| a = value),
                X_IS => loaded(Some(one.k)).map(|value| x = value),
                X_IS_HEADER => loaded(load(one.k, 1)).map(|value| x = 4 * (value & 15)),
                SHIFT_RIGHT => loaded(Some(a >> one.k)).map(|value| a = value),
                MODULO => loaded(Some(a % one.k)).map(|value| a = value),
                DIVIDE => loaded(Some(a / one.k)).map(|value| a = value),
                MULTIPLY => loaded(Some(a.wrapping_mul(one.k))).map(|value| a = value),
                ADD => loaded(Some(a + one.k)).map(|value| a = value),
                SUBTRACT_X => loaded(Some(a.wrapping_sub(x))).map(|value| a = value),
                X_IS_A => loaded(Some(a)).map(|value| x = value),
                A_IS_X => loaded(Some(x)).map(|value| a = value),
                STORE => loaded(Some(a)).map(|value| stored = value),
                LOAD_STORED => loaded(Some(stored)).map(|value| a = value),
                JUMP => loaded(Some(one.k)).map(|over| at += over as usize),
                IF_EQUAL => loaded(Some(u32::from(if a == one.k { one.yes } else { one.no }))).map(|over| at += over as usize),
                IF_AT_LEAST => loaded(Some(u32::from(if a >= one.k { one.yes } else { one.no }))).map(|over| at += over as usize),
                RETURN => return one.k,
                RETURN_A => return a,
                code => panic!("no such instruction: {code:#x}"),
            };
            if step.is_err() {
                return 0;
            }
        }
    }

    /// The number of ports for which each slot is chosen.
    fn spread(targets: &Targets, packet: impl Fn(u16) -> Packet) -> BTreeMap<Place, u32> {
        let program = program(targets);
        assert!(program.len() <= INSTRUCTIONS_MAX);
        let mut chosen = BTreeMap::new();
        for port in 0..=u16::MAX {
            *chosen.entry(run(&program, &packet(port))).or_default() += 1;
        }
        chosen
    }

    #[test]
    fn each_of_the_slots_gets_its_share_and_no_other_gets_any() {
        for slots in [&[0][..], &[3], &[0, 1, 2, 3], &[1, 2, 3], &[0, 2], &[5, 6, 9, 11, 12, 300], &[0, 70_000]] {
            for packet in [|port| four(port, 0), |port| four(port, 10), |port| six(port, 6)] {
                let chosen = spread(&Targets::equal(slots.to_vec()), packet);
                assert_eq!(chosen.keys().copied().collect::<Vec<_>>(), slots);
                let (least, most) = (chosen.values().min().expect("some"), chosen.values().max().expect("some"));
                assert!(most - least <= 16, "{slots:?}: {chosen:?}");
            }
        }
    }

    #[test]
    fn without_slots_the_first_waits() {
        assert_eq!(run(&equal(&[]), &four(1, 0)), 0);
    }

    #[test]
    fn what_has_no_port_where_it_should_is_spread_by_its_hash() {
        assert_eq!(run(&equal(&[4, 5, 6]), &six(1, 0)), 5);
        // A packet without its IP header.
        assert_eq!(run(&equal(&[4, 5]), &Packet::default()), 0);
    }

    #[test]
    fn more_gaps_than_a_program_holds_cost_only_the_last_slots() {
        let slots: Vec<Place> = (0..10_000).filter(|slot| slot % 2 == 1).collect();
        let program = equal(&slots);
        assert!(program.len() <= INSTRUCTIONS_MAX && program.len() > INSTRUCTIONS_MAX - 40);
        for port in (0..=u16::MAX).step_by(7) {
            let slot = run(&program, &four(port, 0));
            assert!(slot % 2 == 1, "slot {slot} has no worker");
        }
    }

    #[test]
    fn the_ports_of_a_linux_client_are_spread_evenly() {
        // The source port advances by 2 to 16, as the kernel does since 5.18.
        let program = equal(&[0, 1, 2, 3]);
        let (mut random, mut port, mut sum) = (1_u64, 32_768_u32, 0.0);
        const ROUNDS: u32 = 400;
        for _ in 0..ROUNDS {
            let mut chosen = [0_u32; 4];
            for _ in 0..128 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                port = 32_768 + (port - 32_768 + 2 + 2 * ((random >> 33) % 8) as u32) % 28_232;
                chosen[run(&program, &four(port as u16, 0)) as usize] += 1;
            }
            sum += f64::from(*chosen.iter().max().expect("four")) / 32.0;
        }
        let mean = sum / f64::from(ROUNDS);
        assert!(mean < 1.13, "{mean}");
    }

    #[test]
    fn canary_gets_exactly_its_part_and_the_others_share_the_rest() {
        for (places, canary, part, of) in [
            (&[0, 1, 2, 3][..], &[4][..], 1, 4),
            (&[0, 1, 2, 3, 4, 5, 6, 7], &[8], 1, 9),
            (&[1, 2, 3, 8], &[0], 25, 100),
            (&[0, 3, 9], &[4, 5, 7], 3, 6),
            (&[0], &[1], 1, 100),
            (&[2], &[0, 1], 99, 100),
        ] {
            let targets = Targets { places: places.to_vec(), canary: canary.to_vec(), part, of };
            for packet in [|port| four(port, 0), |port| four(port, 10), |port| six(port, 6)] {
                let chosen = spread(&targets, packet);
                let of_all =
                    |some: &[Place]| some.iter().map(|place| chosen.get(place).copied().unwrap_or(0)).collect::<Vec<_>>();
                let (new, old) = (of_all(canary), of_all(places));
                let (new_sum, all) = (new.iter().sum::<u32>(), new.iter().chain(&old).sum::<u32>());
                assert_eq!(all, 65_536, "no connection goes elsewhere: {chosen:?}");
                let wanted = all * part / of;
                assert!(new_sum.abs_diff(wanted) <= 16, "{targets:?}: {new_sum} of {wanted}");
                for side in [new, old] {
                    let (least, most) = (side.iter().min().expect("some"), side.iter().max().expect("some"));
                    assert!(most - least <= 16, "{targets:?}: {side:?}");
                }
            }
        }
    }

    #[test]
    fn canary_without_others_or_without_a_part_is_no_split() {
        let targets =
            |places: &[Place], canary: &[Place], part| Targets { places: places.to_vec(), canary: canary.to_vec(), part, of: 4 };
        assert_eq!(program(&targets(&[], &[5], 1)), equal(&[5]));
        assert_eq!(program(&targets(&[0, 1], &[], 1)), equal(&[0, 1]));
        assert_eq!(program(&targets(&[0, 1], &[2], 0)), equal(&[0, 1]));
        let many: Vec<Place> = (0..20_000).filter(|place| place % 2 == 0).collect();
        let odd: Vec<Place> = many.iter().map(|place| place + 1).collect();
        assert!(program(&targets(&many, &odd, 1)).len() <= INSTRUCTIONS_MAX);
    }
}
