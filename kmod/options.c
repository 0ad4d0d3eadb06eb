// SPDX-License-Identifier: GPL-2.0
/*
 * The syntax of option values, the same through mount(2) and fsconfig(2):
 * a backslash stands before a comma, before a backslash, or before the three
 * octal digits of a byte, as /proc/self/mountinfo shows it.
 */
#include <linux/fs_context.h>
#include <linux/security.h>
#include <linux/string.h>

#include "defuse.h"

static bool defuse_is_octal(char c)
{
	return c >= '0' && c <= '7';
}

/* Undo the escapes in place. -EINVAL if there is an unknown one. */
int defuse_unescape(char *s)
{
	char *out = s;

	while (*s) {
		if (*s != '\\') {
			*out++ = *s++;
		} else if (s[1] == '\\' || s[1] == ',') {
			*out++ = s[1];
			s += 2;
		} else if (s[1] >= '0' && s[1] <= '3' &&
			   defuse_is_octal(s[2]) && defuse_is_octal(s[3])) {
			*out = (s[1] - '0') << 6 | (s[2] - '0') << 3 |
			       (s[3] - '0');
			if (!*out++)
				return -EINVAL;
			s += 4;
		} else {
			return -EINVAL;
		}
	}
	*out = '\0';
	return 0;
}

/* Cut the next option off; a comma behind a backslash does not end it. */
static char *defuse_next_option(char **rest)
{
	char *option = *rest, *p;

	if (!option)
		return NULL;
	for (p = option; *p && *p != ','; p++)
		if (*p == '\\' && p[1])
			p++;
	if (*p) {
		*p = '\0';
		*rest = p + 1;
	} else {
		*rest = NULL;
	}
	return option;
}

/* The option string of mount(2). */
int defuse_parse_monolithic(struct fs_context *fc, void *data)
{
	char *rest = data, *key, *value;
	int err;

	if (!rest)
		return 0;
	err = security_sb_eat_lsm_opts(rest, &fc->security);
	if (err)
		return err;

	while ((key = defuse_next_option(&rest)) != NULL) {
		if (!*key)
			continue;
		value = strchr(key, '=');
		if (value == key)
			return invalf(fc, "defuse: an option without a name");
		if (value)
			*value++ = '\0';
		err = defuse_parse_fs_string(fc, key, value);
		if (err)
			return err;
	}
	return 0;
}
