/* Preloaded under a test process: records every change of the board's files in order, and can let the disk fail.
 *
 * AGENTSYS_DISK_PREFIX  path that the files concerned begin with
 * AGENTSYS_DISK_TRACE   file that gets a record for each call: operation (1 byte), length of the path, offset, length of
 *                       the data (8 bytes each, of this machine's order), path, data
 * AGENTSYS_DISK_FAIL    file; while it exists, calls of the kind it names ("w" or "s" for writes and syncs) fail with the
 *                       error number that follows
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;

static int concerns(const char *path) {
    const char *prefix = getenv("AGENTSYS_DISK_PREFIX");
    size_t length = strlen(path);
    if (!prefix || strncmp(path, prefix, strlen(prefix)) != 0) return 0;
    return !(length > 4 && strcmp(path + length - 4, "-shm") == 0) && !strstr(path, ".lock");
}

static int path_of(int descriptor, char *path, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return concerns(path);
}

static int must_fail(char kind) {
    const char *control = getenv("AGENTSYS_DISK_FAIL");
    char text[32] = {0};
    int descriptor = control ? open(control, O_RDONLY | O_CLOEXEC) : -1;
    if (descriptor < 0) return 0;
    ssize_t length = read(descriptor, text, sizeof text - 1);
    close(descriptor);
    if (length < 2 || text[0] != kind) return 0;
    errno = atoi(text + 1);
    return 1;
}

static void put(int descriptor, const void *data, size_t size) {
    while (size > 0) {
        ssize_t written = syscall(SYS_write, descriptor, data, size);
        if (written < 0) abort();
        data = (const char *)data + written;
        size -= (size_t)written;
    }
}

static void record(char operation, const char *path, int64_t offset, const void *data, size_t size) {
    static int descriptor = -1;
    const char *trace = getenv("AGENTSYS_DISK_TRACE");
    if (!trace) return;
    pthread_mutex_lock(&guard);
    if (descriptor < 0) descriptor = open(trace, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    int64_t numbers[3] = {(int64_t)strlen(path), offset, (int64_t)size};
    put(descriptor, &operation, 1);
    put(descriptor, numbers, sizeof numbers);
    put(descriptor, path, strlen(path));
    put(descriptor, data, size);
    pthread_mutex_unlock(&guard);
}

#define REAL(name, type) static type real; if (!real) real = (type)dlsym(RTLD_NEXT, #name)

typedef ssize_t (*write_call)(int, const void *, size_t);
typedef ssize_t (*pwrite_call)(int, const void *, size_t, off_t);
typedef int (*sync_call)(int);
typedef int (*truncate_call)(int, off_t);
typedef int (*unlink_call)(const char *);

ssize_t write(int descriptor, const void *data, size_t size) {
    REAL(write, write_call);
    char path[4096];
    if (!path_of(descriptor, path, sizeof path)) return real(descriptor, data, size);
    if (must_fail('w')) return -1;
    off_t offset = lseek(descriptor, 0, SEEK_CUR);
    ssize_t written = real(descriptor, data, size);
    if (written > 0) record('w', path, offset, data, (size_t)written);
    return written;
}

static ssize_t write_at(pwrite_call real, int descriptor, const void *data, size_t size, off_t offset) {
    char path[4096];
    if (!path_of(descriptor, path, sizeof path)) return real(descriptor, data, size, offset);
    if (must_fail('w')) return -1;
    ssize_t written = real(descriptor, data, size, offset);
    if (written > 0) record('w', path, offset, data, (size_t)written);
    return written;
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset) {
    REAL(pwrite, pwrite_call);
    return write_at(real, descriptor, data, size, offset);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off_t offset) {
    REAL(pwrite64, pwrite_call);
    return write_at(real, descriptor, data, size, offset);
}

static int sync_with(sync_call real, int descriptor) {
    char path[4096];
    if (!path_of(descriptor, path, sizeof path)) return real(descriptor);
    if (must_fail('s')) return -1;
    int result = real(descriptor);
    if (result == 0) record('s', path, 0, "", 0);
    return result;
}

int fsync(int descriptor) {
    REAL(fsync, sync_call);
    return sync_with(real, descriptor);
}

int fdatasync(int descriptor) {
    REAL(fdatasync, sync_call);
    return sync_with(real, descriptor);
}

static int truncate_with(truncate_call real, int descriptor, off_t size) {
    char path[4096];
    int result = real(descriptor, size);
    if (result == 0 && path_of(descriptor, path, sizeof path)) record('t', path, size, "", 0);
    return result;
}

int ftruncate(int descriptor, off_t size) {
    REAL(ftruncate, truncate_call);
    return truncate_with(real, descriptor, size);
}

int ftruncate64(int descriptor, off_t size) {
    REAL(ftruncate64, truncate_call);
    return truncate_with(real, descriptor, size);
}

int unlink(const char *path) {
    REAL(unlink, unlink_call);
    int result = real(path);
    if (result == 0 && concerns(path)) record('u', path, 0, "", 0);
    return result;
}
