/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * What user space says to a DEFUSE mount.
 *
 * Every request is an ioctl(2) on an FD of the mount: its root directory as
 * open(2) gives it, or any shadow FD. Structures are the same for 32- and
 * 64-bit callers; reserved fields and unknown flags must be zero (EINVAL
 * otherwise); pointers travel as __u64. Commands that are not listed here,
 * also these with another structure size, give ENOTTY.
 *
 * A user (fsuid) has a 64-bit name on each mount, drawn when it is mounted: the
 * same in all user namespaces, whatever number he has there, if any.
 */
#ifndef _UAPI_DEFUSE_IOCTL_H
#define _UAPI_DEFUSE_IOCTL_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DEFUSE_ABI_VERSION	2

/* statfs(2) f_type of a mount and of every shadow on it ("DFUS"). */
#define DEFUSE_SUPER_MAGIC	0x44465553

/* Longest path, in bytes, that DEFUSE_IOC_OPEN accepts. */
#define DEFUSE_PATH_MAX		4094

/* Most tokens that one DEFUSE_IOC_LIVE asks about. */
#define DEFUSE_LIVE_MAX		65536

/*
 * DEFUSE_IOC_OPEN - open a shadow FD without any look-up; returns the FD.
 *
 * EACCES	the caller may not search the mount's root directory
 * EEXIST	@token already names a live description of this user
 * EINVAL	flags, reserved fields, or a path that is absolute or has an
 *		empty, ".", ".." or over-long component or a NUL byte
 * EISDIR	a directory opened for writing
 * EROFS	opened for writing on a read-only mount
 * EWOULDBLOCK	O_NONBLOCK and a lease is being broken
 * besides EMFILE, ENFILE, ENOMEM, EFAULT.
 */
struct defuse_open {
	__u64 dev;		/* inode key: equal keys of one kind on one */
	__u64 ino;		/* mount are one inode to locks and leases */
	__u64 token;		/* names the description; unique per user */
	__u64 path;		/* relative to the mount, not NUL terminated */
	__u64 user;		/* where the caller's user goes, a __u64, before
				 * there is a description; or 0: nowhere */
	__u32 path_len;		/* bytes; 0 opens the mount's root itself */
	__u32 open_flags;	/* O_* as for open(2), without O_PATH */
	__u32 flags;		/* DEFUSE_OPEN_* */
	__u32 uid;		/* owner of the file: who may take a lease. One
				 * who is not in the caller's user namespace
				 * stays who others have said, or is nobody */
};

#define DEFUSE_OPEN_DIR		(1u << 0)	/* a directory */
#define DEFUSE_OPEN_FLAGS	DEFUSE_OPEN_DIR

/*
 * DEFUSE_IOC_IDENT - what is this FD?
 *
 * EREMOTEIO	a shadow that the kernel opened for somebody else, without a
 *		description: for a fanotify listener
 */
struct defuse_ident {
	__u64 dev;
	__u64 ino;
	__u64 token;
	__u64 user;		/* who opened it */
	__u8  mount[16];	/* random, drawn when mounted */
	__u64 path;		/* in: where the path goes, cut to the room */
	__u32 path_len;		/* in: room at @path; out: length of the path */
	__u32 kind;		/* DEFUSE_KIND_* */
	__u32 open_flags;	/* file status flags as F_GETFL gives them */
	__u32 reserved;		/* 0 */
};

#define DEFUSE_KIND_ROOT	0	/* the root by open(2): no description */
#define DEFUSE_KIND_FILE	1
#define DEFUSE_KIND_DIR		2

/* DEFUSE_IOC_MOUNT - which mount is this? Strings are not terminated. */
struct defuse_mount {
	__u8  mount[16];
	__u32 abi;		/* out: DEFUSE_ABI_VERSION */
	__u32 reserved;		/* 0 */
	__u64 backend;		/* in: where backend= goes, cut to the room */
	__u64 library;
	__u32 backend_len;	/* in: room; out: length */
	__u32 library_len;
};

/*
 * DEFUSE_IOC_LIVE - which descriptions are still open somewhere?
 *
 * A description lives until its last FD is closed, also FDs in flight in a
 * socket, and also when every holder was killed.
 */
struct defuse_live {
	__u64 tokens;		/* in: __u64[count] */
	__u64 live;		/* in: __u8[count], set to 0 or 1 */
	__u64 user;		/* who opened them */
	__u64 closed;		/* out: descriptions gone since mounted; read
				 * before the tokens were looked up */
	__u32 count;
	__u32 reserved;		/* 0 */
};

/*
 * DEFUSE_IOC_CACHE - memory for a file's mapped pages; returns a new FD.
 *
 * The FD is read-write tmpfs memory, one object per inode and user (fsuid), for
 * as long as anybody holds or maps it. Map it instead of the shadow. It
 * pins the mount and the inode. EISDIR on directories, EFBIG for @size.
 */
struct defuse_cache {
	__u64 size;		/* in: size if made now; out: size in bytes */
	__u32 flags;		/* DEFUSE_CACHE_CLOEXEC */
	__u32 created;		/* out: 1 if it was made now */
};

/*
 * DEFUSE_IOC_ARENA - memory of the mount's session; returns a new FD.
 *
 * As DEFUSE_IOC_CACHE, but one object per mount and user that stays until the
 * file system is unmounted, and does not pin it. Its size is what the first
 * request says, and sealed. With @size 0 it is not made: ENOENT if there is
 * none. EFBIG above DEFUSE_ARENA_MAX.
 */
#define DEFUSE_ARENA_MAX	(64u << 10)

#define DEFUSE_CACHE_CLOEXEC	(1u << 0)

#define DEFUSE_IOC_MAGIC	0xDF
#define DEFUSE_IOC_OPEN		_IOW(DEFUSE_IOC_MAGIC, 0x10, struct defuse_open)
#define DEFUSE_IOC_IDENT	_IOWR(DEFUSE_IOC_MAGIC, 0x11, struct defuse_ident)
#define DEFUSE_IOC_MOUNT	_IOWR(DEFUSE_IOC_MAGIC, 0x12, struct defuse_mount)
#define DEFUSE_IOC_LIVE		_IOWR(DEFUSE_IOC_MAGIC, 0x13, struct defuse_live)
#define DEFUSE_IOC_CACHE	_IOWR(DEFUSE_IOC_MAGIC, 0x14, struct defuse_cache)
#define DEFUSE_IOC_ARENA	_IOWR(DEFUSE_IOC_MAGIC, 0x15, struct defuse_cache)

#endif /* _UAPI_DEFUSE_IOCTL_H */
