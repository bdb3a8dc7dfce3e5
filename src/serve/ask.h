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
    bool context_said;  /* by the operator: it then holds also for methods that the model's does not bind */
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
    token_span *pin; /* [n_pins] never evicted; none is empty */
    int n_pins;
} ask_prompt;

/* Messages as a prompt. */
typedef struct ask_messages {
    int32_t *ids; /* [n] malloc'ed */
    int n;
    token_span *pin; /* [n_pins] the messages that say "pin": true; malloc'ed */
    int n_pins;
    token_span system; /* of the system message; may be empty */
} ask_messages;

typedef struct ask {
    bool chat, stream, include_usage, running_usage, echo, logprobs, ignore_end;
    int n, n_top, min_tokens;
    pleat_sampling sampling;
    stop_list stops;
    int32_t stop_id[ASK_MOST_STOP_IDS];
    int n_stop_id;
    token_bias *bias;
    int n_bias;
    uint8_t *allowed; /* [(n_vocab + 7) / 8] a bit for each token that may come; NULL: all may */
    pleat_method *method;
    ask_prompt *prompt; /* [n_prompts] */
    int n_prompts;
    char salt[260];
} ask;

/* header: x-kv-method, or NULL. NULL: r says why. Free with ask_free. */
ask *ask_read(const ask_world *world, const json_t *body, bool chat, const char *header, refusal *r);
void ask_free(ask *a);
/* Reads body's messages (also for /tokenize); what is in *out is the caller's to free. */
bool ask_messages_read(const ask_world *world, const json_t *body, ask_messages *out, refusal *r);
/* One of this model's tokens, as a field `name` has it. */
bool ask_token_id(const ask_world *world, const char *name, const json_t *item, int32_t *id, refusal *r);
/* Is this the model that is served? */
bool ask_model(const ask_world *world, const json_t *body, refusal *r);
#endif
