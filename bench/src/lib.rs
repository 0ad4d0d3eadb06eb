//! What the measurements share: the product, processes that do pieces of work in it or only start, and numbers out of many rounds.

#![allow(clippy::cast_precision_loss)] // Times and counts are far below 2^52.

pub mod product;
pub mod start;
pub mod statistics;
pub mod worker;

/// Works on what is not served. What is not said by its name: `search` looks for a file in three directories that do not have it first, and
/// `mkdir` takes the directory away again.
pub const FOREIGN: [&str; 15] = [
    "getppid",
    "read-foreign",
    "write-foreign",
    "stat-foreign",
    "open-foreign",
    "stat-relative",
    "open-relative",
    "chmod-foreign",
    "stat-missing",
    "stat-relative-missing",
    "access-missing",
    "open-missing",
    "stat-search",
    "rename-foreign",
    "mkdir-foreign",
];
