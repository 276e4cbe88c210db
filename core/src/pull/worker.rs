//! The thread that does what takes time, for whoever waits for an answer without blocking: our server's loop, or a task of
//! the program's own executor.
//!
//! It is called `everprof-pull`, begins with the first request and ends when none has come for a while. It starts
//! recordings and sleeps until they are due; everything else it does one after the other, so that never more than one
//! processor is at work for those who ask, however many they are. Requests beyond a few are refused at once.
//!
//! Who loses interest drops the [`Ticket`]: his recording ends then.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use everprof_probe::os;
use everprof_probe::own::Own;

use super::allowance::Allowance;
use super::answer::Answer;
use super::route::Work;
use super::work::{self, Begun};
use crate::report;
use crate::symbolize::Symbolizer;

/// Requests that may be at work at once.
const MOST: usize = 8;
/// How many requests may come at once, and how many a second over time. A poller asks for half a dozen kinds every ten
/// seconds, and a person at a browser for less. They are most of what an attack costs: some milliseconds each.
const ALLOWED: Allowance = Allowance::new(24, 2);
/// How long the thread stays without work.
const PATIENCE: Duration = Duration::from_secs(10);

static QUEUE: Mutex<Queue> = Mutex::new(Queue::new());
static CHANGED: Condvar = Condvar::new();
/// CPU nanoseconds of the thread, those before it included.
static CPU: AtomicU64 = AtomicU64::new(0);

/// What others left for the thread.
pub(crate) struct Queue {
    new: VecDeque<Job>,
    /// Not answered yet, and not given up.
    open: usize,
    works: bool,
    /// The profiler ended: the thread is not to stay for more.
    hurries: bool,
    allowed: Allowance,
}

struct Job {
    work: Work,
    slot: Arc<Slot>,
}

impl Drop for Job {
    /// Nobody waits for ever: what was not answered never will be.
    fn drop(&mut self) {
        self.slot.put(Answer::error(500, "everprof lost this request; see the program's log"));
    }
}

/// Where an answer is put.
#[derive(Default)]
struct Slot {
    inner: Mutex<Inner>,
    given_up: AtomicBool,
}

#[derive(Default)]
struct Inner {
    /// There was one, whether or not it was taken.
    is_answered: bool,
    answer: Option<Answer>,
    waker: Option<Waker>,
}

/// The right to an answer.
pub(crate) struct Ticket {
    slot: Arc<Slot>,
    lasts: bool,
}

impl Ticket {
    /// Whether what is done for it takes seconds.
    pub(crate) fn lasts(&self) -> bool {
        self.lasts
    }

    /// The answer, or none as yet: `waker` then is told when there is one.
    pub(crate) fn poll(&self, waker: &Waker) -> Poll<Answer> {
        let mut inner = self.slot.lock();
        match inner.answer.take() {
            Some(answer) => Poll::Ready(answer),
            None => {
                inner.waker.replace(waker.clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.slot.given_up.store(true, Ordering::Release);
        // With the lock, so that the thread is either before its look or asleep.
        let _queue = lock();
        CHANGED.notify_all();
    }
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves the answer, unless there was one.
    fn put(&self, answer: Answer) {
        let waker = {
            let mut inner = self.lock();
            if std::mem::replace(&mut inner.is_answered, true) || self.is_given_up() {
                return;
            }
            inner.answer = Some(answer);
            inner.waker.take()
        };
        // Without the lock: it may run the code of an executor, whose faults are not ours.
        if let Some(waker) = waker {
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
    }

    fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }
}

impl Queue {
    const fn new() -> Queue {
        Queue { new: VecDeque::new(), open: 0, works: false, hurries: false, allowed: ALLOWED }
    }

    /// Counts a request, or refuses it.
    fn admit(&mut self, now: Instant) -> Result<(), Answer> {
        if self.open >= MOST {
            let reason = format!("{MOST} requests for profiles are at work already: try again later");
            return Err(Answer::error(503, &reason).with("Retry-After", "1"));
        }
        if !self.allowed.take(now) {
            let reason = "too many requests for profiles: give it a second";
            return Err(Answer::error(429, reason).with("Retry-After", "1"));
        }
        self.open += 1;
        Ok(())
    }
}

/// Leaves work for the thread, which is started where there is none; or the answer that nothing can be done.
pub(super) fn submit(work: Work) -> Result<Ticket, Answer> {
    let (slot, lasts) = (Arc::new(Slot::default()), work.lasts());
    let mut queue = lock();
    queue.admit(Instant::now())?;
    queue.hurries = false;
    queue.new.push_back(Job { work, slot: slot.clone() });
    if !queue.works {
        let thread = std::thread::Builder::new().name("everprof-pull".to_string()).spawn(run);
        if let Err(error) = thread {
            queue.new.pop_back();
            queue.open -= 1;
            return Err(Answer::error(503, &format!("no thread could be started for it: {error}")));
        }
        queue.works = true;
    }
    CHANGED.notify_all();
    drop(queue);
    Ok(Ticket { slot, lasts })
}

/// The profiler ended: whoever waits for a recording of it hears so, and the thread ends as soon as it has nothing to do.
pub(crate) fn hurry() {
    lock().hurries = true;
    CHANGED.notify_all();
}

/// The lock that a fork must hold, so that the child finds it free.
pub(crate) fn lock() -> MutexGuard<'static, Queue> {
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Forgets what the parent's thread had to do. In a fork's child, on its only thread.
pub(crate) fn after_fork(mut queue: MutexGuard<'static, Queue>) {
    // Not dropped: what waits for an answer belongs to threads that do not exist here.
    std::mem::forget(std::mem::replace(&mut *queue, Queue::new()));
    CPU.store(0, Ordering::Relaxed);
}

/// CPU nanoseconds of the thread, those before it included.
pub(crate) fn cpu() -> u64 {
    CPU.load(Ordering::Relaxed)
}

/// What waits for its time.
struct Active {
    job: Job,
    due: Instant,
    begun: Begun,
}

/// What is left behind by a thread that panics: nobody would start another one.
struct Place;

impl Drop for Place {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut queue = lock();
            (queue.works, queue.open) = (false, 0);
            let lost = std::mem::take(&mut queue.new);
            drop(queue);
            drop(lost);
        }
    }
}

fn run() {
    // Dropped last: what it knows of is answered then.
    let _place = Place;
    os::block_signals();
    os::step_back();
    // What it allocates and waits for is nothing of the program's.
    Own::of_this_thread().leave_out();
    let before = CPU.load(Ordering::Relaxed);
    let count = || CPU.store(before + own_cpu(), Ordering::Relaxed);
    let mut active: Vec<Active> = Vec::new();
    let mut symbolizer = None;
    while let Some(jobs) = next(&mut active, count) {
        for job in jobs {
            begin(job, &mut active, &mut symbolizer);
        }
        let now = Instant::now();
        while let Some(at) = active.iter().position(|active| active.due <= now) {
            end(active.swap_remove(at));
        }
        count();
    }
}

fn own_cpu() -> u64 {
    os::Clock::Thread(os::gettid()).now().unwrap_or_default()
}

/// Waits for new jobs or for one that is due; none where it was quiet for so long that the thread ends.
fn next(active: &mut Vec<Active>, count: impl Fn()) -> Option<VecDeque<Job>> {
    let quiet_since = Instant::now();
    let mut queue = lock();
    loop {
        let given_up = active.extract_if(.., |active| active.job.slot.is_given_up()).collect::<Vec<_>>();
        if !given_up.is_empty() {
            queue.open = queue.open.saturating_sub(given_up.len());
            drop(queue);
            // Giving up a recording talks to the drain.
            drop(given_up);
            queue = lock();
            continue;
        }
        let now = Instant::now();
        if queue.hurries {
            active.iter_mut().for_each(|active| active.due = active.due.min(now));
        }
        let due = active.iter().map(|active| active.due).min();
        if !queue.new.is_empty() || due.is_some_and(|due| due <= now) {
            return Some(std::mem::take(&mut queue.new));
        }
        let wait = due.unwrap_or(quiet_since + PATIENCE).saturating_duration_since(now);
        if wait.is_zero() || queue.hurries && due.is_none() {
            // The next thread begins where this one has ended.
            count();
            queue.works = false;
            return None;
        }
        queue = CHANGED.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Does what takes no time, and begins what does.
fn begin(job: Job, active: &mut Vec<Active>, symbolizer: &mut Option<Symbolizer>) {
    if job.slot.is_given_up() {
        return done();
    }
    let begun = guarded(|| match &job.work {
        Work::Record { seconds, .. } | Work::Change { seconds, .. } => {
            Ok((Duration::from_secs(*seconds), work::begin(&job.work)?))
        }
        at_once => Err(work::at_once(at_once, symbolizer)?),
    });
    match begun {
        Ok((time, begun)) => active.push(Active { job, due: Instant::now() + time, begun }),
        Err(answer) => answered(&job, answer),
    }
}

fn end(active: Active) {
    let Active { job, begun, .. } = active;
    let answer = guarded(|| work::end(&job.work, begun));
    answered(&job, answer.unwrap_or_else(|answer| answer));
}

fn answered(job: &Job, answer: Answer) {
    done();
    job.slot.put(answer);
}

fn done() {
    let mut queue = lock();
    queue.open = queue.open.saturating_sub(1);
}

/// A fault of ours is an answer, not the end of the host.
fn guarded<T>(work: impl FnOnce() -> Result<T, Answer>) -> Result<T, Answer> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        report::warn("a request for a profile was given up: everprof's thread panicked over it");
        Err(Answer::error(500, "everprof went wrong over this request; see the program's log"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An executor that goes wrong when it is woken.
    struct Broken;

    impl std::task::Wake for Broken {
        fn wake(self: Arc<Self>) {
            // Without a message: it is planned.
            std::panic::resume_unwind(Box::new(()));
        }
    }

    #[test]
    fn what_is_not_answered_is_told_so_whatever_the_one_who_waits_does() {
        let ticket_of = |slot: &Arc<Slot>| Ticket { slot: slot.clone(), lasts: true };
        let [first, second] = [(), ()].map(|()| Arc::new(Slot::default()));
        let (broken, waits) = (ticket_of(&first), ticket_of(&second));
        assert!(broken.poll(&Waker::from(Arc::new(Broken))).is_pending());
        assert!(waits.poll(Waker::noop()).is_pending());
        let lost = std::thread::spawn(move || {
            let _place = Place;
            lock().works = true;
            let jobs = [first, second].map(|slot| Job { work: Work::Index, slot });
            if !jobs.is_empty() {
                std::panic::resume_unwind(Box::new(()));
            }
        });
        assert!(lost.join().is_err() && !lock().works, "the next request starts another thread");
        for ticket in [broken, waits] {
            let Poll::Ready(answer) = ticket.poll(Waker::noop()) else { unreachable!("it waits for ever") };
            assert_eq!(answer.status, 500);
        }
    }

    #[test]
    fn requests_beyond_a_few_at_once_and_a_few_a_second_are_refused() {
        let mut queue = Queue::new();
        let start = Instant::now();
        let mut statuses = Vec::new();
        for _ in 0..25 {
            statuses.push(queue.admit(start).map_or_else(|answer| answer.status, |()| 200));
            if queue.open > 4 {
                queue.open = 0;
            }
        }
        assert_eq!(statuses.pop(), Some(429));
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        assert!(queue.admit(start + Duration::from_secs(1)).is_ok());
        queue.open = MOST;
        assert_eq!(queue.admit(start + Duration::from_secs(100)).map_err(|answer| answer.status), Err(503));
    }
}
