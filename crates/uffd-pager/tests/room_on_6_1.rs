//! Sources larger than the room for their pages, without what kernels after 6.1 have.

#[path = "room.rs"]
mod room;
