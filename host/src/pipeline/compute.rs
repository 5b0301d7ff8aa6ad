//! The compute threads: where guests run, apart from the threads that wait for the network.
//!
//! In: work, as futures. Out: what it gives. One queue for all threads, so that no thread idles while a batch waits. A
//! thread never waits for anything but work: what has to wait for an answer from outside gives its thread back, and
//! stands in the queue again when the answer is there.

use std::panic::AssertUnwindSafe;
use std::thread;

use async_task::Runnable;
use crossbeam_channel::Sender;
use futures::FutureExt as _;

/// A fixed set of threads. They end when the last clone is dropped and the queue is empty.
#[derive(Debug, Clone)]
pub struct Compute {
    jobs: Sender<Runnable>,
}

/// The work panicked: a fault of Pelton's own, never of a guest.
#[derive(Debug, Clone, thiserror::Error)]
#[error("an internal fault: {0}")]
pub struct Panicked(pub String);

impl Compute {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let (jobs, queue) = crossbeam_channel::unbounded::<Runnable>();
        for number in 0..threads.max(1) {
            let queue = queue.clone();
            thread::Builder::new().name(format!("compute-{number}")).spawn(move || {
                queue.iter().for_each(|job| {
                    job.run();
                });
            })?;
        }
        Ok(Self { jobs })
    }

    /// Runs a future on the threads. Dropping the call ends it where it waits next, or before it has begun.
    ///
    /// # Errors
    /// Where it panics.
    pub async fn run<R: Send + 'static>(&self, work: impl Future<Output = R> + Send + 'static) -> Result<R, Panicked> {
        let jobs = self.jobs.clone();
        // The threads hold the other end for as long as this one is there.
        let queue = move |job| drop(jobs.send(job));
        let (job, ended) = async_task::spawn(AssertUnwindSafe(work).catch_unwind(), queue);
        job.schedule();
        ended.await.map_err(Panicked::from)
    }
}

impl From<Box<dyn std::any::Any + Send>> for Panicked {
    fn from(panic: Box<dyn std::any::Any + Send>) -> Self {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        Self(text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a panic without words".into()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_answer_and_the_thread_lives_on() {
        let compute = Compute::start(1).unwrap();
        let error = compute.run(async { panic!("seven") }).await.map(|(): ()| ()).unwrap_err();
        assert_eq!(error.0, "seven");
        assert_eq!(compute.run(async { 7 }).await.unwrap(), 7);
    }

    #[tokio::test]
    async fn what_waits_holds_no_thread() {
        let compute = Compute::start(1).unwrap();
        let (answer, answered) = oneshot::channel::<u32>();
        let mut waits = std::pin::pin!(compute.run(async move { answered.await.unwrap() + 1 }));
        assert!(waits.as_mut().now_or_never().is_none());
        assert_eq!(compute.run(async { 7 }).await.unwrap(), 7, "the only thread is free");
        answer.send(41).unwrap();
        assert_eq!(waits.await.unwrap(), 42);
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_ends_where_it_waits() {
        let compute = Compute::start(1).unwrap();
        let (held, released) = oneshot::channel::<()>();
        let (_never, answered) = oneshot::channel::<()>();
        let work = async move {
            let _held = held;
            answered.await
        };
        assert!(compute.run(work).now_or_never().is_none());
        assert!(released.await.is_err(), "what it held is let go");
    }
}
