/*
 * The plugin ABI of DEFUSE. Generated from crates/plugin-abi/src/abi.rs: do not edit.
 *
 *     cargo run -p plugin-abi --example header > crates/plugin-abi/include/defuse_plugin.h
 */
#ifndef DEFUSE_PLUGIN_H
#define DEFUSE_PLUGIN_H

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

/* First word of the table ("DFPL"). */
#define DEFUSE_MAGIC 1280329284
/* A plugin of another major version is refused. */
#define DEFUSE_ABI_MAJOR 1
/* Grows when members are added to the end of a struct; never a reason to refuse. */
#define DEFUSE_ABI_MINOR 1
/*
 * Functions may be called from several threads at once. Without it the host serialises them,
 * and never calls `lock` and `flock`, which may block.
 */
#define DEFUSE_CAP_THREAD_SAFE 1
/* `open` may answer DEFUSE_OPENED_NATIVE. */
#define DEFUSE_CAP_NATIVE_FD 2
/* Wants fork_prepare, fork_parent and fork_child. */
#define DEFUSE_CAP_FORK_HOOKS 4
/*
 * A backing_fd from `open` may be taken over by the host as the program's descriptor number,
 * and move_fd tells the plugin of every later number.
 */
#define DEFUSE_CAP_RELOCATABLE 8
/* Honours DEFUSE_WRITE_APPEND atomically, between processes too. */
#define DEFUSE_CAP_APPEND 16
/* One read never sees half of one write to the same file. */
#define DEFUSE_CAP_ATOMIC_IO 32
/* Applies the process's umask itself. Without it the host clears those bits of every mode first. */
#define DEFUSE_CAP_UMASK 64
/* Follows symbolic links in the middle of a path by itself, so ELOOP never asks the host to walk. */
#define DEFUSE_CAP_FOLLOWS_SYMLINKS 128
/* Files are seen by this process only: its children and the next program image get copies or nothing. */
#define DEFUSE_CAP_PROCESS_LOCAL 256
/*
 * Beside DEFUSE_CAP_RELOCATABLE: a handle is its descriptor and nothing else, which `open` makes by open(2),
 * openat(2) or openat2(2). `restore` with no blob and that descriptor makes the handle again, and exec needs no `save`.
 */
#define DEFUSE_CAP_BARE_FD 512
/*
 * `open` and `reopen` get O_CLOEXEC where the descriptor they make is to be closed by exec, and make it so; one that is
 * handed over with DEFUSE_OPENED_NATIVE is open. The host then does not look at it again.
 */
#define DEFUSE_CAP_CLOEXEC 1024
/*
 * `access` answers ELOOP for a symbolic link unless its `flags` have AT_SYMLINK_NOFOLLOW, and so does `setattr` if
 * DEFUSE_SET_NO_LINK is in `valid`: the host need not look first at what is there.
 */
#define DEFUSE_CAP_TELLS_LINKS 2048
/* The program's descriptor becomes backing_fd itself; the handle is not used again. */
#define DEFUSE_OPENED_NATIVE 1
/* The host need not ask the plugin for locks on this handle: it has none. */
#define DEFUSE_OPENED_NO_LOCKS 2
/* Write at the end of the file, whatever `offset` says. */
#define DEFUSE_WRITE_APPEND 1
/* `backing_fd`: pages for a mapping. */
#define DEFUSE_BACKING_MAP 1
/* `backing_fd`: a file to execute. */
#define DEFUSE_BACKING_EXEC 2
/* `backing_fd`: the descriptor by which the handle alone reads and writes, to change its status flags. */
#define DEFUSE_BACKING_FLAGS 3
/* Bits of `defuse_setattr.valid`. */
#define DEFUSE_SET_MODE 1
/* Set uid. */
#define DEFUSE_SET_UID 2
/* Set gid. */
#define DEFUSE_SET_GID 4
/* Truncate or extend to size. */
#define DEFUSE_SET_SIZE 8
/* Set atime to the value given. */
#define DEFUSE_SET_ATIME 16
/* Set mtime to the value given. */
#define DEFUSE_SET_MTIME 32
/* Set atime to now; the value given is ignored. */
#define DEFUSE_SET_ATIME_NOW 64
/* Set mtime to now; the value given is ignored. */
#define DEFUSE_SET_MTIME_NOW 128
/* Nothing to set: a symbolic link is to be answered with ELOOP. For DEFUSE_CAP_TELLS_LINKS. */
#define DEFUSE_SET_NO_LINK 256
/* `defuse_more.valid`: btime. */
#define DEFUSE_MORE_BTIME 1
/* Level of a log line: something went wrong. */
#define DEFUSE_LOG_ERROR 1
/* Level of a log line: something looks wrong. */
#define DEFUSE_LOG_WARN 2
/* Level of a log line: worth knowing. */
#define DEFUSE_LOG_INFO 3
/* Level of a log line: for the author of the plugin. */
#define DEFUSE_LOG_DEBUG 4

/* Takes one directory entry; non-zero means "enough, stop and return 0". */
typedef int (*defuse_emit)(void *ctx, const char *name, size_t name_len, uint64_t ino, uint32_t d_type,
                           uint64_t next_cookie);

/* What the host offers to a plugin. Valid until `finalize` returns. */
struct defuse_host {
    /* Bytes of this struct as the host knows it. */
    uint32_t size;
    /* Zero. */
    uint32_t reserved;
    /* First argument of every function here. */
    void *ctx;
    /* Writes a line (no newline needed) to the host's log. Callable from anywhere, fork hooks too. */
    int (*log)(void *ctx, uint32_t level, const char *text, size_t len);
    /*
     * With `on` 1: descriptors that this thread opens from now on are closed before the operation that it is in returns.
     * Then the host need not keep them out of the program's sight at once, which takes four system calls each. With 0:
     * others again.
     */
    int (*brief)(void *ctx, uint32_t on);
    /*
     * 1 where memory and descriptors do not belong together: in the child of a vfork, which runs in its parent's memory with
     * descriptors of its own, and where another process uses the same descriptors; also where there is no more room for them
     * out of the program's sight. A descriptor that was opened in another operation
     * may be another one here, or closed; one that is opened here is not to be kept for another operation. Else 0.
     */
    int (*transient)(void *ctx);
    /*
     * openat2(2) for the descriptor that `open` is about to answer with, sooner than the plugin, whose system calls
     * the host takes in, could make it. ENOSYS: the plugin is to make the call itself.
     */
    int (*openat2)(void *ctx, int dirfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve, int *out_fd);
};

/* Attributes to change, all of those in `valid` or none. */
struct defuse_setattr {
    /* DEFUSE_SET_* bits; members that are not named there are to be ignored. */
    uint32_t valid;
    /* Permission bits (07777). */
    uint32_t mode;
    /* Owner. */
    uint32_t uid;
    /* Group. */
    uint32_t gid;
    /* Length in bytes. */
    uint64_t size;
    /* Last access. */
    struct timespec atime;
    /* Last modification. */
    struct timespec mtime;
};

/* What statx(2) tells beyond `struct stat`. The host fills in zeros before the call. */
struct defuse_more {
    /* DEFUSE_MORE_* bits of what is given; unknown ones are ignored. */
    uint32_t valid;
    /* Zero. */
    uint32_t reserved;
    /* When the file was made. */
    struct timespec btime;
    /* STATX_ATTR_* bits that are set; the host knows itself what is the root of a mount. */
    uint64_t attributes;
    /* Those that the file system knows. */
    uint64_t attributes_mask;
};

/* Answer of `open` and `restore`. The host fills in {0, -1, 0, 0, 0} before the call. */
struct defuse_opened {
    /* The plugin's name for the open file, any value. */
    uint64_t handle;
    /* A descriptor behind the file, or -1. With DEFUSE_OPENED_NATIVE the host takes it over. */
    int32_t backing_fd;
    /* DEFUSE_OPENED_* bits; unknown ones are ignored. */
    uint32_t reply_flags;
    /* The file's type (S_IFMT bits of st_mode), or 0 when the plugin does not care to say. */
    uint32_t mode_type;
    /* Zero. */
    uint32_t reserved;
};

/*
 * The table a plugin exports as `const struct defuse_plugin defuse_plugin`.
 *
 * Every function returns 0 or an errno value. `fs` is what `init` gave. A NULL member, or one
 * beyond `size`, means ENOSYS or the default its comment names.
 *
 * Paths are NUL-terminated, relative to the mount and start with '/', without "." or ".." or
 * repeated or trailing '/'. An operation acts on the last component itself and never follows it
 * if it is a symbolic link; `open` of one answers ELOOP (unless O_PATH). A symbolic link in an
 * earlier component is answered with ELOOP too: the host then walks by `readlink`.
 *
 * Functions run on a thread of the program, inside one of its system calls.
 */
struct defuse_plugin {
    /* DEFUSE_MAGIC */
    uint32_t magic;
    /* DEFUSE_ABI_MAJOR */
    uint16_t abi_major;
    /* DEFUSE_ABI_MINOR */
    uint16_t abi_minor;
    /* sizeof(struct defuse_plugin) as the plugin knows it. */
    uint32_t size;
    /* Zero. */
    uint32_t reserved;
    /* DEFUSE_CAP_* bits; unknown ones are ignored. */
    uint64_t capabilities;
    /* A short name for messages, or NULL. */
    const char *name;
    /*
     * Makes an instance for one mount. `backend` and `options` come from the user ("" when absent).
     * On failure a message may be left in `error` (NUL-terminated, at most `error_size` bytes).
     */
    int (*init)(const struct defuse_host *host, const char *mount_point, const char *backend, const char *options, char *error, size_t error_size, void **out_fs);
    /* The last call on this instance; every handle was closed. Default: nothing. */
    int (*finalize)(void *fs);
    /* Attributes of the file at `path`. */
    int (*getattr)(void *fs, const char *path, struct stat *out);
    /* Attributes of an open file, also when its name is gone. */
    int (*fgetattr)(void *fs, uint64_t handle, struct stat *out);
    /* Changes attributes. */
    int (*setattr)(void *fs, const char *path, const struct defuse_setattr *attr);
    /* Changes attributes of an open file. */
    int (*fsetattr)(void *fs, uint64_t handle, const struct defuse_setattr *attr);
    /*
     * Opens or creates. `flags` are open(2)'s without O_CLOEXEC (but see DEFUSE_CAP_CLOEXEC). O_RDWR comes with O_APPEND only if the plugin has
     * DEFUSE_CAP_APPEND, DEFUSE_CAP_NATIVE_FD or DEFUSE_CAP_RELOCATABLE: others are told where the end is. Directories are opened here too.
     * With O_TMPFILE `path` is the directory. The plugin checks permissions.
     */
    int (*open)(void *fs, const char *path, int flags, mode_t mode, struct defuse_opened *out);
    /* The handle is not used again, whatever is returned. */
    int (*close)(void *fs, uint64_t handle);
    /* One of the descriptors that share the handle is being closed. Default: 0. */
    int (*flush)(void *fs, uint64_t handle);
    /* Reads at `offset`; fewer bytes than asked only at the end of the file. */
    int (*read)(void *fs, uint64_t handle, void *buf, size_t size, off_t offset, size_t *out_read);
    /*
     * Writes at `offset`, or at the end with DEFUSE_WRITE_APPEND. `out_end` is the offset after the
     * last byte written.
     */
    int (*write)(void *fs, uint64_t handle, const void *buf, size_t size, off_t offset, uint32_t flags, size_t *out_written, off_t *out_end);
    /* As read, into several buffers. Default: read for each. */
    int (*readv)(void *fs, uint64_t handle, const struct iovec *iov, int count, off_t offset, size_t *out_read);
    /* As write, from several buffers. Default: write for each. */
    int (*writev)(void *fs, uint64_t handle, const struct iovec *iov, int count, off_t offset, uint32_t flags, size_t *out_written, off_t *out_end);
    /* Makes data (and, unless `datasync`, attributes) durable. Default: 0. */
    int (*fsync)(void *fs, uint64_t handle, int datasync);
    /* fallocate(2). Default: EOPNOTSUPP. */
    int (*fallocate)(void *fs, uint64_t handle, int mode, off_t offset, off_t len);
    /* SEEK_DATA and SEEK_HOLE only. Default: all data, one hole at the end. */
    int (*lseek)(void *fs, uint64_t handle, off_t offset, int whence, off_t *out);
    /* copy_file_range(2) inside the mount. Default: EOPNOTSUPP, and the host copies. */
    int (*copy_range)(void *fs, uint64_t handle_in, off_t offset_in, uint64_t handle_out, off_t offset_out, size_t len, size_t *out_copied);
    /*
     * Hands entries to `emit` from `cookie` on (0: the start), "." and ".." among them, until it returns
     * non-zero or the directory ends. A cookie stays good while the handle is open.
     */
    int (*readdir)(void *fs, uint64_t handle, uint64_t cookie, defuse_emit emit, void *ctx);
    /* Makes a directory. */
    int (*mkdir)(void *fs, const char *path, mode_t mode);
    /* Removes an empty directory. */
    int (*rmdir)(void *fs, const char *path);
    /* Removes a name. Files still open stay readable. */
    int (*unlink)(void *fs, const char *path);
    /* renameat2(2) with its flags; EINVAL for flags that are not supported. */
    int (*rename)(void *fs, const char *old_path, const char *new_path, unsigned int flags);
    /* Another name for `path` (a symbolic link itself when it is one). */
    int (*link)(void *fs, const char *path, const char *new_path);
    /* A name for an open file, as linkat(2) with AT_EMPTY_PATH: for O_TMPFILE. */
    int (*flink)(void *fs, uint64_t handle, const char *new_path);
    /* Makes a symbolic link at `path`. */
    int (*symlink)(void *fs, const char *target, const char *path);
    /* The target, cut at `size`, without a NUL. */
    int (*readlink)(void *fs, const char *path, char *buf, size_t size, size_t *out_len);
    /* A FIFO, socket, device or plain file. */
    int (*mknod)(void *fs, const char *path, mode_t mode, dev_t dev);
    /* access(2); `flags` may hold AT_EACCESS (and see DEFUSE_CAP_TELLS_LINKS). Default: from getattr. */
    int (*access)(void *fs, const char *path, int mode, int flags);
    /* statfs(2). Default: made up by the host. */
    int (*statfs)(void *fs, const char *path, struct statfs *out);
    /* fstatfs(2). Default: made up by the host. */
    int (*fstatfs)(void *fs, uint64_t handle, struct statfs *out);
    /* syncfs(2) of the whole instance. Default: 0. */
    int (*syncfs)(void *fs);
    /* lgetxattr(2): with `size` 0 only the length is asked. Default of all eight: EOPNOTSUPP. */
    int (*getxattr)(void *fs, const char *path, const char *name, void *value, size_t size, size_t *out_len);
    /* lsetxattr(2). */
    int (*setxattr)(void *fs, const char *path, const char *name, const void *value, size_t size, int flags);
    /* llistxattr(2): names, each with its NUL. */
    int (*listxattr)(void *fs, const char *path, char *list, size_t size, size_t *out_len);
    /* lremovexattr(2). */
    int (*removexattr)(void *fs, const char *path, const char *name);
    /* getxattr of an open file. */
    int (*fgetxattr)(void *fs, uint64_t handle, const char *name, void *value, size_t size, size_t *out_len);
    /* setxattr of an open file. */
    int (*fsetxattr)(void *fs, uint64_t handle, const char *name, const void *value, size_t size, int flags);
    /* listxattr of an open file. */
    int (*flistxattr)(void *fs, uint64_t handle, char *list, size_t size, size_t *out_len);
    /* removexattr of an open file. */
    int (*fremovexattr)(void *fs, uint64_t handle, const char *name);
    /*
     * fcntl(2) record locks: F_SETLK, F_SETLKW, F_GETLK and F_OFD_*; `lock` has absolute offsets
     * (SEEK_SET). Default: ENOSYS, and the host keeps the locks.
     */
    int (*lock)(void *fs, uint64_t handle, int cmd, struct flock *lock);
    /*
     * flock(2). Default: ENOSYS, and the host keeps the locks. To learn that, the host calls it with LOCK_NB
     * alone, which is no operation (EINVAL).
     */
    int (*flock)(void *fs, uint64_t handle, int operation);
    /*
     * Writes what `restore` needs in the next program image into `blob`, and lists descriptors that have
     * to stay open across exec, by their numbers. The handle stays open and usable. ERANGE when one of
     * the buffers is too small, with both lengths set. Default: ENOSYS, and the host opens by path.
     */
    int (*save)(void *fs, uint64_t handle, void *blob, size_t blob_size, size_t *out_len, int *keep_fds, size_t keep_size, size_t *out_keep);
    /*
     * Makes a handle from `save`'s blob. `fds` are the kept descriptors in the same order, perhaps under
     * other numbers; they belong to the plugin from here on, unless it fails. See also DEFUSE_CAP_BARE_FD.
     */
    int (*restore)(void *fs, const void *blob, size_t len, const int *fds, size_t fd_count, struct defuse_opened *out);
    /*
     * Before fork. The three run under the locks of libc's malloc: no allocation, and no waiting for a thread that may want malloc
     * (one that is in the middle of an operation, unless operations allocate elsewhere).
     */
    int (*fork_prepare)(void *fs);
    /* After fork, in the parent. */
    int (*fork_parent)(void *fs);
    /* After fork, in the child, whose only thread this is. */
    int (*fork_child)(void *fs);
    /*
     * Lends a descriptor whose pages are the file's, for a DEFUSE_BACKING_* purpose; it stays the
     * plugin's. Default: ENOSYS, and the host pages through `read`.
     */
    int (*backing_fd)(void *fs, uint64_t handle, uint32_t purpose, int *out_fd);
    /*
     * The handle's descriptor has the number `new_fd` now (the host moved it; the old number is no longer
     * the plugin's). `handle` holds the handle and takes its name from now on. Only for plugins with
     * DEFUSE_CAP_RELOCATABLE, never beside another call on this handle; must not fail.
     */
    int (*move_fd)(void *fs, uint64_t *handle, int new_fd);
    /* ioctl(2) the host does not serve itself. Default: ENOTTY. */
    int (*ioctl)(void *fs, uint64_t handle, unsigned long request, void *arg, int *out_result);
    /*
     * Opens the file behind a handle once more, as open(2) of /proc/self/fd does: also when its name is
     * gone. `flags` as for `open`, never with O_CREAT. Default: ENOSYS, and the host opens by path.
     */
    int (*reopen)(void *fs, uint64_t handle, int flags, struct defuse_opened *out);
    /* What getattr cannot tell, for programs that ask statx(2) for the time when the file was made. Default: nothing. */
    int (*getmore)(void *fs, const char *path, struct defuse_more *out);
    /* The same of an open file. */
    int (*fgetmore)(void *fs, uint64_t handle, struct defuse_more *out);
};

/* What the plugin defines. */
extern const struct defuse_plugin defuse_plugin;

/* The first members of every table. */
#define DEFUSE_PLUGIN_HEADER \
    .magic = DEFUSE_MAGIC, .abi_major = DEFUSE_ABI_MAJOR, .abi_minor = DEFUSE_ABI_MINOR, \
    .size = sizeof(struct defuse_plugin)

#ifdef __cplusplus
}
#endif

#endif
