//! How long a start takes, part by part (docs/startup.md).

use arrayvec::ArrayVec;

use crate::{log, trace};

/// How long the parts of the start took, for the log at level debug; nothing is kept otherwise.
pub struct Stages {
    last: Option<u64>,
    ended: ArrayVec<(&'static str, u64), 8>,
}

impl Stages {
    /// From `begin` on, in nanoseconds of [`trace::instant`].
    pub fn since(begin: u64) -> Self {
        Self { last: log::enabled(log::Level::Debug).then_some(begin), ended: ArrayVec::new() }
    }

    /// The part `name` took the time since the one before.
    pub fn end(&mut self, name: &'static str) {
        if let Some(last) = &mut self.last {
            let now = trace::instant();
            self.ended.push((name, now - *last));
            *last = now;
        }
    }

    /// Logs them.
    pub fn tell(&self) {
        for (name, nanoseconds) in &self.ended {
            trace::debug(format_args!("start: {name} {nanoseconds} ns"));
        }
    }
}
