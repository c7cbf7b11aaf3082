/* SPDX-License-Identifier: Apache-2.0 */
#include "measured_options.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { MAX_OPTIONS = 31 };

void measured_die(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    exit(2);
}

static void help(FILE *to, const measured_option *options, const char *about) {
    fprintf(to, "%s\n", about);
    for (; options->name != NULL; options++)
        fprintf(to, "  --%s%s  %s\n", options->name, options->kind == MEASURED_FLAG ? "" : " N",
                options->what);
}

static uint64_t number(const measured_option *option, const char *text, uint64_t most) {
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno != 0 || *end != '\0' || end == text || *text == '-' || value > most)
        measured_die(option->name, "not a number in its range");
    return value;
}

static void set(const measured_option *option, char *text) {
    switch (option->kind) {
    case MEASURED_TEXT:
        *(char **)option->to = text;
        break;
    case MEASURED_U32:
        *(uint32_t *)option->to = (uint32_t)number(option, text, UINT32_MAX);
        break;
    case MEASURED_U64:
        *(uint64_t *)option->to = number(option, text, UINT64_MAX);
        break;
    case MEASURED_I64:
        *(int64_t *)option->to = (int64_t)number(option, text, INT64_MAX);
        break;
    case MEASURED_FLAG:
        *(bool *)option->to = true;
        break;
    }
}

void measured_parse(int argc, char **argv, const measured_option *options, const char *about) {
    struct option longs[MAX_OPTIONS + 2] = {0};
    int n = 0, at, c;
    for (; options[n].name != NULL && n < MAX_OPTIONS; n++) {
        int takes = options[n].kind == MEASURED_FLAG ? no_argument : required_argument;
        longs[n] = (struct option){options[n].name, takes, NULL, 'o'};
    }
    longs[n] = (struct option){"help", no_argument, NULL, 'h'};
    while ((c = getopt_long(argc, argv, "h", longs, &at)) == 'o')
        set(&options[at], optarg);
    if (c == -1 && optind == argc)
        return;
    help(c == 'h' ? stdout : stderr, options, about);
    exit(c == 'h' ? 0 : 2);
}
