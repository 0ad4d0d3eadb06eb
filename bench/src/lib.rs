//! What the measurements share: the product, processes that do pieces of work in it or only start, and numbers out of many rounds.

#![allow(clippy::cast_precision_loss)] // Times and counts are far below 2^52.

pub mod product;
pub mod start;
pub mod statistics;
pub mod worker;
