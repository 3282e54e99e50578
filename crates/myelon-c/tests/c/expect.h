// What the test programs compare with. A comparison that fails ends the program, with its line and what the library says.
#ifndef EXPECT_H
#define EXPECT_H

#include <myelon.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(condition)                                                                                     \
    do {                                                                                                      \
        if (!(condition)) {                                                                                   \
            fprintf(stderr, "%s:%d: not so: %s; last error: %s\n", __FILE__, __LINE__, #condition, myelonGetLastError()); \
            _Exit(1);                                                                                         \
        }                                                                                                     \
    } while (0)

#define OK(call) EXPECT((call) == myelonSuccess)

// A call that fails in this way, and says these words.
#define FAILS(status, words, call)                                \
    do {                                                          \
        EXPECT((call) == (status));                               \
        EXPECT(strstr(myelonGetLastError(), (words)) != NULL);    \
    } while (0)

#endif
