//! Leaving a server alone that does not answer, so that nobody waits for it in vain.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Failures in a row after which it is left alone.
const FAILURES: u32 = 3;
/// For how long; then one caller tries.
const PAUSE: Duration = Duration::from_secs(1);

/// Whether to ask.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    until: Option<Instant>,
}

impl Breaker {
    /// Whether to ask now. After a pause, the first who comes does, and the others wait for what becomes of it.
    pub fn lets_through(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.until {
            None => true,
            Some(until) if now < until => false,
            Some(_) => {
                state.until = Some(now + PAUSE);
                true
            }
        }
    }

    /// It has answered.
    pub fn answered(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = State::default();
    }

    /// It has not. `true`: from now on it is left alone.
    pub fn failed(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.failures = state.failures.saturating_add(1);
        let closes = state.failures >= FAILURES && state.until.is_none();
        if state.failures >= FAILURES {
            state.until = Some(now + PAUSE);
        }
        closes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_failures_one_tries_at_a_time_until_it_answers() {
        let (breaker, begin) = (Breaker::default(), Instant::now());
        assert!(!breaker.failed(begin) && !breaker.failed(begin) && breaker.lets_through(begin));
        assert!(breaker.failed(begin), "the third closes it");
        assert!(!breaker.lets_through(begin));
        let later = begin + PAUSE;
        assert!(breaker.lets_through(later) && !breaker.lets_through(later), "one tries");
        assert!(!breaker.failed(later), "it was closed already");
        assert!(!breaker.lets_through(later));
        assert!(breaker.lets_through(later + PAUSE));
        breaker.answered();
        assert!(breaker.lets_through(later) && breaker.lets_through(later));
    }

    #[test]
    fn an_answer_between_failures_keeps_it_open() {
        let (breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..10 {
            assert!(!breaker.failed(now) && !breaker.failed(now));
            breaker.answered();
        }
        assert!(breaker.lets_through(now));
    }
}
