//! Every event in every state: none panics or breaks a law, and without further faults the pool recovers and stops afterwards.

use std::time::Duration;

use super::stories::obey;
use super::world::{What, World};
use super::{elastic, figures, ms, settings};
use crate::pool::{Busy, CommandVerdict, Event, ExitCause, Hang, Load, Measure, Notification, Settings, Surge};

/// A function that makes a pool in one state.
pub(super) type State = fn() -> World;

/// The states of a pool, by name.
pub(super) fn states() -> Vec<(&'static str, State)> {
    fn serving() -> World {
        let mut world = World::new(settings(2));
        world.all_ready();
        world
    }
    fn candidate() -> World {
        let mut world = serving();
        world.reload();
        world.prepare();
        world
    }
    fn probed() -> World {
        let mut world = serving();
        world.next.probe = true;
        world.reload();
        world.prepare();
        world
    }
    fn canary() -> World {
        let mut world = serving();
        world.next.steps.sizes = vec![Surge::Count(1), Surge::Percent(100)];
        world.reload();
        world.prepare();
        world
    }
    fn hung() -> World {
        let mut world = World::new(Settings { per_slot: true, balance_hung: Some(ms(4_000)), ..settings(3) });
        world.all_ready();
        world.look_for_hangs(0b11);
        world
    }
    fn idle(settings: Settings) -> World {
        let mut world = World::new(Settings { idle: Some(ms(4_000)), ..settings });
        world.all_ready();
        world.be_quiet();
        world
    }
    vec![
        ("becoming idle", || idle(settings(2))),
        ("idle", || {
            let mut world = idle(settings(2));
            obey(&mut world);
            world
        }),
        ("idle, a queue drains", || idle(Settings { per_slot: true, ..settings(3) })),
        ("waking", || {
            let mut world = idle(settings(2));
            obey(&mut world);
            world.connect();
            world
        }),
        ("waking, preload process starting", || {
            let mut world = idle(Settings { preload: true, ..settings(2) });
            obey(&mut world);
            world.connect();
            world
        }),
        ("candidate of an idle pool", || {
            let mut world = idle(settings(2));
            obey(&mut world);
            world.next.surge = Surge::Count(1);
            world.reload();
            world.prepare();
            world
        }),
        ("starting", || World::new(settings(2))),
        ("partly started", || {
            let mut world = World::new(settings(2));
            world.ready(1);
            world
        }),
        ("serving", serving),
        ("preparing", || {
            let mut world = serving();
            world.reload();
            world
        }),
        ("candidate starting", candidate),
        ("candidate partly ready", || {
            let mut world = candidate();
            world.ready(3);
            world
        }),
        ("first generation probed", || World::new(Settings { probe: true, ..settings(2) })),
        ("first generation's probe failed", || {
            let mut world = World::new(Settings { probe: true, ..settings(2) });
            world.exit(1, ExitCause::Exit(1));
            world
        }),
        ("probe starting", probed),
        ("probe asked", || {
            let mut world = probed();
            world.ready(3);
            world
        }),
        ("probe ending", || {
            let mut world = probed();
            world.ready(3);
            world.answer_probe(3, None);
            world
        }),
        ("probe alone", || {
            let mut world = serving();
            world.step(Event::Probe(None));
            world.prepare();
            world
        }),
        ("preload process starting", || World::new(Settings { preload: true, ..settings(2) })),
        ("preload process ready, workers starting", || {
            let mut world = World::new(Settings { preload: true, ..settings(2) });
            world.ready(1);
            world
        }),
        ("preload process gone", || {
            let mut world = World::new(Settings { preload: true, preload_fallback: false, ..settings(2) });
            world.all_ready();
            world.exit(1, ExitCause::Exit(1));
            world
        }),
        ("preload process failed", || {
            let mut world = World::new(Settings { preload: true, ..settings(2) });
            world.exit(1, ExitCause::Exit(1));
            world
        }),
        ("preload process of a candidate", || {
            let mut world = serving();
            world.next.preload = true;
            world.reload();
            world.prepare();
            world
        }),
        ("canary starting", canary),
        ("canary waiting", || {
            let mut world = canary();
            world.ready(3);
            world
        }),
        ("canary waiting for a promotion", || {
            let mut world = serving();
            world.next.steps.sizes = vec![Surge::Count(1)];
            world.next.steps.time = None;
            world.next.surge = Surge::Count(1);
            world.reload();
            world.prepare();
            world.ready(3);
            world
        }),
        ("canary passed, rest starting", || {
            let mut world = canary();
            world.ready(3);
            world.step(Event::Promote(None));
            world
        }),
        ("probation", || {
            let mut world = serving();
            world.next.probation = Some(ms(1_000));
            world.reload();
            world.prepare();
            world.all_ready();
            world
        }),
        ("rolling", || {
            let mut world = serving();
            world.next.surge = Surge::Count(1);
            world.reload();
            world.prepare();
            world.ready(3);
            world
        }),
        ("committed, old draining", || {
            let mut world = candidate();
            world.all_ready();
            world
        }),
        ("undo preparing", || {
            let mut world = candidate();
            world.all_ready();
            world.step(Event::Undo(None, None));
            world
        }),
        ("undone", || {
            let mut world = candidate();
            world.all_ready();
            world.step(Event::Undo(None, None));
            world.prepare();
            world.all_ready();
            world
        }),
        ("rolled back, new draining", || {
            let mut world = candidate();
            world.exit(3, ExitCause::Exit(1));
            world
        }),
        ("crashed, leftovers", || {
            let mut world = serving();
            world.leave(1, ExitCause::Exit(1), true);
            world
        }),
        ("waiting to restart", || {
            let mut world = World::new(settings(2));
            world.exit(1, ExitCause::Exit(1));
            world
        }),
        ("recycling", || {
            let mut world = serving();
            world.step(Event::Recycle(None, None));
            world
        }),
        ("pausing", || {
            let mut world = serving();
            world.ask(What::Other, |requester| Event::Pause(None, Some(requester)));
            world
        }),
        ("paused for a time", || {
            let mut world = serving();
            world.step(Event::Pause(Some(ms(30_000)), None));
            obey(&mut world);
            world
        }),
        ("paused, per slot, a queue drains", || {
            let mut world = World::new(Settings { per_slot: true, ..settings(3) });
            world.all_ready();
            world.step(Event::Scale(2, None));
            world.step(Event::Pause(None, None));
            world
        }),
        ("elastic", || {
            let mut world = World::new(Settings { elastic: elastic(1, 4), ..settings(2) });
            world.all_ready();
            world
        }),
        ("elastic, a worker is added", || {
            let mut world = World::new(Settings { elastic: elastic(1, 4), ..settings(2) });
            world.all_ready();
            for _ in 0..3 {
                world.pass(ms(1_000));
                world.step(Event::Load(1, busy(1.0, 0)));
            }
            world
        }),
        ("elastic, at the maximum", || {
            let mut world = World::new(Settings { elastic: elastic(1, 2), ..settings(2) });
            world.all_ready();
            for _ in 0..3 {
                world.pass(ms(1_000));
                world.step(Event::Load(1, busy(1.0, 9)));
            }
            world
        }),
        ("elastic, per slot, surplus draining", || {
            let mut world = World::new(Settings { elastic: elastic(1, 4), per_slot: true, ..settings(3) });
            world.all_ready();
            for _ in 0..7 {
                world.pass(ms(1_000));
                world.step(Event::Load(1, busy(0.0, 0)));
            }
            world
        }),
        ("elastic, fixed, reloading to other bounds", || {
            let mut world = World::new(Settings { elastic: elastic(1, 4), ..settings(2) });
            world.all_ready();
            world.step(Event::Scale(6, None));
            world.all_ready();
            world.next.elastic = elastic(2, 3);
            world.reload();
            world.prepare();
            world
        }),
        ("per slot, a worker hangs", hung),
        ("per slot, a worker hangs and its queue is emptied", || {
            let mut world = hung();
            world.step(Event::HungQueueWaits(1));
            world
        }),
        ("per slot, all workers hang", || {
            let mut world = hung();
            world.look_for_hangs(0b11_11_11);
            world
        }),
        ("resumed, old draining", || {
            let mut world = serving();
            world.step(Event::Pause(None, None));
            world.step(Event::Resume(None));
            world
        }),
        ("stopping", || {
            let mut world = serving();
            world.step(Event::Stop { now: false });
            world
        }),
        ("stopping now", || {
            let mut world = candidate();
            world.step(Event::Stop { now: true });
            world
        }),
    ]
}

/// A sample of the load of two ready workers.
fn busy(share: f64, waiting: u64) -> Load {
    let busy = Some(Busy { share, by: Measure::Requests });
    Load { ready: 2, busy, waiting: Some(waiting), memory: None }
}

/// Events to try in each state. Events of a worker are there for each worker that may exist, and for one that never existed.
fn events() -> Vec<Event> {
    let mut events = vec![
        Event::Start(settings(1)),
        Event::ProbeOnce(settings(1)),
        Event::Due,
        Event::Absent(Duration::from_secs(5)),
        Event::Reload(None),
        Event::Prepared(2, settings(1)),
        Event::Prepared(99, settings(1)),
        Event::Refused(2, "no".into()),
        Event::Refused(99, "no".into()),
        Event::Abort(None),
        Event::MasterDied,
        Event::Undo(None, None),
        Event::Undo(Some(1), None),
        Event::Undo(Some(99), None),
        Event::Promote(None),
        Event::Compared(2, None),
        Event::Compared(2, Some(figures(100, 100))),
        Event::Compared(2, Some(figures(100, 0))),
        Event::Compared(99, Some(figures(100, 100))),
        Event::Judged(2, 0, CommandVerdict::GoOn),
        Event::Judged(2, 1, CommandVerdict::RollBack("no".into())),
        Event::Judged(2, 0, CommandVerdict::Unclear("exit 3".into())),
        Event::Judged(99, 0, CommandVerdict::RollBack("no".into())),
        Event::Probe(None),
        Event::Probed(1, Ok(())),
        Event::Probed(3, Ok(())),
        Event::Probed(3, Err("no".into())),
        Event::RequesterGone(1),
        Event::RequesterGone(99),
        Event::Scale(0, None),
        Event::Scale(1, None),
        Event::Scale(5, None),
        Event::ScaleAuto(None),
        Event::Load(1, busy(1.0, 3)),
        Event::Load(2, busy(0.0, 0)),
        Event::Load(99, Load::default()),
        Event::Recycle(None, None),
        Event::Pause(None, None),
        Event::Pause(Some(ms(1_000)), None),
        Event::Resume(None),
        Event::Connected,
        Event::Looked { active: true },
        Event::Looked { active: false },
        Event::Stop { now: false },
        Event::Stop { now: true },
    ];
    for worker in [1, 2, 3, 4, 99] {
        let said = [
            Notification::Ready,
            Notification::Stopping,
            Notification::Status("words".to_owned()),
            Notification::Watchdog,
            Notification::WatchdogTrigger,
            Notification::WatchdogEvery(ms(100)),
            Notification::WatchdogEvery(Duration::ZERO),
            Notification::Extend(ms(100)),
            Notification::Extend(Duration::MAX),
        ];
        events.extend(said.map(|said| Event::Notification(worker, said)));
        events.push(Event::MainPid(worker, 7));
        events.push(Event::PreloadLost(worker, "it broke the protocol".to_owned()));
        events.push(Event::PreloadOutlived(worker));
        events.push(Event::QueueDrained(worker));
        events.extend([Hang::Stopped, Hang::Request, Hang::Queue].map(|why| Event::Hangs(worker, why)));
        events.extend([Event::Well(worker), Event::HungQueueWaits(worker)]);
        events.push(Event::RecycleDue(worker, crate::pool::RecycleReason::Memory));
        events.extend([true, false].map(|serving| Event::Orphaned { worker, serving }));
        events.push(Event::Recycle(Some(worker), None));
    }
    events
}

#[test]
fn every_event_is_legal_in_every_state() {
    for (name, state) in states() {
        // Each event twice: in the original pool, and after a handover to the next master.
        for (event, handed_over) in events().into_iter().flat_map(|event| [(event.clone(), false), (event, true)]) {
            let mut world = state();
            if handed_over {
                world.hand_over();
            }
            // An event that answers the pool goes through the world's own functions, so that the world does not answer twice.
            if let Event::Prepared(2, _) | Event::Refused(2, _) = event {
                if world.preparing.contains(&2) {
                    if matches!(event, Event::Prepared(..)) { world.prepare() } else { world.refuse() }
                }
            } else if let Event::RequesterGone(requester) = event {
                if world.asked.contains_key(&requester) { world.gone(requester) } else { world.step(event.clone()) }
            } else {
                world.step(event.clone());
            }
            println!("{name}: {event:?}");
            world.be_kind();
            world.check_rest_and_stop();
        }
    }
}

#[test]
fn every_end_of_a_worker_is_legal_in_every_state() {
    for (name, state) in states() {
        for worker in 1..=4 {
            for left in [false, true] {
                for how in [
                    ExitCause::Exit(0),
                    ExitCause::Exit(1),
                    ExitCause::Signal { signal: 11, core: true },
                    ExitCause::OutOfMemory,
                    ExitCause::Unknown,
                ] {
                    let mut world = state();
                    println!("{name}: worker {worker} ends, {how}, left: {left}");
                    world.leave(worker, how, left);
                    world.be_kind();
                    world.check_rest_and_stop();
                }
            }
        }
    }
}
