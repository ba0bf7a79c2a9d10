//! One value handed from one thread to another, awaited by a task or a plain thread.
//!
//! A [`Waiter`] is both a future and something a thread can block on; the other half, [`Completer`], fills it once. A
//! task is woken by its waker. Threads sleep on an [`Event`]: those whose values come together, as the acknowledgements
//! of one frame do, share one and are woken by one call to the system, which costs a fraction of as many calls and wakes
//! nobody else. Dropping the waiter cancels nothing; dropping the completer without a value is an answer too. No async
//! runtime is involved.
//!
//! Invariant: a value that was put is never lost and the waiter that registered before or after is woken or sees it.
//! Who asks for a value that can come no more is told so, and never waits for ever.

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, Event, Mutex, Ordering, Thread, current};
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
struct Cell<T> {
    /// Set with Release after the answer is in place; pairs with the Acquire loads in `Waiter`.
    done: AtomicBool,
    inner: Mutex<Inner<T>>,
    /// What a thread sleeps on until the answer is there.
    event: Arc<Event>,
}

#[derive(Debug)]
struct Inner<T> {
    state: State<T>,
    /// The task that was polled last.
    task: Option<Waker>,
}

#[derive(Debug)]
enum State<T> {
    Waiting,
    Given(T),
    /// The completer is gone and gave nothing.
    Dropped,
    Taken,
}

/// Who is to be woken by name.
#[derive(Debug)]
pub enum Target {
    /// A thread that parked.
    Thread(Thread),
    /// A task that was polled.
    Task(Waker),
}

impl Target {
    /// The calling thread.
    #[must_use]
    pub fn this_thread() -> Self {
        Self::Thread(current())
    }

    /// Wakes it. A task's waker is the caller's code and may panic; that ends its own wait badly and nothing else: it
    /// is told, and whoever else waits is woken all the same.
    pub fn wake(self) {
        match self {
            Self::Thread(thread) => thread.unpark(),
            Self::Task(waker) => {
                if catch_unwind(AssertUnwindSafe(|| waker.wake())).is_err() {
                    tracing::error!("the waker of a task that waits for the store panicked");
                }
            }
        }
    }
}

/// Wakes them all.
pub fn wake_all(targets: Vec<Target>) {
    targets.into_iter().for_each(Target::wake);
}

/// Whom to wake, gathered under a lock and woken behind it: what is woken may want that lock, and a task's waker is the
/// caller's code.
#[derive(Debug, Default)]
#[must_use = "somebody sleeps until it is woken"]
pub struct Wakes {
    /// Where threads sleep; neighbours are others.
    pub events: Vec<Arc<Event>>,
    /// Tasks, and threads that parked.
    pub targets: Vec<Target>,
}

impl Wakes {
    /// Adds those who sleep on `event`, which is named but once by neighbours.
    pub fn event(&mut self, event: &Arc<Event>) {
        if self.events.last().is_none_or(|last| !Arc::ptr_eq(last, event)) {
            self.events.push(Arc::clone(event));
        }
    }

    /// Adds others.
    pub fn append(&mut self, mut others: Self) {
        self.events.append(&mut others.events);
        self.targets.append(&mut others.targets);
    }

    /// Wakes them: the threads of an event by one call.
    pub fn wake(self) {
        self.events.iter().for_each(|event| event.happen());
        wake_all(self.targets);
    }
}

/// The half that waits.
#[derive(Debug)]
pub struct Waiter<T>(Arc<Cell<T>>);

/// The half that gives the value.
#[derive(Debug)]
pub struct Completer<T>(Arc<Cell<T>>);

/// A pair on its own.
#[must_use]
pub fn pair<T>() -> (Completer<T>, Waiter<T>) {
    pair_on(Arc::default())
}

/// A pair whose value comes together with those of the others on `event`.
#[must_use]
pub fn pair_on<T>(event: Arc<Event>) -> (Completer<T>, Waiter<T>) {
    let inner = Mutex::new(Inner { state: State::Waiting, task: None });
    let cell = Arc::new(Cell { done: AtomicBool::new(false), inner, event });
    (Completer(Arc::clone(&cell)), Waiter(cell))
}

impl<T> Completer<T> {
    /// Gives the value and wakes the waiter.
    pub fn complete(self, value: T) {
        self.0.answer_and_wake(State::Given(value));
    }

    /// Gives the value and wakes no thread: that is left to the caller, who lets the event happen. Gives the task that
    /// is to be woken, if there is one.
    #[must_use]
    pub fn put(self, value: T) -> Option<Target> {
        self.0.answer(State::Given(value)).map(Target::Task)
    }

    /// Whether nobody waits for the value any more.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    /// What a thread that waits sleeps on.
    #[must_use]
    pub fn event(&self) -> &Arc<Event> {
        &self.0.event
    }
}

impl<T> Drop for Completer<T> {
    fn drop(&mut self) {
        // Only this half sets it, so that no order is needed.
        if !self.0.done.load(Ordering::Relaxed) {
            self.0.answer_and_wake(State::Dropped);
        }
    }
}

impl<T> Cell<T> {
    fn answer(&self, state: State<T>) -> Option<Waker> {
        let mut inner = self.inner.lock();
        inner.state = state;
        self.done.store(true, Ordering::Release);
        inner.task.take()
    }

    fn answer_and_wake(&self, state: State<T>) {
        let task = self.answer(state);
        self.event.happen();
        if let Some(task) = task {
            Target::Task(task).wake();
        }
    }
}

impl<V> Waiter<Result<V>> {
    /// Whether the answer is there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.done.load(Ordering::Acquire)
    }

    /// Blocks the calling thread until the answer is there.
    ///
    /// # Errors
    /// The answer's; [`ErrorKind::Unknown`] if none can come any more; [`ErrorKind::Invalid`] if it was taken before.
    pub fn wait(self) -> Result<V> {
        loop {
            // Before the look, so that an answer that comes after the look ends the sleep.
            let seen = self.0.event.count();
            if self.is_done() {
                return self.take_or_register(|| None).expect("it is done, so there is an answer");
            }
            self.0.event.sleep(seen);
        }
    }

    /// The answer, if it is there; taken at most once.
    #[must_use]
    pub fn try_take(&self) -> Option<Result<V>> {
        if !self.is_done() {
            return None;
        }
        take(&mut self.0.inner.lock().state)
    }

    fn take_or_register(&self, task: impl FnOnce() -> Option<Waker>) -> Option<Result<V>> {
        let mut inner = self.0.inner.lock();
        if matches!(inner.state, State::Taken) {
            return Some(Err(Error::new(ErrorKind::Invalid, "the answer was given already")
                .remedy("keep what the first call gave: it is given once")));
        }
        let answer = take(&mut inner.state);
        if answer.is_none() {
            inner.task = task();
        }
        answer
    }
}

/// Takes the answer out, if there is one.
fn take<V>(state: &mut State<Result<V>>) -> Option<Result<V>> {
    match std::mem::replace(state, State::Taken) {
        State::Given(answer) => Some(answer),
        State::Dropped => {
            Some(Err(Error::new(ErrorKind::Unknown, "the thread that was to answer stopped before it did")
                .remedy("see the standard error output for a panic")))
        }
        State::Waiting => {
            *state = State::Waiting;
            None
        }
        State::Taken => None,
    }
}

impl<V> Future for Waiter<Result<V>> {
    type Output = Result<V>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<V>> {
        match self.take_or_register(|| Some(context.waker().clone())) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}

/// A waker that panics, as one of a runtime that is gone may.
#[cfg(test)]
pub fn panicking_waker() -> Waker {
    struct Panics;
    impl std::task::Wake for Panics {
        fn wake(self: std::sync::Arc<Self>) {
            panic!("a waker of a runtime that is gone");
        }
    }
    Waker::from(std::sync::Arc::new(Panics))
}

#[cfg(all(test, not(everlog_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_value_reaches_a_thread_before_and_after_it_waits() {
        let (completer, waiter) = pair();
        completer.complete(Ok(5));
        assert_eq!(waiter.wait().expect("given"), 5);
        let (completer, waiter) = pair();
        let thread = std::thread::spawn(move || waiter.wait());
        completer.complete(Ok(6));
        assert_eq!(thread.join().expect("no panic").expect("given"), 6);
    }

    #[test]
    fn a_dropped_waiter_cancels_nothing() {
        let (completer, waiter) = pair();
        drop(waiter);
        completer.complete(1);
    }

    /// Repeated, so that in most rounds somebody sleeps already when the event happens.
    #[test]
    fn those_on_one_event_are_woken_together() {
        for _ in 0..200 {
            let event = Arc::new(Event::default());
            let (completers, waiters): (Vec<_>, Vec<_>) = (0..4).map(|_| pair_on(Arc::clone(&event))).unzip();
            let threads: Vec<_> = waiters.into_iter().map(|w| std::thread::spawn(move || w.wait())).collect();
            for (n, completer) in completers.into_iter().enumerate() {
                std::thread::yield_now();
                assert!(completer.put(Ok(n)).is_none(), "no task was polled");
            }
            event.happen();
            for (n, thread) in threads.into_iter().enumerate() {
                assert_eq!(thread.join().expect("no panic").expect("given"), n);
            }
        }
    }

    #[test]
    fn a_waker_that_panics_leaves_nobody_asleep_and_harms_nobody_else() {
        let thread = std::thread::spawn(|| {
            wake_all(vec![Target::Task(panicking_waker()), Target::this_thread()]);
            // Returns at once, since this thread was woken.
            std::thread::park();
        });
        thread.join().expect("woken");
        // Nor does it if nobody is left to answer, or in the drop that an unwinding makes.
        let (completer, mut waiter) = pair::<Result<u8>>();
        let waker = panicking_waker();
        assert!(Pin::new(&mut waiter).poll(&mut Context::from_waker(&waker)).is_pending());
        let unwound = catch_unwind(AssertUnwindSafe(move || {
            let _dropped_while_unwinding = completer;
            panic!("another thread's");
        }));
        assert!(unwound.is_err());
    }

    #[test]
    fn a_task_is_woken() {
        let (completer, mut waiter) = pair();
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut waiter).poll(&mut context).is_pending());
        completer.complete(Ok(7));
        assert!(matches!(Pin::new(&mut waiter).poll(&mut context), Poll::Ready(Ok(7))));
        let Poll::Ready(Err(again)) = Pin::new(&mut waiter).poll(&mut context) else { panic!("it pends for ever") };
        assert_eq!(again.kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_wait_for_what_was_taken_before_ends() {
        let (completer, waiter) = pair();
        assert!(waiter.try_take().is_none(), "nothing is there");
        completer.complete(Ok(8));
        assert!(matches!(waiter.try_take(), Some(Ok(8))));
        assert!(waiter.try_take().is_none(), "it is given once");
        assert_eq!(waiter.wait().expect_err("taken").kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_wait_for_a_completer_that_is_gone_ends() {
        let (completer, waiter) = pair::<Result<u8>>();
        let thread = std::thread::spawn(move || waiter.wait());
        drop(completer);
        assert_eq!(thread.join().expect("no panic").expect_err("dropped").kind(), ErrorKind::Unknown);
    }
}

#[cfg(all(test, everlog_loom))]
mod loom_tests {
    use super::*;
    use crate::sync::{check, quiet};

    #[test]
    fn loom_a_waiter_is_never_left_asleep() {
        check(|| {
            let (completer, waiter) = pair();
            let giver = loom::thread::spawn(move || completer.complete(Ok(3)));
            assert_eq!(waiter.wait().expect("given"), 3);
            giver.join().expect("no panic");
        });
    }

    #[test]
    fn loom_those_on_one_event_are_woken_together() {
        check(|| {
            let event = Arc::new(Event::default());
            let (first, one) = pair_on(Arc::clone(&event));
            let (second, two) = pair_on(Arc::clone(&event));
            let sleeper = loom::thread::spawn(move || one.wait().expect("given"));
            let giver = loom::thread::spawn(move || {
                assert!(first.put(Ok(3)).is_none() && second.put(Ok(4)).is_none(), "no task was polled");
                event.happen();
            });
            assert_eq!(two.wait().expect("given"), 4);
            assert_eq!(sleeper.join().expect("no panic"), 3);
            giver.join().expect("no panic");
        });
    }

    #[test]
    fn loom_a_waiter_learns_that_its_completer_is_gone() {
        check(|| {
            let (completer, waiter) = pair::<Result<u8>>();
            let giver = loom::thread::spawn(move || drop(completer));
            assert_eq!(waiter.wait().expect_err("dropped").kind(), ErrorKind::Unknown);
            giver.join().expect("no panic");
        });
    }

    struct Unpark(Thread);

    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }

    /// Waits as a task does, on this thread.
    fn block_on<V>(mut waiter: Waiter<Result<V>>) -> Result<V> {
        let waker = Waker::from(std::sync::Arc::new(Unpark(current())));
        loop {
            match Pin::new(&mut waiter).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(answer) => return answer,
                Poll::Pending => crate::sync::park(),
            }
        }
    }

    #[test]
    fn loom_a_task_is_never_left_asleep() {
        check(|| {
            let (completer, waiter) = pair();
            let giver = loom::thread::spawn(move || completer.complete(Ok(3)));
            assert_eq!(block_on(waiter).expect("given"), 3);
            giver.join().expect("no panic");
        });
    }

    #[test]
    fn loom_a_task_learns_that_its_completer_is_gone() {
        check(|| {
            let (completer, waiter) = pair::<Result<u8>>();
            let giver = loom::thread::spawn(move || drop(completer));
            assert_eq!(block_on(waiter).expect_err("dropped").kind(), ErrorKind::Unknown);
            giver.join().expect("no panic");
        });
    }

    /// A frame's waiters are a task whose waker panics, another task, and a thread.
    #[test]
    fn loom_a_waker_that_panics_leaves_nobody_asleep() {
        quiet("a waker of a runtime that is gone");
        check(|| {
            let event = Arc::new(Event::default());
            let (first, mut panics) = pair_on(Arc::clone(&event));
            let (second, task) = pair_on(Arc::clone(&event));
            let (third, thread) = pair_on(Arc::clone(&event));
            let waker = panicking_waker();
            assert!(Pin::new(&mut panics).poll(&mut Context::from_waker(&waker)).is_pending());
            let giver = loom::thread::spawn(move || {
                let tasks = [first.put(Ok(1)), second.put(Ok(2)), third.put(Ok(3))];
                event.happen();
                wake_all(tasks.into_iter().flatten().collect());
            });
            let sleeper = loom::thread::spawn(move || thread.wait().expect("given"));
            assert_eq!(block_on(task).expect("given"), 2);
            assert_eq!(sleeper.join().expect("no panic"), 3);
            giver.join().expect("no panic");
            assert!(matches!(panics.try_take(), Some(Ok(1))));
        });
    }

    /// A task is polled again with another waker while the answer comes: the last one is woken, or the poll finds it.
    #[test]
    fn loom_a_task_that_moved_is_woken_where_it_is() {
        check(|| {
            let (completer, mut waiter) = pair();
            assert!(Pin::new(&mut waiter).poll(&mut Context::from_waker(Waker::noop())).is_pending());
            let giver = loom::thread::spawn(move || completer.complete(Ok(3)));
            assert_eq!(block_on(waiter).expect("given"), 3);
            giver.join().expect("no panic");
        });
    }
}
