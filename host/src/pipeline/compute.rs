//! The compute threads: where guests run, apart from the threads that wait for the network.
//!
//! In: closures. Out: what they give. One queue for all threads, so that no thread idles while a batch waits. Never
//! waits for anything but work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use crossbeam_channel::Sender;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// A fixed set of threads. They end when the last clone is dropped and the queue is empty.
#[derive(Debug, Clone)]
pub struct Compute {
    jobs: Sender<Job>,
}

/// A closure panicked: a fault of Pelton's own, never of a guest.
#[derive(Debug, Clone, thiserror::Error)]
#[error("an internal fault: {0}")]
pub struct Panicked(pub String);

impl Compute {
    /// Starts `threads` threads.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let (jobs, queue) = crossbeam_channel::unbounded::<Job>();
        for number in 0..threads.max(1) {
            let queue = queue.clone();
            thread::Builder::new()
                .name(format!("compute-{number}"))
                .spawn(move || queue.iter().for_each(|job| job()))?;
        }
        Ok(Self { jobs })
    }

    /// Runs a closure on one of the threads. Dropping the call does not stop the closure.
    ///
    /// # Errors
    /// Where the closure panics.
    pub async fn run<R: Send + 'static>(&self, work: impl FnOnce() -> R + Send + 'static) -> Result<R, Panicked> {
        let (answer, answered) = oneshot::channel();
        let job = Box::new(move || {
            let result = catch_unwind(AssertUnwindSafe(work)).map_err(Panicked::from);
            // Nobody may wait any more: a task that was stopped.
            let _ = answer.send(result);
        });
        self.jobs.send(job).map_err(|_| Panicked("the compute threads have ended".into()))?;
        answered.await.unwrap_or_else(|_| Err(Panicked("a compute thread ended".into())))
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
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_answer_and_the_thread_lives_on() {
        let compute = Compute::start(1).unwrap();
        let error = compute.run(|| -> u32 { panic!("seven") }).await.unwrap_err();
        assert_eq!(error.0, "seven");
        assert_eq!(compute.run(|| 7).await.unwrap(), 7);
    }
}
