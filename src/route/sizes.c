/* sizes.c - prompt and answer sizes: from a CSV file, or from ShareGPT's conversations.
 *
 * ShareGPT's file as it is packaged breaks off in the middle of a conversation. It is walked from object to object of
 * its outer list: a scan finds where each ends (strings and escapes minded), and only a whole one is parsed. Cost:
 * about a second for 125 MB. */
#include "route/workload.h"
#include "base/csv.h"
#include "base/memory.h"
#include "base/status.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_TOKENS = 1 << 24, CHARACTERS_PER_TOKEN = 4 };

void sim_sizes_free(sim_sizes *s) {
    free(s->size);
    *s = (sim_sizes){0};
}

static pleat_status add(sim_sizes *s, sim_size size, pleat_error *error) {
    if (!mem_grow(&s->size, &s->cap, s->n + 1, sizeof(*s->size)))
        return err_set(error, PLEAT_EMEMORY, "no memory for %d sizes", s->n + 1);
    s->size[s->n++] = size;
    return PLEAT_OK;
}

static pleat_status add_row(void *context, const csv_row *row, pleat_error *error) {
    int64_t prompt, answer;
    pleat_status status = csv_int(row, 0, 1, MOST_TOKENS, &prompt, error);
    status = status ? status : csv_int(row, 1, 1, MOST_TOKENS, &answer, error);
    return status ? status : add(context, (sim_size){(int32_t)prompt, (int32_t)answer}, error);
}

pleat_status sim_sizes_read(const char *path, sim_sizes *out, pleat_error *error) {
    static const char *const columns[] = {"prompt_tokens", "answer_tokens", NULL};
    sim_sizes s = {0};
    pleat_status status = csv_read(path, columns, add_row, &s, error);
    if (!status && !s.n)
        status = err_set(error, PLEAT_EINPUT, "%.300s holds no row", path);
    if (status)
        sim_sizes_free(&s);
    else
        *out = s;
    return status;
}

/* ---- ShareGPT ---- */

typedef struct walk {
    const char *path, *bytes;
    size_t n;
    int most_prompt, n_conversations, n_other, n_long;
    sim_sizes sizes;
} walk;

static int32_t tokens_of(const json_t *words) {
    const unsigned char *bytes = (const unsigned char *)json_string_value(words);
    size_t n = json_string_length(words), characters = 0;
    for (size_t i = 0; i < n; i++)
        characters += (bytes[i] & 0xC0) != 0x80;
    size_t tokens = (characters + CHARACTERS_PER_TOKEN - 1) / CHARACTERS_PER_TOKEN;
    return tokens < MOST_TOKENS ? (int32_t)tokens : MOST_TOKENS;
}

/* Tokens of a turn by `from`; 0: it is another's, or empty. */
static int32_t turn_tokens(const json_t *turns, size_t i, const char *from) {
    const json_t *turn = json_array_get(turns, i), *words = json_object_get(turn, "value");
    const char *who = json_string_value(json_object_get(turn, "from"));
    return who && json_is_string(words) && !strcmp(who, from) ? tokens_of(words) : 0;
}

static pleat_status add_conversation(walk *w, const json_t *conversation, pleat_error *error) {
    const json_t *turns = json_object_get(conversation, "conversations");
    sim_size size = {turn_tokens(turns, 0, "human"), turn_tokens(turns, 1, "gpt")};
    w->n_conversations++;
    if (!json_is_array(turns))
        return err_set(error, PLEAT_EINPUT,
                       "%.300s: conversation %d has no list \"conversations\": not a ShareGPT file", w->path,
                       w->n_conversations);
    if (!size.prompt || !size.answer)
        w->n_other++;
    else if (w->most_prompt && size.prompt > w->most_prompt)
        w->n_long++;
    else
        return add(&w->sizes, size, error);
    return PLEAT_OK;
}

/* One past the end of the object that begins at `at`; 0: the file ends before. */
static size_t object_end(const walk *w, size_t at) {
    int depth = 0;
    bool in_string = false;
    for (; at < w->n; at++) {
        char c = w->bytes[at];
        if (in_string) {
            if (c == '\\')
                at++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{') {
            depth++;
        } else if (c == '}' && --depth == 0) {
            return at + 1;
        }
    }
    return 0;
}

static size_t skip_between(const walk *w, size_t at) {
    while (at < w->n && strchr(" \t\r\n,", w->bytes[at]) && w->bytes[at])
        at++;
    return at;
}

static pleat_status walk_list(walk *w, pleat_error *error) {
    json_error_t why;
    size_t at = skip_between(w, 0);
    bool whole = false;
    if (at == w->n || w->bytes[at] != '[')
        return err_set(error, PLEAT_EINPUT, "%.300s does not begin with a list: not a ShareGPT file", w->path);
    for (at = skip_between(w, at + 1); at < w->n && w->bytes[at] == '{'; at = skip_between(w, at)) {
        size_t end = object_end(w, at);
        if (!end)
            break;
        json_t *conversation = json_loadb(w->bytes + at, end - at, 0, &why);
        if (!conversation)
            return err_set(error, PLEAT_EINPUT, "%.300s: conversation %d, at byte %zu: %.200s", w->path,
                           w->n_conversations + 1, at + (size_t)(why.position > 0 ? why.position : 0), why.text);
        pleat_status status = add_conversation(w, conversation, error);
        json_decref(conversation);
        if (status)
            return status;
        at = end;
    }
    whole = at < w->n && w->bytes[at] == ']';
    if (!whole && at < w->n && w->bytes[at] != '{')
        return err_set(error, PLEAT_EINPUT, "%.300s: an object is expected at byte %zu, not \"%c\"", w->path, at,
                       w->bytes[at] > ' ' && w->bytes[at] < 127 ? w->bytes[at] : '?');
    if (!w->sizes.n)
        return err_set(error, PLEAT_EINPUT, "%.300s holds no conversation that a human begins and the model answers",
                       w->path);
    snprintf(w->sizes.note, sizeof(w->sizes.note), "%d of %d conversations: %d begin otherwise, %d are too long%s",
             w->sizes.n, w->n_conversations, w->n_other, w->n_long, whole ? "" : "; the file breaks off after them");
    return PLEAT_OK;
}

pleat_status sim_sizes_sharegpt(const char *path, int most_prompt, sim_sizes *out, pleat_error *error) {
    walk w = {.path = path, .most_prompt = most_prompt};
    struct stat info;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &info)) {
        int why = errno;
        if (file >= 0)
            close(file);
        return err_set(error, PLEAT_EIO, "%.300s: cannot be opened: %s", path, strerror(why));
    }
    w.n = (size_t)info.st_size;
    void *bytes = w.n ? mmap(NULL, w.n, PROT_READ, MAP_PRIVATE, file, 0) : MAP_FAILED;
    close(file);
    if (bytes == MAP_FAILED)
        return err_set(error, w.n ? PLEAT_EIO : PLEAT_EINPUT, "%.300s: %s", path,
                       w.n ? strerror(errno) : "the file is empty");
    w.bytes = bytes;
    pleat_status status = walk_list(&w, error);
    munmap(bytes, w.n);
    if (status)
        sim_sizes_free(&w.sizes);
    else
        *out = w.sizes;
    return status;
}
