//! Randomized simulation: arbitrary events and faults at any time. The laws hold, and without further faults the pool recovers and stops.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::world::{What, World};
use super::{figures, ms, settings};
use crate::pool::{
    Accepting, Busy, CommandVerdict, Elastic, Event, ExitCause, Load, Measure, Notification, Readiness, Room, Settings, Surge,
    WatchFor,
};

/// One step of the simulation. A `usize` selects one of the processes or requesters that exist at that time.
#[derive(Clone, Debug)]
enum Move {
    Pass(u64),
    Absent(u64),
    NextDeadline,
    Ready(usize),
    AllReady,
    Crash(usize, i32),
    CrashAll,
    Leave(usize),
    Clear(usize),
    DrainQueue(usize),
    /// What a look shows of all workers: two bits each, from the lowest on (0, 1 well, 2 stuck, 3 stopped).
    LookForHangs(u64),
    ObeyOne(usize),
    ObeyAll,
    Say(usize, u8),
    SayUnknown,
    MainPid(usize),
    Lie(usize),
    PreloadLost(usize, bool),
    RecycleDue(usize),
    See(usize, u8),
    Reload,
    ReloadUnattended,
    Probe,
    Undo,
    UndoTo(u64),
    AnswerProbe(bool),
    Promote,
    /// The command answers: 0 to roll back, 1 unclear, else to go on.
    Judge(u8),
    Compare(u64),
    Prepare(u32, u32),
    Refuse,
    Abort,
    RequesterGone(usize),
    Scale(u32),
    ScaleAuto,
    /// The busy share in percent (above 100: unknown), connections that wait, workers that fit into memory.
    Load(u32, u64, u64),
    Recycle(usize),
    RecycleAll,
    /// A length in milliseconds; up to 5,000: without one.
    Pause(u64),
    Resume,
    /// A look for activity, or without one if none is asked for; and its result.
    Look(bool),
    Connect,
    /// No connection for `scale.idle`.
    BeQuiet,
    ForksFail(u32),
    HandOver,
    MasterDied,
    Stop,
    StopNow,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        6 => (1_u64..40_000).prop_map(Move::Pass),
        1 => (1_u64..40_000).prop_map(Move::Absent),
        6 => Just(Move::NextDeadline),
        20 => any::<usize>().prop_map(Move::Ready),
        10 => Just(Move::AllReady),
        10 => (any::<usize>(), 0..3_i32).prop_map(|(who, code)| Move::Crash(who, code)),
        1 => Just(Move::CrashAll),
        4 => any::<usize>().prop_map(Move::Leave),
        6 => any::<usize>().prop_map(Move::Clear),
        6 => any::<usize>().prop_map(Move::DrainQueue),
        8 => any::<u64>().prop_map(Move::LookForHangs),
        10 => any::<usize>().prop_map(Move::ObeyOne),
        5 => Just(Move::ObeyAll),
        8 => (any::<usize>(), any::<u8>()).prop_map(|(who, what)| Move::Say(who, what)),
        1 => Just(Move::SayUnknown),
        1 => any::<usize>().prop_map(Move::MainPid),
        2 => any::<usize>().prop_map(Move::Lie),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(which, outlived)| Move::PreloadLost(which, outlived)),
        3 => any::<usize>().prop_map(Move::RecycleDue),
        6 => (any::<usize>(), any::<u8>()).prop_map(|(which, what)| Move::See(which, what)),
        12 => Just(Move::Reload),
        2 => Just(Move::ReloadUnattended),
        14 => (1_u32..5, any::<u32>()).prop_map(|(count, how)| Move::Prepare(count, how)),
        2 => Just(Move::Probe),
        4 => Just(Move::Undo),
        2 => (0_u64..8).prop_map(Move::UndoTo),
        8 => (0..4_u8).prop_map(|how| Move::AnswerProbe(how != 0)),
        4 => Just(Move::Promote),
        4 => (0..4_u8).prop_map(Move::Judge),
        8 => (0_u64..100).prop_map(Move::Compare),
        3 => Just(Move::Refuse),
        3 => Just(Move::Abort),
        3 => any::<usize>().prop_map(Move::RequesterGone),
        4 => (0_u32..6).prop_map(Move::Scale),
        2 => Just(Move::ScaleAuto),
        12 => (0_u32..120, 0_u64..4, 0_u64..4).prop_map(|(busy, waiting, room)| Move::Load(busy, waiting, room)),
        3 => any::<usize>().prop_map(Move::Recycle),
        2 => Just(Move::RecycleAll),
        3 => (0_u64..20_000).prop_map(Move::Pause),
        4 => Just(Move::Resume),
        3 => any::<bool>().prop_map(Move::Look),
        5 => Just(Move::Connect),
        5 => Just(Move::BeQuiet),
        2 => (1_u32..4).prop_map(Move::ForksFail),
        2 => Just(Move::HandOver),
        2 => Just(Move::MasterDied),
        1 => Just(Move::Stop),
        1 => Just(Move::StopNow),
    ]
}

/// Settings from a number of workers and some bits.
fn config(count: u32, how: u32) -> Settings {
    let mut settings = settings(count);
    if how & 1 != 0 {
        settings.surge = Surge::Count(1 + (how >> 6 & 3));
    }
    if how & 2 != 0 {
        settings.probation = Some(ms(500));
    }
    if how & 4 != 0 {
        settings.watchdog = Some(ms(2_000));
    }
    if how & 8 != 0 {
        settings.ready = Readiness::Running(ms(1_000));
    }
    if how & 16 != 0 {
        settings.max_age = Some(ms(20_000));
    }
    if how & 32 != 0 {
        settings.restart.give_up = Some(ms(50_000));
        settings.restart.limit = 3;
    }
    settings.per_slot = how & 256 != 0;
    settings.balance_hung = (how & 0x200_0000 == 0).then_some(ms(4_000));
    settings.idle = (how & 0x8_0000 != 0).then_some(ms(3_000));
    if how & 8192 != 0 {
        settings.steps.sizes = vec![Surge::Count(1), Surge::Percent(50), Surge::Percent(100)];
        settings.steps.time = (how & 16384 == 0).then_some(ms(5_000));
    }
    if how & 0x100_0000 != 0 {
        let (step, share) = (Surge::Count(2), Surge::Percent(25));
        settings.elastic = Some(Elastic {
            min: count.saturating_sub(how >> 22 & 1).max(1),
            max: count + 1 + (how >> 20 & 3),
            target: 70,
            up_after: ms(1_000),
            down_after: ms(5_000),
            step: if how & 0x80_0000 != 0 { step } else { share },
        });
    }
    settings.fallback = how & 128 != 0;
    settings.preload = how & 0x3_0000 == 0x3_0000;
    settings.preload_fallback = how & 0x4_0000 != 0;
    settings.steps.judge_command = how & 1024 != 0;
    settings.watch = match (how & 32768 != 0, how & 64 != 0) {
        (true, true) => WatchFor::Time(ms(5_000)),
        (true, false) => WatchFor::EverySlot,
        (false, _) => WatchFor::Off,
    };
    settings.probe = how & 2048 != 0 && how & 4096 != 0;
    if how & 512 != 0 {
        settings.ready = if how & 1024 != 0 { Readiness::Auto(ms(1_000)) } else { Readiness::Accepting(ms(1_000)) };
        settings.probation = None;
    }
    settings
}

fn play(first: Settings, moves: Vec<Move>) {
    let mut world = World::new(first);
    for one in moves {
        if world.exit.is_some() {
            break;
        }
        one_move(&mut world, one);
    }
    world.be_kind();
    world.check_rest_and_stop();
}

fn pick(world: &World, which: usize, of: impl Fn(&World, u64) -> bool) -> Option<u64> {
    let fitting: Vec<u64> = world.processes.keys().copied().filter(|id| of(world, *id)).collect();
    (!fitting.is_empty()).then(|| fitting[which % fitting.len()])
}

fn one_move(world: &mut World, one: Move) {
    let anyone = |_: &World, _| true;
    let told = |world: &World, id| world.processes.get(&id).is_some_and(|process| process.stopped && !process.gone);
    match one {
        Move::Pass(span) => world.pass(ms(span)),
        Move::NextDeadline => {
            if let Some(at) = world.pool.deadline() {
                world.pass(at - world.now);
            }
        }
        Move::Ready(which) => {
            if let Some(worker) = pick(world, which, anyone) {
                world.ready(worker);
            }
        }
        Move::AllReady => {
            for worker in world.processes.keys().copied().collect::<Vec<_>>() {
                world.ready(worker);
            }
        }
        Move::Absent(span) => {
            world.now += ms(span);
            world.step(Event::Absent(ms(span)));
        }
        Move::Crash(which, code) => {
            if let Some(worker) = pick(world, which, anyone) {
                world.exit(worker, ExitCause::Exit(code));
            }
        }
        Move::CrashAll => {
            for worker in world.processes.keys().copied().collect::<Vec<_>>() {
                world.exit(worker, ExitCause::Signal { signal: 9, core: false });
            }
        }
        Move::Leave(which) => {
            world.orphans_serve = which % 2 == 0;
            if let Some(worker) = pick(world, which, anyone) {
                world.leave(worker, ExitCause::Exit(0), true);
            }
        }
        Move::Clear(which) => {
            if let Some(worker) = pick(world, which, |world, id| world.processes[&id].gone) {
                world.clear(worker);
            }
        }
        Move::DrainQueue(which) => {
            if let Some(worker) = pick(world, which, |world, id| world.processes[&id].draining_queue) {
                world.drain_queue(worker);
            }
        }
        Move::LookForHangs(signs) => world.look_for_hangs(signs),
        Move::ObeyOne(which) => {
            if let Some(worker) = pick(world, which, told) {
                world.exit(worker, ExitCause::Exit(0));
            }
        }
        Move::ObeyAll => {
            for worker in world.processes.keys().copied().filter(|id| told(world, *id)).collect::<Vec<_>>() {
                world.exit(worker, ExitCause::Exit(0));
            }
        }
        Move::Say(which, what) => {
            let Some(worker) = pick(world, which, anyone) else { return };
            let said = match what % 7 {
                0 => Notification::Stopping,
                1 => Notification::Status("busy".to_owned()),
                2 => Notification::Watchdog,
                3 => Notification::WatchdogTrigger,
                4 => Notification::WatchdogEvery(ms(u64::from(what) * 20)),
                5 => Notification::Extend(ms(u64::from(what) * 1_000)),
                _ => Notification::Extend(std::time::Duration::MAX),
            };
            world.step(Event::Notification(worker, said));
        }
        Move::SayUnknown => world.step(Event::Notification(u64::MAX, Notification::Ready)),
        Move::MainPid(which) => {
            if let Some(worker) = pick(world, which, anyone) {
                world.step(Event::MainPid(worker, 77));
            }
        }
        // False events, which a real master never sends.
        Move::Lie(which) => match which % 5 {
            0 => world.step(Event::Prepared(u64::MAX, settings(2))),
            1 => world.step(Event::Refused(u64::MAX, "no".into())),
            2 => world.step(Event::Exited { worker: u64::MAX, how: ExitCause::Unknown, left: false }),
            3 => world.step(Event::Spawned(u64::MAX, 1)),
            _ => world.step(Event::Start(settings(3))),
        },
        Move::PreloadLost(which, outlived) => {
            if let Some(worker) = pick(world, which, anyone) {
                let lost = Event::PreloadLost(worker, "it broke the protocol".to_owned());
                world.step(if outlived { Event::PreloadOutlived(worker) } else { lost });
            }
        }
        // Bits 0 and 1: the sockets; bit 2: something was hidden.
        Move::See(which, what) => {
            if let Some(worker) = pick(world, which, anyone) {
                world.step(Event::Seen(worker, Accepting { sockets: u32::from(what & 3), hidden: what & 4 != 0 }));
            }
        }
        Move::RecycleDue(which) => {
            if let Some(worker) = pick(world, which, anyone) {
                world.step(Event::RecycleDue(worker, crate::pool::RecycleReason::Memory));
            }
        }
        Move::Reload => {
            world.reload();
        }
        Move::ReloadUnattended => world.step(Event::Reload(None)),
        Move::Prepare(count, how) => {
            world.next = config(count, how);
            world.prepare();
        }
        Move::Undo => {
            world.ask(What::Reload, |requester| Event::Undo(None, Some(requester)));
        }
        Move::UndoTo(number) => {
            world.ask(What::Reload, |requester| Event::Undo(Some(number), Some(requester)));
        }
        Move::Probe => {
            world.ask(What::Probe, |requester| Event::Probe(Some(requester)));
        }
        Move::AnswerProbe(passes) => {
            if let Some(worker) = world.asked_probes.first().copied() {
                world.answer_probe(worker, (!passes).then_some("GET /up was answered with 500"));
            }
        }
        Move::Promote => {
            world.ask(What::Other, |requester| Event::Promote(Some(requester)));
        }
        Move::Judge(how) => world.answer_judge(match how {
            0 => CommandVerdict::RollBack("exit 1".into()),
            1 => CommandVerdict::Unclear("exit 3".into()),
            _ => CommandVerdict::GoOn,
        }),
        Move::Compare(failed) => {
            if let Some(sides) = world.pool.compares() {
                world.step(Event::Compared(sides.new, (failed != 13).then(|| figures(60, failed.saturating_sub(80)))));
            }
        }
        Move::Refuse => world.refuse(),
        Move::Abort => {
            world.ask(What::Other, |requester| Event::Abort(Some(requester)));
        }
        Move::RequesterGone(which) => {
            if !world.asked.is_empty() {
                world.gone(which as u64 % world.asked.len() as u64 + 1);
            }
        }
        Move::Scale(count) => {
            world.ask(What::Other, |requester| Event::Scale(count, Some(requester)));
        }
        Move::ScaleAuto => {
            world.ask(What::Other, |requester| Event::ScaleAuto(Some(requester)));
        }
        Move::Load(percent, waiting, room) => {
            let busy = (percent <= 100).then(|| Busy { share: f64::from(percent) / 100.0, by: Measure::CpuTime });
            let memory = (room < 3).then_some(Room { left: room * 10, worker: 10 });
            let (generation, ready) = (world.pool.generation(), world.pool.ready());
            if let Some(period) = world.pool.load_period() {
                world.pass(period);
            }
            world.step(Event::Load(generation, Load { ready, busy, waiting: Some(waiting), memory }));
        }
        Move::Recycle(which) => {
            let worker = pick(world, which, anyone).unwrap_or(77);
            world.ask(What::Other, |requester| Event::Recycle(Some(worker), Some(requester)));
        }
        Move::RecycleAll => {
            world.ask(What::Other, |requester| Event::Recycle(None, Some(requester)));
        }
        Move::Pause(length) => {
            let length = (length > 5_000).then_some(ms(length));
            world.ask(What::Other, |requester| Event::Pause(length, Some(requester)));
        }
        Move::Resume => {
            world.ask(What::Other, |requester| Event::Resume(Some(requester)));
        }
        Move::Look(active) => world.step(Event::Looked { active }),
        Move::Connect => world.step(Event::Connected),
        Move::BeQuiet => world.be_quiet(),
        Move::ForksFail(count) => world.forks_fail = count,
        Move::HandOver => world.hand_over(),
        Move::MasterDied => {
            world.hand_over();
            let asked: Vec<_> = world.asked.keys().copied().collect();
            asked.into_iter().for_each(|requester| world.gone(requester));
            world.step(Event::MasterDied);
        }
        Move::Stop => world.step(Event::Stop { now: false }),
        Move::StopNow => world.step(Event::Stop { now: true }),
    }
}

/// The same 10,000 histories in each run; with `RATOON_HISTORIES=N`, N random ones.
fn histories() -> ProptestConfig {
    let (cases, rng_seed) = match std::env::var("RATOON_HISTORIES") {
        Ok(number) => (number.parse().expect("RATOON_HISTORIES: a number"), RngSeed::Random),
        Err(_) => (10_000, RngSeed::Fixed(1)),
    };
    ProptestConfig { cases, rng_seed, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(histories())]

    #[test]
    fn the_laws_hold_in_a_hostile_world(
        count in 1_u32..5,
        how in any::<u32>(),
        moves in prop::collection::vec(moves(), 1..80),
    ) {
        play(config(count, how), moves);
    }
}

/// Found by the simulation: the old worker of a slot stops for the new one, whose watchdog timeout expires in the same step.
#[test]
fn a_queue_whose_next_server_fails_in_the_same_moment() {
    let mut world = World::new(config(3, 13_084));
    let moves = [
        Move::Say(0, 206),
        Move::NextDeadline,
        Move::ObeyOne(0),
        Move::Reload,
        Move::Prepare(3, 62_422),
        Move::Crash(13_181_096_647_934_916_660, 0),
        Move::AllReady,
        Move::Scale(4),
        Move::Pass(2_000),
    ];
    for one in moves {
        one_move(&mut world, one);
    }
    world.be_kind();
    world.check_rest_and_stop();
}

/// Found by the simulation: a queue is to be emptied, and the watchdogs of all workers that could take new connections expire at once.
#[test]
fn queue_that_waits_while_all_others_fail_at_once() {
    let mut world = World::new(config(1, 34_060));
    let moves = [
        Move::Crash(0, 0),
        Move::Pass(3_080),
        Move::ForksFail(2),
        Move::Reload,
        Move::Scale(5),
        Move::ObeyOne(0),
        Move::Prepare(1, 3_399),
        Move::AllReady,
        Move::AllReady,
        Move::NextDeadline,
    ];
    for one in moves {
        one_move(&mut world, one);
    }
    world.be_kind();
    world.check_rest_and_stop();
}

/// Found by the simulation: two workers that are there to empty a queue become ready at once, before any other worker.
#[test]
fn relief_empties_its_queue_although_nobody_else_serves_yet() {
    let mut world = World::new(config(4, 866_607_548));
    let moves = [
        Move::Ready(0),
        Move::Pass(3_001),
        Move::Crash(5_470_769_583_622_453_380, 0),
        Move::Crash(0, 0),
        Move::NextDeadline,
        Move::Scale(1),
        Move::Leave(0),
        Move::Pass(25_083),
        Move::Pass(5_918),
        Move::ObeyAll,
        Move::Pass(1_000),
    ];
    for one in moves {
        one_move(&mut world, one);
    }
    world.be_kind();
    world.check_rest_and_stop();
}

/// Found by the simulation: a worker that is there to empty a queue, and the next one of that queue, become ready at once.
#[test]
fn relief_stops_if_its_queue_is_served_in_the_same_step() {
    let mut world = World::new(config(4, 3_734_840_600));
    let moves = [
        Move::Pass(1_000),
        Move::Scale(1),
        Move::ObeyOne(0),
        Move::Absent(1),
        Move::RecycleAll,
        Move::ObeyOne(0),
        Move::ObeyOne(0),
        Move::ObeyOne(0),
        Move::Reload,
        Move::ObeyOne(0),
        Move::Prepare(1, 26_110),
        Move::Leave(10_339_372_627_013_925_067),
        Move::Scale(2),
        Move::NextDeadline,
    ];
    for one in moves {
        one_move(&mut world, one);
    }
    world.be_kind();
    world.check_rest_and_stop();
}
