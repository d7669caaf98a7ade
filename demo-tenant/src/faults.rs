//! What can go wrong on purpose, one fault at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    Revoked,
    Expired,
    ShortToken,
    NoRefresh,
    UnknownKey,
    OtherAudience,
    OtherNonce,
    NoRole,
    Unavailable,
    Slow,
}

#[derive(Default)]
pub struct Faults(Mutex<State>);

#[derive(Default)]
struct State {
    /// The fault that has not worked yet.
    active: Option<Fault>,
    /// Grants from before this time were revoked.
    revoked: Option<Instant>,
    /// Access tokens from before this time have expired.
    expired: Option<Instant>,
}

impl Faults {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn start(&self, fault: Fault) {
        let mut state = self.lock();
        state.active = Some(fault);
        match fault {
            Fault::Revoked => state.revoked = Some(Instant::now()),
            Fault::Expired => state.expired = Some(Instant::now()),
            _ => {}
        }
    }

    /// Stops the active fault. What was revoked stays revoked.
    pub fn stop(&self) {
        self.lock().active = None;
    }

    /// Takes back the fault that has not worked yet, as if nobody had asked for it. Returns it.
    pub fn take_back(&self) -> Option<Fault> {
        let mut state = self.lock();
        let fault = state.active.take()?;
        match fault {
            Fault::Revoked => state.revoked = None,
            Fault::Expired => state.expired = None,
            _ => {}
        }
        Some(fault)
    }

    pub fn reset(&self) {
        *self.lock() = State::default();
    }

    pub fn active(&self) -> Option<Fault> {
        self.lock().active
    }

    pub fn is_active(&self, fault: Fault) -> bool {
        self.active() == Some(fault)
    }

    pub fn revoked(&self) -> Option<Instant> {
        self.lock().revoked
    }

    pub fn expired(&self) -> Option<Instant> {
        self.lock().expired
    }

    /// Ends a fault, because it works now. Returns whether it was active.
    pub fn take(&self, fault: Fault) -> bool {
        self.lock().active.take_if(|active| *active == fault).is_some()
    }
}
