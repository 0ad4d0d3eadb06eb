//! The memory plugin.
