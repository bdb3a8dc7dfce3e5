/* print.c - see print.h. */
#include "cli/print.h"
#include "base/status.h"
#include "base/text.h"
#include "cli/sources.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int print_error(const char *command_name, const pleat_error *error) {
    fprintf(stderr, "pleat %s: %s\n", command_name, error->text);
    return EXIT_FAILED;
}

int print_json(const char *command_name, json_t *object) {
    int failed =
        json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) || putchar('\n') == EOF || fflush(stdout);
    json_decref(object);
    if (!failed)
        return EXIT_OK;
    fprintf(stderr, "pleat %s: the result could not be written: %s\n", command_name, strerror(errno));
    return EXIT_FAILED;
}

bool home_path(char *out, size_t cap) {
    const char *own = getenv("PLEAT_HOME"), *home = getenv("HOME");
    if (own && *own)
        return (size_t)snprintf(out, cap, "%s", own) < cap;
    if (home && *home)
        return (size_t)snprintf(out, cap, "%s/.cache/pleat", home) < cap;
    return false;
}

pleat_status model_path(const char *name, char *out, size_t cap, pleat_error *error) {
    size_t n = strlen(name);
    char home[3000];
    if (strchr(name, '/') || (n > 5 && !strcmp(name + n - 5, ".gguf")))
        return (size_t)snprintf(out, cap, "%s", name) < cap
                   ? PLEAT_OK
                   : err_set(error, PLEAT_EINPUT, "the path of the model is too long");
    if (!home_path(home, sizeof(home)) || (size_t)snprintf(out, cap, "%s/models/%s.gguf", home, name) >= cap)
        return err_set(error, PLEAT_EINPUT, "no place to look for the model %.60s: set PLEAT_HOME or HOME", name);
    if (!access(out, R_OK))
        return PLEAT_OK;
    if (source_find(name))
        return err_set(error, PLEAT_EINPUT, "the model %s is not there yet; get it with `pleat fetch %s`", name, name);
    return err_set(error, PLEAT_EINPUT, "there is no model %.80s (%.300s); give a path, or one of: %s", name, out,
                   source_names());
}

pleat_status model_open(const char *name, int n_threads, bool repack, pleat_model **model, pleat_error *error) {
    char path[4200];
    if (!name)
        return err_set(error, PLEAT_EINPUT, "which model? give it with -m NAME or -m FILE.gguf");
    pleat_status status = model_path(name, path, sizeof(path), error);
    if (status)
        return status;
    return repack ? pleat_model_open(path, n_threads, model, error) : pleat_model_open_mapped(path, model, error);
}

pleat_status file_read(const char *path, char **bytes, size_t *n_bytes, pleat_error *error) {
    FILE *f = !strcmp(path, "-") ? stdin : fopen(path, "rb");
    if (!f)
        return err_set(error, PLEAT_EIO, "%.300s: cannot be opened: %s", path, strerror(errno));
    text t = {0};
    char part[1 << 16];
    size_t n;
    while ((n = fread(part, 1, sizeof(part), f)) > 0)
        text_append(&t, part, n);
    bool failed = ferror(f);
    int why = errno;
    if (f != stdin)
        fclose(f);
    if (failed || t.failed) {
        text_free(&t);
        return failed ? err_set(error, PLEAT_EIO, "%.300s: cannot be read: %s", path, strerror(why))
                      : err_set(error, PLEAT_EMEMORY, "no memory for the text of %.300s", path);
    }
    *n_bytes = t.n;
    *bytes = t.bytes ? t.bytes : calloc(1, 1);
    return *bytes ? PLEAT_OK : err_set(error, PLEAT_EMEMORY, "no memory for an empty text");
}
