// SPDX-License-Identifier: GPL-2.0
/*
 * Open file descriptions: who opened what under which token, and the table
 * that answers whether a token's description is still open.
 */
#include <linux/cred.h>
#include <linux/slab.h>

#include "defuse.h"

static struct kmem_cache *defuse_desc_cachep;

static const struct rhashtable_params defuse_live_params = {
	.key_len		= sizeof(struct defuse_name),
	.key_offset		= offsetof(struct defuse_desc, name),
	.head_offset		= offsetof(struct defuse_desc, node),
	.automatic_shrinking	= true,
};

int defuse_live_init(struct defuse_sb *sbi)
{
	return rhashtable_init(&sbi->live, &defuse_live_params);
}

/* -EEXIST if @token names a live description of the caller's user. */
struct defuse_desc *defuse_desc_new(struct defuse_sb *sbi, u64 token,
				    const struct defuse_key *key)
{
	struct defuse_desc *desc = kmem_cache_alloc(defuse_desc_cachep,
						    GFP_KERNEL_ACCOUNT);
	int err;

	if (!desc)
		return ERR_PTR(-ENOMEM);
	desc->name = (struct defuse_name){
		.token = token,
		.user = defuse_user(sbi, current_fsuid()),
	};
	desc->key = *key;
	err = rhashtable_lookup_insert_fast(&sbi->live, &desc->node,
					    defuse_live_params);
	if (err) {
		kmem_cache_free(defuse_desc_cachep, desc);
		return ERR_PTR(err);
	}
	return desc;
}

static void defuse_desc_free_rcu(struct rcu_head *rcu)
{
	kmem_cache_free(defuse_desc_cachep,
			container_of(rcu, struct defuse_desc, rcu));
}

void defuse_desc_free(struct defuse_sb *sbi, struct defuse_desc *desc)
{
	rhashtable_remove_fast(&sbi->live, &desc->node, defuse_live_params);
	atomic64_inc_return_release(&sbi->closed);
	call_rcu(&desc->rcu, defuse_desc_free_rcu);
}

bool defuse_desc_lives(struct defuse_sb *sbi, u64 token, u64 user)
{
	struct defuse_name name = { .token = token, .user = user };
	bool lives;

	rcu_read_lock();
	lives = rhashtable_lookup(&sbi->live, &name, defuse_live_params);
	rcu_read_unlock();
	return lives;
}

int __init defuse_init_desc_cache(void)
{
	defuse_desc_cachep = kmem_cache_create("defuse_desc",
					       sizeof(struct defuse_desc), 0,
					       SLAB_ACCOUNT, NULL);
	return defuse_desc_cachep ? 0 : -ENOMEM;
}

void defuse_destroy_desc_cache(void)
{
	kmem_cache_destroy(defuse_desc_cachep);
}
