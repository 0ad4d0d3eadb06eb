// SPDX-License-Identifier: GPL-2.0
/* The requests of defuse_ioctl.h: copied in, carried out, copied back. */
#include <linux/cred.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "defuse.h"

/* Copy what fits into the caller's room and tell the whole length. */
static int defuse_copy_string(u64 user, u32 *len, const char *s, u32 n)
{
	u32 room = *len;

	*len = n;
	if (copy_to_user(u64_to_user_ptr(user), s, min(room, n)))
		return -EFAULT;
	return 0;
}

static long defuse_ioc_open(struct file *file, void __user *arg)
{
	struct defuse_open req;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	return defuse_open_shadow(file, &req);
}

static long defuse_ioc_ident(struct file *file, void __user *arg)
{
	struct dentry *dentry = file->f_path.dentry;
	const struct defuse_sb *sbi = DEFUSE_SB(dentry->d_sb);
	const struct defuse_desc *desc = file->private_data;
	struct defuse_ident req;
	int err;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (req.reserved)
		return -EINVAL;
	if (!desc && !IS_ROOT(dentry))
		return DEFUSE_REFUSED;

	memcpy(req.mount, sbi->id, sizeof(req.mount));
	req.dev = 0;
	req.ino = 0;
	req.token = 0;
	req.kind = DEFUSE_KIND_ROOT;
	req.user = defuse_user(sbi, file->f_cred->fsuid);
	req.open_flags = file->f_flags;
	if (desc) {
		req.dev = desc->key.dev;
		req.ino = desc->key.ino;
		req.token = desc->name.token;
		req.kind = S_ISDIR(desc->key.type) ? DEFUSE_KIND_DIR
						   : DEFUSE_KIND_FILE;
	}
	/* A shadow's name never changes, so it needs no lock. */
	if (IS_ROOT(dentry))
		err = defuse_copy_string(req.path, &req.path_len, "", 0);
	else
		err = defuse_copy_string(req.path, &req.path_len,
					 dentry->d_name.name,
					 dentry->d_name.len);
	if (err)
		return err;
	return copy_to_user(arg, &req, sizeof(req)) ? -EFAULT : 0;
}

static long defuse_ioc_mount(struct file *file, void __user *arg)
{
	const struct defuse_sb *sbi = DEFUSE_SB(file_inode(file)->i_sb);
	struct defuse_mount req;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (req.reserved)
		return -EINVAL;
	memcpy(req.mount, sbi->id, sizeof(req.mount));
	req.abi = DEFUSE_ABI_VERSION;
	if (defuse_copy_string(req.backend, &req.backend_len, sbi->backend,
			       strlen(sbi->backend)) ||
	    defuse_copy_string(req.library, &req.library_len, sbi->library,
			       strlen(sbi->library)) ||
	    copy_to_user(arg, &req, sizeof(req)))
		return -EFAULT;
	return 0;
}

static long defuse_ioc_live(struct file *file, void __user *arg)
{
	struct defuse_sb *sbi = DEFUSE_SB(file_inode(file)->i_sb);
	u64 __user *tokens;
	u8 __user *live;
	struct defuse_live req;
	u64 token;
	u32 i;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (req.count > DEFUSE_LIVE_MAX || req.reserved)
		return -EINVAL;

	tokens = u64_to_user_ptr(req.tokens);
	live = u64_to_user_ptr(req.live);
	/* First: a close that a look-up below misses is not counted. */
	req.closed = atomic64_read_acquire(&sbi->closed);
	for (i = 0; i < req.count; i++) {
		if (get_user(token, tokens + i) ||
		    put_user((u8)defuse_desc_lives(sbi, token, req.user),
			     live + i))
			return -EFAULT;
		cond_resched();
		if (fatal_signal_pending(current))
			return -EINTR;
	}
	return copy_to_user(arg, &req, sizeof(req)) ? -EFAULT : 0;
}

/* A tmpfs file that processes share, as a new FD. */
static long defuse_ioc_memory(struct file *via, void __user *arg,
			      struct file *(*get)(struct file *via,
						  struct defuse_cache *req))
{
	struct defuse_cache req;
	struct file *file;
	int fd;

	if (copy_from_user(&req, arg, sizeof(req)))
		return -EFAULT;
	if (req.flags & ~DEFUSE_CACHE_CLOEXEC || req.created)
		return -EINVAL;
	if (req.size > MAX_LFS_FILESIZE)
		return -EFBIG;
	fd = get_unused_fd_flags(req.flags & DEFUSE_CACHE_CLOEXEC ?
				 O_CLOEXEC : 0);
	if (fd < 0)
		return fd;
	file = get(via, &req);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	req.size = i_size_read(file_inode(file));
	if (copy_to_user(arg, &req, sizeof(req))) {
		fput(file);
		put_unused_fd(fd);
		return -EFAULT;
	}
	fd_install(fd, file);
	return fd;
}

long defuse_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	void __user *argp = (void __user *)arg;

	switch (cmd) {
	case DEFUSE_IOC_OPEN:
		return defuse_ioc_open(file, argp);
	case DEFUSE_IOC_IDENT:
		return defuse_ioc_ident(file, argp);
	case DEFUSE_IOC_MOUNT:
		return defuse_ioc_mount(file, argp);
	case DEFUSE_IOC_LIVE:
		return defuse_ioc_live(file, argp);
	case DEFUSE_IOC_CACHE:
		return defuse_ioc_memory(file, argp, defuse_get_pages);
	case DEFUSE_IOC_ARENA:
		return defuse_ioc_memory(file, argp, defuse_get_arena);
	default:
		return -ENOTTY;
	}
}
