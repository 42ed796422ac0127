/* A clock that fails: in a process whose CLOCK_FAILS_AFTER names a file, the monotonic clock cannot be read once that file
   exists. Rust's standard library panics then. To be loaded into a program with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    const char *file = getenv("CLOCK_FAILS_AFTER");
    if (clock == CLOCK_MONOTONIC && file && access(file, F_OK) == 0) {
        errno = EINVAL;
        return -1;
    }
    return ((__typeof__(&clock_gettime))dlsym(RTLD_NEXT, "clock_gettime"))(clock, now);
}
