/*
 * What a library of the LD_PRELOAD kind does, as the paper measures it: it wraps libc's symbols, hands out numbers of its
 * own that the kernel does not know, and calls a plugin (the very one that DEFUSE serves). Just enough for the workload
 * program: what is not wrapped, what libc calls inside itself, fork, exec and dup go wrong. That is what it is a peer for.
 *
 *     cc -O2 -shared -fPIC -I crates/plugin-abi/include -o naive.so bench/preload/naive.c -ldl
 *     NAIVE_POINT=/tmp/mnt NAIVE_LIBRARY=libpassthrough.so NAIVE_BACKEND=/tmp/src LD_PRELOAD=naive.so PROGRAM
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "defuse_plugin.h"

/* Above every number that the kernel gives out by default. */
enum { FIRST = 1 << 20, FILES = 1 << 14 };

struct file {
    uint64_t handle;
    off_t offset;
    int flags;
    int used;
    pthread_mutex_t lock;
};

static struct file files[FILES];
static int lowest;
static pthread_mutex_t files_lock = PTHREAD_MUTEX_INITIALIZER;
static const struct defuse_plugin *plugin;
static void *fs;
static char point[4096];
static size_t point_length;

#define REAL(name) \
    static __typeof__(name) *real_##name; \
    if (!real_##name) \
    real_##name = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int fail(int error)
{
    errno = error;
    return -1;
}

/* 0 or -1 with errno, as the wrapped calls have it. */
static int answer(int error)
{
    return error ? fail(error) : 0;
}

static int log_line(void *ctx, uint32_t level, const char *text, size_t length)
{
    (void)ctx, (void)level;
    return (int)write(2, text, length);
}

static const struct defuse_host host = {.size = sizeof host, .log = log_line};

__attribute__((constructor)) static void load(void)
{
    const char *where = getenv("NAIVE_POINT"), *library = getenv("NAIVE_LIBRARY"), *backend = getenv("NAIVE_BACKEND");
    char error[256] = "";
    if (!where || !library || !backend || strlen(where) >= sizeof point)
        return;
    void *object = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    plugin = object ? dlsym(object, "defuse_plugin") : NULL;
    if (!plugin || plugin->init(&host, where, backend, "", error, sizeof error, &fs)) {
        fprintf(stderr, "naive: %s %s\n", error, plugin ? "" : dlerror());
        _exit(125);
    }
    for (int i = 0; i < FILES; i++)
        pthread_mutex_init(&files[i].lock, NULL);
    strcpy(point, where);
    point_length = strlen(where);
}

/* The path inside of the mount, or NULL. */
static const char *inside(const char *path)
{
    if (!point_length || strncmp(path, point, point_length))
        return NULL;
    path += point_length;
    return *path == '/' ? path : *path ? NULL : "/";
}

static struct file *served(int fd)
{
    if (fd < FIRST || fd >= FIRST + FILES || !files[fd - FIRST].used)
        return NULL;
    return &files[fd - FIRST];
}

int open(const char *path, int flags, ...)
{
    va_list list;
    va_start(list, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0;
    va_end(list);
    const char *name = inside(path);
    if (!name) {
        REAL(open);
        return real_open(path, flags, mode);
    }
    struct defuse_opened opened = {.backing_fd = -1};
    int error = plugin->open(fs, name, flags & ~O_CLOEXEC, mode, &opened);
    if (error)
        return fail(error);
    pthread_mutex_lock(&files_lock);
    int at = lowest;
    while (at < FILES && files[at].used)
        at++;
    if (at < FILES) {
        struct file *file = &files[at];
        file->handle = opened.handle, file->offset = 0, file->flags = flags, file->used = 1;
        lowest = at + 1;
    }
    pthread_mutex_unlock(&files_lock);
    if (at == FILES) {
        plugin->close(fs, opened.handle);
        return fail(EMFILE);
    }
    return FIRST + at;
}

int open64(const char *path, int flags, ...) __attribute__((alias("open")));

int close(int fd)
{
    struct file *file = served(fd);
    if (!file) {
        REAL(close);
        return real_close(fd);
    }
    pthread_mutex_lock(&files_lock);
    file->used = 0;
    if (file - files < lowest)
        lowest = (int)(file - files);
    pthread_mutex_unlock(&files_lock);
    if (plugin->flush)
        plugin->flush(fs, file->handle);
    return answer(plugin->close(fs, file->handle));
}

ssize_t pread(int fd, void *buf, size_t size, off_t offset)
{
    struct file *file = served(fd);
    size_t count = 0;
    if (!file) {
        REAL(pread);
        return real_pread(fd, buf, size, offset);
    }
    int error = plugin->read(fs, file->handle, buf, size, offset, &count);
    return error ? fail(error) : (ssize_t)count;
}

ssize_t pread64(int fd, void *buf, size_t size, off_t offset) __attribute__((alias("pread")));

ssize_t pwrite(int fd, const void *buf, size_t size, off_t offset)
{
    struct file *file = served(fd);
    size_t count = 0;
    off_t end = 0;
    if (!file) {
        REAL(pwrite);
        return real_pwrite(fd, buf, size, offset);
    }
    int error = plugin->write(fs, file->handle, buf, size, offset, 0, &count, &end);
    return error ? fail(error) : (ssize_t)count;
}

ssize_t pwrite64(int fd, const void *buf, size_t size, off_t offset) __attribute__((alias("pwrite")));

ssize_t read(int fd, void *buf, size_t size)
{
    struct file *file = served(fd);
    if (!file) {
        REAL(read);
        return real_read(fd, buf, size);
    }
    pthread_mutex_lock(&file->lock);
    ssize_t count = pread(fd, buf, size, file->offset);
    if (count > 0)
        file->offset += count;
    pthread_mutex_unlock(&file->lock);
    return count;
}

ssize_t write(int fd, const void *buf, size_t size)
{
    struct file *file = served(fd);
    if (!file) {
        REAL(write);
        return real_write(fd, buf, size);
    }
    size_t count = 0;
    off_t end = 0;
    uint32_t append = file->flags & O_APPEND ? DEFUSE_WRITE_APPEND : 0;
    pthread_mutex_lock(&file->lock);
    int error = plugin->write(fs, file->handle, buf, size, file->offset, append, &count, &end);
    if (!error)
        file->offset = end;
    pthread_mutex_unlock(&file->lock);
    return error ? fail(error) : (ssize_t)count;
}

off_t lseek(int fd, off_t offset, int whence)
{
    struct file *file = served(fd);
    struct stat st = {0};
    if (!file) {
        REAL(lseek);
        return real_lseek(fd, offset, whence);
    }
    int error = whence == SEEK_END ? plugin->fgetattr(fs, file->handle, &st) : 0;
    if (error)
        return fail(error);
    pthread_mutex_lock(&file->lock);
    off_t base = whence == SEEK_CUR ? file->offset : whence == SEEK_END ? st.st_size : 0;
    off_t result = base + offset;
    if (result >= 0)
        file->offset = result;
    pthread_mutex_unlock(&file->lock);
    return result >= 0 ? result : fail(EINVAL);
}

off_t lseek64(int fd, off_t offset, int whence) __attribute__((alias("lseek")));

int fsync(int fd)
{
    struct file *file = served(fd);
    if (!file) {
        REAL(fsync);
        return real_fsync(fd);
    }
    return answer(plugin->fsync ? plugin->fsync(fs, file->handle, 0) : 0);
}

/* A call on one path: the plugin's `call` if it is inside, else libc's. */
#define BY_PATH(name, parameters, arguments, call) \
    int name parameters \
    { \
        const char *inner = inside(path); \
        if (!inner) { \
            REAL(name); \
            return real_##name arguments; \
        } \
        return answer(call); \
    }

BY_PATH(stat, (const char *path, struct stat *st), (path, st), plugin->getattr(fs, inner, st))
BY_PATH(access, (const char *path, int mode), (path, mode), plugin->access(fs, inner, mode, AT_SYMLINK_NOFOLLOW))
BY_PATH(unlink, (const char *path), (path), plugin->unlink(fs, inner))
BY_PATH(mkdir, (const char *path, mode_t mode), (path, mode), plugin->mkdir(fs, inner, mode))

int chmod(const char *path, mode_t mode)
{
    const char *inner = inside(path);
    if (!inner) {
        REAL(chmod);
        return real_chmod(path, mode);
    }
    struct defuse_setattr change = {.valid = DEFUSE_SET_MODE, .mode = mode};
    return answer(plugin->setattr(fs, inner, &change));
}

int rename(const char *path, const char *new_path)
{
    const char *from = inside(path), *to = inside(new_path);
    if (!from && !to) {
        REAL(rename);
        return real_rename(path, new_path);
    }
    return from && to ? answer(plugin->rename(fs, from, to, 0)) : fail(EXDEV);
}
