/* Preloaded into a stage: the Nth write below a folder fails, and, where asked for, every one after it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[4096];
static long nth = 0, seen = 0;
static int number = 0, lasting = 0;

void fault_arm(int n, int error, int last, const char *folder) {
    strncpy(below, folder, sizeof below - 1);
    number = error;
    lasting = last;
    seen = 0;
    nth = n;
}

long fault_seen(void) { return seen; }

static int fails(int descriptor) {
    char link[64], path[4096];
    if (!nth) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (strncmp(path, below, strlen(below))) return 0;
    long count = __sync_add_and_fetch(&seen, 1);
    if (count == nth || (lasting && count > nth)) {
        errno = number;
        return 1;
    }
    return 0;
}

#define REPLACE(type, name, parameters, arguments, descriptor)                 \
    type name parameters {                                                     \
        static type(*real) parameters;                                         \
        if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);                  \
        return fails(descriptor) ? (type)-1 : real arguments;                  \
    }

REPLACE(ssize_t, write, (int fd, const void *data, size_t size), (fd, data, size), fd)
REPLACE(ssize_t, pwrite, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), fd)
REPLACE(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), fd)
REPLACE(ssize_t, writev, (int fd, const struct iovec *parts, int count), (fd, parts, count), fd)
REPLACE(ssize_t, sendfile, (int fd, int from, off_t *at, size_t size), (fd, from, at, size), fd)
REPLACE(ssize_t, sendfile64, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size), fd)
REPLACE(ssize_t, copy_file_range, (int from, off64_t *in, int fd, off64_t *out, size_t size, unsigned flags),
        (from, in, fd, out, size, flags), fd)
REPLACE(int, ftruncate, (int fd, off_t size), (fd, size), fd)
REPLACE(int, ftruncate64, (int fd, off64_t size), (fd, size), fd)
REPLACE(int, fsync, (int fd), (fd), fd)
REPLACE(int, fdatasync, (int fd), (fd), fd)
