//! What libc does around fork(3): its handlers, and its lock of the list of streams.

unsafe extern "C" {
    // glibc's, under these names since 2.2. The lock that fork(3) takes just before malloc's; its holder may take it again.
    fn _IO_list_lock();
    fn _IO_list_unlock();
    fn _IO_list_resetlock();
}

/// Has libc call these before a fork, and after it in the parent and in the child, for ever: handlers that are registered later are called first
/// before a fork, and last after it. Where it cannot, they are not called.
pub fn register(prepare: extern "C" fn(), in_parent: extern "C" fn(), in_child: extern "C" fn()) {
    // SAFETY: the three are safe functions of this library, which is never unloaded.
    unsafe { libc::pthread_atfork(Some(prepare), Some(in_parent), Some(in_child)) };
}

/// Takes the lock of the list of streams for this thread.
pub fn lock_streams() {
    // SAFETY: no argument, and no state but the lock.
    unsafe { _IO_list_lock() }
}

/// Gives back what [`lock_streams`] took in this thread.
pub fn unlock_streams() {
    // SAFETY: as above.
    unsafe { _IO_list_unlock() }
}

/// In a forked child, whose only thread took it before: frees it, as libc does, unless it believed that there was one thread before as well.
pub fn reset_streams() {
    // SAFETY: as above.
    unsafe { _IO_list_resetlock() }
}
