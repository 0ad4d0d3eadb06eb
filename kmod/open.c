// SPDX-License-Identifier: GPL-2.0
/* DEFUSE_IOC_OPEN: a shadow FD by key, without a path walk. */
#include <linux/cred.h>
#include <linux/dcache.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/mount.h>
#include <linux/random.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "defuse.h"

#define DEFUSE_OPEN_O_FLAGS						\
	(O_ACCMODE | O_CREAT | O_EXCL | O_NOCTTY | O_TRUNC | O_APPEND |	\
	 O_NONBLOCK | O_SYNC | FASYNC | O_DIRECT | O_LARGEFILE |	\
	 O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_CLOEXEC)

static int defuse_check_request(const struct defuse_open *req)
{
	bool dir = req->flags & DEFUSE_OPEN_DIR;

	if (req->flags & ~DEFUSE_OPEN_FLAGS)
		return -EINVAL;
	if (req->open_flags & ~DEFUSE_OPEN_O_FLAGS ||
	    (req->open_flags & O_ACCMODE) == O_ACCMODE)
		return -EINVAL;
	if (req->path_len > DEFUSE_PATH_MAX || (!req->path_len && !dir))
		return -EINVAL;
	if (!dir && req->open_flags & O_DIRECTORY)
		return -ENOTDIR;
	if (dir && (req->open_flags & O_ACCMODE) != O_RDONLY)
		return -EISDIR;
	return 0;
}

/* What is shown by /proc must be a path that could be typed. */
static bool defuse_path_is_clean(const char *path, size_t len)
{
	const char *end = path + len, *slash;
	size_t n;

	if (memchr(path, '\0', len))
		return false;
	for (;; path = slash + 1) {
		slash = memchr(path, '/', end - path) ?: end;
		n = slash - path;
		if (!n || n > NAME_MAX ||
		    (path[0] == '.' && (n == 1 || (n == 2 && path[1] == '.'))))
			return false;
		if (slash == end)
			return true;
	}
}

/*
 * One dentry below the root that has the whole path for its name: that is
 * all that d_path() and getcwd() need, whatever the depth. It is hashed, as
 * else it would show as deleted, but under a random hash: nobody looks it up,
 * and many FDs of one path must not share a bucket.
 */
static struct dentry *defuse_add_dentry(struct super_block *sb,
					const struct defuse_open *req,
					const struct defuse_key *key,
					const char *path)
{
	struct qstr name = QSTR_INIT(path, req->path_len);
	kuid_t owner = make_kuid(current_user_ns(), req->uid);
	struct dentry *dentry;
	struct inode *inode;

	if (!defuse_path_is_clean(path, req->path_len))
		return ERR_PTR(-EINVAL);
	name.hash = get_random_u32();
	dentry = d_alloc(sb->s_root, &name);
	if (!dentry)
		return ERR_PTR(-ENOMEM);
	inode = defuse_iget(sb, key);
	if (!inode) {
		dput(dentry);
		return ERR_PTR(-ENOMEM);
	}
	/* Who cannot name the owner leaves him who he is: see defuse_iget(). */
	if (uid_valid(owner))
		WRITE_ONCE(inode->i_uid, owner);
	d_add(dentry, inode);
	return dentry;
}

/* The same, from the caller's path: most are short enough for the stack. */
static struct dentry *defuse_new_dentry(struct super_block *sb,
					const struct defuse_open *req,
					const struct defuse_key *key)
{
	const void __user *from = u64_to_user_ptr(req->path);
	struct dentry *dentry;
	char short_path[128];
	char *path;

	if (req->path_len <= sizeof(short_path)) {
		if (copy_from_user(short_path, from, req->path_len))
			return ERR_PTR(-EFAULT);
		return defuse_add_dentry(sb, req, key, short_path);
	}
	path = memdup_user(from, req->path_len);
	if (IS_ERR(path))
		return ERR_CAST(path);
	dentry = defuse_add_dentry(sb, req, key, path);
	kfree(path);
	return dentry;
}

/*
 * The description is given to the file that the caller gets, when nothing can
 * fail any more. Others may open the dentry meanwhile or later, without a path
 * walk: fanotify does for who is asked for his permission. They get a file
 * that has no description.
 */
static struct file *defuse_open_dentry(struct path *path, int flags,
				       struct defuse_desc *desc)
{
	struct file *file = dentry_open(path, flags, current_cred());

	if (IS_ERR(file))
		defuse_desc_free(DEFUSE_SB(path->mnt->mnt_sb), desc);
	else
		file->private_data = desc;
	return file;
}

static struct file *defuse_open_file(struct file *via,
				     const struct defuse_open *req)
{
	struct defuse_sb *sbi = DEFUSE_SB(file_inode(via)->i_sb);
	struct defuse_key key = {
		.dev = req->dev,
		.ino = req->ino,
		.type = req->flags & DEFUSE_OPEN_DIR ? S_IFDIR : S_IFREG,
	};
	struct path path = { .mnt = via->f_path.mnt };
	int flags = req->open_flags & ~(O_CLOEXEC | O_NOFOLLOW);
	struct defuse_desc *desc;
	struct file *file;

	desc = defuse_desc_new(sbi, req->token, &key);
	if (IS_ERR(desc))
		return ERR_CAST(desc);
	if (req->path_len)
		path.dentry = defuse_new_dentry(path.mnt->mnt_sb, req, &key);
	else
		path.dentry = dget(path.mnt->mnt_sb->s_root);
	if (IS_ERR(path.dentry)) {
		defuse_desc_free(sbi, desc);
		return ERR_CAST(path.dentry);
	}
	file = defuse_open_dentry(&path, flags, desc);
	dput(path.dentry);
	return file;
}

int defuse_open_shadow(struct file *via, const struct defuse_open *req)
{
	struct dentry *root = via->f_path.dentry->d_sb->s_root;
	struct file *file;
	int fd, err;

	err = defuse_check_request(req);
	if (err)
		return err;
	err = inode_permission(defuse_no_idmap, d_inode(root), MAY_EXEC);
	if (err)
		return err;
	/* First, so that it is there when others come by the FD. */
	if (req->user && put_user(defuse_user(DEFUSE_SB(root->d_sb),
					      current_fsuid()),
				  (u64 __user *)u64_to_user_ptr(req->user)))
		return -EFAULT;
	fd = get_unused_fd_flags(req->open_flags & O_CLOEXEC);
	if (fd < 0)
		return fd;
	file = defuse_open_file(via, req);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	fd_install(fd, file);
	return fd;
}
