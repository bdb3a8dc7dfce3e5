/* policy_rocket.h - RocketKV's sizes, for the policy and its tests. */
#ifndef KV_POLICY_ROCKET_H
#define KV_POLICY_ROCKET_H

typedef struct rocket_sizes {
    int prompt;   /* tokens of the prompt that stay */
    int read;     /* tokens that a decode query reads */
    double ratio; /* how many cached tokens there are for each of the budget, at least 1 */
    int page;     /* tokens that share bounds, by the paper's formula */
    int channels; /* that enter the approximate scores, by the paper's formula */
} rocket_sizes;

/* For a prompt of n_prompt tokens, `budget` tokens, max_new tokens to come and heads of d. */
rocket_sizes rocket_sizes_of(int n_prompt, int budget, int max_new, int d);
#endif
