// SPDX-License-Identifier: GPL-2.0
/*
 * Inodes: the mount's root, an empty directory; and shadows, which stand for
 * a file of the library and refuse whatever needs the file itself.
 */
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/highuid.h>
#include <linux/slab.h>
#include <linux/xattr.h>

#include "defuse.h"

static struct kmem_cache *defuse_inode_cachep;

/* No name is looked up in the kernel: ENOENT would be a guess. */
static struct dentry *defuse_refuse_lookup(struct inode *dir,
					   struct dentry *dentry,
					   unsigned int flags)
{
	return ERR_PTR(DEFUSE_REFUSED);
}

static int defuse_refuse_revalidate(DEFUSE_REVALIDATE_ARGS)
{
	return DEFUSE_REFUSED;
}

/* A shadow's dentry is there for one open file; nothing is cached. */
static int defuse_drop_dentry(const struct dentry *dentry)
{
	return 1;
}

const struct dentry_operations defuse_dentry_ops = {
	.d_revalidate	= defuse_refuse_revalidate,
	.d_delete	= defuse_drop_dentry,
};

/*
 * fchdir to a shadow directory is free, since the interposer has asked the
 * library. Everything else that asks, a path walk that begins here ("..",
 * too), a re-open, access(2), exec, needs the file itself.
 */
static int defuse_permission(defuse_idmap_t *idmap, struct inode *inode,
			     int mask)
{
	return mask & MAY_CHDIR ? 0 : DEFUSE_REFUSED;
}

static int defuse_refuse_getattr(defuse_idmap_t *idmap,
				 const struct path *path, struct kstat *stat,
				 u32 request_mask, unsigned int flags)
{
	return DEFUSE_REFUSED;
}

static int defuse_refuse_setattr(defuse_idmap_t *idmap, struct dentry *dentry,
				 struct iattr *attr)
{
	return DEFUSE_REFUSED;
}

/* Without it the kernel answers that there are no attributes. */
static ssize_t defuse_refuse_listxattr(struct dentry *dentry, char *list,
				       size_t size)
{
	return DEFUSE_REFUSED;
}

/* The root has no attributes, and says so. */
static int defuse_get_xattr(const struct xattr_handler *handler,
			    struct dentry *dentry, struct inode *inode,
			    const char *name, void *value, size_t size)
{
	return IS_ROOT(dentry) ? -EOPNOTSUPP : DEFUSE_REFUSED;
}

static int defuse_set_xattr(const struct xattr_handler *handler,
			    defuse_idmap_t *idmap, struct dentry *dentry,
			    struct inode *inode, const char *name,
			    const void *value, size_t size, int flags)
{
	return IS_ROOT(dentry) ? -EOPNOTSUPP : DEFUSE_REFUSED;
}

/* ->permission refuses user.*; the kernel asks nobody about security.*. */
static const struct xattr_handler defuse_any_xattr = {
	.prefix		= "",
	.get		= defuse_get_xattr,
	.set		= defuse_set_xattr,
};

const struct xattr_handler *defuse_xattr_handlers[] = {
	&defuse_any_xattr,
	NULL
};

static const struct inode_operations defuse_shadow_file_iops = {
	.permission	= defuse_permission,
	.getattr	= defuse_refuse_getattr,
	.setattr	= defuse_refuse_setattr,
	.listxattr	= defuse_refuse_listxattr,
};

static const struct inode_operations defuse_shadow_dir_iops = {
	.lookup		= defuse_refuse_lookup,
	.permission	= defuse_permission,
	.getattr	= defuse_refuse_getattr,
	.setattr	= defuse_refuse_setattr,
	.listxattr	= defuse_refuse_listxattr,
};

static const struct inode_operations defuse_root_iops = {
	.lookup		= defuse_refuse_lookup,
	.setattr	= defuse_refuse_setattr,
};

struct inode *defuse_root_inode(struct super_block *sb)
{
	struct defuse_sb *sbi = DEFUSE_SB(sb);
	struct inode *inode = new_inode(sb);

	if (!inode)
		return NULL;
	DEFUSE_I(inode)->key = (struct defuse_key){ .type = S_IFDIR };
	inode->i_ino = 1;
	inode->i_mode = S_IFDIR | sbi->mode;
	inode->i_uid = sbi->uid;
	inode->i_gid = sbi->gid;
	inode->i_op = &defuse_root_iops;
	inode->i_fop = &defuse_root_fops;
	defuse_init_times(inode);
	set_nlink(inode, 2);
	return inode;
}

static int defuse_test(struct inode *inode, void *data)
{
	const struct defuse_key *want = data, *key = &DEFUSE_I(inode)->key;

	return key->dev == want->dev && key->ino == want->ino &&
	       key->type == want->type;
}

static int defuse_set(struct inode *inode, void *data)
{
	DEFUSE_I(inode)->key = *(const struct defuse_key *)data;
	return 0;
}

/* The shadow inode for @key, made if nobody has it open. */
struct inode *defuse_iget(struct super_block *sb, const struct defuse_key *key)
{
	unsigned long hash = siphash_3u64(key->dev, key->ino, key->type,
					  &DEFUSE_SB(sb)->hash_key);
	struct inode *inode;

	inode = iget5_locked(sb, hash, defuse_test, defuse_set, (void *)key);
	if (!inode || !defuse_inode_is_new(inode))
		return inode;

	inode->i_ino = key->ino;	/* what /proc/locks shows */
	inode->i_mode = key->type | 0600;
	/* Nobody's, until somebody opens it who can name the owner. */
	inode->i_uid = make_kuid(&init_user_ns, overflowuid);
	if (key->type == S_IFDIR) {
		inode->i_op = &defuse_shadow_dir_iops;
		inode->i_fop = &defuse_dir_fops;
	} else {
		inode->i_op = &defuse_shadow_file_iops;
		inode->i_fop = &defuse_file_fops;
		/*
		 * copy_file_range() takes a position past the size for the
		 * end of the file: no position may be past it.
		 */
		i_size_write(inode, MAX_LFS_FILESIZE);
	}
	/* What FIOQSIZE tells: not that nothing is there. */
	inode_set_bytes(inode, MAX_LFS_FILESIZE);
	unlock_new_inode(inode);
	return inode;
}

struct inode *defuse_alloc_inode(struct super_block *sb)
{
	struct defuse_inode *di = alloc_inode_sb(sb, defuse_inode_cachep,
						 GFP_KERNEL);

	return di ? &di->vfs : NULL;
}

void defuse_free_inode(struct inode *inode)
{
	kmem_cache_free(defuse_inode_cachep, DEFUSE_I(inode));
}

static void defuse_inode_init_once(void *object)
{
	struct defuse_inode *di = object;

	inode_init_once(&di->vfs);
	mutex_init(&di->caches_lock);
	INIT_LIST_HEAD(&di->caches);
}

int __init defuse_init_inode_cache(void)
{
	defuse_inode_cachep = kmem_cache_create("defuse_inode",
						sizeof(struct defuse_inode), 0,
						SLAB_RECLAIM_ACCOUNT |
						SLAB_ACCOUNT,
						defuse_inode_init_once);
	return defuse_inode_cachep ? 0 : -ENOMEM;
}

void defuse_destroy_inode_cache(void)
{
	kmem_cache_destroy(defuse_inode_cachep);
}
