//! How far it is, and how long it will take.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar on a terminal, lines elsewhere.
pub struct Progress {
    bar: ProgressBar,
    terminal: bool,
}

impl Progress {
    /// Of that many seconds in all, roughly; what counts is their proportion.
    pub fn new(seconds: f64) -> Self {
        let bar =
            ProgressBar::with_draw_target(Some(milliseconds(seconds)), ProgressDrawTarget::stderr_with_hz(4));
        if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent:>3} %  {eta_precise} left  {msg}")
        {
            bar.set_style(style);
        }
        let terminal = !bar.is_hidden();
        Self { bar, terminal }
    }

    /// What comes next.
    pub fn say(&self, what: &str) {
        if self.terminal {
            self.bar.set_message(what.to_owned());
        } else {
            let done = self.bar.position() * 100 / self.bar.length().unwrap_or(1).max(1);
            eprintln!("{done:>3} %  {:>4} s  {what}", self.bar.elapsed().as_secs());
        }
    }

    /// A part of the seconds is done.
    pub fn done(&self, seconds: f64) {
        self.bar.inc(milliseconds(seconds));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1000.0) as u64
}
