/* status.h - how library code says no: a pleat_status and one sentence. Never prints, never exits. */
#ifndef BASE_STATUS_H
#define BASE_STATUS_H
#include "pleat.h"

/* Fills error->text (if error) by printf rules and returns status, so that `return err_set(...)` is one line. */
pleat_status err_set(pleat_error *error, pleat_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#endif
