/*
 * A file system in C: one read-only file, /hello, whose content is the backend string.
 *
 *     cc -shared -fPIC -I crates/plugin-abi/include -o hello.so hello.c
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "defuse_plugin.h"

enum { ROOT, HELLO };

static int init(const struct defuse_host *host, const char *mount_point, const char *backend, const char *options,
                char *error, size_t error_size, void **out_fs)
{
    (void)host, (void)mount_point, (void)options, (void)error, (void)error_size;
    *out_fs = strdup(backend);
    return *out_fs ? 0 : ENOMEM;
}

static int finalize(void *fs)
{
    free(fs);
    return 0;
}

static int fgetattr(void *fs, uint64_t handle, struct stat *out)
{
    memset(out, 0, sizeof *out);
    out->st_ino = handle + 1;
    out->st_nlink = handle == ROOT ? 2 : 1;
    out->st_mode = handle == ROOT ? S_IFDIR | 0555 : S_IFREG | 0444;
    out->st_size = handle == ROOT ? 0 : (off_t)strlen(fs);
    return 0;
}

static int lookup(const char *path, uint64_t *handle)
{
    *handle = strcmp(path, "/") == 0 ? ROOT : HELLO;
    return *handle == ROOT || strcmp(path, "/hello") == 0 ? 0 : ENOENT;
}

static int getattr(void *fs, const char *path, struct stat *out)
{
    uint64_t handle;
    int error = lookup(path, &handle);
    return error ? error : fgetattr(fs, handle, out);
}

static int open_file(void *fs, const char *path, int flags, mode_t mode, struct defuse_opened *out)
{
    (void)fs, (void)mode;
    if ((flags & O_ACCMODE) != O_RDONLY || flags & O_CREAT)
        return EROFS;
    return lookup(path, &out->handle);
}

static int read_file(void *fs, uint64_t handle, void *buf, size_t size, off_t offset, size_t *out_read)
{
    size_t length = strlen(fs);
    if (handle == ROOT)
        return EISDIR;
    if ((size_t)offset >= length)
        return 0;
    *out_read = length - offset < size ? length - offset : size;
    memcpy(buf, (char *)fs + offset, *out_read);
    return 0;
}

static int readdir(void *fs, uint64_t handle, uint64_t cookie, defuse_emit emit, void *ctx)
{
    static const char *const names[] = {".", "..", "hello"};
    (void)fs;
    if (handle != ROOT)
        return ENOTDIR;
    for (; cookie < 3; cookie++)
        if (emit(ctx, names[cookie], strlen(names[cookie]), cookie / 2 + 1, cookie < 2 ? 4 : 8, cookie + 1))
            break;
    return 0;
}

const struct defuse_plugin defuse_plugin = {
    DEFUSE_PLUGIN_HEADER,
    .capabilities = DEFUSE_CAP_THREAD_SAFE,
    .name = "hello",
    .init = init,
    .finalize = finalize,
    .getattr = getattr,
    .fgetattr = fgetattr,
    .open = open_file,
    .read = read_file,
    .readdir = readdir,
};
