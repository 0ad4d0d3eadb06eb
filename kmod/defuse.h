/* SPDX-License-Identifier: GPL-2.0 */
#ifndef _DEFUSE_H
#define _DEFUSE_H

#include <linux/fs.h>
#include <linux/mutex.h>
#include <linux/rhashtable.h>
#include <linux/siphash.h>

#include "defuse_ioctl.h"
#include "compat.h"

/*
 * What a process gets that uses a shadow without the interposer. Not one of
 * the errors that programs work around (EINVAL, ENOSYS, EOPNOTSUPP).
 */
#define DEFUSE_REFUSED	(-EREMOTEIO)

struct defuse_sb {
	char *backend;
	char *library;
	char *options;			/* the library's own; may be NULL */
	kuid_t uid;			/* of the root directory */
	kgid_t gid;
	umode_t mode;
	u8 id[16];
	siphash_key_t hash_key;		/* of inodes */
	siphash_key_t user_key;
	struct rhashtable live;		/* descriptions by (user, token) */
	atomic64_t closed;
	struct mutex arenas_lock;	/* guards arenas */
	struct list_head arenas;
};

struct defuse_key {
	u64 dev;
	u64 ino;
	umode_t type;			/* S_IFREG or S_IFDIR */
};

struct defuse_inode {
	struct inode vfs;
	struct defuse_key key;
	struct mutex caches_lock;	/* guards caches */
	struct list_head caches;
};

/* Hashed as bytes, so it must have no padding. */
struct defuse_name {
	u64 token;
	u64 user;			/* see defuse_user() */
};

/* An open file description: from DEFUSE_IOC_OPEN until the last close. */
struct defuse_desc {
	struct rhash_head node;
	struct defuse_name name;
	struct defuse_key key;
	struct rcu_head rcu;
};

static inline struct defuse_sb *DEFUSE_SB(const struct super_block *sb)
{
	return sb->s_fs_info;
}

static inline struct defuse_inode *DEFUSE_I(struct inode *inode)
{
	return container_of(inode, struct defuse_inode, vfs);
}

/*
 * What user space is told of who a user is: nothing but that it is the same
 * one. A number would mean another user in each user namespace, and the
 * kernel's own is nobody's business.
 */
static inline u64 defuse_user(const struct defuse_sb *sbi, kuid_t uid)
{
	return siphash_1u64(__kuid_val(uid), &sbi->user_key);
}

/* options.c */
int defuse_parse_monolithic(struct fs_context *fc, void *data);
int defuse_unescape(char *s);

/* inode.c */
extern const struct dentry_operations defuse_dentry_ops;
extern const struct xattr_handler *defuse_xattr_handlers[];
int defuse_init_inode_cache(void);
void defuse_destroy_inode_cache(void);
struct inode *defuse_alloc_inode(struct super_block *sb);
void defuse_free_inode(struct inode *inode);
struct inode *defuse_root_inode(struct super_block *sb);
struct inode *defuse_iget(struct super_block *sb, const struct defuse_key *key);

/* file.c */
extern const struct file_operations defuse_root_fops;
extern const struct file_operations defuse_file_fops;
extern const struct file_operations defuse_dir_fops;

/* desc.c */
int defuse_init_desc_cache(void);
void defuse_destroy_desc_cache(void);
int defuse_live_init(struct defuse_sb *sbi);
struct defuse_desc *defuse_desc_new(struct defuse_sb *sbi, u64 token,
				    const struct defuse_key *key);
void defuse_desc_free(struct defuse_sb *sbi, struct defuse_desc *desc);
bool defuse_desc_lives(struct defuse_sb *sbi, u64 token, u64 user);

/* open.c */
int defuse_open_shadow(struct file *via, const struct defuse_open *req);

/* cache.c */
struct file *defuse_get_pages(struct file *shadow, struct defuse_cache *req);
struct file *defuse_get_arena(struct file *via, struct defuse_cache *req);
void defuse_put_arenas(struct defuse_sb *sbi);

/* ioctl.c */
long defuse_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

#endif /* _DEFUSE_H */
