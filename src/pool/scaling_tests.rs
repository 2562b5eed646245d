//! The controller on synthetic load: steps, ramps, bursts and noise.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::pool::settings::Surge;
use crate::pool::tests::random::Random;

const SECOND: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

fn bounds(min: u32, max: u32) -> Elastic {
    Elastic { min, max, target: 70, up_after: 2 * SECOND, down_after: 120 * SECOND, step: Surge::Percent(25) }
}

/// A pool whose workers take part of a load, in busy workers; what exceeds them waits.
struct Pool {
    controller: Controller,
    bounds: Elastic,
    now: Time,
    count: u32,
    /// Workers of the last step that are not ready yet, and when they are.
    starting: Option<(u32, Time)>,
    /// How long a worker takes to get ready.
    start: Duration,
    memory: Option<Room>,
    steps: Vec<(Time, u32)>,
    ceilings: Vec<Ceiling>,
}

impl Pool {
    fn new(bounds: Elastic, count: u32) -> Pool {
        Pool {
            controller: Controller::default(),
            bounds,
            now: Time::since_boot(1000 * SECOND),
            count,
            starting: None,
            start: Duration::ZERO,
            memory: None,
            steps: Vec::new(),
            ceilings: Vec::new(),
        }
    }

    /// Takes a sample under this load, and returns what was decided.
    fn sample(&mut self, load: f64) -> Option<Step> {
        self.now += self.controller.period();
        let starting = self.starting.filter(|(_, at)| *at > self.now).map(|(count, _)| count);
        let ready = self.count - starting.unwrap_or(0);
        let busy = Busy { share: (load / f64::from(ready)).min(1.0), by: Measure::Requests };
        let waiting = (load - f64::from(ready)).max(0.0).ceil() as u64;
        let load = Load { ready, busy: Some(busy), waiting: Some(waiting), memory: self.memory };
        let before = self.count;
        let step = self.controller.decide(self.now, &self.bounds, self.count, load, starting.is_some(), true);
        if let Some(step) = step {
            self.take(step, before);
        }
        self.ceilings.extend(self.controller.ceiling());
        step
    }

    fn take(&mut self, step: Step, before: u32) {
        assert_ne!(step.to, before, "a step to the same number");
        assert!((self.bounds.min..=self.bounds.max).contains(&step.to), "{step:?} out of bounds");
        assert!(before.abs_diff(step.to) <= self.bounds.step.of(before) || step.why == Why::Bounds, "{step:?} is too large");
        if step.to > before {
            if let Some(room) = &mut self.memory {
                let more = u64::from(step.to - before) * room.worker;
                assert!(more <= room.left, "{step:?} does not fit into memory");
                room.left -= more;
            }
            self.starting = Some((step.to - before, self.now + self.start));
        } else {
            self.starting = None;
            if let Some(room) = &mut self.memory {
                room.left += u64::from(before - step.to) * room.worker;
            }
        }
        self.count = step.to;
        self.steps.push((self.now, step.to));
    }

    /// Samples for this time, under the load that the function gives for the time since the beginning.
    fn run(&mut self, span: Duration, load: impl Fn(Duration) -> f64) {
        let begin = self.now;
        while self.now - begin < span {
            let at = self.now - begin;
            self.sample(load(at));
        }
    }
}

#[test]
fn step_up_needs_a_load_that_lasts() {
    let mut pool = Pool::new(bounds(2, 16), 4);
    assert_eq!((pool.sample(4.0), pool.sample(4.0)), (None, None));
    let step = pool.sample(4.0).expect("a step");
    assert_eq!((step.to, step.lasted), (5, 2 * SECOND));
    assert_eq!(step.to_string(), "100% busy by requests in work, too busy for 2s");
    // A burst of a second leads to nothing.
    let mut pool = Pool::new(bounds(2, 16), 4);
    pool.run(20 * SECOND, |at| if at.as_secs() % 5 == 0 { 4.0 } else { 1.5 });
    assert_eq!(pool.steps, []);
}

#[test]
fn step_down_needs_a_calm_that_lasts() {
    let mut pool = Pool::new(bounds(2, 16), 16);
    pool.run(119 * SECOND, |_| 2.0);
    assert_eq!(pool.steps, []);
    let mut said = None;
    for _ in 0..40 {
        said = said.or(pool.sample(2.0));
    }
    assert_eq!(said.map(|step| (step.to, step.to_string())), {
        let text = "12% busy by requests in work, fewer workers would have done for 2min";
        Some((12, text.to_owned()))
    });
    assert_eq!(pool.count, 4, "the following steps come soon: {:?}", pool.steps);
    pool.run(600 * SECOND, |_| 0.0);
    assert_eq!(pool.count, 2);
}

#[test]
fn connections_that_wait_count_when_nothing_else_is_known() {
    let mut controller = Controller::default();
    let (bounds, mut now) = (bounds(2, 16), Time::since_boot(SECOND));
    let mut decide = |waiting| {
        now += SECOND;
        let load = Load { ready: 8, busy: None, waiting: Some(waiting), memory: None };
        controller.decide(now, &bounds, 8, load, false, true)
    };
    assert_eq!([decide(3), decide(0), decide(1), decide(2)], [None; 4]);
    let step = decide(1).expect("a step");
    assert_eq!((step.to, step.to_string().as_str()), (10, "1 connection waits, some do for 2s"));
    // Without a figure of how busy they are no worker is given up.
    assert!((0..500).all(|_| decide(0).is_none()));
}

#[test]
fn full_queue_at_the_maximum_is_told_until_it_is_empty() {
    let mut pool = Pool::new(bounds(2, 4), 4);
    pool.run(3 * SECOND, |_| 10.0);
    assert_eq!(pool.controller.ceiling(), Some(Ceiling::Max(6)));
    pool.run(5 * SECOND, |_| 3.5);
    assert_eq!(pool.controller.ceiling(), Some(Ceiling::Max(0)), "the queue may be empty for a moment");
    pool.run(6 * SECOND, |_| 3.5);
    assert_eq!((pool.controller.ceiling(), pool.steps.len()), (None, 0));
}

#[test]
fn memory_is_a_ceiling_and_a_step_may_be_smaller_for_it() {
    let mut pool = Pool::new(bounds(2, 64), 16);
    pool.memory = Some(Room { left: 250 * MIB, worker: 100 * MIB });
    pool.run(10 * SECOND, |_| 100.0);
    assert_eq!((pool.count, pool.controller.ceiling()), (18, Some(Ceiling::Memory)));
    pool.memory = Some(Room { left: 500 * MIB, worker: 100 * MIB });
    pool.sample(100.0);
    assert_eq!((pool.count, pool.controller.ceiling()), (23, None));
}

#[test]
fn workers_that_start_are_waited_for() {
    let mut pool = Pool::new(bounds(2, 16), 4);
    pool.start = 10 * SECOND;
    pool.run(12 * SECOND, |_| 10.0);
    assert_eq!(pool.steps.len(), 1);
    pool.run(4 * SECOND, |_| 10.0);
    assert_eq!(pool.steps.len(), 2);
}

#[test]
fn samples_are_rare_after_a_minute_of_calm() {
    let mut pool = Pool::new(bounds(2, 16), 4);
    pool.run(59 * SECOND, |_| 2.6);
    assert_eq!(pool.controller.period(), SECOND);
    pool.run(3 * SECOND, |_| 2.6);
    assert_eq!(pool.controller.period(), 10 * SECOND);
    pool.sample(4.0);
    assert_eq!(pool.controller.period(), SECOND, "a wish is looked at every second");
}

#[test]
fn figures_of_before_a_gap_do_not_count() {
    let mut pool = Pool::new(bounds(2, 16), 4);
    pool.run(2 * SECOND, |_| 4.0);
    pool.now += 3600 * SECOND;
    assert_eq!((pool.sample(4.0), pool.sample(4.0)), (None, None));
    assert!(pool.sample(4.0).is_some());
}

#[test]
fn number_out_of_bounds_is_brought_back_at_once() {
    let mut pool = Pool::new(bounds(4, 8), 20);
    assert_eq!(pool.sample(20.0).map(|step| (step.to, step.why)), Some((8, Why::Bounds)));
    pool.count = 1;
    assert_eq!(pool.sample(0.0).map(|step| (step.to, step.to_string())), Some((4, "worker.min and worker.max".to_owned())));
}

/// The largest number of steps up from `from` to `to` workers with `scale.step` 25%.
fn steps_up(from: u32, to: u32) -> u32 {
    let mut steps = 0;
    let mut count = from;
    while count < to {
        count += Surge::Percent(25).of(count);
        steps += 1;
    }
    steps
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// Under a constant load the number settles within as many periods as the steps need, and then stays.
    #[test]
    fn constant_load_settles_and_does_not_oscillate(min in 1_u32..5, more in 0_u32..60, start in 0_u32..65, load in 0.0_f64..80.0) {
        let bounds = bounds(min, min + more);
        let mut pool = Pool::new(bounds, bounds.clamp(start));
        let steps = steps_up(pool.count, bounds.max).max(40);
        pool.run(120 * SECOND + steps * 4 * SECOND, |_| load);
        let settled = pool.count;
        let wanted = bounds.clamp((load / 0.7).ceil() as u32);
        let most = bounds.clamp((load / 0.63).ceil() as u32);
        prop_assert!((wanted..=most).contains(&settled), "{settled} workers for a load of {load}: {:?}", pool.steps);
        pool.run(3600 * SECOND, |_| load);
        prop_assert_eq!(pool.count, settled, "{:?}", pool.steps);
        let turns = pool.steps.windows(3).filter(|steps| (steps[0].1 < steps[1].1) != (steps[1].1 < steps[2].1)).count();
        prop_assert_eq!(turns, 0, "{:?}", pool.steps);
    }

    /// Noise around a constant load does not make the number go up and down.
    #[test]
    fn noise_does_not_make_it_oscillate(seed in 1_u64.., load in 2.0_f64..30.0, start in 2_u32..48) {
        let mut random = Random(seed);
        let mut pool = Pool::new(bounds(2, 48), start);
        let mut noisy = |pool: &mut Pool, seconds: u64| {
            let until = pool.now + Duration::from_secs(seconds);
            while pool.now < until {
                pool.sample(load * (0.95 + 0.1 * random.next()));
            }
        };
        noisy(&mut pool, 400);
        let before = pool.steps.len();
        noisy(&mut pool, 3600);
        prop_assert!(pool.steps.len() - before <= 2, "{:?}", &pool.steps[before..]);
    }

    /// A ramp up is followed within a few steps, and a ramp down is never followed to less than the load.
    #[test]
    fn ramps_are_followed(seconds in 60_u64..900, most in 5.0_f64..40.0) {
        let mut pool = Pool::new(bounds(2, 64), 2);
        let share = |at: Duration| (at.as_secs_f64() / seconds as f64).min(1.0);
        pool.run(Duration::from_secs(seconds), |at| most * share(at));
        pool.run(30 * SECOND, |_| most);
        prop_assert!(f64::from(pool.count) * 0.7 >= most - 1e-6, "{} workers for {most}", pool.count);
        let begin = pool.now;
        while pool.now - begin < Duration::from_secs(seconds) + 1800 * SECOND {
            let load = most * (1.0 - share(pool.now - begin));
            pool.sample(load);
            prop_assert!(f64::from(pool.count) + 1e-6 >= load, "{} workers for {load}", pool.count);
        }
        prop_assert_eq!(pool.count, 2);
    }

    /// Whatever the load, the bounds, the size of a step and the memory hold: `Pool::take` asserts them.
    #[test]
    fn bounds_and_memory_hold_under_any_load(
        min in 1_u32..10,
        more in 0_u32..40,
        start in 1_u32..60,
        left in 0_u64..4000,
        worker in 1_u64..300,
        slow in 0_u32..20,
        loads in prop::collection::vec((0.0_f64..100.0, 1_u64..200), 1..20),
    ) {
        let bounds = bounds(min, min + more);
        let mut pool = Pool::new(bounds, bounds.clamp(start));
        pool.memory = Some(Room { left: left * MIB, worker: worker * MIB });
        pool.start = slow * SECOND;
        for (load, seconds) in loads {
            pool.run(Duration::from_secs(seconds), |_| load);
        }
    }
}
