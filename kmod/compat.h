/* SPDX-License-Identifier: GPL-2.0 */
/* The differences between kernels 6.1 and 7.3 that this module meets. */
#ifndef _DEFUSE_COMPAT_H
#define _DEFUSE_COMPAT_H

#include <linux/fs.h>
#include <linux/fs_context.h>
#include <linux/shmem_fs.h>
#include <linux/version.h>

/* 6.3: file locks left linux/fs.h. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#include <linux/filelock.h>
#endif

/* 6.3: inode operations take an idmapping, not a user namespace. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
#define defuse_idmap_t		struct mnt_idmap
#define defuse_no_idmap		(&nop_mnt_idmap)
#else
#define defuse_idmap_t		struct user_namespace
#define defuse_no_idmap		(&init_user_ns)
#endif

/* 6.6, 6.7: the time stamps became private, i_ctime first. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 7, 0)
#define defuse_init_times(inode)	simple_inode_init_ts(inode)
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#define defuse_init_times(inode) \
	((inode)->i_atime = (inode)->i_mtime = inode_set_ctime_current(inode))
#else
#define defuse_init_times(inode) \
	((inode)->i_atime = (inode)->i_mtime = (inode)->i_ctime = \
	 current_time(inode))
#endif

/* 6.13: struct file got a reference count type of its own. */
static inline bool defuse_tryget_file(struct file *file)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
	return file_ref_get(&file->f_ref);
#else
	return atomic_long_inc_not_zero(&file->f_count);
#endif
}

/* 6.12: "no events at all" is one value of two bits. */
static inline void defuse_no_notify(struct file *file)
{
#ifdef FMODE_FSNOTIFY_MASK
	file->f_mode &= ~FMODE_FSNOTIFY_MASK;
#endif
	file->f_mode |= FMODE_NONOTIFY;
}

/* 6.14: ->d_revalidate is told the parent and the name. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
#define DEFUSE_REVALIDATE_ARGS \
	struct inode *dir, const struct qstr *name, \
	struct dentry *dentry, unsigned int flags
#else
#define DEFUSE_REVALIDATE_ARGS	struct dentry *dentry, unsigned int flags
#endif

/* 6.17: the default dentry operations are set by a function. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
#define defuse_set_d_op(sb, ops)	set_default_d_op(sb, ops)
#else
#define defuse_set_d_op(sb, ops)	((sb)->s_d_op = (ops))
#endif

/* 6.17: vfs_parse_fs_string() measures the value itself. */
static inline int defuse_parse_fs_string(struct fs_context *fc,
					 const char *key, const char *value)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 17, 0)
	return vfs_parse_fs_string(fc, key, value);
#else
	return vfs_parse_fs_string(fc, key, value, value ? strlen(value) : 0);
#endif
}

/* 6.18: generic_delete_inode() was renamed. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0)
#define defuse_drop_inode	inode_just_drop
#else
#define defuse_drop_inode	generic_delete_inode
#endif

/* 6.19: the inode's state became private. */
static inline bool defuse_inode_is_new(struct inode *inode)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
	return inode_state_read_once(inode) & I_NEW;
#else
	return inode->i_state & I_NEW;
#endif
}

/* 7.0: VMA flags became a bitmap. */
static inline struct file *defuse_shmem_file(const char *name, loff_t size)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
	struct file *file = shmem_file_setup(name, size,
					     mk_vma_flags(VMA_NORESERVE_BIT));
#else
	struct file *file = shmem_file_setup(name, size, VM_NORESERVE);
#endif

	/* As memfd_create(2) does: a file like one that was opened. */
	if (!IS_ERR(file)) {
		file->f_mode |= FMODE_LSEEK | FMODE_PREAD | FMODE_PWRITE;
		file->f_flags |= O_LARGEFILE;
	}
	return file;
}

#endif /* _DEFUSE_COMPAT_H */
