/* parse.c - method specs: "kivi:bits=2,group=32+h2o:heavy=64+prefill:bounded", "k=kivi(bits=4),v=int8",
 * "kivi-4+streaming-512".
 *
 *   spec   = part { "+" part }
 *   part   = NAME [ ":" pairs ] | preset | "k=" side ",v=" side
 *   side   = NAME [ "(" pairs ")" ] | preset that is a format
 *   pairs  = KEY "=" VALUE { "," KEY "=" VALUE }
 *
 * A preset stands for its spec. One part of each kind; f16, all and even give way to another of their kind, and saying
 * the same part twice is harmless. The canonical spec names every parameter, so that it says the same when a default
 * changes. */
#include "kv/parse.h"
#include "base/status.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_SPEC_BYTES = KV_MAX_SPEC_BYTES, MOST_PRESET_DEPTH = 4, DEFAULT_GRID_TOKENS = 512 };

static const kv_param prefill_params[] = {{"", "prompt is compressed", "exact|bounded", 0, 0, 1, true}, {0}};
static const kv_param sinks_params[] = {{"n", "first positions that are never evicted", NULL, 4, 0, 1 << 20, true},
                                        {0}};

typedef struct parser {
    kv_method *method;
    pleat_error *error;
    bool set_format, set_policy, set_split, set_prefill, set_sinks, set_critical, set_layers;
} parser;

bool span_is(span s, const char *name) {
    return (int)strlen(name) == s.n && !memcmp(s.at, name, (size_t)s.n);
}

bool span_cut(span *rest, char separator, span *part) {
    int depth = 0, i = 0;
    if (!rest->at)
        return false;
    for (; i < rest->n; i++) {
        depth += rest->at[i] == '(';
        depth -= rest->at[i] == ')';
        if (depth == 0 && rest->at[i] == separator)
            break;
    }
    *part = (span){rest->at, i};
    *rest = i < rest->n ? (span){rest->at + i + 1, rest->n - i - 1} : (span){NULL, 0};
    return true;
}

/* ---- parameters ---- */

static pleat_status choice_value(const parser *p, const char *part, const kv_param *param, span value, double *out) {
    span rest = {param->choices, (int)strlen(param->choices)}, choice;
    for (int i = 0; span_cut(&rest, '|', &choice); i++)
        if (choice.n == value.n && !memcmp(choice.at, value.at, (size_t)value.n)) {
            *out = i;
            return PLEAT_OK;
        }
    return err_set(p->error, PLEAT_EINPUT, "%s: %s%s%.*s is not possible; it must be one of %s", part, param->name,
                   *param->name ? "=" : "", value.n, value.at, param->choices);
}

static pleat_status number_value(const parser *p, const char *part, const kv_param *param, span value, double *out) {
    char text[32], *end = text;
    double x = 0;
    if (value.n > 0 && value.n < (int)sizeof(text)) {
        memcpy(text, value.at, (size_t)value.n);
        text[value.n] = 0;
        x = strtod(text, &end);
    }
    if (end == text || *end || !isfinite(x) || (param->integer && x != floor(x)))
        return err_set(p->error, PLEAT_EINPUT, "%s: %s=%.*s is not %s", part, param->name, value.n < 40 ? value.n : 40,
                       value.at, param->integer ? "a whole number" : "a number");
    if (x < param->low || x > param->high)
        return err_set(p->error, PLEAT_EINPUT, "%s: %s=%.*s must be between %g and %g", part, param->name, value.n,
                       value.at, param->low, param->high);
    *out = x;
    return PLEAT_OK;
}

static pleat_status unknown_key(const parser *p, const char *part, const kv_param *params, span key) {
    char known[200] = "";
    size_t n = 0;
    for (int i = 0; params && params[i].name && n < sizeof(known) - 1; i++)
        n += (size_t)snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", params[i].name);
    return err_set(p->error, PLEAT_EINPUT, "%s has no parameter \"%.*s\"; %s%s", part, key.n < 40 ? key.n : 40, key.at,
                   *known ? "it has " : "it has none", known);
}

static pleat_status parse_pair(const parser *p, const char *part, const kv_param *params, span pair, kv_config *config,
                               unsigned *seen) {
    span rest = pair, key = {"", 0};
    span_cut(&rest, '=', &key);
    for (int i = 0; params && params[i].name; i++) {
        if (!span_is(key, params[i].name) || i >= KV_MAX_PARAMS)
            continue;
        if (!rest.at)
            return err_set(p->error, PLEAT_EINPUT, "%s: %s needs a value (%s=...)", part, params[i].name,
                           params[i].name);
        if (*seen & 1u << i)
            return err_set(p->error, PLEAT_EINPUT, "%s: %s is given twice", part, params[i].name);
        *seen |= 1u << i;
        return (params[i].choices ? choice_value : number_value)(p, part, &params[i], rest, &config->value[i]);
    }
    return unknown_key(p, part, params, key);
}

/* pairs.at NULL: none. */
static pleat_status parse_pairs(const parser *p, const char *part, const kv_param *params, span pairs,
                                kv_config *config) {
    unsigned seen = 0;
    span pair;
    *config = (kv_config){{0}};
    for (int i = 0; params && params[i].name; i++)
        config->value[i] = params[i].fallback;
    while (span_cut(&pairs, ',', &pair)) {
        pleat_status status = parse_pair(p, part, params, pair, config, &seen);
        if (status)
            return status;
    }
    return PLEAT_OK;
}

/* ---- parts ---- */

static bool same(const kv_config *a, const kv_config *b) {
    for (int i = 0; i < KV_MAX_PARAMS; i++)
        if (a->value[i] != b->value[i])
            return false;
    return true;
}

static pleat_status two_parts(const parser *p, const char *kind, const char *a, const char *b) {
    return err_set(p->error, PLEAT_EINPUT, "two different %s in one method (%s and %s); at most one is possible", kind,
                   a, b);
}

static pleat_status set_format(parser *p, const kv_format *const format[2], const kv_config config[2]) {
    kv_method *m = p->method;
    if (format[0] == kv_formats[0] && format[1] == kv_formats[0])
        return PLEAT_OK;
    for (int side = 0; p->set_format && side < 2; side++)
        if (m->coding[side].format != format[side] || !same(&m->coding[side].config, &config[side]))
            return two_parts(p, "formats", m->coding[side].format->name, format[side]->name);
    for (int side = 0; side < 2; side++) {
        m->coding[side].format = format[side];
        m->coding[side].config = config[side];
    }
    p->set_format = true;
    return PLEAT_OK;
}

static pleat_status set_policy(parser *p, const kv_policy *policy, const kv_config *config) {
    if (policy == kv_policies[0])
        return PLEAT_OK;
    if (p->set_policy && (p->method->policy != policy || !same(&p->method->policy_config, config)))
        return two_parts(p, "policies", p->method->policy->name, policy->name);
    p->method->policy = policy;
    p->method->policy_config = *config;
    p->set_policy = true;
    return PLEAT_OK;
}

static pleat_status set_split(parser *p, const kv_split *split, const kv_config *config) {
    if (split == kv_splits[0])
        return PLEAT_OK;
    if (p->set_split && (p->method->split != split || !same(&p->method->split_config, config)))
        return two_parts(p, "splits", p->method->split->name, split->name);
    p->method->split = split;
    p->method->split_config = *config;
    p->set_split = true;
    return PLEAT_OK;
}

static pleat_status set_prefill(parser *p, span value) {
    double bounded;
    pleat_status status = choice_value(p, "prefill", prefill_params, value, &bounded);
    if (status)
        return status;
    if (p->set_prefill && p->method->bounded != (bounded != 0))
        return two_parts(p, "prefill modes", "exact", "bounded");
    p->method->bounded = bounded != 0;
    p->set_prefill = true;
    return PLEAT_OK;
}

static pleat_status set_sinks(parser *p, span pairs) {
    kv_config config;
    pleat_status status = parse_pairs(p, "sinks", sinks_params, pairs, &config);
    if (status)
        return status;
    if (p->set_sinks && p->method->sinks_tokens != (int)config.value[0])
        return two_parts(p, "numbers of sinks", "sinks", "sinks");
    p->method->sinks_tokens = (int)config.value[0];
    p->set_sinks = true;
    return PLEAT_OK;
}

static pleat_status set_critical(parser *p, span pairs) {
    kv_config config;
    pleat_status status = parse_pairs(p, "critical", kv_critical_params, pairs, &config);
    if (status)
        return status;
    if (p->set_critical && !same(&p->method->critical_config, &config))
        return two_parts(p, "modifiers critical", "critical", "critical");
    p->method->critical = p->set_critical = true;
    p->method->critical_config = config;
    return PLEAT_OK;
}

static pleat_status set_layers(parser *p, span pairs) {
    if (p->set_layers)
        return err_set(p->error, PLEAT_EINPUT, "two modifiers layers in one method; at most one is possible");
    p->set_layers = true;
    return layers_parse(pairs.at ? pairs : (span){"", 0}, p->method, p->error);
}

static pleat_status set_pin(parser *p, span pairs) {
    kv_config config;
    p->method->pin = true;
    return parse_pairs(p, "pin", NULL, pairs, &config);
}

static void append_names(char *out, size_t cap, const char *const *name, const char *kind) {
    size_t n = strlen(out);
    n += (size_t)snprintf(out + n, cap - n, "%s%s", *out ? "; " : "", kind);
    for (int i = 0; name[i] && n < cap; i++)
        n += (size_t)snprintf(out + n, cap - n, "%s %s", i ? "," : "", name[i]);
}

static pleat_status unknown_part(const parser *p, span name) {
    enum { MOST = 64 };
    char list[360] = "";
    const char *names[MOST + 1];
    int n = 0;
    for (int i = 0; kv_formats[i] && n < MOST; i++)
        names[n++] = kv_formats[i]->name;
    names[n] = NULL;
    append_names(list, sizeof(list), names, "formats:");
    for (n = 0; kv_policies[n] && n < MOST; n++)
        names[n] = kv_policies[n]->name;
    names[n] = NULL;
    append_names(list, sizeof(list), names, "policies:");
    for (n = 0; kv_presets[n].name && n < MOST; n++)
        names[n] = kv_presets[n].name;
    names[n] = NULL;
    append_names(list, sizeof(list), names, "presets:");
    if (name.n == 0)
        return err_set(p->error, PLEAT_EINPUT, "a method has an empty part; known are %s", list);
    return err_set(p->error, PLEAT_EINPUT, "\"%.*s\" is no part of a method; known are %s", name.n < 40 ? name.n : 40,
                   name.at, list);
}

static const char *preset_spec(span name) {
    for (int i = 0; kv_presets[i].name; i++)
        if (span_is(name, kv_presets[i].name))
            return kv_presets[i].spec;
    return NULL;
}

static const kv_format *find_format(span name) {
    for (int i = 0; kv_formats[i]; i++)
        if (span_is(name, kv_formats[i]->name))
            return kv_formats[i];
    return NULL;
}

/* One side of a two-sided format: NAME(pairs), or a preset that is a format alone. */
static pleat_status parse_side(parser *p, span text, const kv_format **format, kv_config *config) {
    span rest = text, name = {"", 0}, pairs = {NULL, 0};
    const char *preset = preset_spec(text);
    if (preset) {
        rest = (span){preset, (int)strlen(preset)};
        span_cut(&rest, ':', &name);
        pairs = rest;
    } else {
        const char *open = memchr(text.at, '(', (size_t)text.n), *colon = memchr(text.at, ':', (size_t)text.n);
        if (colon && (!open || colon < open)) {
            span_cut(&rest, ':', &name);
            pairs = rest;
            open = NULL;
        } else
            name = (span){text.at, open ? (int)(open - text.at) : text.n};
        if (open) {
            if (text.at[text.n - 1] != ')')
                return err_set(p->error, PLEAT_EINPUT, "\"%.*s\" lacks its closing parenthesis",
                               text.n < 60 ? text.n : 60, text.at);
            pairs = (span){open + 1, text.n - name.n - 2};
        }
    }
    *format = find_format(name);
    if (!*format)
        return err_set(p->error, PLEAT_EINPUT,
                       "\"%.*s\" is not a format; one side of a two-sided format is NAME(key=value,...)",
                       name.n < 40 ? name.n : 40, name.at);
    return parse_pairs(p, (*format)->name, (*format)->params, pairs, config);
}

static pleat_status parse_two_sided(parser *p, span text, const kv_format *format[2], kv_config config[2]) {
    static const char prefix[2][3] = {"k=", "v="};
    span rest = text, side;
    format[0] = format[1] = NULL;
    while (span_cut(&rest, ',', &side)) {
        int which = -1;
        for (int i = 0; i < 2; i++)
            if (side.n > 2 && !memcmp(side.at, prefix[i], 2))
                which = i;
        if (which < 0 || format[which])
            return err_set(p->error, PLEAT_EINPUT,
                           "\"%.*s\": a two-sided format is k=NAME(...),v=NAME(...), each side once",
                           text.n < 80 ? text.n : 80, text.at);
        pleat_status status = parse_side(p, (span){side.at + 2, side.n - 2}, &format[which], &config[which]);
        if (status)
            return status;
    }
    if (!format[0] || !format[1])
        return err_set(p->error, PLEAT_EINPUT,
                       "\"%.*s\" names only one side; a two-sided format is k=NAME(...),v=NAME(...)",
                       text.n < 80 ? text.n : 80, text.at);
    return PLEAT_OK;
}

static bool is_two_sided(span text) {
    return text.n > 2 && text.at[1] == '=' && (text.at[0] == 'k' || text.at[0] == 'v');
}

pleat_status parse_coding(span text, kv_coding out[2], pleat_error *error) {
    parser p = {.error = error};
    const kv_format *format[2];
    kv_config config[2];
    if (text.n > 2 && text.at[0] == '(' && text.at[text.n - 1] == ')')
        text = (span){text.at + 1, text.n - 2};
    pleat_status status;
    if (is_two_sided(text)) {
        status = parse_two_sided(&p, text, format, config);
    } else {
        status = parse_side(&p, text, &format[0], &config[0]);
        format[1] = format[0];
        config[1] = config[0];
    }
    for (int side = 0; !status && side < 2; side++)
        out[side] = (kv_coding){format[side], config[side]};
    return status;
}

static pleat_status parse_parts(parser *p, span spec, int depth);

static pleat_status parse_part(parser *p, span part, int depth) {
    span pairs = part, name = {"", 0};
    kv_config config;
    const char *preset = preset_spec(part);
    if (preset && depth > 0)
        return parse_parts(p, (span){preset, (int)strlen(preset)}, depth - 1);
    if (is_two_sided(part)) {
        const kv_format *format[2];
        kv_config configs[2];
        pleat_status status = parse_two_sided(p, part, format, configs);
        return status ? status : set_format(p, format, configs);
    }
    span_cut(&pairs, ':', &name);
    const kv_format *format = find_format(name);
    if (format) {
        pleat_status status = parse_pairs(p, format->name, format->params, pairs, &config);
        return status ? status : set_format(p, (const kv_format *[]){format, format}, (kv_config[]){config, config});
    }
    for (int i = 0; kv_policies[i]; i++)
        if (span_is(name, kv_policies[i]->name)) {
            pleat_status status = parse_pairs(p, kv_policies[i]->name, kv_policies[i]->params, pairs, &config);
            return status ? status : set_policy(p, kv_policies[i], &config);
        }
    for (int i = 0; kv_splits[i]; i++)
        if (span_is(name, kv_splits[i]->name)) {
            pleat_status status = parse_pairs(p, kv_splits[i]->name, kv_splits[i]->params, pairs, &config);
            return status ? status : set_split(p, kv_splits[i], &config);
        }
    if (span_is(name, "prefill"))
        return set_prefill(p, pairs.at ? pairs : (span){"", 0});
    if (span_is(name, "sinks"))
        return set_sinks(p, pairs);
    if (span_is(name, "critical"))
        return set_critical(p, pairs);
    if (span_is(name, "pin"))
        return set_pin(p, pairs);
    if (span_is(name, "layers"))
        return set_layers(p, pairs);
    return unknown_part(p, name);
}

/* depth: how many levels of presets may still be opened; a preset named like a format opens once. */
static pleat_status parse_parts(parser *p, span spec, int depth) {
    span part;
    while (span_cut(&spec, '+', &part)) {
        pleat_status status = parse_part(p, part, depth);
        if (status)
            return status;
    }
    return PLEAT_OK;
}

/* ---- the whole ---- */

static pleat_status check_coding(const parser *p, const kv_coding coding[2], const kv_model *model) {
    for (int side = 0; side < 2; side++) {
        if (!coding[side].format->check)
            continue;
        pleat_status status =
            coding[side].format->check(&coding[side].config, (kv_side)side, model ? model->head_dim : 0, p->error);
        if (status)
            return status;
    }
    return PLEAT_OK;
}

/* What policy, split and modifiers cannot do together. */
static pleat_status check_together(const parser *p, const kv_model *model) {
    const kv_method *m = p->method;
    const kv_policy *policy = m->policy;
    if (m->split->needs_head_scores && !policy->per_head_scores)
        return err_set(p->error, PLEAT_EINPUT,
                       "the split %s compares scores between heads, which the policy %s does not give", m->split->name,
                       policy->name);
    if (m->split != kv_splits[0] && !policy->shares_budget)
        return err_set(p->error, PLEAT_EINPUT,
                       "the split %s shares out a budget of tokens, which the policy %s has not", m->split->name,
                       policy->name);
    if (m->critical && !policy->attention_scores)
        return err_set(p->error, PLEAT_EINPUT,
                       "critical weighs attention by the values' norms; the scores of the policy %s are no attention",
                       policy->name);
    if (m->critical && !policy->per_head_scores)
        return err_set(p->error, PLEAT_EINPUT,
                       "critical chooses anew in each head; the policy %s keeps one set of tokens for all heads of a "
                       "layer",
                       policy->name);
    if (m->critical && model && !model->open_wo)
        return err_set(p->error, PLEAT_EINPUT, "critical needs the output projection, which %s does not show",
                       model->name);
    if (m->pin && policy->cache_positions && policy->cache_positions(&m->policy_config))
        return err_set(
            p->error, PLEAT_EINPUT,
            "pin keeps tokens between the sinks and the newest, which have no place among positions inside the "
            "cache; take %s:pos=original",
            policy->name);
    return PLEAT_OK;
}

static pleat_status check(const parser *p, const kv_model *model) {
    kv_method *m = p->method;
    pleat_status status = check_coding(p, m->coding, model);
    for (int i = 0; i < m->n_extra && !status; i++)
        status = check_coding(p, m->extra[i], model);
    if (!status && m->policy->check)
        status = m->policy->check(&m->policy_config, p->error);
    if (!status && m->split->check)
        status = m->split->check(&m->split_config, p->error);
    status = status ? status : check_together(p, model);
    if (!status && model)
        status = layers_resolve(m, model, p->error);
    return status;
}

void sheet_put(sheet *s, const char *text) {
    size_t n = strlen(text);
    s->cut = s->cut || s->n + n >= s->cap;
    if (!s->cut) {
        memcpy(s->out + s->n, text, n + 1);
        s->n += n;
    }
}

static void put_pairs(sheet *s, const kv_param *params, const kv_config *config) {
    for (int i = 0; params && params[i].name; i++) {
        char text[40];
        sheet_put(s, i ? "," : "");
        sheet_put(s, params[i].name);
        sheet_put(s, "=");
        if (params[i].choices) {
            span rest = {params[i].choices, (int)strlen(params[i].choices)}, choice = {"", 0};
            for (int k = 0; k <= (int)config->value[i]; k++)
                span_cut(&rest, '|', &choice);
            snprintf(text, sizeof(text), "%.*s", choice.n, choice.at);
        } else {
            snprintf(text, sizeof(text), "%.9g", config->value[i]);
        }
        sheet_put(s, text);
    }
}

static void put_part(sheet *s, const char *name, const kv_param *params, const kv_config *config) {
    sheet_put(s, s->n ? "+" : "");
    sheet_put(s, name);
    sheet_put(s, params && params[0].name ? ":" : "");
    put_pairs(s, params, config);
}

static bool one_sided(const kv_coding coding[2]) {
    return coding[0].format == coding[1].format && same(&coding[0].config, &coding[1].config);
}

static void put_side(sheet *s, const kv_coding *coding) {
    const kv_param *params = coding->format->params;
    bool any = params && params[0].name;
    sheet_put(s, coding->format->name);
    sheet_put(s, any ? "(" : "");
    put_pairs(s, params, &coding->config);
    sheet_put(s, any ? ")" : "");
}

static void put_sides(sheet *s, const kv_coding coding[2]) {
    sheet_put(s, "k=");
    put_side(s, &coding[0]);
    sheet_put(s, ",v=");
    put_side(s, &coding[1]);
}

void sheet_put_coding(sheet *s, const kv_coding coding[2]) {
    if (one_sided(coding)) {
        put_side(s, &coding[0]);
        return;
    }
    sheet_put(s, "(");
    put_sides(s, coding);
    sheet_put(s, ")");
}

static void put_format(sheet *s, const kv_method *m) {
    if (one_sided(m->coding))
        put_part(s, m->coding[0].format->name, m->coding[0].format->params, &m->coding[0].config);
    else
        put_sides(s, m->coding);
}

/* false: it is too long. */
static bool write_canonical(kv_method *m) {
    sheet s = {.out = m->spec, .cap = sizeof(m->spec)};
    bool plain = m->coding[0].format == kv_formats[0] && m->coding[1].format == kv_formats[0];
    char text[32];
    if (!plain || m->policy == kv_policies[0])
        put_format(&s, m);
    if (m->policy != kv_policies[0])
        put_part(&s, m->policy->name, m->policy->params, &m->policy_config);
    if (m->split != kv_splits[0])
        put_part(&s, m->split->name, m->split->params, &m->split_config);
    if (m->sinks_tokens) {
        snprintf(text, sizeof(text), "+sinks:n=%d", m->sinks_tokens);
        sheet_put(&s, text);
    }
    if (m->critical)
        put_part(&s, "critical", kv_critical_params, &m->critical_config);
    if (m->pin)
        sheet_put(&s, "+pin");
    layers_write(m, &s);
    if (m->bounded)
        sheet_put(&s, "+prefill:bounded");
    return !s.cut;
}

pleat_status kv_method_parse(const char *spec, const kv_model *model, kv_method *out, pleat_error *error) {
    size_t n = strlen(spec);
    if (n > MOST_SPEC_BYTES)
        return err_set(error, PLEAT_EINPUT, "a method of %zu bytes; at most %d are possible", n, MOST_SPEC_BYTES);
    kv_method method = {.coding = {{.format = kv_formats[0]}, {.format = kv_formats[0]}},
                        .policy = kv_policies[0],
                        .split = kv_splits[0],
                        .grid_tokens = DEFAULT_GRID_TOKENS};
    parser p = {.method = &method, .error = error};
    pleat_status status = parse_parts(&p, (span){spec, (int)n}, MOST_PRESET_DEPTH);
    status = status ? status : check(&p, model);
    if (status)
        return status;
    if (method.policy->grid_tokens)
        method.grid_tokens = method.policy->grid_tokens(&method.policy_config);
    if (!write_canonical(&method))
        return err_set(error, PLEAT_EINPUT, "the method spelled out is longer than %d bytes", KV_MAX_SPEC_BYTES);
    *out = method;
    return PLEAT_OK;
}
