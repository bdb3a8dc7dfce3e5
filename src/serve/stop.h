/* stop.h - stop strings, and text from tokens: whole characters, and never a byte of a stop string
 * (unless the list says that it is shown). */
#ifndef SERVE_STOP_H
#define SERVE_STOP_H
#include "base/text.h"
#include "pleat.h"

enum { STOP_MOST = 32 /* OpenAI has 4; tasks of lm-eval send more */, STOP_MOST_BYTES = 1000 };

typedef struct stop_list { /* zeroed: empty */
    int n;
    bool shown; /* the one that ends a text is part of it */
    char *bytes[STOP_MOST];
    int16_t *fail[STOP_MOST]; /* [n_bytes]: longest border of the first i + 1 bytes */
    int n_bytes[STOP_MOST];
} stop_list;
/* false: no memory. 1 to STOP_MOST_BYTES bytes, at most STOP_MOST strings (asserted). */
bool stop_add(stop_list *list, const char *bytes, size_t n);
void stop_free(stop_list *list);

typedef struct stop_state { /* zeroed: at the beginning */
    int16_t at[STOP_MOST];  /* bytes of each string that the text ends with */
} stop_state;
/* Takes the next byte; the length of the longest string that ends with it, 0: none. */
int stop_step(const stop_list *list, stop_state *state, char byte);
/* Takes the bytes of a token; true: a string ended in it, and counts. */
bool stop_feed(const stop_list *list, stop_state *state, const char *bytes, size_t n, bool counts);

/* The same tokens give the same text however they are cut into calls. */
typedef struct stop_text { /* zeroed: empty */
    stop_state state;
    text held;
    bool stopped;
} stop_text;
/* Appends to out what of the text can be shown. */
void stop_text_add(stop_text *t, const stop_list *list, const char *bytes, size_t n, bool counts, text *out);
/* The rest, repaired. */
void stop_text_end(stop_text *t, text *out);
void stop_text_free(stop_text *t);
/* Appends the text of n tokens, repaired; of control tokens only with special. out->failed: no memory. */
void text_of_tokens(const pleat_model *model, const int32_t *ids, int n, bool special, text *out);
#endif
