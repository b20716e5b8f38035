// A disk that takes its time: stands before the C library's syncs, counts them, and lets each take SYNC_US microseconds.
// The count is the first eight bytes of the file that SYNC_COUNT names.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static uint64_t *count;
static int (*real_fsync)(int), (*real_fdatasync)(int);
static long slow_ns;

__attribute__((constructor)) static void begin(void) {
    real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    const char *us = getenv("SYNC_US"), *path = getenv("SYNC_COUNT");
    slow_ns = us ? atol(us) * 1000 : 0;
    int file = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (file < 0) return;
    if (ftruncate(file, sizeof *count) == 0)
        count = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (count == MAP_FAILED) count = NULL;
    close(file);
}

static int slowly(int (*real)(int), int file) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += slow_ns;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    if (count) __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST);
    int result = real(file);
    if (slow_ns > 0) clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    return result;
}

int fsync(int file) { return slowly(real_fsync, file); }
int fdatasync(int file) { return slowly(real_fdatasync, file); }
