/* serve_config.c - see serve_config.h. A configuration is JSON ({"pool": "4GB"}) or a line "name = value" each ("#"
 * begins a comment); true is an option without a value, false one that is not there, but for one that is on or off.
 * Which names there are the command's options say. */
#include "cli/serve_config.h"
#include "base/status.h"
#include "base/text.h"
#include "cli/print.h"
#include <ctype.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static pleat_status add_word(config_words *w, const char *name, const char *value, pleat_error *error) {
    text t = {0};
    if (!strcmp(name, "config"))
        return err_set(error, PLEAT_EINPUT, "a configuration file cannot name another");
    text_printf(&t, value ? "--%s=%s" : "--%s", name, value);
    if (t.failed || w->n == CONFIG_MOST_WORDS) {
        text_free(&t);
        return err_set(error, PLEAT_EINPUT, "the configuration file is too long");
    }
    w->word[w->n++] = t.bytes;
    return PLEAT_OK;
}

/* A truth value. */
static pleat_status add_truth(config_words *w, const char *name, bool value, pleat_error *error) {
    const option *o = options_find(w->options, name, strlen(name));
    if (o && o->kind == OPTION_SWITCH)
        return add_word(w, name, value ? "on" : "off", error);
    return value ? add_word(w, name, NULL, error) : PLEAT_OK;
}

static pleat_status read_object(const char *path, const char *bytes, size_t n, config_words *w, pleat_error *error) {
    json_error_t reason;
    json_t *all = json_loadb(bytes, n, JSON_REJECT_DUPLICATES, &reason), *value;
    const char *name;
    pleat_status status = PLEAT_OK;
    if (!all)
        return err_set(error, PLEAT_EINPUT, "%s: line %d: %s", path, reason.line, reason.text);
    json_object_foreach(all, name, value) {
        char *number = NULL;
        if (json_is_number(value))
            number = json_dumps(value, JSON_ENCODE_ANY);
        else if (!json_is_string(value) && !json_is_boolean(value))
            status = err_set(error, PLEAT_EINPUT, "%s: %s must be a text, a number, true or false", path, name);
        if (!status && json_is_boolean(value))
            status = add_truth(w, name, json_is_true(value), error);
        else if (!status)
            status = add_word(w, name, number ? number : json_string_value(value), error);
        free(number);
        if (status)
            break;
    }
    json_decref(all);
    return status;
}

static char *trimmed(char *s) {
    while (isspace((unsigned char)*s))
        s++;
    for (size_t n = strlen(s); n && isspace((unsigned char)s[n - 1]);)
        s[--n] = 0;
    return s;
}

static pleat_status read_lines(const char *path, char *bytes, config_words *w, pleat_error *error) {
    int number = 0;
    for (char *line = bytes, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        number++;
        line = trimmed(line);
        if (!*line || *line == '#')
            continue;
        char *equals = strchr(line, '=');
        if (!equals)
            return err_set(error, PLEAT_EINPUT, "%s: line %d: name = value is expected", path, number);
        *equals = 0;
        const char *name = trimmed(line), *value = trimmed(equals + 1);
        bool truth = !strcmp(value, "true"), word = !truth && strcmp(value, "false");
        pleat_status status = word ? add_word(w, name, value, error) : add_truth(w, name, truth, error);
        if (status)
            return status;
    }
    return PLEAT_OK;
}

pleat_status config_read(const char *path, const option *options, config_words *w, pleat_error *error) {
    char *bytes;
    size_t n;
    w->options = options;
    pleat_status status = file_read(path, &bytes, &n, error);
    if (status)
        return status;
    status = bytes[strspn(bytes, " \t\r\n")] == '{' ? read_object(path, bytes, n, w, error)
                                                    : read_lines(path, bytes, w, error);
    free(bytes);
    return status;
}

void config_free(config_words *w) {
    for (int i = 0; i < w->n; i++)
        free(w->word[i]);
    w->n = 0;
}

pleat_status keys_read(const char *key, const char *path, serve_keys *k, pleat_error *error) {
    size_t n;
    *k = (serve_keys){.n = 0};
    if (key)
        k->key[k->n++] = key;
    if (key && !*key)
        return err_set(error, PLEAT_EINPUT, "--api-key is empty");
    if (!path)
        return PLEAT_OK;
    pleat_status status = file_read(path, &k->file, &n, error);
    for (char *line = status ? NULL : k->file, *next; line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        line = trimmed(line);
        if (!*line)
            continue;
        if (k->n == SERVE_MOST_KEYS)
            return err_set(error, PLEAT_EINPUT, "%s: more than %d keys", path, SERVE_MOST_KEYS);
        k->key[k->n++] = line;
    }
    if (!status && !k->n)
        return err_set(error, PLEAT_EINPUT, "%s: there is no key in it", path);
    return status;
}

void keys_free(serve_keys *k) {
    free(k->file);
}
