/* file.c - see file.h. */
#include "base/file.h"
#include "base/status.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

pleat_status file_save(const char *path, const void *bytes, size_t n_bytes, pleat_error *error) {
    char part[4200];
    if ((size_t)snprintf(part, sizeof(part), "%s.part", path) >= sizeof(part))
        return err_set(error, PLEAT_EINPUT, "the path %.60s... is too long", path);
    FILE *f = fopen(part, "wbe");
    if (!f)
        return err_set(error, PLEAT_EIO, "%.300s: cannot be written: %s", path, strerror(errno));
    bool ok = fwrite(bytes, 1, n_bytes, f) == n_bytes;
    int why = errno;
    if (fclose(f)) {
        why = ok ? errno : why;
        ok = false;
    }
    if (ok && rename(part, path)) {
        why = errno;
        ok = false;
    }
    if (ok)
        return PLEAT_OK;
    unlink(part);
    return err_set(error, PLEAT_EIO, "%.300s: cannot be written: %s", path, strerror(why));
}

pleat_status file_write_all(int fd, const void *bytes, size_t n, const char *what, pleat_error *error) {
    const char *at = bytes;
    while (n) {
        ssize_t done = write(fd, at, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return err_set(error, PLEAT_EIO, "%.300s cannot be written: %s", what,
                           done ? strerror(errno) : "nothing more fits");
        at += done;
        n -= (size_t)done;
    }
    return PLEAT_OK;
}

pleat_status file_read_all(int fd, void *bytes, size_t n, const char *what, pleat_error *error) {
    char *to = bytes;
    while (n) {
        ssize_t done = read(fd, to, n);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return err_set(error, done ? PLEAT_EIO : PLEAT_EINPUT, "%.300s cannot be read: %s", what,
                           done ? strerror(errno) : "it became shorter");
        to += done;
        n -= (size_t)done;
    }
    return PLEAT_OK;
}
