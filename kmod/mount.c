// SPDX-License-Identifier: GPL-2.0
/* Mounting: the file system type, its options, its super block. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/init.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/statfs.h>
#include <linux/uuid.h>

#include "defuse.h"

/* What one mount or remount asks for; strings are NULL where not given. */
struct defuse_options {
	char *backend;
	char *raw_backend;		/* as given, before unescaping */
	char *library;
	char *raw_library;
	char *options;			/* the library's own */
	char *raw_options;
	umode_t mode;
	kuid_t uid;
	kgid_t gid;
};

enum { OPT_BACKEND, OPT_LIBRARY, OPT_OPTIONS, OPT_MODE, OPT_UID, OPT_GID };

static const struct fs_parameter_spec defuse_parameters[] = {
	__fsparam(fs_param_is_string, "backend", OPT_BACKEND,
		  fs_param_can_be_empty, NULL),
	fsparam_string("library", OPT_LIBRARY),
	__fsparam(fs_param_is_string, "options", OPT_OPTIONS,
		  fs_param_can_be_empty, NULL),
	fsparam_u32oct("mode", OPT_MODE),
	fsparam_u32("uid", OPT_UID),
	fsparam_u32("gid", OPT_GID),
	{}
};

/* Keep a string option: the last one given counts. */
static int defuse_keep_string(struct fs_context *fc,
			      struct fs_parameter *param,
			      char **raw, char **value)
{
	char *decoded = kstrdup(param->string, GFP_KERNEL);

	if (!decoded)
		return -ENOMEM;
	kfree(*raw);
	kfree(*value);
	*raw = param->string;
	*value = decoded;
	param->string = NULL;
	if (!defuse_unescape(decoded))
		return 0;
	/* At a remount it may still be the old value, see defuse_same(). */
	if (fc->purpose == FS_CONTEXT_FOR_RECONFIGURE)
		memcpy(decoded, *raw, strlen(*raw) + 1);
	else
		return invalf(fc, "defuse: %s: a backslash must be followed by a backslash, a comma or three octal digits",
			      param->key);
	return 0;
}

static int defuse_parse_param(struct fs_context *fc, struct fs_parameter *param)
{
	struct defuse_options *opts = fc->fs_private;
	struct fs_parse_result result;
	int opt, err;

	opt = fs_parse(fc, defuse_parameters, param, &result);
	if (opt < 0)
		return opt;

	switch (opt) {
	case OPT_BACKEND:
		return defuse_keep_string(fc, param, &opts->raw_backend,
					  &opts->backend);
	case OPT_LIBRARY:
		err = defuse_keep_string(fc, param, &opts->raw_library,
					 &opts->library);
		if (err)
			return err;
		if (opts->library[0] != '/')
			return invalf(fc, "defuse: library must be an absolute path");
		return 0;
	case OPT_OPTIONS:
		return defuse_keep_string(fc, param, &opts->raw_options,
					  &opts->options);
	case OPT_MODE:
		if (result.uint_32 & ~0777)
			return invalf(fc, "defuse: mode must lie within 0777");
		opts->mode = result.uint_32;
		return 0;
	case OPT_UID:
		opts->uid = make_kuid(fc->user_ns, result.uint_32);
		if (!uid_valid(opts->uid))
			return invalf(fc, "defuse: no such uid");
		return 0;
	case OPT_GID:
		opts->gid = make_kgid(fc->user_ns, result.uint_32);
		if (!gid_valid(opts->gid))
			return invalf(fc, "defuse: no such gid");
		return 0;
	}
	return -EINVAL;
}

static int defuse_statfs(struct dentry *dentry, struct kstatfs *buf)
{
	struct defuse_sb *sbi = DEFUSE_SB(dentry->d_sb);

	simple_statfs(dentry, buf);
	buf->f_namelen = NAME_MAX;
	buf->f_fsid = uuid_to_fsid(sbi->id);
	return 0;
}

static int defuse_show_options(struct seq_file *m, struct dentry *root)
{
	struct defuse_sb *sbi = DEFUSE_SB(root->d_sb);

	seq_show_option(m, "backend", sbi->backend);
	seq_show_option(m, "library", sbi->library);
	if (sbi->options && sbi->options[0])
		seq_show_option(m, "options", sbi->options);
	if (sbi->mode != 0755)
		seq_printf(m, ",mode=%03o", sbi->mode);
	if (!uid_eq(sbi->uid, GLOBAL_ROOT_UID))
		seq_printf(m, ",uid=%u",
			   from_kuid_munged(seq_user_ns(m), sbi->uid));
	if (!gid_eq(sbi->gid, GLOBAL_ROOT_GID))
		seq_printf(m, ",gid=%u",
			   from_kgid_munged(seq_user_ns(m), sbi->gid));
	return 0;
}

static const struct super_operations defuse_super_ops = {
	.alloc_inode	= defuse_alloc_inode,
	.free_inode	= defuse_free_inode,
	.drop_inode	= defuse_drop_inode,
	.statfs		= defuse_statfs,
	.show_options	= defuse_show_options,
};

static struct defuse_sb *defuse_new_sb(struct defuse_options *opts)
{
	struct defuse_sb *sbi = kzalloc(sizeof(*sbi), GFP_KERNEL);

	if (!sbi)
		return NULL;
	if (defuse_live_init(sbi)) {
		kfree(sbi);
		return NULL;
	}
	mutex_init(&sbi->arenas_lock);
	INIT_LIST_HEAD(&sbi->arenas);
	swap(sbi->backend, opts->backend);
	swap(sbi->library, opts->library);
	swap(sbi->options, opts->options);
	sbi->mode = opts->mode;
	sbi->uid = opts->uid;
	sbi->gid = opts->gid;
	generate_random_uuid(sbi->id);
	get_random_bytes(&sbi->hash_key, sizeof(sbi->hash_key));
	get_random_bytes(&sbi->user_key, sizeof(sbi->user_key));
	return sbi;
}

static int defuse_fill_super(struct super_block *sb, struct fs_context *fc)
{
	struct defuse_options *opts = fc->fs_private;
	struct inode *root;

	if (!opts->library)
		return invalf(fc, "defuse: option library= is missing");
	if (!opts->backend)
		return invalf(fc, "defuse: option backend= is missing");

	sb->s_fs_info = defuse_new_sb(opts);
	if (!sb->s_fs_info)
		return -ENOMEM;
	sb->s_magic = DEFUSE_SUPER_MAGIC;
	sb->s_op = &defuse_super_ops;
	sb->s_xattr = defuse_xattr_handlers;
	sb->s_maxbytes = MAX_LFS_FILESIZE;
	sb->s_blocksize = PAGE_SIZE;
	sb->s_blocksize_bits = PAGE_SHIFT;
	sb->s_time_gran = 1;
	sb->s_iflags |= SB_I_NOEXEC | SB_I_NODEV;
	/* Nothing can be stacked on files that have no data in the kernel. */
	sb->s_stack_depth = FILESYSTEM_MAX_STACK_DEPTH;
	defuse_set_d_op(sb, &defuse_dentry_ops);

	root = defuse_root_inode(sb);
	if (!root)
		return -ENOMEM;
	sb->s_root = d_make_root(root);
	return sb->s_root ? 0 : -ENOMEM;
}

static int defuse_get_tree(struct fs_context *fc)
{
	return get_tree_nodev(fc, defuse_fill_super);
}

/*
 * The value may come back as it was given, or as mount(8) reads it from
 * mountinfo, where one layer of escapes is gone already.
 */
static bool defuse_same(const char *kept, const char *value, const char *raw)
{
	if (!kept)
		kept = "";
	return !value || !strcmp(kept, value) || !strcmp(kept, raw);
}

static int defuse_reconfigure(struct fs_context *fc)
{
	struct defuse_options *opts = fc->fs_private;
	struct super_block *sb = fc->root->d_sb;
	struct defuse_sb *sbi = DEFUSE_SB(sb);
	struct inode *root = d_inode(sb->s_root);

	if (!defuse_same(sbi->backend, opts->backend, opts->raw_backend))
		return invalf(fc, "defuse: remount cannot change backend");
	if (!defuse_same(sbi->library, opts->library, opts->raw_library))
		return invalf(fc, "defuse: remount cannot change library");
	if (!defuse_same(sbi->options, opts->options, opts->raw_options))
		return invalf(fc, "defuse: remount cannot change options");

	inode_lock(root);
	sbi->mode = opts->mode;
	sbi->uid = opts->uid;
	sbi->gid = opts->gid;
	root->i_mode = S_IFDIR | sbi->mode;
	root->i_uid = sbi->uid;
	root->i_gid = sbi->gid;
	inode_unlock(root);
	return 0;
}

static void defuse_free_fc(struct fs_context *fc)
{
	struct defuse_options *opts = fc->fs_private;

	if (!opts)
		return;
	kfree(opts->backend);
	kfree(opts->raw_backend);
	kfree(opts->library);
	kfree(opts->raw_library);
	kfree(opts->options);
	kfree(opts->raw_options);
	kfree(opts);
}

static const struct fs_context_operations defuse_context_ops = {
	.free			= defuse_free_fc,
	.parse_param		= defuse_parse_param,
	.parse_monolithic	= defuse_parse_monolithic,
	.get_tree		= defuse_get_tree,
	.reconfigure		= defuse_reconfigure,
};

static int defuse_init_fs_context(struct fs_context *fc)
{
	struct defuse_options *opts = kzalloc(sizeof(*opts), GFP_KERNEL);

	if (!opts)
		return -ENOMEM;
	opts->mode = 0755;
	opts->uid = GLOBAL_ROOT_UID;
	opts->gid = GLOBAL_ROOT_GID;
	if (fc->purpose == FS_CONTEXT_FOR_RECONFIGURE) {
		struct defuse_sb *sbi = DEFUSE_SB(fc->root->d_sb);

		opts->mode = sbi->mode;
		opts->uid = sbi->uid;
		opts->gid = sbi->gid;
	}
	fc->fs_private = opts;
	fc->ops = &defuse_context_ops;
	return 0;
}

static void defuse_kill_sb(struct super_block *sb)
{
	struct defuse_sb *sbi = DEFUSE_SB(sb);

	kill_anon_super(sb);
	if (!sbi)
		return;
	defuse_put_arenas(sbi);
	rhashtable_destroy(&sbi->live);
	kfree(sbi->backend);
	kfree(sbi->library);
	kfree(sbi->options);
	kfree(sbi);
}

/*
 * Not FS_USERNS_MOUNT: library= names code that every user of the mount
 * loads, so whoever mounts must be trusted by all of them.
 */
static struct file_system_type defuse_fs_type = {
	.owner			= THIS_MODULE,
	.name			= "defuse",
	.init_fs_context	= defuse_init_fs_context,
	.parameters		= defuse_parameters,
	.kill_sb		= defuse_kill_sb,
};

static int __init defuse_init(void)
{
	int err = defuse_init_inode_cache();

	if (err)
		return err;
	err = defuse_init_desc_cache();
	if (err)
		goto destroy_inodes;
	err = register_filesystem(&defuse_fs_type);
	if (err)
		goto destroy_descs;
	return 0;

destroy_descs:
	defuse_destroy_desc_cache();
destroy_inodes:
	defuse_destroy_inode_cache();
	return err;
}

static void __exit defuse_exit(void)
{
	unregister_filesystem(&defuse_fs_type);
	/* Inodes and descriptions are freed after a grace period. */
	rcu_barrier();
	defuse_destroy_desc_cache();
	defuse_destroy_inode_cache();
}

module_init(defuse_init);
module_exit(defuse_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Shadow files for file systems that live in user-space libraries");
MODULE_ALIAS_FS("defuse");
