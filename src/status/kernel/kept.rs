//! One survey, and the figures that are kept from it for the next.
//!
//! Law: all kept figures are of one moment, have one common cost and expire together. A figure that is missing, or is known to
//! have changed, is read earlier, alone.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::time::{Instant, SystemTime};

use super::claims::{Claims, Quick};
use super::diag::{Inode, Sockets};
use super::holders::{Holders, Memory, Seen};
use super::process::{self, Process};
use super::{BUDGET, Figures, Listener, Local, Master, PROCESSES_MAX, Queue, Subject, Survey};
use crate::status::keep::{self, Clock};

/// Memory from one survey to the next.
#[derive(Default)]
pub(super) struct Remembered {
    holders: Memory,
    /// Time until which the fields below may be reused.
    until: Option<Instant>,
    /// The listening sockets and the checksum of the claims for which the connections were dumped.
    dumped_for: Option<(Vec<Option<Inode>>, u64)>,
    dumped: Dumped,
    ones: HashMap<u64, One, Quick>,
    master: Master,
    #[cfg(test)]
    pub(super) looks: Looks,
}

/// Counts of reads from the kernel.
#[cfg(test)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Looks {
    pub dumps: u32,
    pub workers: u32,
    pub masters: u32,
}

/// The results of the socket dumps.
#[derive(Default)]
struct Dumped {
    queues: Vec<Option<Queue>>,
    /// Whether the dumps had all listening sockets that accept.
    complete: bool,
    /// Number of connections that each worker holds.
    counts: HashMap<u64, u64, Quick>,
    /// Whether some connections have no known holder.
    unexplained: bool,
}

/// The kept result for one worker.
struct One {
    /// PID of the main process at that time.
    pid: u32,
    leaving: bool,
    /// `None` when the worker had ended.
    living: Option<(Seen, Figures)>,
}

impl Remembered {
    /// See [`super::Surveyor::survey`]; without a clock nothing is kept.
    pub fn survey(
        &mut self,
        workers: &[Subject],
        listeners: &[Option<Listener>],
        claims: &Claims,
        clock: Option<&dyn Clock>,
    ) -> Survey {
        let end = Instant::now() + BUDGET;
        let began = clock.map(|clock| (clock.now(), clock.spent()));
        let anew = self.until.zip(began).is_none_or(|(until, (now, _))| now >= until);
        if anew {
            self.forget();
            self.holders.next_survey();
            self.master = super::master();
            #[cfg(test)]
            (self.looks.masters += 1);
        }
        let ids: HashSet<u64, Quick> = workers.iter().map(|(id, ..)| *id).collect();
        self.ones.retain(|id, _| ids.contains(id));
        let inodes: Vec<Option<Inode>> = listeners.iter().map(|it| it.as_ref().map(|it| it.inode)).collect();
        let dumped_for = Some((inodes, claims.mark()));
        let sockets = (self.dumped_for != dumped_for).then(|| look_at_sockets(listeners));
        let holding = listeners.iter().flatten().map(|listener| listener.inode).collect();
        let mut holders = match &sockets {
            Some(sockets) => Holders::new(&mut self.holders, holding, &sockets.connections, &ids, claims, end),
            None => Holders::again(&mut self.holders, holding, claims, end),
        };
        let looked = look_at_workers(workers, &mut self.ones, &mut holders, claims, end);
        #[cfg(test)]
        (self.looks.workers += looked);
        let _ = looked;
        if let Some(sockets) = &sockets {
            #[cfg(test)]
            (self.looks.dumps += 1);
            let queues = listeners.iter().map(|listener| sockets.queues.get(&listener.as_ref()?.inode).copied()).collect();
            // A socket of another network namespace (PrivateNetwork=) is in none of these dumps, and neither are its connections.
            let mut accepting = listeners.iter().flatten().filter(|listener| listener.local != Local::Other).peekable();
            let complete = accepting.peek().is_some() && accepting.all(|it| sockets.queues.contains_key(&it.inode));
            let (counts, unexplained) = holders.count();
            self.dumped = Dumped { queues, complete, counts, unexplained };
            self.dumped_for = dumped_for;
        }
        if anew {
            self.until = clock.zip(began).map(|(clock, (now, spent))| keep::until(now, clock.spent().saturating_sub(spent)));
        }
        let told = Survey {
            workers: self.ones.iter().map(|(id, one)| (*id, self.dumped.figures(*id, one))).collect(),
            queues: self.dumped.queues.clone(),
            master: self.master.clone(),
            until: self.until,
        };
        if clock.is_none() {
            self.forget();
        }
        told
    }

    /// Forgets the figures of one moment. The holders of connections are kept.
    pub fn forget(&mut self) {
        self.until = None;
        self.dumped_for = None;
        self.dumped = Dumped::default();
        self.ones = HashMap::default();
    }
}

#[cfg(test)]
impl Remembered {
    pub fn owners_and_foreign(&self) -> (usize, usize) {
        self.holders.owners_and_foreign()
    }
}

impl Dumped {
    fn figures(&self, id: u64, one: &One) -> Figures {
        let Some((seen, figures)) = &one.living else { return Figures::default() };
        let known = self.complete && (seen.visible || !self.unexplained);
        let open_connections = known.then(|| self.counts.get(&id).copied().unwrap_or(0));
        Figures { open_connections, listening: seen.listening, ..figures.clone() }
    }
}

/// A worker that is being examined.
struct Look {
    id: u64,
    pid: u32,
    main: Process,
    /// The processes of the worker's cgroup, else the descendants of its main process. `None` when they could not be read: the
    /// descendants are no substitute for a cgroup.
    others: Option<Vec<u32>>,
    seen: Seen,
    figures: Figures,
}

/// Examines the workers without a kept result, and those that may hold a connection without a known holder. Returns their number.
fn look_at_workers(
    workers: &[Subject],
    ones: &mut HashMap<u64, One, Quick>,
    holders: &mut Holders<'_>,
    claims: &Claims,
    end: Instant,
) -> u32 {
    // First the workers whose pages do not show their connections: no page can then claim a connection that one of them holds.
    let (telling, silent): (Vec<_>, Vec<_>) = workers.iter().partition(|(id, ..)| claims.tells(*id));
    let looked = look_at(&silent, ones, holders, claims, end);
    holders.believe();
    looked + look_at(&telling, ones, holders, claims, end)
}

fn look_at(
    workers: &[&Subject],
    ones: &mut HashMap<u64, One, Quick>,
    holders: &mut Holders<'_>,
    claims: &Claims,
    end: Instant,
) -> u32 {
    let boot = process::boot_time();
    let mut looks = Vec::new();
    let mut looked = 0;
    for (id, pid, group) in workers {
        let leaving = claims.is_leaving(*id);
        let kept = ones.get(id).is_some_and(|one| one.pid == *pid && one.leaving == leaving);
        if kept && !holders.wants(*id) {
            continue;
        }
        looked += 1;
        ones.insert(*id, One { pid: *pid, leaving, living: None });
        let living = if Instant::now() < end { Process::of(*pid) } else { None };
        match living.and_then(|main| Some((main.stat()?, main))) {
            Some((stat, main)) => {
                let mut look = Look::new(*id, *pid, group.as_deref(), main, stat, boot);
                if holders.any() {
                    look.seen = holders.main(look.id, &look.main);
                }
                looks.push(look);
            }
            None => holders.hide(),
        }
    }
    // A connection that no main process holds is held by another process of a worker.
    for look in &mut looks {
        if !holders.any() || !holders.wants_others(look.id, look.seen) {
            continue;
        }
        match look.others.take() {
            Some(others) => {
                for other in others.into_iter().filter(|other| *other != look.pid).filter_map(Process::of) {
                    holders.other(look.id, &other, &mut look.seen);
                }
            }
            None => {
                look.seen = Seen::default();
                holders.hide();
            }
        }
    }
    for look in looks {
        let leaving = claims.is_leaving(look.id);
        ones.insert(look.id, One { pid: look.pid, leaving, living: Some((look.seen, look.figures)) });
    }
    looked
}

impl Look {
    fn new(id: u64, pid: u32, group: Option<&Path>, main: Process, stat: process::Stat, boot: Option<SystemTime>) -> Look {
        let others = match group {
            Some(group) => process::group_members(group, PROCESSES_MAX),
            None => process::descendants(&main, PROCESSES_MAX),
        };
        // A process that has ended meanwhile has no memory and no CPU time.
        let of_others = |others: &Vec<u32>, figure: fn(Process) -> Option<u64>| {
            let others = others.iter().filter(|other| **other != pid);
            others.filter_map(|other| figure(Process::of(*other)?)).fold(0, u64::saturating_add)
        };
        let rss = |others: &Vec<u32>| Some(main.rss()?.saturating_add(of_others(others, |it| it.rss())));
        let cpu = || {
            let of_others = others.as_ref().map_or(0, |others| of_others(others, |it| Some(it.stat()?.cpu_usec)));
            stat.cpu_usec.saturating_add(of_others)
        };
        let figures = Figures {
            rss: others.as_ref().and_then(rss),
            memory_current: group.and_then(|group| process::number(&group.join("memory.current"))),
            cpu_usec: group.and_then(process::group_cpu).or_else(|| Some(cpu())),
            started: boot.and_then(|boot| boot.checked_add(stat.started)),
            ..Figures::default()
        };
        Look { id, pid, main, others, seen: Seen::default(), figures }
    }
}

/// The queues and connections of all listening sockets, in as few dumps as the kernel allows.
pub(super) fn look_at_sockets(listeners: &[Option<Listener>]) -> Sockets {
    let mut sockets = Sockets::default();
    let locals = || listeners.iter().flatten().map(|listener| &listener.local);
    for six in [false, true] {
        let ports: HashSet<u16> = locals()
            .filter_map(|local| match local {
                Local::Tcp { six: is_six, port } if *is_six == six => Some(*port),
                Local::Tcp { .. } | Local::Unix { .. } | Local::Other => None,
            })
            .collect();
        if !ports.is_empty() {
            sockets.add_tcp(six, &ports);
        }
    }
    let names: HashSet<&[u8]> = locals()
        .filter_map(|local| match local {
            Local::Unix { name } if !name.is_empty() => Some(name.as_slice()),
            Local::Unix { .. } | Local::Tcp { .. } | Local::Other => None,
        })
        .collect();
    if !names.is_empty() {
        sockets.add_unix(&names);
    }
    sockets
}
