/* Kills the process just before its KILL_AT-th change of a file or directory whose path begins with KILL_BELOW, as
   kill -9 or a power failure might. With FAIL_WITH, the number of an error, that change fails with this error instead;
   with FAIL_ON set too, all later ones as well, as on a full disk. With COUNT_IN, a file, the number of changes is
   written there at the end. To be loaded into a program with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
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

/* Returns whether the change has to fail; sets errno then. */
static int change(const char *path) {
    const char *below = getenv("KILL_BELOW"), *at = getenv("KILL_AT"), *with = getenv("FAIL_WITH");
    if (!below || !at || !path || strncmp(path, below, strlen(below)) != 0) return 0;
    long number = atomic_fetch_add(&changes, 1) + 1;
    int is_due = getenv("FAIL_ON") ? number >= atol(at) : number == atol(at);
    if (!is_due) return 0;
    if (!with) kill(getpid(), SIGKILL);
    errno = atoi(with);
    return 1;
}

static int change_of(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return change(path);
}

__attribute__((destructor)) static void report(void) {
    const char *file = getenv("COUNT_IN");
    FILE *out = file ? fopen(file, "w") : NULL;
    if (!out) return;
    fprintf(out, "%ld", (long)changes);
    fclose(out);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int rename(const char *from, const char *to) { return change(from) ? -1 : REAL(rename)(from, to); }
int mkdir(const char *path, mode_t mode) { return change(path) ? -1 : REAL(mkdir)(path, mode); }
int rmdir(const char *path) { return change(path) ? -1 : REAL(rmdir)(path); }
int unlink(const char *path) { return change(path) ? -1 : REAL(unlink)(path); }
int unlinkat(int directory, const char *name, int flags) {
    int fails = directory == AT_FDCWD ? change(name) : change_of(directory);
    return fails ? -1 : REAL(unlinkat)(directory, name, flags);
}
int symlink(const char *to, const char *path) { return change(path) ? -1 : REAL(symlink)(to, path); }
int fsync(int file) { return change_of(file) ? -1 : REAL(fsync)(file); }
int ftruncate64(int file, off64_t length) { return change_of(file) ? -1 : REAL(ftruncate64)(file, length); }
ssize_t write(int file, const void *bytes, size_t count) {
    return change_of(file) ? -1 : REAL(write)(file, bytes, count);
}
int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
        if (change(path)) return -1;
    }
    return REAL(open64)(path, flags, mode);
}
