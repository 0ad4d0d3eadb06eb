//! The `defuse` command as its users meet it. The library that is loaded into programs is an empty one here: what is tested is the
//! command, not the serving of files.

#[path = "cli/ends.rs"]
mod ends;
#[path = "cli/lab.rs"]
mod lab;
#[path = "cli/refusals.rs"]
mod refusals;
#[path = "cli/sessions.rs"]
mod sessions;
#[path = "cli/signals.rs"]
mod signals;
#[path = "cli/words.rs"]
mod words;
