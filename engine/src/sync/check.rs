//! How a model is checked: with a bound on preemptions, on a stack that a whole store fits on, and with the number of
//! interleavings printed, so that a model that has become trivial is noticed.
//!
//! What it does not do: it makes no model. Invariant: a model that was checked ran more than once.

use super::spawn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Count, Ordering};

/// The most preemptions in one interleaving, unless the environment (`LOOM_MAX_PREEMPTIONS`) or the model says less.
const PREEMPTIONS_MAX: usize = 3;
/// More steps than any model takes: a model that spins is found by this.
const STEPS_MAX: usize = 20_000;

/// Checks `model` in every interleaving with at most three preemptions, or as many as the environment says.
#[track_caller]
pub fn check(model: impl Fn() + Send + Sync + 'static) {
    check_to(PREEMPTIONS_MAX, model);
}

/// As [`check`], with at most `preemptions` of them: for a model of which three would take minutes.
#[track_caller]
pub fn check_to(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    let bound = builder.preemption_bound.unwrap_or(PREEMPTIONS_MAX).min(preemptions);
    builder.preemption_bound = Some(bound);
    builder.max_branches = STEPS_MAX;
    let (model, runs) = (Arc::new(model), Arc::new(Count::new(0)));
    let began = std::time::Instant::now();
    let counted = Arc::clone(&runs);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        let model = Arc::clone(&model);
        // A thread of its own, since loom's first one has a small stack.
        let body = spawn("model", move || model()).expect("a thread of the model");
        body.join().expect("no panic");
    });
    let runs = runs.load(Ordering::Relaxed);
    let name = std::thread::current().name().unwrap_or("a model").to_owned();
    let took = began.elapsed().as_secs_f64();
    println!("{name}: {runs} interleavings, at most {bound} preemptions, {took:.1} s");
    assert!(runs > 1, "nothing in the model runs beside anything else");
}

/// Has panics with this message say nothing: a model makes one in each interleaving.
pub fn quiet(message: &'static str) {
    static QUIET: std::sync::Mutex<Vec<&str>> = std::sync::Mutex::new(Vec::new());
    let mut quiet = QUIET.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if quiet.is_empty() {
        let told = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let quiet = QUIET.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let wanted = panic.payload_as_str().is_some_and(|message| quiet.contains(&message));
            drop(quiet);
            if !wanted {
                told(panic);
            }
        }));
    }
    quiet.push(message);
}
