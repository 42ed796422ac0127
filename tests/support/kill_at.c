/* Kills the process just before its KILL_AT-th change of a file or directory whose path begins with KILL_BELOW, as
   kill -9 or a power failure might. To be loaded into a program with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long changes;

static void change(const char *path) {
    const char *below = getenv("KILL_BELOW"), *at = getenv("KILL_AT");
    if (!below || !at || !path || strncmp(path, below, strlen(below)) != 0) return;
    if (atomic_fetch_add(&changes, 1) + 1 == atol(at)) kill(getpid(), SIGKILL);
}

static void change_of(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    change(path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int rename(const char *from, const char *to) { change(from); return REAL(rename)(from, to); }
int mkdir(const char *path, mode_t mode) { change(path); return REAL(mkdir)(path, mode); }
int rmdir(const char *path) { change(path); return REAL(rmdir)(path); }
int unlink(const char *path) { change(path); return REAL(unlink)(path); }
int unlinkat(int directory, const char *name, int flags) {
    if (directory == AT_FDCWD) change(name); else change_of(directory);
    return REAL(unlinkat)(directory, name, flags);
}
int symlink(const char *to, const char *path) { change(path); return REAL(symlink)(to, path); }
int ftruncate64(int file, off64_t length) { change_of(file); return REAL(ftruncate64)(file, length); }
ssize_t write(int file, const void *bytes, size_t count) {
    change_of(file);
    return REAL(write)(file, bytes, count);
}
int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
        change(path);
    }
    return REAL(open64)(path, flags, mode);
}
