//! What libc does around fork(3): its handlers.

/// Has libc call these before a fork, and after it in the parent and in the child, for ever: handlers that are registered later are called first
/// before a fork, and last after it. Where it cannot, they are not called.
pub fn register(prepare: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) {
    // SAFETY: the three are safe functions of this library, which is never unloaded.
    unsafe { libc::pthread_atfork(Some(prepare), Some(in_parent), Some(in_child)) };
}
