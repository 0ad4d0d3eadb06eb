//! Random programs against plain memory, without what kernels after 6.1 have.

#[path = "model.rs"]
mod model;
