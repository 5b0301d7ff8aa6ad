//! The gate of a pipeline: whether its tasks may read on.
//!
//! In: pauses (an operator's, the breaker's, a record's that may not be passed over) and resumes. Out: the same to every
//! task. A paused pipeline stays a member of its group, finishes what is under way, commits, and stands still.

use tokio::sync::watch;

/// Shared by all tasks of a pipeline. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate {
    state: watch::Sender<State>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    pause: Option<Pause>,
    /// How often the gate was opened.
    resumes: u64,
}

/// Why a pipeline stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Who paused it.
    pub by: PausedBy,
    /// Why, for people.
    pub cause: String,
}

/// What stands before a closed gate, until it has been opened once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// Why.
    pub by: PausedBy,
    /// Nothing had closed the gate before.
    pub was_open: bool,
    /// Its cause is told from now on: nothing had closed the gate before, or only an operator.
    pub is_new: bool,
    /// How often the gate had been opened.
    resumes: u64,
}

/// Who paused a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PausedBy {
    /// `pelton pause`
    Operator,
    /// Too many records failed.
    Breaker,
    /// A record failed, and the pipeline says `poison: stop`.
    Poison,
}

impl PausedBy {
    /// The label of the metric.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Breaker => "breaker",
            Self::Poison => "poison",
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self { state: watch::Sender::new(State::default()) }
    }
}

impl Gate {
    /// Closes the gate; the first cause stays, but for an operator's, to which that of the first failure is added: whoever
    /// resumes the pipeline lets what failed go, and must know it. True where it was open.
    pub fn pause(&self, by: PausedBy, cause: &str) -> bool {
        self.hold(by, cause).was_open
    }

    /// As [`Self::pause`], for somebody who waits until the gate is opened ([`Self::resumed`]).
    pub fn hold(&self, by: PausedBy, cause: &str) -> Hold {
        let (mut resumes, mut was_open, mut is_new) = (0, false, false);
        self.state.send_if_modified(|state| {
            resumes = state.resumes;
            let before = state.pause.take();
            let is_failure = by != PausedBy::Operator;
            let (pause, is_told) = match before {
                None => {
                    was_open = true;
                    (Pause { by, cause: cause.to_owned() }, true)
                }
                Some(Pause { by: PausedBy::Operator, cause: asked }) if is_failure => {
                    (Pause { by, cause: format!("{asked}; meanwhile: {cause}") }, true)
                }
                Some(before) => (before, false),
            };
            state.pause = Some(pause);
            is_new = is_told;
            is_told
        });
        Hold { by, was_open, is_new, resumes }
    }

    /// Waits until the gate has been opened since, even if it was closed again at once.
    pub async fn resumed(&self, hold: &Hold) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| state.resumes > hold.resumes).await;
    }

    /// Opens the gate.
    pub fn resume(&self) {
        self.state.send_modify(|state| {
            state.pause = None;
            state.resumes += 1;
        });
    }

    /// Why the pipeline stands still, if it does.
    #[must_use]
    pub fn paused(&self) -> Option<Pause> {
        self.state.borrow().pause.clone()
    }

    /// Waits until the gate is open, and says how often it has been opened.
    pub async fn opened(&self) -> u64 {
        let mut state = self.state.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        state.wait_for(|state| state.pause.is_none()).await.map_or(0, |state| state.resumes)
    }

    /// Waits until the gate is closed.
    pub async fn closed(&self) {
        let mut state = self.state.subscribe();
        let _ = state.wait_for(|state| state.pause.is_some()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_beside_an_operators_pause_and_the_first_failure_stays() {
        let gate = Gate::default();
        assert!(gate.pause(PausedBy::Operator, "paused by an operator"));
        let hold = gate.hold(PausedBy::Breaker, "3 of 3 records failed");
        assert!(hold.is_new && !hold.was_open);
        let both = Pause {
            by: PausedBy::Breaker,
            cause: "paused by an operator; meanwhile: 3 of 3 records failed".to_owned(),
        };
        assert_eq!(gate.paused(), Some(both.clone()));
        assert!(!gate.hold(PausedBy::Breaker, "5 of 5 records failed").is_new);
        assert!(!gate.pause(PausedBy::Operator, "paused by an operator"));
        assert_eq!(gate.paused(), Some(both));
        gate.resume();
        assert_eq!(gate.paused(), None);
    }
}
