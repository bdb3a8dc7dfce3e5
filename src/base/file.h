/* file.h - writing a whole file so that a reader sees the old one or the new one; descriptors; names. */
#ifndef BASE_FILE_H
#define BASE_FILE_H
#include "pleat.h"

/* Through a temporary file beside it ("PATH.part"), then renamed. PLEAT_EIO with the system's reason. */
pleat_status file_save(const char *path, const void *bytes, size_t n_bytes, pleat_error *error);
/* All n bytes, however many calls that takes. PLEAT_EIO names `what` and the system's reason; reading also
 * PLEAT_EINPUT: the file ends before. */
pleat_status file_write_all(int fd, const void *bytes, size_t n, const char *what, pleat_error *error);
pleat_status file_read_all(int fd, void *bytes, size_t n, const char *what, pleat_error *error);
/* What stands behind the path's last slash. */
const char *file_name(const char *path);
#endif
