/* Preloaded into a stage and what it starts: the Nth write below a folder fails, and, where asked for, every later one.
   Counter and orders stand in the file FAULT_SHARED, which all these processes map. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static struct orders {
    long nth, seen;
    int number, lasting;
    char below[4096];
} *now = NULL;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULT_SHARED");
    int descriptor = path ? open(path, O_RDWR) : -1;
    if (descriptor < 0) return;
    void *place = mmap(NULL, sizeof *now, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    close(descriptor);
    if (place != MAP_FAILED) now = place;
}

void fault_arm(int nth, int number, int lasting, const char *folder) {
    strncpy(now->below, folder, sizeof now->below - 1);
    now->number = number;
    now->lasting = lasting;
    now->seen = 0;
    now->nth = nth;
}

long fault_seen(void) { return now->seen; }

static int fails(int descriptor) {
    char link[64], path[4096];
    if (!now || !now->nth) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    if (strncmp(path, now->below, strlen(now->below))) return 0;
    long count = __sync_add_and_fetch(&now->seen, 1);
    if (count == now->nth || (now->lasting && count > now->nth)) {
        errno = now->number;
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
