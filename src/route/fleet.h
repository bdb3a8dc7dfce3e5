/* fleet.h - a pool to simulate: replicas by method name, on profiles of a directory. */
#ifndef ROUTE_FLEET_H
#define ROUTE_FLEET_H
#include "route/workload.h"

enum { SIM_MOST_OWN = 16 };

typedef struct sim_method { /* what a person says of a method */
    char name[SIM_METHOD_CAP];
    double share; /* bytes of a kept token over the uncompressed one's */
    int budget;   /* tokens kept of a request; 0: all */
} sim_method;

typedef struct sim_engine {
    const char *directory; /* profile: operators.csv, attention-METHOD.csv */
    const char *base;      /* the uncompressed method */
    const char *calibrate; /* measured points of the base, whose factors then hold for every method; NULL: none */
    double kv_bytes;       /* memory for KV pages of each replica */
    double token_bytes;    /* of an uncompressed token */
    int most_batch, step_tokens, most_context;
    sim_method own[SIM_MOST_OWN]; /* come before the built-in ones */
    int n_own;
} sim_engine;

/* The study's: Llama-2-7B in fp16 on a 48 GB A6000 (512 KB a token; 0.8 of what 13.5 GB of weights leave), batches of
 * 128, 512 prompt tokens a step, a context of 4,096. */
sim_engine sim_engine_default(void);
/* "kivi=0.32,mine=0.5" into own, as shares, or (budgets) "h2o=512" as budgets. PLEAT_EINPUT names option and value. */
pleat_status sim_engine_set(sim_engine *engine, const char *option, const char *list, bool budgets, pleat_error *error);

typedef struct sim_fleet {
    char label[64]; /* the pool's name in tables */
    int n, n_methods;
    char method[ROUTE_MOST_METHODS][SIM_METHOD_CAP]; /* [0] the base */
    predict_profile *profile[ROUTE_MOST_METHODS];
    route_replica replica[ROUTE_MOST_REPLICAS];
} sim_fleet;

/* A pool by its spec: "kivi" is one replica of the base and three of kivi (base alone: four of it); "fp16*2,kivi,h2o"
 * says all. The label is the spec. PLEAT_EINPUT, PLEAT_EIO (profile files), PLEAT_EMEMORY. */
pleat_status sim_fleet_open(const sim_engine *engine, const char *spec, sim_fleet *out, pleat_error *error);
void sim_fleet_close(sim_fleet *fleet);
/* Requests per second that the fleet ends when no replica ever lacks work and each gets a fair sample of the requests:
 * the rate of utilisation 1. load: seed, arrivals and rate are not read. */
pleat_status sim_fleet_capacity(const sim_fleet *fleet, const sim_load_options *load, double *per_s,
                                pleat_error *error);
/* Fills methods and growths of a load. */
void sim_fleet_methods(const sim_fleet *fleet, const sim_growths *growths, sim_load_options *load);
#endif
