//! Status cache: gives a status document again while it is true, and composes one document for all requesters that wait.
//!
//! Law: a requester that knows of a change gets a document that shows it: a document is given again only while nothing has changed
//! that the loop knows of (its *revision*). Data that only workers' pages and the kernel hold is at most as old as [`keep::until`]
//! allows; in a small pool the pages' data is current. One document is composed at a time. A requester that asks meanwhile
//! waits for it or, if something has changed since it was begun, for the next one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::status::keep::{self, Clock};
use crate::status::rendered::RenderedStatus;
use crate::status::scoreboard::Scoreboard;

/// A document that costs less CPU time than this is no more work to compose than to request. It is given again only if a new one
/// would say the same.
const CHEAP: Duration = Duration::from_millis(1);
/// The cached document is dropped this long after the last one was begun.
const LINGERS: Duration = Duration::from_secs(1);
/// With more pages than this the cache does not check whether they have changed.
pub(in crate::master) const PAGES: usize = 16;

/// The channel on which a requester waits for a document.
pub(in crate::master) type Requester = oneshot::Sender<Arc<RenderedStatus>>;

/// The pages' marks from before they were read, and until when the other data of their document holds.
pub(in crate::master) struct Pages {
    pub until: Instant,
    /// Each page with its mark. The page is gone once its worker is.
    pub marks: Vec<(Weak<Scoreboard>, u64)>,
}

struct Kept {
    document: Arc<RenderedStatus>,
    revision: u64,
    until: Instant,
    pages: Option<Pages>,
}

/// A document that is not cached any more and is still to be dropped.
pub(in crate::master) struct Forgotten {
    _kept: Option<Kept>,
}

#[derive(Default)]
struct Shared {
    kept: Option<Kept>,
    /// The number and the revision of the document that is being composed.
    composing: Option<(u64, u64)>,
    /// The number of documents begun.
    begun: u64,
    /// Requesters that asked before the document was begun.
    waiting: Vec<Requester>,
    /// Requesters that asked since then, when nothing was known to have changed.
    joined: Vec<Requester>,
    /// Requesters that wait for the next document.
    later: Vec<Requester>,
    lingers_until: Option<Instant>,
}

/// The loop's side of the cache.
pub(in crate::master) struct StatusCache {
    revision: u64,
    shared: Arc<Mutex<Shared>>,
    clock: Arc<dyn Clock>,
    /// When to check whether the cached document can be dropped.
    forget_at: Option<Instant>,
}

/// A document to compose from what the loop knows now; [`Self::done`] sends it to all requesters that wait.
pub(in crate::master) struct Job {
    number: u64,
    revision: u64,
    shared: Arc<Mutex<Shared>>,
    clock: Arc<dyn Clock>,
    began: Instant,
}

impl StatusCache {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        StatusCache { revision: 0, shared: Arc::default(), clock, forget_at: None }
    }

    /// Call when something has changed, or may have.
    pub fn touch(&mut self) {
        self.revision += 1;
    }

    /// Answers the requester from the cache, or lets it wait. Returns `Some` when a document has to be composed for it.
    pub fn ask(&mut self, requester: Requester) -> Option<Job> {
        let mut shared = lock(&self.shared);
        let now = self.clock.now();
        if let Some(kept) = shared.kept.as_ref().filter(|kept| kept.holds(self.revision, now)) {
            let _ = requester.send(kept.document.clone());
            return None;
        }
        match shared.composing {
            Some((_, revision)) if revision == self.revision => shared.joined.push(requester),
            Some(_) => shared.later.push(requester),
            None => {
                shared.later.push(requester);
                drop(shared);
                return self.next();
            }
        }
        None
    }

    /// Begins the next document, if requesters wait for it and none is being composed.
    pub fn next(&mut self) -> Option<Job> {
        let mut shared = lock(&self.shared);
        if shared.composing.is_some() || shared.later.is_empty() {
            return None;
        }
        shared.waiting = std::mem::take(&mut shared.later);
        shared.begun += 1;
        let (number, began) = (shared.begun, self.clock.now());
        shared.composing = Some((number, self.revision));
        self.forget_at.get_or_insert(began + LINGERS);
        Some(Job { number, revision: self.revision, shared: self.shared.clone(), clock: self.clock.clone(), began })
    }

    /// When [`Self::forget`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.forget_at
    }

    /// Takes the cached document when nobody has asked for a while; the data behind it can be dropped, too. A large document has
    /// thousands of allocations, so do not drop it on the loop.
    pub fn forget(&mut self, now: Instant) -> Option<Forgotten> {
        if self.forget_at.is_none_or(|at| at > now) {
            return None;
        }
        let mut shared = lock(&self.shared);
        let lingers_until = if shared.composing.is_some() { Some(now + LINGERS) } else { shared.lingers_until };
        self.forget_at = lingers_until.filter(|until| *until > now);
        if self.forget_at.is_some() {
            return None;
        }
        Some(Forgotten { _kept: shared.kept.take() })
    }
}

impl Kept {
    fn holds(&self, revision: u64, now: Instant) -> bool {
        self.revision == revision && (now < self.until || self.pages.as_ref().is_some_and(|pages| pages.hold(now)))
    }
}

impl Pages {
    fn hold(&self, now: Instant) -> bool {
        let as_before = |(page, mark): &(Weak<Scoreboard>, u64)| page.upgrade().is_some_and(|page| page.mark() == Some(*mark));
        now < self.until && self.marks.iter().all(as_before)
    }
}

impl Job {
    /// Composes on this thread, and sends the document to all requesters that wait. Returns whether others wait for the next one.
    pub fn done(self, compose: impl FnOnce() -> (RenderedStatus, Option<Pages>)) -> bool {
        let spent = self.clock.spent();
        let (document, pages) = compose();
        let document = Arc::new(document);
        let cost = self.clock.spent().saturating_sub(spent);
        let cheap = cost < CHEAP;
        let until = if cheap { self.began } else { keep::until(self.began, cost) };
        let kept = Kept { document: document.clone(), revision: self.revision, until, pages };
        let (waiting, more, before) = {
            let mut shared = lock(&self.shared);
            shared.composing = None;
            shared.lingers_until = Some(self.began + LINGERS);
            let mut waiting = std::mem::take(&mut shared.waiting);
            let joined = std::mem::take(&mut shared.joined);
            // The pages may have changed after they were read and before these requesters asked.
            if cheap {
                shared.later.extend(joined)
            } else {
                waiting.extend(joined)
            }
            (waiting, !shared.later.is_empty(), shared.kept.replace(kept))
        };
        for requester in waiting {
            let _ = requester.send(document.clone());
        }
        drop(before);
        crate::sys::heap::sort();
        more
    }
}

impl Drop for Job {
    /// However the job ended, no requester waits for it any more.
    fn drop(&mut self) {
        let mut shared = lock(&self.shared);
        if shared.composing.is_some_and(|(number, _)| number == self.number) {
            shared.composing = None;
            shared.waiting.clear();
            shared.joined.clear();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::Receiver;

    use super::*;
    use crate::status::keep::testing::Told;
    use crate::status::tree::Document;

    const MS: Duration = Duration::from_millis(1);

    /// A status cache, its clock, and the number of documents composed; each document has its number as its generation.
    struct Room {
        status_cache: StatusCache,
        clock: Arc<Told>,
        composed: u64,
    }

    impl Room {
        fn new(cost: Duration) -> Room {
            let clock = Arc::new(Told::costing(cost));
            Room { status_cache: StatusCache::new(clock.clone()), clock, composed: 0 }
        }

        fn ask(&mut self) -> (Option<Job>, Receiver<Arc<RenderedStatus>>) {
            let (requester, answer) = oneshot::channel();
            (self.status_cache.ask(requester), answer)
        }

        fn compose(&mut self, job: Job, pages: Option<Pages>) -> bool {
            self.composed += 1;
            let document = Document { generation: self.composed, ..Document::default() };
            job.done(|| (document.into(), pages))
        }

        /// Asks, composes if that is needed, and returns the number of the document.
        fn told(&mut self) -> u64 {
            let (job, answer) = self.ask();
            if let Some(job) = job {
                assert!(!self.compose(job, None));
            }
            got(answer)
        }
    }

    fn got(mut answer: Receiver<Arc<RenderedStatus>>) -> u64 {
        answer.try_recv().expect("an answer").generation
    }

    #[test]
    fn what_was_dear_is_told_again_for_four_times_its_cost() {
        let mut room = Room::new(10 * MS);
        assert_eq!([room.told(), room.told(), room.told()], [1, 1, 1]);
        room.clock.pass(39 * MS);
        assert_eq!(room.told(), 1);
        room.clock.pass(MS);
        assert_eq!([room.told(), room.told()], [2, 2]);
        // For 250 ms at most.
        let mut room = Room::new(1000 * MS);
        assert_eq!(room.told(), 1);
        room.clock.pass(249 * MS);
        assert_eq!(room.told(), 1);
        room.clock.pass(MS);
        assert_eq!(room.told(), 2);
    }

    #[test]
    fn a_change_is_told_at_once() {
        let mut room = Room::new(100 * MS);
        assert_eq!(room.told(), 1);
        room.status_cache.touch();
        assert_eq!([room.told(), room.told()], [2, 2]);
    }

    #[test]
    fn one_is_composed_for_all_who_ask_and_another_for_those_who_heard_of_a_change() {
        let mut room = Room::new(10 * MS);
        let (job, first) = room.ask();
        let (none, second) = room.ask();
        assert!(none.is_none());
        room.status_cache.touch();
        let later: Vec<_> = (0..3).map(|_| room.ask()).collect();
        assert!(later.iter().all(|(job, _)| job.is_none()));
        assert!(room.status_cache.next().is_none(), "one at a time");
        assert!(room.compose(job.expect("a job"), None), "others wait");
        assert_eq!([got(first), got(second)], [1, 1]);
        let job = room.status_cache.next().expect("a job");
        assert!(!room.compose(job, None));
        assert!(later.into_iter().all(|(_, answer)| got(answer) == 2));
        assert_eq!(room.composed, 2);
    }

    #[test]
    fn what_is_cheap_is_read_after_it_was_asked_for() {
        let mut room = Room::new(MS / 2);
        assert_eq!([room.told(), room.told()], [1, 2]);
        let (job, first) = room.ask();
        let (_, joined) = room.ask();
        assert!(room.compose(job.expect("a job"), None));
        assert_eq!(got(first), 3);
        let job = room.status_cache.next().expect("a job");
        room.compose(job, None);
        assert_eq!(got(joined), 4);
    }

    #[test]
    fn in_a_small_pool_it_is_told_again_while_the_pages_say_the_same() {
        let mut room = Room::new(MS / 2);
        let page = Arc::new(Scoreboard::create(Duration::ZERO).expect("a page"));
        let pages =
            |room: &Room, mark| Some(Pages { until: room.clock.now() + 2 * MS, marks: vec![(Arc::downgrade(&page), mark)] });
        let mark = page.mark().expect("a mark");
        for (mark, next) in [(mark, 1), (mark + 1, 2)] {
            room.status_cache.touch();
            let (job, _) = room.ask();
            let pages = pages(&room, mark);
            room.compose(job.expect("a job"), pages);
            let before = room.composed;
            assert_eq!(room.told() - before, next - 1);
        }
        // First the kernel's figures are too old, then the worker's page is gone.
        for age in [2 * MS, Duration::ZERO] {
            room.status_cache.touch();
            let (job, _) = room.ask();
            let own = Arc::new(Scoreboard::create(Duration::ZERO).expect("a page"));
            let until = room.clock.now() + 2 * MS;
            room.compose(job.expect("a job"), Some(Pages { until, marks: vec![(Arc::downgrade(&own), mark)] }));
            if age.is_zero() {
                drop(own);
            } else {
                assert_eq!(room.told(), room.composed);
                room.clock.pass(age);
            }
            let before = room.composed;
            assert_eq!(room.told(), before + 1);
        }
    }

    #[test]
    fn who_composes_and_fails_keeps_nobody_waiting() {
        let mut room = Room::new(10 * MS);
        let (job, mut first) = room.ask();
        room.status_cache.touch();
        let (_, mut later) = room.ask();
        drop(job);
        assert!(first.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Closed));
        assert!(later.try_recv().is_err_and(|error| error == oneshot::error::TryRecvError::Empty));
        assert_eq!(room.told(), 1);
        assert_eq!(got(later), 1);
    }

    #[test]
    fn a_second_after_the_last_question_it_is_forgotten() {
        let mut room = Room::new(10 * MS);
        assert_eq!((room.status_cache.deadline(), room.told()), (None, 1));
        let first = room.status_cache.deadline().expect("a time");
        room.clock.pass(600 * MS);
        assert_eq!(room.told(), 2);
        assert!(room.status_cache.forget(first).is_none(), "it was asked for again");
        let second = room.status_cache.deadline().expect("a time");
        assert_eq!(second - first, 600 * MS);
        assert!(room.status_cache.forget(second - MS).is_none() && room.status_cache.forget(second).is_some());
        assert_eq!(room.status_cache.deadline(), None);
        assert!(room.status_cache.forget(second).is_none());
    }
}
