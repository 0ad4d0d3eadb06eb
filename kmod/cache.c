// SPDX-License-Identifier: GPL-2.0
/*
 * Memory that processes share: the pages of a mapped file (one object per
 * inode and user) and a session's arena (one per mount and user). Both are
 * tmpfs files of the kernel's internal mount, so they can be mapped,
 * resized, read and registered with userfaultfd like a memfd.
 *
 * Never shared between users: pages hold what the back end let one user read.
 */
#include <linux/cred.h>
#include <linux/fcntl.h>
#include <linux/file.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>

#include "defuse.h"

/*
 * The pages of one inode for one user. It lives as long as the tmpfs file,
 * which FDs and mappings hold and the inode does not; meanwhile it pins the
 * shadow's mount and inode, so that whoever opens the key finds it again.
 */
struct defuse_pages {
	struct list_head node;		/* in defuse_inode.caches */
	kuid_t uid;
	struct path shadow;
	struct file *file;		/* not counted: see above */
};

/* The session memory of one user, held until the mount is gone. */
struct defuse_arena {
	struct list_head node;		/* in defuse_sb.arenas */
	kuid_t uid;
	struct file *file;
};

static int defuse_release_pages(struct inode *inode, struct file *file)
{
	struct defuse_pages *pages = file->private_data;
	struct defuse_inode *di = DEFUSE_I(d_inode(pages->shadow.dentry));

	mutex_lock(&di->caches_lock);
	list_del(&pages->node);
	mutex_unlock(&di->caches_lock);
	path_put(&pages->shadow);
	kfree(pages);
	return 0;
}

/* tmpfs's own operations, and ->release; made when first seen. */
static const struct file_operations *defuse_pages_fops(struct file *tmpfs)
{
	static DEFINE_MUTEX(lock);
	static struct file_operations fops;

	mutex_lock(&lock);
	if (!fops.release) {
		fops = *tmpfs->f_op;
		fops.owner = THIS_MODULE;
		fops.release = defuse_release_pages;
	}
	mutex_unlock(&lock);
	return &fops;
}

/* Named as the shadow is, for /proc/PID/maps (which adds "(deleted)"). */
static struct file *defuse_new_tmpfs(const struct path *shadow, loff_t size)
{
	struct file *file;
	char *buf, *name;

	buf = kmalloc(PATH_MAX, GFP_KERNEL);
	if (!buf)
		return ERR_PTR(-ENOMEM);
	name = d_path(shadow, buf, PATH_MAX);
	if (IS_ERR(name))
		name = "/defuse";
	file = defuse_shmem_file(name + 1, size);
	kfree(buf);
	return file;
}

/* A new file for @pages; the caller holds the inode's caches_lock. */
static int defuse_fill_pages(struct defuse_pages *pages, struct file *shadow,
			     loff_t size)
{
	struct file *file = defuse_new_tmpfs(&shadow->f_path, size);

	if (IS_ERR(file))
		return PTR_ERR(file);
	pages->uid = current_fsuid();
	pages->file = file;
	pages->shadow = shadow->f_path;
	path_get(&pages->shadow);
	file->private_data = pages;
	/* The ioctl's own reference to the module keeps this from failing. */
	__module_get(THIS_MODULE);
	file->f_op = defuse_pages_fops(file);
	return 0;
}

/* The file of the shadow's pages; @req tells the size and if it is new. */
struct file *defuse_get_pages(struct file *shadow, struct defuse_cache *req)
{
	struct defuse_inode *di = DEFUSE_I(file_inode(shadow));
	struct defuse_pages *pages;
	struct file *file;
	int err;

	if (!S_ISREG(di->vfs.i_mode))
		return ERR_PTR(-EISDIR);
	mutex_lock(&di->caches_lock);
	list_for_each_entry(pages, &di->caches, node) {
		if (!uid_eq(pages->uid, current_fsuid()))
			continue;
		/* Else its last user is waiting in ->release for the lock. */
		if (defuse_tryget_file(pages->file)) {
			file = pages->file;
			goto unlock;
		}
	}
	file = ERR_PTR(-ENOMEM);
	pages = kzalloc(sizeof(*pages), GFP_KERNEL_ACCOUNT);
	if (!pages)
		goto unlock;
	err = defuse_fill_pages(pages, shadow, req->size);
	if (err) {
		kfree(pages);
		file = ERR_PTR(err);
		goto unlock;
	}
	list_add(&pages->node, &di->caches);
	file = pages->file;
	req->created = 1;
unlock:
	mutex_unlock(&di->caches_lock);
	return file;
}

/* The session memory of the mount and the caller's user. */
struct file *defuse_get_arena(struct file *via, struct defuse_cache *req)
{
	struct defuse_sb *sbi = DEFUSE_SB(file_inode(via)->i_sb);
	struct defuse_arena *arena;
	struct file *file;

	mutex_lock(&sbi->arenas_lock);
	list_for_each_entry(arena, &sbi->arenas, node) {
		if (uid_eq(arena->uid, current_fsuid())) {
			file = get_file(arena->file);
			goto unlock;
		}
	}
	file = ERR_PTR(-ENOENT);
	if (!req->size)
		goto unlock;
	file = ERR_PTR(-EFBIG);
	if (req->size > DEFUSE_ARENA_MAX)
		goto unlock;
	file = ERR_PTR(-ENOMEM);
	arena = kzalloc(sizeof(*arena), GFP_KERNEL_ACCOUNT);
	if (!arena)
		goto unlock;
	file = defuse_shmem_file("defuse-arena", req->size);
	if (IS_ERR(file)) {
		kfree(arena);
		goto unlock;
	}
	/* It outlives its users: nobody fills the memory with it. */
	SHMEM_I(file_inode(file))->seals |= F_SEAL_GROW | F_SEAL_SHRINK;
	arena->uid = current_fsuid();
	arena->file = get_file(file);
	list_add(&arena->node, &sbi->arenas);
	req->created = 1;
unlock:
	mutex_unlock(&sbi->arenas_lock);
	return file;
}

/* At unmount, when nobody can ask for one any more. */
void defuse_put_arenas(struct defuse_sb *sbi)
{
	struct defuse_arena *arena, *next;

	list_for_each_entry_safe(arena, next, &sbi->arenas, node) {
		fput(arena->file);
		kfree(arena);
	}
}
