/* SPDX-License-Identifier: Apache-2.0 */
/* Long options of the measured programs, as a table: name, kind and place. */
#ifndef NFM_BENCH_MEASURED_OPTIONS_H
#define NFM_BENCH_MEASURED_OPTIONS_H

#include <stdint.h>

enum measured_kind {
    MEASURED_TEXT, /* char * */
    MEASURED_U32,
    MEASURED_U64,
    MEASURED_I64,
    MEASURED_FLAG /* bool, without an argument */
};

typedef struct measured_option {
    const char *name;
    enum measured_kind kind;
    void *to;
    const char *what; /* for --help */
} measured_option;

/* Ends the program with a line on standard error. */
_Noreturn void measured_die(const char *what, const char *why);
/* Reads |argv| by |options|, which end with a name of NULL. --help prints them below |about| and
 * ends the program; so does whatever is not understood, with status 2. */
void measured_parse(int argc, char **argv, const measured_option *options, const char *about);

#endif
