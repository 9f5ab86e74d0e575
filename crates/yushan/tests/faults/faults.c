/* Makes the operating system refuse: preloaded (LD_PRELOAD) into the binary by tests/full_disk.rs.
 *
 * Every call of the C library by which SQLite and the standard library change a file below $YUSHAN_FAULTS_FOLDER is counted in the plan, a file of four
 * 64-bit numbers ($YUSHAN_FAULTS) that all processes of a session share; those numbered from `from` up
 * to `until` fail with `error`. A write that fails has written half of its bytes. Syncs that succeed do
 * nothing: the machine does not lose its power here. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct plan {
    _Atomic int64_t count, from, until, error;
};

static struct plan *plan;
static const char *folder;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("YUSHAN_FAULTS");
    folder = getenv("YUSHAN_FAULTS_FOLDER");
    int file = path && folder ? REAL(open)(path, O_RDWR | O_CLOEXEC) : -1;
    void *at = file < 0 ? MAP_FAILED
                        : mmap(NULL, sizeof *plan, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (at == MAP_FAILED) {
        fprintf(stderr, "faults: no plan\n");
        abort();
    }
    plan = at;
    close(file);
}

/* Counts a call; whether it fails. */
static int fails(void) {
    int64_t number = atomic_fetch_add(&plan->count, 1) + 1;
    if (number < plan->from || number >= plan->until)
        return 0;
    errno = (int)plan->error;
    return 1;
}

static int within(const char *path) {
    size_t length = strlen(folder);
    return strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == 0);
}

static int named(const char *path) {
    char whole[2 * PATH_MAX], here[PATH_MAX];
    if (!plan)
        return 0;
    if (path[0] == '/')
        return within(path);
    if (!getcwd(here, sizeof here))
        return 0;
    snprintf(whole, sizeof whole, "%s/%s", here, path);
    return within(whole);
}

static int opened(int file) {
    char link[64], path[PATH_MAX];
    if (!plan)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return within(path);
}

#define WRITES(result, name, parameters, arguments, half)                                          \
    result name parameters {                                                                       \
        if (opened(file) && fails()) {                                                             \
            int error = errno;                                                                     \
            half;                                                                                  \
            errno = error;                                                                         \
            return -1;                                                                             \
        }                                                                                          \
        return REAL(name) arguments;                                                               \
    }

WRITES(ssize_t, write, (int file, const void *from, size_t count), (file, from, count),
       if (count > 1) (void)!REAL(write)(file, from, count / 2))
WRITES(ssize_t, pwrite, (int file, const void *from, size_t count, off_t at),
       (file, from, count, at), if (count > 1) (void)!REAL(pwrite)(file, from, count / 2, at))
WRITES(ssize_t, pwrite64, (int file, const void *from, size_t count, off64_t at),
       (file, from, count, at), if (count > 1) (void)!REAL(pwrite64)(file, from, count / 2, at))
WRITES(ssize_t, writev, (int file, const struct iovec *from, int count), (file, from, count), )
WRITES(int, ftruncate, (int file, off_t length), (file, length), )
WRITES(int, ftruncate64, (int file, off64_t length), (file, length), )
WRITES(int, fallocate, (int file, int mode, off_t at, off_t length), (file, mode, at, length), )

#define SYNCS(name)                                                                                \
    int name(int file) {                                                                           \
        if (!opened(file))                                                                         \
            return REAL(name)(file);                                                               \
        return fails() ? -1 : 0;                                                                   \
    }

SYNCS(fsync)
SYNCS(fdatasync)

#define NAMES(name, parameters, arguments)                                                         \
    int name parameters {                                                                          \
        return named(path) && fails() ? -1 : REAL(name) arguments;                                 \
    }

NAMES(rename, (const char *path, const char *to), (path, to))
NAMES(mkdir, (const char *path, mode_t mode), (path, mode))
NAMES(unlink, (const char *path), (path))
NAMES(truncate, (const char *path, off_t length), (path, length))

/* An open is a change if it makes a file, or empties one. */
static int makes(const char *path, int flags) {
    int makes = (flags & O_TMPFILE) == O_TMPFILE || flags & O_TRUNC ||
                (flags & O_CREAT && access(path, F_OK) != 0);
    return makes && named(path);
}

#define OPENS(name)                                                                                \
    int name(const char *path, int flags, ...) {                                                   \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        int mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, int) : 0;    \
        va_end(rest);                                                                              \
        return makes(path, flags) && fails() ? -1 : REAL(name)(path, flags, mode);                 \
    }

OPENS(open)
OPENS(open64)
