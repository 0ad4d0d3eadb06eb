//! Why there is no room for the session's memory in a process.

use rustix::process::{Resource, getrlimit};
use stash::StashError;

/// `error`, which kept the arena from being mapped; and the limit of the process, if that may be the reason.
pub fn explain(error: &StashError) -> String {
    explain_with(error, getrlimit(Resource::As).current)
}

fn explain_with(error: &StashError, limit: Option<u64>) -> String {
    let no_memory = matches!(error, StashError::Io { errno: rustix::io::Errno::NOMEM, .. });
    match limit {
        Some(bytes) if no_memory => format!(
            "{error}: the address space is limited to {} KiB (RLIMIT_AS), and a session takes 200 MiB of it; \
             raise it with 'ulimit -v'",
            bytes / 1024,
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::explain_with;
    use rustix::io::Errno;
    use stash::StashError;

    #[test]
    fn the_limit_is_named_where_it_may_be_the_reason() {
        let error = |errno| StashError::Io { doing: "mapping", errno };
        let limited = explain_with(&error(Errno::NOMEM), Some(1 << 20));
        assert!(limited.contains("1024 KiB") && limited.contains("ulimit -v"), "{limited}");
        assert!(!explain_with(&error(Errno::NOMEM), None).contains("ulimit"));
        assert!(!explain_with(&error(Errno::ACCESS), Some(1 << 20)).contains("ulimit"));
    }
}
