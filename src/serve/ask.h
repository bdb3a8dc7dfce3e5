/* ask.h - what a completion request asks for, read from its body and checked field by field. */
#ifndef SERVE_ASK_H
#define SERVE_ASK_H
#include "engine/scheduler.h"
#include "serve/fields.h"
#include "serve/stop.h"
#include "text/chat.h"

/* What the server stands for; the requests' defaults and limits. */
typedef struct ask_world {
    const pleat_model *model;
    const char *name;   /* of the model, as requests say it */
    const char *method; /* default spec */
    int context_tokens; /* prompt and answer */
    size_t pool_bytes;
    int most_answers; /* of one request: prompts x n */
    bool has_chat;
    chat_format format;
    const char *no_chat; /* the sentence when there is no format */
} ask_world;

enum { ASK_MOST_STOP_IDS = 64 };

typedef struct ask_prompt {
    int32_t *ids; /* [n] */
    int n;
    int max_tokens;
} ask_prompt;

typedef struct ask {
    bool chat, stream, include_usage, running_usage, echo, logprobs, ignore_end;
    int n, n_top, min_tokens, pin_tokens;
    pleat_sampling sampling;
    stop_list stops;
    int32_t stop_id[ASK_MOST_STOP_IDS];
    int n_stop_id;
    token_bias *bias;
    int n_bias;
    pleat_method *method;
    ask_prompt *prompt; /* [n_prompts] */
    int n_prompts;
    char salt[260];
} ask;

/* header: x-kv-method, or NULL. NULL: r says why. Free with ask_free. */
ask *ask_read(const ask_world *world, const json_t *body, bool chat, const char *header, refusal *r);
void ask_free(ask *a);
/* Messages as ids (also for /tokenize). *ids malloc'ed. *pin: leading tokens that hold the system message. */
bool ask_chat_ids(const ask_world *world, const json_t *messages, int32_t **ids, int *n_ids, int *n_system, refusal *r);
/* Is this the model that is served? */
bool ask_model(const ask_world *world, const json_t *body, refusal *r);
#endif
