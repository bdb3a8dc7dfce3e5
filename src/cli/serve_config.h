/* serve_config.h - the files that `pleat serve` reads before it opens a model: its configuration and its keys. */
#ifndef CLI_SERVE_CONFIG_H
#define CLI_SERVE_CONFIG_H
#include "cli/options.h"
#include "pleat.h"

enum { CONFIG_MOST_WORDS = 256, SERVE_MOST_KEYS = 64 };

/* What a configuration file says, as words of a command line: "--name=value" or "--name". */
typedef struct config_words {
    char *word[CONFIG_MOST_WORDS]; /* malloc'ed */
    int n;
    const option *options; /* while the file is read */
} config_words;

/* For a command with these options. PLEAT_EIO, or PLEAT_EINPUT that names the file and the line or field. Free with
 * config_free in any case. */
pleat_status config_read(const char *path, const option *options, config_words *w, pleat_error *error);
void config_free(config_words *w);

typedef struct serve_keys {
    const char *key[SERVE_MOST_KEYS + 1]; /* [n] */
    int n;
    char *file; /* holds most of them */
} serve_keys;

/* key, and those of the file at path, one a line; either may be NULL. PLEAT_EIO, PLEAT_EINPUT (an empty key, no key in
 * the file, too many). Free with keys_free in any case. */
pleat_status keys_read(const char *key, const char *path, serve_keys *k, pleat_error *error);
void keys_free(serve_keys *k);
#endif
