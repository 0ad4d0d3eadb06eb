// SPDX-License-Identifier: GPL-2.0
/*
 * Open shadows. Offset (lseek), status flags, locks and leases are the
 * kernel's own; everything that needs the file's data is refused.
 */
#include <linux/fs.h>
#include <linux/seq_file.h>
#include <linux/uio.h>

#include "defuse.h"

/* Nobody comes here by a path: ->permission has refused. See open.c. */
static int defuse_open(struct inode *inode, struct file *file)
{
	/*
	 * O_DIRECT is a status flag to keep like the others. The kernel
	 * sees none of what happens to the file: no half of its events.
	 */
	file->f_mode |= FMODE_CAN_ODIRECT;
	defuse_no_notify(file);
	return 0;
}

static int defuse_release(struct inode *inode, struct file *file)
{
	if (file->private_data)
		defuse_desc_free(DEFUSE_SB(inode->i_sb), file->private_data);
	return 0;
}

/* A plain offset: only the library knows where the file ends. */
static loff_t defuse_llseek(struct file *file, loff_t offset, int whence)
{
	if (whence != SEEK_SET && whence != SEEK_CUR)
		return DEFUSE_REFUSED;
	return generic_file_llseek_size(file, offset, whence,
					MAX_LFS_FILESIZE, 0);
}

static ssize_t defuse_refuse_iter(struct kiocb *iocb, struct iov_iter *iter)
{
	return DEFUSE_REFUSED;
}

static ssize_t defuse_refuse_splice_read(struct file *file, loff_t *pos,
					 struct pipe_inode_info *pipe,
					 size_t len, unsigned int flags)
{
	return DEFUSE_REFUSED;
}

static ssize_t defuse_refuse_splice_write(struct pipe_inode_info *pipe,
					  struct file *file, loff_t *pos,
					  size_t len, unsigned int flags)
{
	return DEFUSE_REFUSED;
}

static ssize_t defuse_refuse_copy(struct file *in, loff_t in_pos,
				  struct file *out, loff_t out_pos,
				  size_t len, unsigned int flags)
{
	return DEFUSE_REFUSED;
}

static int defuse_refuse_fsync(struct file *file, loff_t start, loff_t end,
			       int datasync)
{
	return DEFUSE_REFUSED;
}

static long defuse_refuse_fallocate(struct file *file, int mode, loff_t offset,
				    loff_t len)
{
	return DEFUSE_REFUSED;
}

static int defuse_refuse_fadvise(struct file *file, loff_t offset, loff_t len,
				 int advice)
{
	return DEFUSE_REFUSED;
}

static int defuse_refuse_iterate(struct file *file, struct dir_context *ctx)
{
	return DEFUSE_REFUSED;
}

static void defuse_show_fdinfo(struct seq_file *m, struct file *file)
{
	const struct defuse_desc *desc = file->private_data;

	if (desc)
		seq_printf(m, "defuse-key:\t%llu:%llu\ndefuse-token:\t%llu\n",
			   desc->key.dev, desc->key.ino, desc->name.token);
}

/* No ->mmap: ENODEV. Mapped pages live in the file of DEFUSE_IOC_CACHE. */
const struct file_operations defuse_file_fops = {
	.owner		= THIS_MODULE,
	.open		= defuse_open,
	.release	= defuse_release,
	.llseek		= defuse_llseek,
	.read_iter	= defuse_refuse_iter,
	.write_iter	= defuse_refuse_iter,
	.splice_read	= defuse_refuse_splice_read,
	.splice_write	= defuse_refuse_splice_write,
	.copy_file_range = defuse_refuse_copy,
	.fsync		= defuse_refuse_fsync,
	.fallocate	= defuse_refuse_fallocate,
	.fadvise	= defuse_refuse_fadvise,
	.setlease	= generic_setlease,
	.show_fdinfo	= defuse_show_fdinfo,
	.unlocked_ioctl	= defuse_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};

const struct file_operations defuse_dir_fops = {
	.owner		= THIS_MODULE,
	.open		= defuse_open,
	.release	= defuse_release,
	.llseek		= defuse_llseek,
	.read		= generic_read_dir,
	.iterate_shared	= defuse_refuse_iterate,
	.fsync		= defuse_refuse_fsync,
	.show_fdinfo	= defuse_show_fdinfo,
	.unlocked_ioctl	= defuse_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};

/* An empty directory, unless it was opened for a program as its shadow. */
static int defuse_iterate_root(struct file *file, struct dir_context *ctx)
{
	if (file->private_data)
		return DEFUSE_REFUSED;
	dir_emit_dots(file, ctx);
	return 0;
}

const struct file_operations defuse_root_fops = {
	.owner		= THIS_MODULE,
	.release	= defuse_release,
	.llseek		= defuse_llseek,
	.read		= generic_read_dir,
	.iterate_shared	= defuse_iterate_root,
	.fsync		= noop_fsync,
	.show_fdinfo	= defuse_show_fdinfo,
	.unlocked_ioctl	= defuse_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};
