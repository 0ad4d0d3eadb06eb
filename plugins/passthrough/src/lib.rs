//! The passthrough plugin.
